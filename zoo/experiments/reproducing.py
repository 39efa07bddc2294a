"""Train a model of saved_models/ again, as its card says, and compare."""

import dataclasses
import math
import statistics
from pathlib import Path

from scipy import stats

from zoo import recipe as recipes
from zoo import training
from zoo.models import pretrained
from zoo.runs import Run


def reproduce(weights, *, seed=None, runs="runs", **options):
    """(run folder, its results, what `expected` says) of a trained model's recipe, trained again.

    What `expected` says has added to it in what the training differs from the one on the card.

    Arguments:
        weights: as of `zoo.pretrained.load`.
        seed: by default that of the export. `runs` and `options` are those of `training.train`.

    Raises:
        RecipeError: for an export whose card names no recipe, or one that is not there, has lost
            fields or has another teacher by now; and as `training.train`.
        ValueError: for weights that are not there, or files that are not those exported.
    """
    version, card = pretrained.read_card(weights)
    told = card.get("training")
    if not told:
        raise recipes.RecipeError(f"{version} was exported from a file: its card names no recipe.")
    file = recipes.find(told["recipe"])
    fields = recipes.fields_from_json(told["fields"])
    if seed is not None:
        fields["seed"] = seed
    try:
        recipe = recipes.load(file)(**fields)
    except TypeError as error:
        raise recipes.RecipeError(
            f"The recipe {file} has changed since {version} was trained, at commit "
            f"{told['commit']}: {error}."
        ) from error
    # By its weights: exported again, a model has the same version and is another.
    mark = card["fingerprint"]["checkpoint_hash"][:8]
    name = f"{version.resolve().parent.name},{mark},seed={recipe.seed}"
    options["taught_by"] = told.get("teacher")
    folder = training.train(recipe, file, runs=Path(runs) / "reproduced", name=name, **options)
    results, versions = Run(folder).results, Run(folder).versions
    low, high, why = expected(card)
    now = {
        "precision": versions["precision"],
        **{k: v for k, v in dataclasses.asdict(recipe).items() if k not in told["fields"]},
    }
    for key, value in now.items():
        if told.get(key) != value:
            why += f"; {key} is {value} now, {told.get(key, 'not known')} on the card"
    return folder, results, (low, high, why)


def expected(card):
    """(low, high), the error in percent that another training has, and why it is these.

    Of several seeds, the interval in which another one falls with 95 % probability, if errors are
    normal: mean +- t s sqrt(1 + 1/n); at least one image to either side. Of one seed the spread is
    not known: Wilson's interval for its test images.
    """
    results, errors = card["results"], card["seeds"]["errors"]
    n = len(errors)
    if n < 2:
        low, high = (100 * share for share in results["error_interval"])
        return low, high, "the 95 % interval of its test images; other seeds are not known"
    reach = max(stats.t.ppf(0.975, n - 1) * statistics.stdev(errors) * math.sqrt(1 + 1 / n), 1)
    mean = statistics.fmean(errors)
    interval = max(mean - reach, 0), min(mean + reach, results["examples"])
    low, high = (100 * each / results["examples"] for each in interval)
    return low, high, f"where another seed falls, by the spread of {n}"
