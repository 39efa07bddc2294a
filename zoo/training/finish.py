"""The files that a person opens when a training is finished: the model, its results, the page."""

import numpy as np

from zoo import measures, saving
from zoo.data import ImageData
from zoo.saving import shipped, supervised
from zoo.training import plan
from zoo.training.measuring import measure

JUDGED_AT_ONCE = 256


def finish(session, page: bool) -> None:
    """Write the model that ships, results.json and, with `page`, the page and example images."""
    session.progress.stop()
    if session.strategy is not None:
        session.model = _undistributed(session)
    model = shipped(session.model)
    saving.save(model, session.run.model_file)
    results = _results(session, model)
    if with_companions := supervised(session.model):
        results["exits"] = _exits(with_companions, session.judging)
        saving.save_uncompiled(with_companions, session.run.with_companions_file)
    session.run.write_history(session.history)
    if page:
        _write_examples(session)
    # Written last but for the page, which can be drawn again: its presence says "complete".
    session.run.write_results(results)
    if page:
        from zoo.report import page as report  # it draws with packages that an archive lacks

        report.write(session.run, model, session.judging)
    session.progress.say(
        f"{session.judged_on} accuracy {100 * results['accuracy']:.2f} % "
        f"({results['errors']} errors in {results['examples']}), last epoch, "
        f"{results['seconds']:.0f} s of training"
    )


def _results(session, model):
    """What results.json holds."""
    judging, names = session.judging, session.names
    logits, loss = measure(model, judging)
    labels, examples = judging.labels, judging.examples
    counts = measures.confusion_counts(labels, logits.argmax(1), len(names))
    errors = examples - int(counts.trace())
    return {
        "evaluated_on": session.judged_on,
        "accuracy": 1 - errors / examples,
        "error_percent": 100 * errors / examples,
        "errors": errors,
        "loss": loss,
        "calibration_error": measures.calibration_error(logits, labels),
        "classes": measures.per_class(counts, names),
        "confusions": measures.confusions(counts, names),
        "examples": examples,
        "train_examples": session.training.examples,
        "epochs": session.position["epoch"],
        "seconds": session.position["seconds"],
        "parameters": model.count_params(),
        "label_names": names,
        "teacher": session.teacher,
        "data": session.data,
        "warnings": session.position["warnings"],
        "resumed": session.position["resumed"],
    }


def _undistributed(session):
    """The model again, with the same weights, for this process alone."""
    model = plan.make(session.recipe, session.training, session.steps).model
    for variable, trained in zip(model.variables, session.model.variables, strict=True):
        variable.assign(np.asarray(trained))
    return model


def _exits(model, judging: ImageData):
    """{layer, or "output": accuracy of its classifier}."""
    logits = model.exits(judging.batches(JUDGED_AT_ONCE))
    return {k: float((v.argmax(axis=1) == judging.labels).mean()) for k, v in logits.items()}


def _write_examples(session, count=8):
    """A few of the images judged on, as files to try `zoo predict` with."""
    from PIL import Image  # which an archive of `zoo pack` lacks

    judging = session.judging
    session.run.examples.mkdir(exist_ok=True)
    firsts = [
        int(np.argmax(judging.labels == label)) for label in np.unique(judging.labels)[:count]
    ]
    for index in firsts:
        label = session.names[judging.labels[index]]
        name = "".join(character if character.isalnum() else "_" for character in label)
        image = judging.images[index]
        image = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
        image.save(session.run.examples / f"{index:05d}_{name}.png")
