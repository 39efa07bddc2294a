"""Write the page of a run folder: the results, the figures, and how to reproduce the run."""

import io
import re
from pathlib import Path

import keras
import matplotlib
import numpy as np
from markupsafe import Markup

from zoo import files, measures
from zoo.markup import template
from zoo.report import confidence_maps, figures

_TEMPLATE = Path(__file__).with_name("report.html.jinja")
_BATCH = 256
_EXAMPLES_WITH_MAPS = 5


def write(run, model, data):
    """Draw `figures/*.png` of a finished run, write its `report.html`, and return that file's path.

    The page is one file, and refers to nothing outside itself. The headline shows the results of
    results.json. The tables and figures come from the answers of `model` to `data`.

    Arguments:
        run: a finished `zoo.runs.Run`.
        model: a built Keras model, raw pixels 0..255 (batch, h, w, c) -> logits (batch, classes).
            If it has a layer `class_maps`, the page shows its maps as confidence maps.
        data: the `zoo.data.ImageData` that the run was evaluated on.

    Raises:
        FileNotFoundError: if the folder lacks recipe.json, versions.json, results.json or
            metrics.csv.
        ValueError: if the model does not give one logit for each label name.
    """
    recipe, versions, results, history = run.record, run.versions, run.results, run.history
    images, labels, names = data.images, data.labels, data.label_names
    probabilities = probabilities_of(model, images, names)
    predictions = probabilities.argmax(axis=1)

    drawings = {
        "learning_curves": figures.learning_curves(history, results["evaluated_on"]),
        "head_losses": figures.head_losses(history, results["evaluated_on"]),
        "exit_errors": figures.exit_errors(results.get("exits"), results["evaluated_on"]),
        "confusion_matrix": figures.confusion_matrix(labels, predictions, names),
        "confident_mistakes": figures.confident_mistakes(images, labels, probabilities, names),
        "confidence_maps": _confidence_maps(model, images, labels, probabilities, names),
    }
    counts = measures.confusion_counts(labels, predictions, len(names))
    page = render(
        _TEMPLATE,
        recipe=recipe,
        versions=versions,
        results=results,
        interval=measures.wilson_interval(1 - results["accuracy"], results["examples"]),
        warnings=[*results.get("warnings", []), *_disagreement(results, counts)],
        classes=measures.per_class(counts, names),
        confusions=measures.confusions(counts, names),
        mistakes=int(counts.sum() - np.trace(counts)),
        balanced_accuracy=measures.balanced_accuracy(counts),
        figures=_save(drawings, run.figures),
        run=str(run.folder),
        model_file=str(run.model_file),
        data_name=data.name,
        image_shape=images.shape[1:],
    )
    files.write(run.page, page)
    return run.page


def _in_batches(model, images):
    # Plain calls: `predict` would compile the model again for these few batches.
    return np.concatenate(
        [
            keras.ops.convert_to_numpy(
                model(np.asarray(images[start : start + _BATCH], "float32"), training=False)
            ).astype("float32")
            for start in range(0, len(images), _BATCH)
        ]
    )


def probabilities_of(model, images, names):
    """Return a model's probabilities for images, (n, h, w, c) in 0..255 -> (n, classes).

    Raises:
        ValueError: if the model does not give one logit for each of `names`.
    """
    logits = _in_batches(model, images)
    if logits.shape != (len(images), len(names)):
        raise ValueError(
            f"The model gives outputs of shape {logits.shape} for {len(images)} images; the data "
            f"set has {len(names)} label names, so it should give {(len(images), len(names))}."
        )
    return measures.softmax(logits)


def _confidence_maps(model, images, labels, probabilities, names):
    """Draw the maps of some images: the first of evenly spread classes, and the surest mistake.

    Returns None if the model has no layer `class_maps` with one map for each class.
    """
    maps_model = confidence_maps.maps_of(model, len(names))
    if maps_model is None:
        return None
    predictions = probabilities.argmax(axis=1)
    _, first = np.unique(labels, return_index=True)
    spread = np.linspace(0, len(first) - 1, min(_EXAMPLES_WITH_MAPS, len(first))).astype(int)
    chosen = first[spread]
    certainty = np.where(predictions == labels, 0, probabilities.max(axis=1))
    if certainty.any() and certainty.argmax() not in chosen:
        chosen = np.append(chosen, certainty.argmax())
    maps = _in_batches(maps_model, images[chosen])
    return confidence_maps.draw(images[chosen], maps, labels[chosen], predictions[chosen], names)


def _disagreement(results, counts):
    """Return a warning in a list if the model now makes another number of mistakes."""
    recorded = (round((1 - results["accuracy"]) * results["examples"]), results["examples"])
    counted = (int(counts.sum() - np.trace(counts)), int(counts.sum()))
    if recorded == counted:
        return []
    return [
        f"results.json records {recorded[0]} mistakes in {recorded[1]} images, but the model made "
        f"{counted[0]} in {counted[1]} when this page was drawn. The tables and figures below show "
        "the latter."
    ]


def _save(drawings, folder):
    """Write each figure as a PNG file, and return {name: SVG}.

    The file of a figure that is None is removed: a page from before may have left it.
    """
    folder.mkdir(exist_ok=True)
    drawn = {}
    for name, figure in drawings.items():
        file = folder / f"{name}.png"
        if figure is None:
            file.unlink(missing_ok=True)
            continue
        png = io.BytesIO()
        figure.savefig(png, format="png", dpi=200)
        files.write(file, png.getvalue())
        drawn[name] = svg(figure, name)
    return drawn


def svg(figure, name):
    """Return a figure as SVG for the page, whose colours follow the page's.

    Letters are paths, so no name of a class can be markup.
    """
    svg = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context({"svg.hashsalt": name}):  # else other bytes each time
        figure.savefig(svg, format="svg", dpi=200, transparent=True, metadata=nothing)
    text = svg.getvalue()
    text = re.sub(r"<!--.*?-->", "", text[text.index("<svg") :], flags=re.DOTALL)
    # Several figures share a page.
    return Markup(re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text))


def render(file, **content):
    """Return a page of the zoo's look: a template of HTML that is filled in.

    Arguments:
        file: the template. It has the filters "percent" and "duration", and the values "css" and
            "script" for the elements of these names.
        content: further values.
    """
    filters = {"percent": _percent, "duration": _duration}
    look = {name: Markup(_read(f"page.{end}")) for name, end in (("css", "css"), ("script", "js"))}
    return template(file, filters).render(**look, **content)


def _read(name):
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _percent(share, digits=2):
    return "—" if share is None else f"{100 * share:.{digits}f}\N{NO-BREAK SPACE}%"


def _duration(seconds):
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    hours, minutes = divmod(round(seconds / 60), 60) if seconds >= 3600 else (0, seconds // 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds % 60} s"
