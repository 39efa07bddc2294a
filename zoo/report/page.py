"""The page of a run folder: what was trained, how well it does, and how to get it again."""

import base64
import io
import shlex
from pathlib import Path

import jinja2
import keras
import numpy as np

from zoo import files, measures
from zoo.report import figures

_TEMPLATE = Path(__file__).with_name("report.html.jinja")
_BATCH = 256
_EXAMPLES_WITH_MAPS = 5


def write(run, model, data):
    """Draw `figures/*.png` of a finished run, write its `report.html`, and return that file's path.

    The page is one file that refers to nothing outside itself. The headline is what results.json
    says; tables and figures come from the answers of `model` to `data`.

    Arguments:
        run: a finished `zoo.runs.Run`.
        model: a built Keras model, raw pixels 0..255 (batch, h, w, c) -> logits (batch, classes).
            The confidence maps are those of its layer `class_maps`, if it has one.
        data: what results.json was measured on, a `zoo.data.ImageData`.

    Raises:
        FileNotFoundError: for a folder that lacks one of the four files.
        ValueError: for a model that does not give one logit an image and label name.
    """
    recipe, versions, results, history = run.record, run.versions, run.results, run.history
    images, labels, names = data.images, data.labels, data.label_names
    probabilities = _probabilities(model, images, names)
    predictions = probabilities.argmax(axis=1)

    drawn = {
        "learning_curves": figures.learning_curves(history, results["evaluated_on"]),
        "head_losses": figures.head_losses(history),
        "exit_errors": figures.exit_errors(results.get("exits"), results["evaluated_on"]),
        "confusion_matrix": figures.confusion_matrix(labels, predictions, names),
        "confident_mistakes": figures.confident_mistakes(images, labels, probabilities, names),
        "confidence_maps": _confidence_maps(model, images, labels, probabilities, names),
    }
    counts = measures.confusion_counts(labels, predictions, len(names))
    page = _render(
        recipe=recipe,
        versions=versions,
        results=results,
        interval=measures.wilson_interval(1 - results["accuracy"], results["examples"]),
        warnings=[*results.get("warnings", []), *_disagreement(results, counts)],
        classes=measures.per_class(counts, names),
        confusions=measures.confusions(counts, names),
        mistakes=int(counts.sum() - np.trace(counts)),
        figures=_save(drawn, run.figures),
        run=shlex.quote(str(run.folder)),
        model_file=repr(str(run.model_file)),
        data_name=data.name,
        image_shape=images.shape[1:],
    )
    files.write(run.page, page)
    return run.page


def _in_batches(model, images):
    # Calls, where `predict` would compile the model once more for these few batches.
    return np.concatenate(
        [
            keras.ops.convert_to_numpy(
                model(np.asarray(images[start : start + _BATCH], "float32"), training=False)
            ).astype("float32")
            for start in range(0, len(images), _BATCH)
        ]
    )


def _probabilities(model, images, names):
    logits = _in_batches(model, images)
    if logits.shape != (len(images), len(names)):
        raise ValueError(
            f"The model gives outputs of shape {logits.shape} for {len(images)} images; the data "
            f"set has {len(names)} label names, so it should give {(len(images), len(names))}."
        )
    return measures.softmax(logits)


def _confidence_maps(model, images, labels, probabilities, names):
    """The maps of the first image of some classes, spread evenly, and of the surest mistake."""
    layer = next((layer for layer in model.layers if layer.name == "class_maps"), None)
    if layer is None or layer.output.shape[3:] != (len(names),):
        return None
    predictions = probabilities.argmax(axis=1)
    _, first = np.unique(labels, return_index=True)
    spread = np.linspace(0, len(first) - 1, min(_EXAMPLES_WITH_MAPS, len(first))).astype(int)
    chosen = first[spread]
    certainty = np.where(predictions == labels, 0, probabilities.max(axis=1))
    if certainty.any() and certainty.argmax() not in chosen:
        chosen = np.append(chosen, certainty.argmax())
    maps = _in_batches(keras.Model(model.input, layer.output), images[chosen])
    return figures.confidence_maps(images[chosen], maps, labels[chosen], predictions[chosen], names)


def _disagreement(results, counts):
    recorded = (round((1 - results["accuracy"]) * results["examples"]), results["examples"])
    found = (int(counts.sum() - np.trace(counts)), int(counts.sum()))
    if recorded == found:
        return []
    return [
        f"results.json records {recorded[0]} mistakes in {recorded[1]} images; the model as called "
        f"for this page makes {found[0]} in {found[1]}. Tables and pictures below show the latter."
    ]


def _save(drawn, folder):
    """Write each figure as a PNG and return it as a data URI; remove what is no longer drawn."""
    folder.mkdir(exist_ok=True)
    uris = {}
    for name, figure in drawn.items():
        file = folder / f"{name}.png"
        if figure is None:
            file.unlink(missing_ok=True)
            continue
        png = io.BytesIO()
        figure.savefig(png, format="png", dpi=200)
        files.write(file, png.getvalue())
        uris[name] = "data:image/png;base64," + base64.b64encode(png.getvalue()).decode()
    return uris


def _render(**content):
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"percent": _percent, "duration": _duration}
    return environment.from_string(_TEMPLATE.read_text("utf-8")).render(content)


def _percent(share, digits=2):
    return "—" if share is None else f"{100 * share:.{digits}f}\N{NO-BREAK SPACE}%"


def _duration(seconds):
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    hours, minutes = divmod(round(seconds / 60), 60) if seconds >= 3600 else (0, seconds // 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds % 60} s"
