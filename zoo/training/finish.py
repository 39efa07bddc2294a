"""Write the files of a finished training: the model, its results, the page."""

from typing import TYPE_CHECKING

import numpy as np

from zoo import files, measures, saving
from zoo.data import ImageData
from zoo.recipe import Recipe
from zoo.runs import Run
from zoo.saving import shipped, supervised
from zoo.training import operations, plan
from zoo.training.measuring import measure
from zoo.training.progress import Progress
from zoo.training.stopping import TrainingError

if TYPE_CHECKING:
    from zoo.training.session import Session

_BATCH_SIZE = 256


def finish(session: "Session", page: bool) -> None:
    """Write the model that ships and its results into the run folder.

    Arguments:
        session: the session, after its last epoch.
        page: also draw the page, and write a few example images.

    Raises:
        TrainingError: if a file cannot be written.
    """
    session.progress.stop()
    try:
        _write(session, page)
    except OSError as error:
        raise TrainingError(
            f"The finished training could not be written to {session.run.folder} ({error}). "
            f"{session.kept()}: make room, and the same command goes on from there."
        ) from error


def _write(session, page):
    if session.strategy is not None:
        session.model = _undistributed(session)
    model = shipped(session.model)
    saving.save_uncompiled(model, session.run.model_file)
    results = _results(session, model)
    if with_companions := supervised(session.model):
        results["exits"] = _exits(with_companions, session.judging)
        saving.save_uncompiled(with_companions, session.run.with_companions_file)
    session.run.write_history(session.history)
    # The results mark the run as finished. What comes later can be drawn again.
    session.run.write_results(results)
    if page:
        _draw(session.run, model, session.judging)
    session.progress.say(
        f"{session.judged_on} accuracy {100 * results['accuracy']:.2f} % "
        f"({results['errors']} errors in {results['examples']}), last epoch, "
        f"{results['seconds']:.0f} s of training"
    )


def draw_missing_page(recipe: Recipe, run: Run, progress: Progress) -> None:
    """Draw the page and the example images of a finished run, which was killed before they were.

    If the images have changed since, a warning says so, and nothing is drawn.

    Raises:
        zoo.data.DataError: if the images cannot be read.
        UsageError: if a file of the run is damaged.
    """
    progress.say(f"Its page {run.page} is missing, and is drawn.")
    judging = recipe.datasets()[1]
    if changes := judging.changes_since(run.results.get("data", {}).get(judging.split)):
        progress.warn(f"{judging.name} has changed ({changes}), so the page was not drawn.")
        return
    _draw(run, saving.load_model(run.folder), judging)


def _draw(run, model, judging):
    from zoo.report import page  # an archive of `zoo pack` lacks its packages

    _write_examples(run, judging)
    page.write(run, model, judging)


def _results(session, model):
    """Return the contents of results.json."""
    judging, names = session.judging, session.label_names
    logits, loss = measure(model, judging)
    labels, examples = judging.labels, judging.examples
    counts = measures.confusion_counts(labels, logits.argmax(1), len(names))
    errors = examples - int(counts.trace())
    an_image = operations.of_an_image(model)
    trained_on = session.position["step"] * session.recipe.batch_size
    return {
        "evaluated_on": session.judged_on,
        "accuracy": 1 - errors / examples,
        "error_percent": 100 * errors / examples,
        "errors": errors,
        "loss": loss,
        "calibration_error": measures.calibration_error(logits, labels),
        "classes": measures.per_class(counts, names),
        "balanced_accuracy": measures.balanced_accuracy(counts),
        "confusions": measures.confusions(counts, names),
        "examples": examples,
        "train_examples": session.training.examples,
        "epochs": session.position["epoch"],
        "seconds": session.position["seconds"],
        "parameters": model.count_params(),
        "operations_an_image": an_image,
        "operations_of_training": operations.of_training(an_image, trained_on),
        "label_names": names,
        "teacher": session.teacher,
        "teachers": session.position.get("teachers", []),
        "data": session.data,
        "warnings": session.position["warnings"],
        "resumed": session.position["resumed"],
    }


def _undistributed(session):
    """Return a copy of the model that belongs to no strategy."""
    model = plan.make_plan(session.recipe, session.training, session.steps).model
    for variable, trained in zip(model.variables, session.model.variables, strict=True):
        variable.assign(np.asarray(trained))
    return model


def _exits(model, judging: ImageData):
    """Return {layer: accuracy of its companion's classifier}, and of "output"."""
    logits = model.exits(judging.batches(_BATCH_SIZE))
    return {
        layer: float((scores.argmax(axis=1) == judging.labels).mean())
        for layer, scores in logits.items()
    }


def _write_examples(run, judging, count=8):
    """Write a few of the evaluated images as files, to try `zoo predict` with."""
    from PIL import Image  # an archive of `zoo pack` lacks it

    run.examples.mkdir(exist_ok=True)
    firsts = [
        int(np.argmax(judging.labels == label)) for label in np.unique(judging.labels)[:count]
    ]
    for index in firsts:
        label = str(judging.label_names[judging.labels[index]])
        name = "".join(character if character.isalnum() else "_" for character in label)
        pixels = judging.images[index]
        image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
        with files.whole(run.examples / f"{index:05d}_{name}.png") as partial:
            image.save(partial)
