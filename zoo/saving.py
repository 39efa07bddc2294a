"""Load and save models, and take the model that ships out of its trainer."""

import json
import textwrap
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras

from zoo import exports, files
from zoo.errors import ZooError
from zoo.objectives import shipped, supervised
from zoo.runs import Run

# A config takes up to 20 times its size in memory. That of MobileNetV2, of 156 layers, has 160 kB.
MAX_CONFIG = 16 * 2**20

__all__ = ["ModelError", "load_model", "save", "save_uncompiled", "shipped", "supervised"]


class ModelError(ZooError, ValueError):
    """There is no model at a path, or it cannot be loaded."""

    exit_code = 2


def load_model(
    source: Path | str, *, with_companions: bool = False, own_recipe: Path | None = None
) -> keras.Model:
    """Load a trained model, raw pixels (batch, h, w, c) -> logits. It is not compiled.

    Arguments:
        source: a `.keras` file, a run folder, an export or one version of an export; or the name
            of an export, as `zoo.exports.resolve` takes it. The files of an export are compared
            with their checksums first.
        with_companions: load the `DeeplySupervised` that was trained, not the model that ships.
        own_recipe: the run's recipe file, if it is your own and you never trained with it on this
            machine; see `zoo.recipe.file_of_run`.

    Raises:
        ModelError: if there is no such model, nobody registered one of its layers, it has a Python
            lambda, or the file is damaged.
        zoo.exports.ExportError: if a file of an export was changed.
        zoo.recipe.RecipeError: if the run's recipe defines a layer of the model and may not run.
    """
    try:
        source = exports.resolve(source)
    except exports.ExportError as error:
        raise ModelError(str(error)) from None
    run = Run(source)
    in_a_run = source.is_dir() and run.has_model
    if in_a_run:
        file = _file_in_run(run, with_companions)
    elif source.is_dir():
        file = _file_in_export(source)
    else:
        file = source
    parts = list(_parts_of(file))
    unknown = _unregistered(parts)
    if unknown and in_a_run:
        run.recipe_class(own_recipe)  # running the recipe's file registers its classes
        unknown = _unregistered(parts)
    if unknown:
        raise ModelError(
            f"{file} has layers that Keras does not know: {', '.join(unknown)}. Register them with "
            "keras.saving.register_keras_serializable, and import their module first."
        )
    if any(part.get("class_name") == "__lambda__" for part in parts):
        raise ModelError(
            f"{file} has a Lambda layer with a Python lambda. It could run any code, so it is not "
            "loaded. Write the layer as a class and register it."
        )
    try:
        return keras.models.load_model(file, compile=False)
    except Exception as error:  # Keras raises many types for a file that is damaged
        message = textwrap.shorten(str(error), 300, placeholder=" ...")
        raise ModelError(f"{file} cannot be loaded: {message}") from error


def _file_in_run(run: Run, with_companions: bool) -> Path:
    file = run.with_companions_file if with_companions else run.model_file
    if not file.is_file():
        raise ModelError(f"There is no {file}: the run was not deeply supervised, or is older.")
    return file


def _file_in_export(folder: Path) -> Path:
    """Return the Keras model of an export's newest version, whose checksums are right."""
    version = exports.newest(folder)
    if version is None:
        raise ModelError(f"{folder} is neither a finished run nor an export with its model.")
    exports.verify_weights(version)
    return version / exports.MODEL


def save(model: keras.Model, path: Path | str) -> None:
    """Save a model to a `.keras` file. An interrupted save leaves no partial file."""
    with files.whole(path) as partial:
        model.save(partial)


def save_uncompiled(model: keras.Model, path: Path | str) -> None:
    """Save a model without its loss and its optimizer, which is as large as the model.

    A model that cannot be made again from its configuration is saved as it is.
    """
    try:
        copy = type(model).from_config(model.get_config())
        copy.set_weights(model.get_weights())
    except (NotImplementedError, TypeError, ValueError):  # of a class that nobody registered
        copy = model
    save(copy, path)


def _parts_of(file: Path) -> Iterator[dict[str, Any]]:
    """Yield the description of every object in a `.keras` file, without loss and optimizer."""
    try:
        with zipfile.ZipFile(file) as archive:
            size = archive.getinfo("config.json").file_size
            config = json.loads(archive.read("config.json")) if size <= MAX_CONFIG else {}
    except (zipfile.BadZipFile, zlib.error, KeyError, ValueError, RuntimeError):
        return  # another format or a damaged file; Keras raises an error that says so
    if size > MAX_CONFIG:
        raise ModelError(
            f"{file} has a config.json of {size:,} bytes; up to {MAX_CONFIG:,} are read."
        )
    waiting = [config]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            yield part
            waiting += [value for key, value in part.items() if key != "compile_config"]
        elif isinstance(part, list):
            waiting += part


def _unregistered(parts: list[dict[str, Any]]) -> list[str]:
    """Return the names of classes that Keras does not know in this process."""
    names = {
        name
        for part in parts
        if isinstance(name := part.get("registered_name"), str)
        and str(part.get("module") or "").partition(".")[0] not in ("keras", "builtins")
    }
    return sorted(name for name in names if keras.saving.get_registered_object(name) is None)
