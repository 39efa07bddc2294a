"""The model card: what an export is, where it comes from, what it takes, and what it cannot do.

The `facts` of a model are the same in every export of it. They lie in the version as card.json. The
card beside the versions adds what was measured at the export. README.md says the same for people.
"""

import importlib.metadata
import json
import os
import statistics
import urllib.parse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from zoo import exports, files, measures, provenance
from zoo.errors import ZooError
from zoo.markup import template
from zoo.models import pretrained
from zoo.runs import Run
from zoo.serving import decoding
from zoo.text import percent

_TEMPLATE = Path(__file__).with_name("card.md.jinja")
# As keras.datasets states them, and for the digits the UCI repository.
_LICENCES = {
    "digits": "Optical Recognition of Handwritten Digits, UCI; CC BY 4.0",
    "mnist": "Yann LeCun and Corinna Cortes, derived from NIST; CC BY-SA 3.0",
    "fashion_mnist": "Zalando SE; MIT",
    "cifar10": "Alex Krizhevsky; the site states no licence",
    "cifar100": "Alex Krizhevsky; the site states no licence",
    "svhn_cropped": "Netzer et al.; for non-commercial use only, says its site",
}
_RESIZED = {
    "squash": "the aspect ratio is not kept",
    "crop": "of another aspect ratio, the centre is kept and two sides are cut off",
    "pad": "of another aspect ratio, black is added at two sides",
}
_UNKNOWN = "not recorded; find the licence of the data before you pass the model on"


class RepeatError(ZooError, ValueError):
    """Runs that differ in more than the seed."""

    exit_code = 2


def record(run: Path | str) -> dict[str, Any]:
    """Return the record of a run folder: {"recipe", "versions", "results"}.

    Add "repeats", a list of the records of other seeds, and the card has their mean and spread.
    """
    files_of_run = Run(run)
    return {
        "recipe": files_of_run.record,
        "versions": files_of_run.versions,
        "results": files_of_run.results,
    }


def repeat(run_or_export: Path) -> dict[str, Any]:
    """Return the `record` of a run folder, or of an export that was made of one.

    Raises:
        RepeatError: for an unfinished run, or an export whose card has no training.
    """
    if Run(run_or_export).is_finished:
        return record(run_or_export)
    try:
        facts = exports.card(exports.find_version(run_or_export))
    except FileNotFoundError:
        raise RepeatError(f"{run_or_export} is neither a finished run nor an export.") from None
    if not facts["training"]:
        raise RepeatError(
            f"The card of {run_or_export} has no training: it was exported from a file."
        )
    return again(facts)


def again(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `record` that a card was made of, with the repeats of other seeds."""
    if not (training := facts["training"]):
        return {"source": facts["source"]}
    results = {**training, **facts["results"], "train_examples": facts["data"]["training_images"]}
    versions = {**training, "dirty": training["uncommitted_changes"]}
    first = {"recipe": training, "versions": versions, "results": results}

    def other(seed, errors, seconds):
        measured = {"errors": errors, "error_percent": 100 * errors / results["examples"]}
        return {
            "recipe": training,
            "versions": {**versions, "seed": seed},
            "results": {**results, **measured, "seconds": seconds},
        }

    others = (facts["seeds"][column][1:] for column in ("seeds", "errors", "seconds"))
    return {**first, "repeats": list(map(other, *others)), "source": facts["source"]}


def resizing_of(record: Mapping[str, Any] | None) -> str:
    """Return how the files of a training were resized: "squash", "crop" or "pad".

    Arguments:
        record: as `record` or `again` returns it. Without a training it is "squash".
    """
    return ((record or {}).get("recipe") or {}).get("fields", {}).get("resize", "squash")


def source(file: Path | str) -> dict[str, Any]:
    """Return the source of a .keras file: {"source": its name and SHA-256}."""
    return {"source": {"file": Path(file).name, "sha256": files.sha256(file)}}


def facts(
    model: keras.Model,
    labels: Sequence[str],
    *,
    record: Mapping[str, Any] | None,
    weights: Sequence[str],
    top_k: int,
    exits: Sequence[str],
    tolerance: float,
    max_batch: int,
) -> dict[str, Any]:
    """Return the facts that are the same in every export of a model, for JSON.

    Arguments:
        model: a functional model, pixels in, logits out.
        labels: the label names, in the order of the classes.
        record: as `record` returns it. Without one, the card says that nothing is known.
        weights: those of "nin" and "nin_dsn" that take the weights.
        top_k: how many classes an answer names.
        exits: the depths that the signature `exits` answers for.
        tolerance: largest difference of a probability from Keras.
        max_batch: how many images a request may have.
    """
    record = record or {}
    recipe, results = record.get("recipe"), record.get("results")
    return {
        "labels": labels,
        "parameters": model.count_params(),
        "input": {
            "shape": list(model.input_shape[1:]),
            "range": [0, 255],
            "preprocessing": pretrained.preprocessing_of(model),
            "files": ["PNG", "JPEG"],
            "max_bytes": decoding.MAX_BYTES,
            "max_pixels": decoding.MAX_PIXELS,
            "resize": f"bilinear, antialiased, to the shape; {_RESIZED[resizing_of(record)]}",
            # `zoo verify` checks what is said here; cards of an older zoo say nothing of it.
            "max_batch": max_batch,  # from here on, max_pixels is that of a request
            "orientation": "turned upright, as the EXIF data say",
            "transparency": "laid on white",
            "grey": "(19595 R + 38470 G + 7471 B) / 65536",
        },
        "weights": weights,
        "top_k": top_k,
        "exits": exits,
        "tolerance": tolerance,
        "source": record.get("source"),
        "data": recipe and _data(recipe, results),
        "training": recipe and _training(recipe, record["versions"], results),
        "results": results and _results(results),
        "seeds": results and over_seeds([record, *record.get("repeats", [])]),
        "software": {name: importlib.metadata.version(name) for name in ("keras", "tensorflow")},
    }


def over_seeds(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the test errors of one training with several seeds, given the `record` of each.

    Raises:
        RepeatError: for runs that differ in more than the seed, or two runs of one seed.
    """
    # "auto" is a precision that the processor decides, and another teacher may lie at the same
    # path. So what was used counts, and not the field alone.
    fields = [
        {
            "resize": "squash",  # what older records mean
            "teacher_resize": False,
            **record["recipe"]["fields"],
            "seed": None,
            "precision": record["versions"].get("precision"),
            "teacher": record["results"].get("teacher"),
        }
        for record in records
    ]
    seeds = [record["versions"]["seed"] for record in records]
    for record, seed, other in zip(records, seeds, fields, strict=True):
        differing = sorted(k for k in {*fields[0], *other} if fields[0].get(k) != other.get(k))
        if differing or record["recipe"]["recipe"] != records[0]["recipe"]["recipe"]:
            raise RepeatError(
                f"The runs of seeds {seeds[0]} and {seed} differ in more than the seed: "
                f"{', '.join(differing) or 'the recipe'}."
            )
    if len(set(seeds)) < len(seeds):
        raise RepeatError(f"Two runs have the same seed; received runs of the seeds {seeds}.")
    results = [record["results"] for record in records]
    percents = [result["error_percent"] for result in results]
    return {
        "seeds": seeds,
        "errors": [result["errors"] for result in results],
        "seconds": [round(result["seconds"]) for result in results],
        "mean_error_percent": statistics.fmean(percents),
        "deviation_percent": statistics.stdev(percents) if len(percents) > 1 else None,
    }


def _data(recipe, results):
    name = recipe["fields"]["data"]
    return {
        "name": name,
        "licence": _LICENCES.get(name, _UNKNOWN),
        "training_images": results["train_examples"],
    }


def _training(recipe, versions, results):
    return {
        "recipe": recipe["recipe"],
        "fields": recipe["fields"],
        "command": versions["command"],
        "commit": versions["commit"],
        "uncommitted_changes": versions["dirty"],
        "seed": versions["seed"],
        "epochs": results["epochs"],
        "seconds": round(results["seconds"]),
        "operations_of_training": results.get("operations_of_training"),
        "teacher": results.get("teacher"),
        "teachers": results.get("teachers", []),  # each with its accuracy; of an older run, none
        "hardware": versions["hardware"],
        "backend": versions.get("backend"),
        "precision": versions.get("precision"),
        "warnings": results["warnings"],
        "data": results.get("data"),  # the identities of the images, to compare
    }


def _results(results):
    kept = ("evaluated_on", "accuracy", "error_percent", "errors", "examples", "loss", "exits")
    kept += ("calibration_error", "balanced_accuracy", "classes", "confusions")
    interval = measures.wilson_interval(1 - results["accuracy"], results["examples"])
    return {
        **{name: results[name] for name in kept if results.get(name) is not None},
        "error_interval": list(interval),
    }


def fingerprint(version: Path) -> dict[str, str]:
    """Return TensorFlow's hashes of a SavedModel: of its bytes, program, signatures and weights."""
    hashes = tf.saved_model.experimental.read_fingerprint(str(version))
    names = "graph_def_program_hash signature_def_hash saved_object_graph_hash"
    names += " saved_model_checksum checkpoint_hash"
    return {name: f"{getattr(hashes, name):016x}" for name in names.split()}


def of_version(
    version: Path, facts: Mapping[str, Any], speed: Mapping[int, float]
) -> dict[str, Any]:
    """Return the facts and what was measured; `speed` is {batch size: seconds for a batch}."""
    files = [path for path in version.rglob("*") if path.is_file()]
    return {
        "name": version.parent.name,
        "version": int(version.name),
        **facts,
        "bytes": sum(path.stat().st_size for path in files),
        "speed": {
            "milliseconds": {str(batch): round(1000 * s, 3) for batch, s in speed.items()},
            "of": "serving_default through TensorFlow's C API, the fastest of a few runs",
            "hardware": f"{len(os.sched_getaffinity(0))} cores of {provenance.processor()}",
        },
    }


def as_json(facts: Mapping[str, Any]) -> str:
    """Return the text of card.json."""
    text = json.dumps(facts, indent=2, ensure_ascii=False) + "\n"
    # Bytes of a path that are no UTF-8 become JSON's escapes.
    return text.encode("utf-8", "backslashreplace").decode()


def page(version: Path, facts: dict[str, Any]) -> str:
    """Return the text of README.md for the card of a version, as `of_version` makes it."""
    flatten = keras.tree.flatten  # a teacher, or a list of them
    card = template(_TEMPLATE, {"flatten": flatten, "percent": percent})
    model = urllib.parse.quote(os.fsencode(facts["name"]), safe="")
    pictures = sorted(path.name for path in (version / exports.EXAMPLES).glob("*.png"))
    examples = f"{version.name}/{exports.EXAMPLES}"
    return card.render(
        facts,
        examples=examples,
        picture=f"{examples}/{pictures[0]}",
        url=f"http://localhost:8501/v1/models/{model}",
    )
