"""The model card: what an export is, where it comes from, what it takes, and what it cannot do.

`facts` are the same at every export of a model and lie in the version, card.json; the card beside
the versions adds what was measured at the export, and README.md is the same for people.
"""

import importlib.metadata
import json
import os
import statistics
from pathlib import Path

import jinja2
import keras
import tensorflow as tf

from zoo import exports, files, measures, provenance
from zoo.errors import ZooError
from zoo.models import pretrained
from zoo.runs import Run
from zoo.serving import signatures
from zoo.text import percent

_TEMPLATE = Path(__file__).with_name("card.md.jinja")
# As keras.datasets and, for the digits, the UCI repository state it.
_LICENCES = {
    "digits": "Optical Recognition of Handwritten Digits, UCI; CC BY 4.0",
    "mnist": "Yann LeCun and Corinna Cortes, derived from NIST; CC BY-SA 3.0",
    "fashion_mnist": "Zalando SE; MIT",
    "cifar10": "Alex Krizhevsky; the site states no licence",
    "cifar100": "Alex Krizhevsky; the site states no licence",
    "svhn_cropped": "Netzer et al.; for non-commercial use only, says its site",
}
_UNKNOWN = "not recorded: look where the data come from before the model is passed on"


class RepeatError(ZooError, ValueError):
    """Runs that are not the same training with other seeds."""

    exit_code = 2


def record(run):
    """Return the record of a run: {"recipe", "versions", "results"}.

    With "repeats", a list of the same of other seeds' runs, the card has their mean and spread.
    """
    run = Run(run)
    return {"recipe": run.record, "versions": run.versions, "results": run.results}


def repeat(run_or_export):
    """Return the `record` of a run folder, or of an export that was made of one.

    Raises:
        RepeatError: for an unfinished run, or an export whose card knows no training.
    """
    if Run(run_or_export).is_finished:
        return record(run_or_export)
    try:
        told = exports.card(exports.find_version(run_or_export))
    except FileNotFoundError:
        raise RepeatError(f"{run_or_export} is neither a finished run nor an export.") from None
    if not told["training"]:
        raise RepeatError(f"The card of {run_or_export} knows no training: it is of a file.")
    return again(told)


def again(told):
    """Return the `record` that a card was made of, with the repeats of other seeds."""
    if not (training := told["training"]):
        return {"source": told["source"]}
    results = {**training, **told["results"], "train_examples": told["data"]["training_images"]}
    versions = {**training, "dirty": training["uncommitted_changes"]}
    first = {"recipe": training, "versions": versions, "results": results}

    def other(seed, errors, seconds):
        found = {"errors": errors, "error_percent": 100 * errors / results["examples"]}
        return {
            "recipe": training,
            "versions": {**versions, "seed": seed},
            "results": {**results, **found, "seconds": seconds},
        }

    seeds = (told["seeds"][each][1:] for each in ("seeds", "errors", "seconds"))
    return {**first, "repeats": list(map(other, *seeds)), "source": told["source"]}


def source(file):
    """Return the source of a .keras file: {"source": its name and SHA-256}."""
    return {"source": {"file": Path(file).name, "sha256": files.sha256(file)}}


def facts(model, labels, *, record, weights, top_k, exits, tolerance):
    """Return the facts that are the same in every export of a model, as JSON has them.

    `weights` names the factories, "nin" and "nin_dsn", that the weights fit.
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
            "max_bytes": signatures.MAX_BYTES,
            "max_pixels": signatures.MAX_PIXELS,
            "resize": "bilinear, antialiased, to the shape; the aspect ratio is not kept",
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


def over_seeds(records):
    """The test errors of the same training with several seeds, of `record` each: a dictionary.

    Raises:
        RepeatError: for runs that differ in more than the seed, or two of one seed.
    """
    # What "auto" chose, by the processor, counts too; and which teacher it was that lay there.
    fields = [
        {
            **each["recipe"]["fields"],
            "seed": None,
            "precision": each["versions"].get("precision"),
            "teacher": each["results"].get("teacher"),
        }
        for each in records
    ]
    for each, other in zip(records, fields, strict=True):
        differing = sorted(k for k in {*fields[0], *other} if fields[0].get(k) != other.get(k))
        if differing or each["recipe"]["recipe"] != records[0]["recipe"]["recipe"]:
            raise RepeatError(
                f"The runs of seeds {records[0]['versions']['seed']} and {each['versions']['seed']}"
                f" differ in more than the seed: {', '.join(differing) or 'the recipe'}."
            )
    seeds = [each["versions"]["seed"] for each in records]
    if len(set(seeds)) < len(seeds):
        raise RepeatError(f"Two runs have the same seed; received runs of the seeds {seeds}.")
    percent = [each["results"]["error_percent"] for each in records]
    return {
        "seeds": seeds,
        "errors": [each["results"]["errors"] for each in records],
        "seconds": [round(each["results"]["seconds"]) for each in records],
        "mean_error_percent": statistics.fmean(percent),
        "deviation_percent": statistics.stdev(percent) if len(percent) > 1 else None,
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
        "teacher": results.get("teacher"),
        "hardware": versions["hardware"],
        "backend": versions.get("backend"),
        "precision": versions.get("precision"),
        "warnings": results["warnings"],
    }


def _results(results):
    kept = ("evaluated_on", "accuracy", "error_percent", "errors", "examples", "loss", "exits")
    kept += ("calibration_error", "classes", "confusions")
    interval = measures.wilson_interval(1 - results["accuracy"], results["examples"])
    return {
        **{name: results[name] for name in kept if results.get(name) is not None},
        "error_interval": list(interval),
    }


def fingerprint(version):
    """TensorFlow's hashes of a SavedModel: of its bytes, program, signatures and weights."""
    found = tf.saved_model.experimental.read_fingerprint(str(version))
    names = ("graph_def_program_hash", "signature_def_hash", "saved_object_graph_hash")
    names += ("saved_model_checksum", "checkpoint_hash")
    return {name: f"{getattr(found, name):016x}" for name in names}


def of_version(version, facts, speed):
    """The facts and what was measured; `speed` is {batch: seconds}."""
    files = [path for path in version.rglob("*") if path.is_file()]
    return {
        "name": version.parent.name,
        "version": int(version.name),
        **facts,
        "bytes": sum(path.stat().st_size for path in files),
        "speed": {
            "milliseconds": {str(batch): round(1000 * s, 3) for batch, s in speed.items()},
            "of": "serving_default through TensorFlow's C API, the best of a few tries",
            "hardware": f"{len(os.sched_getaffinity(0))} cores of {provenance.processor()}",
        },
    }


def as_json(told):
    """The text of card.json."""
    return json.dumps(told, indent=2, ensure_ascii=False) + "\n"


def page(base, told):
    """The text of README.md, for a model whose versions lie in `base`."""
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["flatten"] = keras.tree.flatten  # one teacher, or an ensemble's list
    environment.filters["percent"] = percent
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    pictures = sorted(path.name for path in (base / "examples").glob("*.png"))
    return template.render(told, pictures=pictures)
