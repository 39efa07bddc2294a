"""The one door for models: into files, out of files, and out of what trained them."""

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras

from zoo import exports, files
from zoo.errors import ZooError
from zoo.objectives import shipped, supervised
from zoo.runs import Run

__all__ = ["ModelError", "load_model", "save", "save_uncompiled", "shipped", "supervised"]


class ModelError(ZooError, ValueError):
    """A path at which there is no model that can be loaded."""

    exit_code = 2


def load_model(
    source: Path | str, *, with_companions: bool = False, own_recipe: Path | None = None
) -> keras.Model:
    """A trained model, not compiled: raw pixels (batch, h, w, c) -> logits.

    Arguments:
        source: a `.keras` file, a run folder, or an export or one of its versions, whose files are
            compared with their checksums first.
        with_companions: the `DeeplySupervised` that was trained, and not the model that ships.
        own_recipe: the recipe of the run, where it is a file of your own that was never trained
            with on this machine; see `zoo.recipe.recorded`.

    Raises:
        ModelError: if there is no such model, or if it has layers that nobody registered.
        zoo.exports.ExportError: for an export whose files were changed.
        zoo.recipe.RecipeError: for a run whose recipe defines the model's layers and may not run.
    """
    source = Path(source)
    run, file = Run(source), source
    if source.is_dir() and run.has_model:
        file = run.with_companions_file if with_companions else run.model_file
        if not file.is_file():
            raise ModelError(f"There is no {file}: the run was not deeply supervised, or is older.")
    elif source.is_dir():
        version = exports.newest(source)
        if version is None:
            raise ModelError(f"{source} is neither a finished run nor an export with its model.")
        exports.verify_weights(version)
        file = version / exports.MODEL
    elif not source.is_file():
        raise ModelError(f"There is no model {str(source)!r}: a .keras file, a run or an export.")
    if unknown := _unregistered(file):
        if source.is_dir() and run.has_model:
            run.recipe_class(own_recipe)  # running the recipe's file registers its classes
            unknown = _unregistered(file)
        if unknown:
            raise ModelError(
                f"{file} has layers that Keras does not know: {', '.join(unknown)}. Import the "
                "module that registers them first."
            )
    return keras.models.load_model(file, compile=False)


def save(model: keras.Model, path: Path | str) -> None:
    """Save to a `.keras` file that is there whole or not at all."""
    with files.whole(path) as partial:
        model.save(partial)


def save_uncompiled(model: keras.Model, path: Path | str) -> None:
    """Save a copy: without the optimizer, which is as large as the model, and without a loss."""
    copy = type(model).from_config(model.get_config())
    copy.set_weights(model.get_weights())
    save(copy, path)


def _unregistered(file: Path) -> list[str]:
    """The registered names in a `.keras` file that Keras does not know in this process."""
    try:
        with zipfile.ZipFile(file) as archive:
            config = json.loads(archive.read("config.json"))
    except (zipfile.BadZipFile, KeyError, ValueError):
        return []  # of another format, or damaged: Keras says so
    names = {name for name in _registered_names(config) if ">" in name}
    return sorted(name for name in names if keras.saving.get_registered_object(name) is None)


def _registered_names(config: Any) -> Iterator[str]:
    if isinstance(config, dict):
        if isinstance(name := config.get("registered_name"), str):
            yield name
        # Of these a model that is not compiled needs none.
        config = [value for key, value in config.items() if key != "compile_config"]
    if isinstance(config, list):
        for value in config:
            yield from _registered_names(value)
