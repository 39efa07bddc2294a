"""Walk as three newcomers do: install the wheel into a fresh environment, and use it elsewhere.

`make newcomer`, or `python benchmarks/newcomer.py [--keep FOLDER]`. An engineer brings photographs,
a researcher asks for the papers' figures, and an operator gets the wheel alone. They know only what
the README says, and work in an empty folder outside of the repository. Each step prints a line with
its seconds. The first step that does not end as the newcomer expects ends the walk with exit code
1, and shows the command and its output. It needs a package index; data come from scikit-learn, and
MNIST from TFDS_DATA_DIR if that is set.
"""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from PIL import Image, ImageDraw, ImageFilter

ROOT = Path(__file__).parents[1]
SHAPES = ("circle", "square", "triangle")
OF_EACH = 30
SHORT = ("--epochs", 8, "--steps-per-epoch", 10, "--width", 0.1)  # a training on digits
FIT = """
import keras
from zoo import nin_dsn

training, test = keras.utils.image_dataset_from_directory(
    "photos", image_size=(32, 32), batch_size=16, validation_split=0.2, subset="both", seed=0
)
model = nin_dsn((32, 32, 3), classes=len(training.class_names), width=0.25)
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
optimizer = keras.optimizers.SGD(0.02, momentum=0.9)
model.compile(optimizer=optimizer, loss=loss, metrics=["accuracy"])
log = model.fit(training, validation_data=test, epochs=3, verbose=0).history
assert log["loss"][-1] < log["loss"][0], log
model.trunk.save("classifier.keras")
open("labels.txt", "w").write("\\n".join(training.class_names))
"""
LOAD = """
import keras, zoo
from zoo.data import load

training = load("photos", "train", image_size=32)
batches = training.training_batches(16, seed=0)
images, labels = next(iter(batches))
assert images.shape == (16, 32, 32, 3) and labels.shape == (16,), (images.shape, labels.shape)
model = zoo.nin(training.image_shape, training.classes, weights="cifar10_student")
model.compile(keras.optimizers.Adam(1e-3), zoo.SoftmaxCrossEntropy(), metrics=["accuracy"])
model.fit(batches, steps_per_epoch=4, epochs=1, verbose=0)
"""
COMPARE = """
import numpy as np, zoo

runs = [zoo.load_model(f"runs/digits_nin_dsn/{name}") for name in ("whole", "stop")]
weights, others = (model.get_weights() for model in runs)
assert len(weights) == len(others) > 4
for one, other in zip(weights, others):
    np.testing.assert_array_equal(one, other)
"""
# As short as a study can be. Only numbers change.
FIGURE = """
import sys
from zoo.commands.main import main
from zoo.experiments.studies import dropout

short = {"data": "digits", "examples": 0, "epochs": 2, "steps_per_epoch": 3, "width": 0.1}
dropout.RUNS = {label: {**fields, **short} for label, fields in dropout.RUNS.items()}
main(["figure", "dropout", "--seeds", "1", "--runs", "studies", "--out", "figures"])
"""


@dataclass(frozen=True)
class Settings:
    keep: Path | None = None
    """New folder to work in, which stays. Default: a temporary folder, which is removed."""


class Walk:
    """Steps in an empty folder, with nothing but the environment that has the wheel."""

    def __init__(self, folder):
        self.folder, self.bin = folder / "work", folder / "venv" / "bin"
        self.folder.mkdir()
        own = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "COLUMNS")
        self.environment = {name: text for name, text in os.environ.items() if name not in own}
        self.environment |= {"ZOO_CACHE": str(folder / "cache"), "COLUMNS": "200"}

    def run(self, step, command, code=0, says=(), program=None, folder=None, until=None):
        """Run a command -> what it wrote to standard output.

        Arguments:
            step: what the newcomer wants.
            command: the words.
            code: the exit code that must come.
            says: texts that the output or the errors must hold.
            program: a text for standard input, such as a Python program.
            folder: where to run it; by default the folder of the walk.
            until: a function; once it is true, the process gets SIGINT.
        """
        begun = time.monotonic()
        words = [str(word) for word in command]
        process = subprocess.Popen(
            words,
            cwd=folder or self.folder,
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        while until and process.poll() is None:
            if until():
                process.send_signal(signal.SIGINT)
                break
            time.sleep(0.05)
        output, errors = process.communicate(program)
        print(f"{time.monotonic() - begun:6.1f} s  {step}", flush=True)
        missing = [text for text in says if text not in output + errors]
        if process.returncode != code or missing:
            self.fail(
                f"exit code {process.returncode}, expected {code}; not said: {missing}",
                [" ".join(words), program or "", "-- output", output, "-- errors", errors],
            )
        return output

    def zoo(self, step, *arguments, code=0, says=(), until=None):
        """Run `zoo ARGUMENTS` -> its output. A refusal is one line, and never a traceback."""
        output = self.run(step, [self.bin / "zoo", *arguments], code, says, until=until)
        self.require("Traceback" not in output, "no traceback", output)
        return output

    def python(self, step, program):
        """Run a Python program with the environment."""
        return self.run(step, [self.bin / "python", "-"], program=program)

    def require(self, holds, expected, found):
        """End the walk unless `holds`."""
        if not holds:
            self.fail(f"expected {expected}", [textwrap.shorten(str(found), 4000)])

    def files(self, *names):
        """End the walk unless these files are there."""
        for name in names:
            self.require(
                (self.folder / name).is_file(), f"the file {name}", os.listdir(self.folder)
            )

    @staticmethod
    def fail(reason, lines):
        """Print what went wrong, and stop."""
        sys.exit("\n".join(["", f"The walk stopped: {reason}.", *filter(None, lines)]))


def install(walk):
    """Build the wheel from a copy of the checkout, and install it into a fresh environment."""
    place = walk.bin.parents[1]
    source = place / "source"
    ignored = ("*.pyc", ".venv", ".git", ".*_cache", "build", "dist", "demo", "runs", "site")
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(*ignored), symlinks=True)
    wheels = place / "dist"
    walk.run("make an environment", [sys.executable, "-m", "venv", walk.bin.parent], folder=place)
    pip = [walk.bin / "pip", "--quiet", "--disable-pip-version-check"]
    walk.run("build the wheel", [*pip, "wheel", "--no-deps", "-w", wheels, source], folder=place)
    (wheel,) = wheels.glob("*.whl")
    constraints = source / "constraints.txt"
    walk.run("install it", [*pip, "install", wheel, "-c", constraints], folder=place)
    shutil.rmtree(source)  # from here on there is no repository
    where = walk.python("import it", "import zoo; print(zoo.__file__)")
    walk.require(str(walk.bin.parent) in where, f"zoo of {walk.bin.parent}", where)


def draw_photographs(folder):
    """Draw JPEG files as photographs are: textures, sizes, EXIF; a grey one; a file of Windows."""
    rng = np.random.default_rng(0)
    for shape in SHAPES:
        (folder / shape).mkdir(parents=True)
        for number in range(OF_EACH):
            picture = photograph(shape, rng, size=(60 + 7 * (number % 3), 52))
            exif = Image.Exif()
            if number % 5 == 0:  # the camera was turned; 6: turn it to the right to see it upright
                picture = picture.transpose(Image.Transpose.ROTATE_90)
                exif[0x0112] = 6
            if number == 1 and shape == "circle":
                picture = picture.convert("L")
            picture.save(folder / shape / f"IMG_{number:04}.jpg", quality=92, exif=exif)
    (folder / "circle" / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0 no image")


def photograph(shape, rng, size):
    """Draw a bright shape on a dark, textured ground."""
    width, height = size
    dark, bright = rng.integers(20, 100, 3), tuple(rng.integers(170, 256, 3).tolist())
    ground = np.clip(rng.normal(dark, 20, (height, width, 3)), 0, 255).astype("uint8")
    picture = Image.fromarray(ground).filter(ImageFilter.GaussianBlur(1))
    side = int(rng.integers(26, 36))
    x, y = int(rng.integers(2, width - side - 2)), int(rng.integers(2, height - side - 2))
    draw, box = ImageDraw.Draw(picture), (x, y, x + side, y + side)
    if shape == "circle":
        draw.ellipse(box, fill=bright)
    elif shape == "square":
        draw.rectangle(box, fill=bright)
    else:
        draw.polygon([(x, y + side), (x + side, y + side), (x + side // 2, y)], fill=bright)
    return picture


def labels_of(answer):
    """The JSON of `zoo predict` -> {image: its label}."""
    return {row["image"]: row["label"] for row in json.loads(answer)["images"]}


def engineer(walk):
    """Photographs of one's own, from the first command to a checked export."""
    photos = walk.folder / "photos"
    draw_photographs(photos)
    walk.zoo("what is there", "--help", says=["finetune", "predict"])
    notes = ["Thumbs.db", "are grey", "The model", "test accuracy"]
    walk.zoo(
        "finetune on photographs", "finetune", "--data", "photos", "--name", "first", says=notes
    )
    run = "runs/finetune/first"
    walk.files(f"{run}/report.html", f"{run}/model.keras")
    walk.zoo("evaluate the run", "evaluate", run, says=["accuracy", *SHAPES])
    one = "photos/square/IMG_0005.jpg"
    walk.zoo("predict a file", "predict", run, one, says=[one])
    by_run = labels_of(walk.zoo("predict a folder", "predict", run, "photos", "--json"))
    right = sum(Path(image).parent.name == label for image, label in by_run.items())
    of_all = f"{right} of {len(by_run)}"
    walk.require(len(by_run) == 3 * OF_EACH, "an answer for each photograph", of_all)
    walk.require(right >= 0.8 * len(by_run), "8 of 10 right", of_all)
    export = "saved_models/mine"
    walk.zoo("export it", "export", run, "--out", export, says=["checked as a server"])
    walk.zoo("verify the export", "verify", export, says=["can serve"])
    by_export = labels_of(walk.zoo("ask the export", "predict", export, "photos/square", "--json"))
    others = {image: label for image, label in by_export.items() if by_run[image] != label}
    walk.require(not others, "the labels of the run", others)
    shutil.copytree(photos / "square", walk.folder / "one" / "square", dirs_exist_ok=True)
    walk.zoo("evaluate on one class", "evaluate", run, "--data", "one", says=["circle, triangle"])
    walk.python("fit from Keras' data set", FIT)
    command = ("predict", "classifier.keras", "photos/circle", "--labels", "labels.txt", "--json")
    answer = walk.zoo("ask the saved file", *command)
    walk.require(set(labels_of(answer).values()) <= {*SHAPES}, f"labels among {SHAPES}", answer)
    walk.python("fit from zoo.data", LOAD)


def researcher(walk):
    """Recipes, a short run, its page, a study, and a stopped run that ends as if never stopped."""
    walk.zoo("list recipes and models", "list", says=["mnist_nin_dsn", "digits_nin_dsn", "0.36"])
    walk.zoo("train digits", "train", "digits_nin_dsn", *SHORT, "--name", "whole")
    whole, stopped = (walk.folder / "runs" / "digits_nin_dsn" / name for name in ("whole", "stop"))
    walk.zoo("evaluate", "evaluate", whole, says=["accuracy"])
    (whole / "report.html").unlink()
    walk.zoo("draw the page again", "report", whole)
    walk.files(whole / "report.html")

    def has_an_epoch():
        log = stopped / "metrics.csv"
        return log.exists() and log.read_bytes().count(b"\n") > 1

    command = ("train", "digits_nin_dsn", *SHORT, "--name", "stop")
    walk.zoo("train, and press Ctrl-C", *command, code=130, until=has_an_epoch)
    walk.require(not (stopped / "results.json").exists(), "a run that is not finished", stopped)
    walk.zoo("the same command resumes", *command)
    walk.python("both ended with the same bits", COMPARE)
    walk.python("make a figure", FIGURE)
    walk.files("figures/dropout.md", "figures/dropout.png")


def operator(walk):
    """The wheel alone: its trained models by name, exports, and the exit codes of wrong input."""
    digit = next(iter(sorted((walk.folder / "runs/digits_nin_dsn/whole/examples").glob("*.png"))))
    walk.zoo("ask a trained model", "predict", "digits_nin_dsn", digit, "--json", says=["ranking"])
    walk.zoo("export a trained model", "export", "mnist_student", says=["checked as a server"])
    export = "saved_models/mnist_student"
    checks = json.loads(walk.zoo("verify it", "verify", export, "--json"))
    walk.require(checks["passed"] and len(checks["checks"]) > 5, "checks that hold", checks)
    if os.environ.get("TFDS_DATA_DIR"):
        result = json.loads(walk.zoo("evaluate it", "evaluate", "mnist_student", "--json"))
        walk.require(result["errors"] == 48, "the 48 errors that the README states", result)
    (walk.folder / "text.png").write_text("no image")
    good, bad = "photos/circle/IMG_0002.jpg", "text.png"
    run = "runs/finetune/first"
    (walk.folder / "none").mkdir()
    for what, code, arguments in (
        ("an unknown command", 2, ("trian",)),
        ("an unknown model", 2, ("predict", "mnist_studnt", good)),
        ("an unknown recipe", 2, ("train", "digits_nin_dns")),
        ("an unknown flag", 2, ("train", "nin_dsn", "--epoch", 3)),
        ("a folder that is not there", 2, ("train", "nin_dsn", "--data", "nowhere")),
        ("an empty folder", 2, ("finetune", "--data", "none")),
        ("no export", 2, ("verify", "photos")),
        ("an image that is text", 2, ("predict", run, bad)),
        ("one bad image of two", 1, ("predict", run, good, bad)),
        ("minutes that are over", 3, ("train", "digits_nin_dsn", "--minutes", 0.001)),
    ):
        walk.zoo(f"exit code {code}: {what}", *arguments, code=code)


def main(settings):
    begun = time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # and remove the folder of 3 GB
    with tempfile.TemporaryDirectory(prefix="zoo-newcomer-") as scratch:
        place = (settings.keep or Path(scratch)).resolve()
        if place.is_relative_to(ROOT):
            sys.exit(f"{place} is in the repository; a newcomer's folder lies outside.")
        place.mkdir(exist_ok=not settings.keep)
        walk = Walk(place)
        for user in (install, engineer, researcher, operator):
            print(f"{user.__name__.capitalize()}. {user.__doc__}", flush=True)
            user(walk)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds, processor = time.monotonic() - begun, used.ru_utime + used.ru_stime
    print(f"All arrived, after {seconds:.0f} s, in which they used {processor:.0f} CPU seconds.")


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
