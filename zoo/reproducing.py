"""Train a model of saved_models/ again, as its card says, and compare."""

import json
import math
import statistics
from pathlib import Path

from scipy import stats

from zoo import recipe as recipes
from zoo import training
from zoo.serving import served


def reproduce(directory, *, seed=None, runs="runs", **options):
    """(run folder, its results, what `expected` says) of an export's recipe, trained again.

    Arguments:
        directory: an export, the folder of its versions or one version.
        seed: by default that of the export. `runs` and `options` are those of `training.train`.

    Raises:
        RecipeError: for an export whose card names no recipe, or one that is not there or has
            other fields or another teacher by now; and as `training.train`.
    """
    version = served.find_version(directory)
    served.verify_checksums(version)
    card = served.card(version)
    told = card.get("training")
    if not told:
        raise recipes.RecipeError(f"{version} was exported from a file: its card names no recipe.")
    file = recipes.find(told["recipe"])
    fields = {k: tuple(v) if isinstance(v, list) else v for k, v in told["fields"].items()}
    if seed is not None:
        fields["seed"] = seed
    try:
        recipe = recipes.load(file)(**fields)
    except TypeError as error:
        raise recipes.RecipeError(
            f"The recipe {file} has changed since {version} was trained, at commit "
            f"{told['commit']}: {error}."
        ) from error
    name = f"{version.parent.name},seed={recipe.seed}"
    options["taught_by"] = told.get("teacher")
    folder = training.train(recipe, file, runs=Path(runs) / "reproduced", name=name, **options)
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return folder, results, expected(card)


def expected(card):
    """(low, high), the error in percent that another training has, and why it is these.

    Of several seeds, the interval in which another one falls with 95 % probability, if errors are
    normal: mean +- t s sqrt(1 + 1/n); at least one image to either side. Of one seed the spread is
    not known: Wilson's interval for its test images.
    """
    results, seeds = card["results"], card["seeds"]
    n = len(seeds["seeds"])
    if n < 2:
        low, high = (100 * share for share in results["error_interval"])
        return low, high, "the 95 % interval of its test images; other seeds are not known"
    percent = [100 * errors / results["examples"] for errors in seeds["errors"]]
    reach = stats.t.ppf(0.975, n - 1) * statistics.stdev(percent) * math.sqrt(1 + 1 / n)
    reach = max(reach, 100 / results["examples"])
    mean = statistics.fmean(percent)
    return max(mean - reach, 0.0), mean + reach, f"where another seed falls, by the spread of {n}"
