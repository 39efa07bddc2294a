"""A search: its recipe, the fields that it varies, its folder, and its trials' values."""

import dataclasses
import json
import shutil
from pathlib import Path

import keras_tuner
from keras_tuner.engine.hyperparameters import Fixed

from zoo import files
from zoo.recipe import RecipeError
from zoo.runs import Run


class Search:
    """The settings of one search, and what they say of a trial of keras-tuner's.

    Arguments:
        recipe: the recipe, with the values that all trials have in common.
        file: the recipe's file.
        folder: the search's folder, runs/<recipe>/<name>.
        tuner: "bayesian", "hyperband" or "random".
        trials: the number of trials.
        fixed: fields that keep the recipe's value.

    Raises:
        RecipeError: if the recipe declares nothing to search; see `search_space`.
    """

    def __init__(self, recipe, file, folder, *, tuner, trials, fixed=()):
        self.recipe, self.file, self.folder = recipe, Path(file), Path(folder)
        self.tuner, self.trials = tuner, trials
        self.file_of_settings = self.folder / "search.json"
        self.space = search_space(recipe, fixed)
        self.searched = [field.name for field in self.space.space if not isinstance(field, Fixed)]

    @property
    def common_values(self):
        """{field: value} of the values that all trials share and that are not the defaults."""
        defaults, fields = type(self.recipe)(), dataclasses.asdict(self.recipe)
        return {key: value for key, value in fields.items() if value != getattr(defaults, key)}

    @property
    def logarithmic(self):
        """The fields that are searched on a logarithmic scale."""
        return [
            field.name for field in self.space.space if getattr(field, "sampling", None) == "log"
        ]

    def refuse_another(self):
        """Write search.json into the folder, or check that the folder holds this search.

        Raises:
            RecipeError: if the folder holds another search, or one of other images.
        """
        record = {
            "tuner": self.tuner,
            "fields": dataclasses.asdict(self.recipe),
            "space": self.space.get_config()["space"],
        }
        record, path = json.loads(json.dumps(record)), self.file_of_settings
        begun = json.loads(path.read_text(encoding="utf-8")) if path.exists() else record
        differing = [key for key in record if begun.get(key) != record[key]]
        if differing:
            raise RecipeError(
                f"{self.folder} holds a search of another {' and '.join(differing)}; choose "
                "another --name."
            )
        record["data"] = begun.get("data", {})  # a search of an older zoo does not know them
        self.folder.mkdir(parents=True, exist_ok=True)
        files.write(path, json.dumps(record, indent=2) + "\n")
        self._refuse_other_images(record)
        files.write(path, json.dumps(record, indent=2) + "\n")

    def _refuse_other_images(self, record):
        """Refuse images that are not those in the record of the search, and add those it lacks."""
        for images in self.recipe.datasets():
            begun = record["data"].setdefault(images.split, images.identity)
            if changes := images.changes_since(begun):
                raise RecipeError(
                    f"{self.folder} holds a search of other {images.split} images of "
                    f"{images.name} ({changes}). Put them back, or choose another --name."
                )

    def remove_unless_begun(self):
        """Remove the search's files if no trial was begun: values that were refused do not bind."""
        if not any(self.folder.glob("trials/*/recipe.json")):
            self.file_of_settings.unlink(missing_ok=True)
            shutil.rmtree(self.folder / "keras-tuner", ignore_errors=True)

    def values(self, trial):
        """Return {field: value} of the values that a trial decides, in the order of declaration."""
        drawn = trial.hyperparameters.values
        recipe = self.recipe.search(trial.hyperparameters)
        values = {key: getattr(recipe, key) for key in self.searched if key in drawn}
        if "tuner/epochs" in drawn:
            values["epochs"] = drawn["tuner/epochs"]
        # Rounded to three digits, so that the table shows exactly the values that were trained.
        return {
            key: float(f"{value:.3g}") if isinstance(value, float) else value
            for key, value in values.items()
        }

    def run_folder(self, trial):
        """Return the folder of a trial's run."""
        values = ",".join(f"{key}={value}" for key, value in self.values(trial).items())
        return self.folder / "trials" / f"{trial.trial_id},{values}"[:200]

    def results(self, trial):
        """Return the contents of results.json of a trial's run."""
        return Run(self.run_folder(trial)).results

    def finished(self, oracle):
        """Return the trials with a score, the best first. Under hyperband the longest come first.

        Arguments:
            oracle: keras-tuner's oracle, which has all trials.
        """
        trials = [trial for trial in oracle.trials.values() if trial.status == "COMPLETED"]
        return sorted(
            trials, key=lambda trial: (-self.values(trial).get("epochs", 0), -trial.score)
        )


def search_space(recipe, fixed=()):
    """Return the fields that `recipe.search` declares as keras-tuner's `HyperParameters`.

    Arguments:
        recipe: the recipe.
        fixed: fields that keep the recipe's value, declared or not.

    Raises:
        RecipeError: if no field is left to search, or if `search` draws values under names that
            are not fields, or changes fields that it does not draw.
    """
    declared = keras_tuner.HyperParameters()
    changed_recipe = recipe.search(declared)
    drawn = [field.name for field in declared.space]
    fields = {field.name: getattr(recipe, field.name) for field in dataclasses.fields(recipe)}
    changed = [name for name in fields if getattr(changed_recipe, name) != fields[name]]
    if {*drawn} - {*fields} or {*changed} - {*drawn}:
        raise RecipeError(
            f"{type(recipe).__module__}: search draws {', '.join(drawn) or 'nothing'} and changes "
            f"{', '.join(changed) or 'nothing'}. It must draw a field's value under its name."
        )
    if not {*drawn} - {*fixed}:
        raise RecipeError(
            f"{type(recipe).__module__} has nothing to search: its method `search` draws "
            f"{', '.join(drawn) + ', which were given' if drawn else 'no field'}."
        )
    space = keras_tuner.HyperParameters()
    for field in {*drawn} & {*fixed}:
        space.Fixed(field, fields[field])  # keras-tuner then has this value in the draw's place
    recipe.search(space)
    return space
