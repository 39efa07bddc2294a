"""The commands about a trained model: `zoo evaluate`, `predict` and `report`."""

import sys
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from zoo.commands.sending import png_or_jpeg
from zoo.commands.tensorflow import import_tensorflow
from zoo.errors import UsageError
from zoo.runs import Run
from zoo.text import one_line


def evaluate(run: Positional[Path], data: str | None = None, recipe: Path | None = None) -> None:
    """Measure a finished run again: accuracy, loss, and the recall and precision of every class.

    Arguments:
        run: Run folder.
        data: Data set to evaluate on. Default: that of the recipe.
            Its test images are used, or 20 % of a folder without a test split.
            They are resized to the model's input size.
        recipe: File of the run's recipe.
            Needed only for a recipe of your own that you never trained with on this machine.
    """
    finished = Run.finished_at(run)
    import_tensorflow()
    from zoo.commands import evaluating
    from zoo.saving import load_model

    model = load_model(run, own_recipe=recipe)
    images = evaluating.test_images(finished, model, data)
    evaluating.show_evaluation(model, images)


def predict(
    inputs: Annotated[Positional[tuple[Path, ...]], arg(name="", metavar="[MODEL] IMAGE...")],
    top: int = 5,
    server: str | None = None,
    check: Path | None = None,
    timeout: float = 10.0,
    retries: int = 2,
    tolerance: float | None = None,
    recipe: Path | None = None,
) -> None:
    """Classify images, and print a table of labels and probabilities.

    Exit code 1 if some images were refused, 2 if all were. The reasons are printed.

    Arguments:
        inputs: A run folder or an export, then image files. With --server, image files only.
        top: Number of classes to show for each image.
        server: URL of a model on a server.
            http://HOST:8501/v1/models/NAME or grpc://HOST:8500/v1/models/NAME.
        check: An export. The server must answer its examples as Keras did. Needs --server.
            They are sent, and the answers are compared with those of Keras.
        timeout: Seconds to wait for the server in each try.
        retries: Number of further tries when a request gets no answer.
        tolerance: Largest difference of a probability, with --check.
            Default: that of the card, or 1e-5.
        recipe: File of the run's recipe.
            Needed only for a recipe of your own that you never trained with on this machine.
    """
    if top < 1:
        raise UsageError(f"--top is a number of classes, 1 or more; received {top}.")
    if timeout <= 0 or retries < 0:
        raise UsageError("--timeout is a positive number of seconds, and --retries 0 or more.")
    if check and not server:
        raise UsageError("--check compares a server's answers: it needs --server URL.")
    images = inputs if server else inputs[1:]
    if not images and not check:
        place = "--server URL" if server else "MODEL"
        raise UsageError(f"zoo predict {place} IMAGE... received no image.")
    for image in images:
        if not image.is_file():
            raise UsageError(f"There is no image {str(image)!r}.")
    if server:
        refused = _ask_server(server, images, top, check, timeout, retries, tolerance)
    else:
        model = inputs[0]
        if Run(model).has_model:
            Run.finished_at(model)
        import_tensorflow()
        from zoo.commands.predicting import show_predictions

        refused = show_predictions(model, images, top, own_recipe=recipe)
    for message in refused:
        print("zoo:", one_line(message), file=sys.stderr)
    if refused:
        sys.exit(2 if len(refused) == len(images) else 1)


def _ask_server(
    url: str,
    images: tuple[Path, ...],
    top: int,
    check: Path | None,
    timeout: float,
    retries: int,
    tolerance: float | None,
) -> list[str]:
    """Print the server's answers; return a message for each image that was refused."""
    if url.startswith("grpc:"):
        import_tensorflow()
    from zoo.serving import client

    try:
        server = client.connect(url, timeout=timeout, retries=retries)
    except ValueError as error:
        raise UsageError(str(error)) from error
    refused = client.show_predictions(server, images, top, png_or_jpeg)
    if check and not client.check(server, check, tolerance):
        sys.exit(1)
    return refused


def report(run: Positional[Path], recipe: Path | None = None) -> None:
    """Draw the page of a finished run again.

    Arguments:
        run: Run folder.
        recipe: File of the run's recipe.
            Needed only for a recipe of your own that you never trained with on this machine.
    """
    finished = Run.finished_at(run)
    import_tensorflow()
    from zoo.commands.evaluating import refuse_changed_images
    from zoo.report import page
    from zoo.saving import load_model

    _, images = finished.recipe(recipe).datasets()
    refuse_changed_images(finished, images)
    print(page.write(finished, load_model(run, own_recipe=recipe), images))
