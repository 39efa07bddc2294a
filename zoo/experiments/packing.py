"""One archive that trains a recipe where there is JAX, and neither TensorFlow nor network."""

import dataclasses
import importlib.metadata
import io
import json
import re
import zipfile
from pathlib import Path

import numpy as np

from zoo import exports, files
from zoo.data import load, prepared_file
from zoo.recipe import RecipeError
from zoo.runs import Run

# With what these need in their turn; not what comes with JAX, which is built for its machine.
_NEEDED = ("keras", "rich", "wrapt")
_WITH_JAX = {"numpy", "jax", "jaxlib", "ml-dtypes", "scipy", "opt-einsum"}

_TRAIN = '''"""Train here, and go on where the last sitting stopped: python train.py --minutes 9"""

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
sys.path.append(str(here / "needs"))  # last: what this machine has comes first

import zoo.recipe
import zoo.training

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--minutes", type=float, help="stop after so many, saved, with exit code 3")
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
    """Write the archive `out`, a .zip: the recipe, its data, its teachers, the zoo, and Keras.

    There: unzip, then `python train.py --minutes 9` as often as it takes; exit code 3 says that the
    time was up, 0 that the training is finished. The folder runs/<recipe>/<name> that it leaves is
    a run folder like any other: `KERAS_BACKEND=jax zoo train` goes on with it, and everything else
    reads it.

    Keras' compiled needs (h5py, optree) are those of this machine's kind and version of Python.

    Raises:
        RecipeError: for a teacher that does not lie below the current folder.
        zoo.data.DataError: for data that cannot be had.
        OSError: if the archive cannot be written; no half of it is left.
    """
    recipe.check()
    file, out = Path(file), Path(out)
    zoo = Path(__file__).parent.parent
    modules = [path for path in zoo.rglob("*") if path.suffix in (".py", ".jinja")]
    packed = {
        f"zoo/{path.relative_to(zoo)}": path
        for path in modules
        if "recipes" not in path.relative_to(zoo).parts
    }
    packed |= {f"recipes/{file.name}": file, **_teachers(recipe), **_needs()}
    record = {"recipe": file.name, "name": name, "fields": dataclasses.asdict(recipe)}
    out.parent.mkdir(parents=True, exist_ok=True)
    with (
        files.whole(out) as partial,
        zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        for inside, path in packed.items():
            archive.write(path, inside)
        archive.writestr("train.py", _TRAIN)
        archive.writestr("packed.json", json.dumps(record, indent=2))
        archive.writestr(f"data/{prepared_file(recipe.data, recipe.image_size)}", _data(recipe))
    return out


def _data(recipe):
    """Both splits, as an .npz file's bytes."""
    arrays = {}
    for split in ("train", "test"):
        how = {key: getattr(recipe, key) for key in ("image_size", "stream", "skip_corrupt")}
        data = load(recipe.data, split, **how)
        arrays[f"x_{split}"], arrays[f"y_{split}"] = data.images, data.labels
        arrays[f"source_{split}"] = np.array(data.source, str)
    written = io.BytesIO()
    np.savez(
        written, name=np.array(data.name), label_names=np.array(data.label_names, str), **arrays
    )
    return written.getvalue()


def _teachers(recipe):
    """The models that a recipe names in its field `teachers`."""
    found, needed = {}, (*exports.WEIGHT_FILES, files.CHECKSUMS)
    for each in getattr(recipe, "teachers", ()):
        path = Path(each)
        if path.is_absolute() or ".." in path.parts:
            raise RecipeError(f"A packed teacher lies below the current folder; received {each!r}.")
        folder = exports.located(path)
        if (version := exports.newest(folder)) is not None:
            there = path / version.relative_to(folder)
            found |= {str(there / name): version / name for name in needed}
            continue
        model = path if path.suffix == ".keras" else Run(path).model_file
        if not model.is_file():
            raise RecipeError(f"There is no teacher {str(model)!r} to pack: train it first.")
        found[str(model)] = model
    return found


def _needs():
    """{place in the archive: file} of the packages that JAX does not bring."""
    found, waiting = {}, list(_NEEDED)
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in found or name in _WITH_JAX:
            continue
        try:
            found[name] = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # for other systems or versions of Python
        needs = [need for need in found[name].requires or () if "extra ==" not in need]
        waiting += [re.match(r"[A-Za-z0-9._-]+", need).group() for need in needs]
    return {
        f"needs/{path}": path.locate()
        for each in found.values()
        for path in each.files or ()
        if ".." not in path.parts and "__pycache__" not in path.parts
    }
