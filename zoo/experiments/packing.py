"""Make an archive that trains a recipe on a machine with JAX, without TensorFlow or network."""

import dataclasses
import importlib.metadata
import json
import re
import zipfile
from pathlib import Path

from zoo import exports, files
from zoo.data import load, prepared, prepared_file
from zoo.recipe import RecipeError
from zoo.runs import Run, folder_of

# The packages to pack, together with the packages that they require. The packages that JAX brings
# are built for its machine, so they stay out.
_PACKED = ("keras", "rich", "wrapt")
_WITH_JAX = {"numpy", "jax", "jaxlib", "ml-dtypes", "scipy", "opt-einsum"}

_TRAIN = '''"""Train here, or resume the training: python train.py --minutes 9"""

import argparse
import json
import os
import sys
from pathlib import Path

here = Path(__file__).resolve().parent
os.chdir(here)
os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ["ZOO_DATA"] = str(here / "data")
sys.path.insert(0, str(here))
sys.path.append(str(here / "needs"))  # last, so that the packages of this machine come first

import zoo.recipe
import zoo.training

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--minutes", type=float, help="stop after this many, with exit code 3")
parser.add_argument("--checkpoint-seconds", type=float, default=60.0)
options = parser.parse_args()
packed = json.loads((here / "packed.json").read_text(encoding="utf-8"))
fields = zoo.recipe.fields_from_json(packed["fields"])
file = here / "recipes" / packed["recipe"]
try:
    folder = zoo.training.train(
        zoo.recipe.load(file)(**fields),
        file,
        name=packed["name"],
        minutes=options.minutes,
        checkpoint_seconds=options.checkpoint_seconds,
        page=False,
    )
except zoo.training.TimeUp as error:
    print(error)
    sys.exit(3)
except zoo.training.Interrupted as error:
    print(error)
    sys.exit(128 + error.signal)
print(f"Finished: bring {folder} back to runs/, then: zoo export {folder}")
'''


def pack(recipe, file, out, name=None):
    """Write a .zip archive of the recipe, its data, its models, the zoo and Keras; return `out`.

    On the other machine, unzip it and run `python train.py --minutes 9` until it exits with 0.
    Exit code 3 says that the time is up; the same command then resumes. The folder
    runs/<recipe>/<name> that results is a run folder like any other. `KERAS_BACKEND=jax zoo train`
    can resume it, and all other commands read it.

    Keras requires compiled packages (h5py, optree). The archive has those of this machine's
    platform and version of Python.

    Arguments:
        recipe: the recipe with its values.
        file: the recipe's file.
        out: the archive to write.
        name: the name of the run folder; by default it is built from the fields.

    Raises:
        UsageError: if the name is none for a run folder.
        RecipeError: if a teacher or the weights to start from do not lie below the current
            folder or are not trained; or if there is a backbone.
        zoo.data.DataError: if the data cannot be read.
        OSError: if the archive cannot be written; no part of it is left.
    """
    recipe.check()
    for field in ("validation_list", "validation_group"):
        recipe.require(field, not getattr(recipe, field), "left out here: no files are packed")
    folder_of(recipe, file, "runs", name)
    file, out = Path(file), Path(out)
    zoo = Path(__file__).parent.parent
    packed = {
        f"zoo/{path.relative_to(zoo)}": path
        for path in zoo.rglob("*")
        if path.suffix in (".py", ".jinja") and "recipes" not in path.relative_to(zoo).parts
    }
    packed |= {f"recipes/{file.name}": file, **_models(recipe), **_packages()}
    record = {"recipe": file.name, "name": name, "fields": dataclasses.asdict(recipe)}
    out.parent.mkdir(parents=True, exist_ok=True)
    with (
        files.whole(out) as partial,
        zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        for place, path in packed.items():
            archive.write(path, place)
        archive.writestr("train.py", _TRAIN)
        archive.writestr("packed.json", json.dumps(record, indent=2))
        place = prepared_file(recipe.data, recipe.reading["image_size"])
        archive.writestr(f"data/{place}", _data(recipe))
    return out


def _data(recipe):
    """Return the bytes of an .npz file with the training and the test images."""
    parts = (load(recipe.data, split, **recipe.reading) for split in ("train", "test"))
    return prepared.prepare(*parts)


def _models(recipe):
    """Return {place in the archive: file} of the models in a recipe's `teachers` and `weights`."""
    if getattr(recipe, "backbone", None):
        raise RecipeError("An archive cannot hold the weights of a --backbone; give --weights.")
    packed = {}
    for teacher in (*getattr(recipe, "teachers", ()), getattr(recipe, "weights", None)):
        if teacher is None:
            continue
        path = Path(teacher)
        if path.is_absolute() or ".." in path.parts:
            raise RecipeError(
                f"A packed model lies below the current folder; received {teacher!r}."
            )
        folder = exports.named(teacher) or exports.located(path)
        if (version := exports.newest(folder)) is not None:
            exports.verify_weights(version)
            place = path / version.relative_to(folder)
            for name in (*exports.WEIGHT_FILES, files.CHECKSUMS):
                packed[str(place / name)] = version / name
            continue
        model = path if path.suffix == ".keras" else Run(path).model_file
        if not model.is_file():
            raise RecipeError(f"There is no model {str(model)!r} to pack: train it first.")
        packed[str(model)] = model
    return packed


def _packages():
    """Return {place in the archive: file} of the packages that JAX does not bring."""
    packages, waiting = {}, list(_PACKED)
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in packages or name in _WITH_JAX:
            continue
        try:
            packages[name] = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # a requirement of other systems or versions of Python
        required = [text for text in packages[name].requires or () if "extra ==" not in text]
        waiting += [re.match(r"[A-Za-z0-9._-]+", text).group() for text in required]
    return {
        f"needs/{path}": path.locate()
        for package in packages.values()
        for path in package.files or ()
        if ".." not in path.parts and "__pycache__" not in path.parts
    }
