"""Train a model of saved_models/ again as its card says, and compare the results."""

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
    """Train the recipe of an exported model again.

    Arguments:
        weights: the exported model, as of `zoo.pretrained.load`.
        seed: the seed of the training; by default that of the export.
        runs: the folder of all runs; the new run goes to its folder "reproduced".
        options: further arguments of `zoo.training.train`.

    Returns:
        The run folder, its results, and (low, high, reason) as `expected` gives them. The reason
        also names the settings in which the new training differs from the card.

    Raises:
        RecipeError: if the card names no recipe, or if the recipe does not exist, has lost fields
            or has another teacher now; and as `zoo.training.train`.
        ValueError: if there are no such weights, or the files are not those that were exported.
    """
    version, card = pretrained.read_card(weights)
    on_card = card.get("training")
    if not on_card:
        raise recipes.RecipeError(f"{version} was exported from a file: its card names no recipe.")
    file = recipes.find(on_card["recipe"])
    fields = recipes.fields_from_json(on_card["fields"])
    if seed is not None:
        fields["seed"] = seed
    try:
        recipe = recipes.load(file)(**fields)
    except TypeError as error:
        raise recipes.RecipeError(
            f"The recipe {file} has changed since {version} was trained, at commit "
            f"{on_card['commit']}: {error}."
        ) from error
    # The version does not identify the weights: another export may have the same number.
    weights_hash = card["fingerprint"]["checkpoint_hash"][:8]
    name = f"{version.resolve().parent.name},{weights_hash},seed={recipe.seed}"
    options["taught_by"] = on_card.get("teacher")
    folder = training.train(recipe, file, runs=Path(runs) / "reproduced", name=name, **options)
    results, versions = Run(folder).results, Run(folder).versions
    low, high, reason = expected(card)
    values, known = dataclasses.asdict(recipe), on_card["fields"]
    new_fields = {key: value for key, value in values.items() if key not in known}
    for key, value in {"precision": versions["precision"], **new_fields}.items():
        if on_card.get(key) != value:
            reason += f"; {key} is {value} now, {on_card.get(key, 'not known')} on the card"
    for split, identity in (on_card.get("data") or {}).items():
        if results["data"].get(split) != identity:
            reason += (
                f"; the {split} images are {results['data'].get(split)} now, {identity} on the card"
            )
    return folder, results, (low, high, reason)


def expected(card):
    """Return the interval in which the error of another training is expected.

    With several seeds on the card, another seed falls into it with 95 % probability if the errors
    are normally distributed: mean +- t s sqrt(1 + 1/n), and at least one image to either side. With
    one seed the spread is not known. The interval is then Wilson's for its test images.

    Arguments:
        card: the card of an export, with "results" and "seeds".

    Returns:
        (low, high, reason): the error in percent, and in words where the interval comes from.
    """
    results, errors = card["results"], card["seeds"]["errors"]
    n = len(errors)
    if n < 2:
        low, high = (100 * share for share in results["error_interval"])
        return low, high, "the 95 % interval of its test images; the spread of seeds is not known"
    reach = max(stats.t.ppf(0.975, n - 1) * statistics.stdev(errors) * math.sqrt(1 + 1 / n), 1)
    mean = statistics.fmean(errors)
    interval = max(mean - reach, 0), min(mean + reach, results["examples"])
    low, high = (100 * bound / results["examples"] for bound in interval)
    return low, high, f"the 95 % interval of another seed, from the spread of {n} seeds"
