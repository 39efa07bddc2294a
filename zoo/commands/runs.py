"""The commands about a trained model: `zoo evaluate`, `predict` and `report`."""

import sys
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from zoo.commands.tensorflow import import_tensorflow
from zoo.errors import UsageError
from zoo.runs import Run


def evaluate(run: Positional[Path], data: str | None = None, recipe: Path | None = None):
    """Measure a trained run again: accuracy, loss, and every class.

    Args:
        run: a run folder.
        data: another data set than the recipe's; its test images are used, 20 % of a folder that
            is not divided. Resized to what the model takes.
        recipe: the run's recipe file, where it is one of your own that you never trained with here.
    """
    trained = Run.finished_at(run)
    import_tensorflow()
    from zoo import data as image_data
    from zoo.commands.answering import show_evaluation
    from zoo.saving import load_model

    fields = trained.fields
    how = {key: fields[key] for key in ("image_size", "stream", "skip_corrupt") if key in fields}
    model = load_model(run, own_recipe=recipe)
    shape = model.input_shape[1:]  # a net that averages may leave height and width open
    if data and None not in shape:
        how["image_size"] = shape[:2]
    test = image_data.load(data or fields["data"], "test", **how)
    if any(own not in (None, given) for own, given in zip(shape, test.image_shape, strict=True)):
        raise UsageError(
            f"{test.name} has images of the shape {test.image_shape}; the run's are {shape}."
        )
    if not data:
        _refuse_other_images(trained, test)
    if list(test.label_names) != trained.label_names:
        raise UsageError(
            f"{test.name} has the classes {', '.join(test.label_names)}; the run has "
            f"{', '.join(trained.label_names)}."
        )
    show_evaluation(model, test)


def _refuse_other_images(run, judging):
    """A folder with other images is divided otherwise: some of these may have been trained on."""
    by_themselves = judging.split == "test" and not judging.source
    remembered = run.results.get("data", {}).get(judging.split)
    if not by_themselves and remembered not in (None, judging.identity):
        raise UsageError(
            f"{judging.name} has changed: the run was judged on the {judging.split} images "
            f"{remembered}, which now are {judging.identity}, and may be among those trained on. "
            "Put them back, or train again."
        )


def predict(
    inputs: Annotated[Positional[tuple[Path, ...]], arg(name="", metavar="[MODEL] IMAGE...")],
    top: int = 5,
    server: str | None = None,
    check: Path | None = None,
    timeout: float = 10.0,
    retries: int = 2,
    tolerance: float | None = None,
    recipe: Path | None = None,
):
    """Classify PNG or JPEG images: a table of labels and probabilities.

    Args:
        inputs: a run folder or an export, and image files; with --server, the files alone.
        top: how many classes to show.
        server: ask this one: http://HOST:8501/v1/models/NAME, or grpc://HOST:8500/v1/models/NAME.
        check: with --server: send the examples of this folder, and compare with Keras' answers.
        timeout: seconds for a try to reach the server.
        retries: of a request that got no answer.
        tolerance: how far a probability may be off, with --check; by default 1e-5, or the card's.
        recipe: the run's recipe file, where it is one of your own that you never trained with here.
    """
    if top < 1:
        raise UsageError(f"--top is a number of classes, 1 or more; received {top}.")
    if timeout <= 0 or retries < 0:
        raise UsageError("--timeout is a positive number of seconds, and --retries 0 or more.")
    if check and not server:
        raise UsageError("--check compares a server's answers: it needs --server URL.")
    model, images = (None, inputs) if server else (inputs[:1], inputs[1:])
    if not images and not check:
        what = "--server URL" if server else "MODEL"
        raise UsageError(f"zoo predict {what} IMAGE... received no image.")
    for image in images:
        if not image.is_file():
            raise UsageError(f"There is no image {str(image)!r}.")
    if server:
        return _ask_server(server, images, top, check, timeout, retries, tolerance)
    (model,) = model
    if Run(model).has_model:
        Run.finished_at(model)
    import_tensorflow()
    from zoo.commands.answering import show_predictions

    show_predictions(model, images, top, own_recipe=recipe)


def _ask_server(url, images, top, check, timeout, retries, tolerance):
    if url.startswith("grpc:"):
        import_tensorflow()
    from zoo.serving import client

    try:
        server = client.connect(url, timeout=timeout, retries=retries)
    except ValueError as error:
        raise UsageError(str(error)) from error
    if images:
        client.show_predictions(server, images, top)
    if check and not client.check(server, check, tolerance):
        sys.exit(1)


def report(run: Positional[Path], recipe: Path | None = None):
    """Draw the page of a trained run again.

    Args:
        run: a run folder.
        recipe: its recipe file, where it is one of your own that you never trained with here.
    """
    trained = Run.finished_at(run)
    import_tensorflow()
    from zoo.report import page
    from zoo.saving import load_model

    _, judging = trained.recipe(recipe).datasets()
    _refuse_other_images(trained, judging)
    print(page.write(trained, load_model(run, own_recipe=recipe), judging))
