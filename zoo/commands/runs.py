"""The commands about a trained model: `zoo evaluate`, `predict` and `report`."""

import sys
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from zoo.commands.sending import ask_server
from zoo.commands.tensorflow import import_tensorflow
from zoo.errors import MOST_SECONDS, UsageError, check_number
from zoo.runs import Run
from zoo.terminal import say
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
    ca: Path | None = None,
    token_file: Path | None = None,
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
            With TLS: https:// or grpcs://.
        check: An export. The server must answer its examples as Keras did. Needs --server.
            They are sent, and the answers are compared with those of Keras.
        timeout: Seconds for the whole answer of the server to one request, with all tries.
        retries: Number of further tries when a request gets no answer.
        ca: PEM file with the certificates to trust, in place of the system's.
        token_file: File with a token for the server. Default: the variable ZOO_TOKEN.
            It is sent with TLS, or to this machine, and nowhere else.
        tolerance: Largest difference of a probability, with --check.
            Default: that of the card, or 1e-5.
        recipe: File of the run's recipe.
            Needed only for a recipe of your own that you never trained with on this machine.
    """
    if top < 1:
        raise UsageError(f"--top is a number of classes, 1 or more; received {top}.")
    check_number("--timeout", timeout, 0.001, MOST_SECONDS)
    if tolerance is not None:
        check_number("--tolerance", tolerance, 0, 1)
    if retries < 0:
        raise UsageError(f"--retries is a number of tries, 0 or more; received {retries}.")
    for flag, value in (("--check", check), ("--ca", ca), ("--token-file", token_file)):
        if value and not server:
            raise UsageError(f"{flag} is for a server: it needs --server URL.")
    images = inputs if server else inputs[1:]
    if not images and not check:
        place = "--server URL" if server else "MODEL"
        raise UsageError(f"zoo predict {place} IMAGE... received no image.")
    for image in images:
        if not image.is_file():
            raise UsageError(f"There is no image {str(image)!r}.")
    if server:
        refused = ask_server(
            server,
            images,
            top,
            check=check,
            tolerance=tolerance,
            timeout=timeout,
            retries=retries,
            ca=ca,
            token_file=token_file,
        )
    else:
        model = inputs[0]
        if Run(model).has_model:
            Run.finished_at(model)
        import_tensorflow()
        from zoo.commands.predicting import show_predictions

        refused = show_predictions(model, images, top, own_recipe=recipe)
    for message in refused:
        say(f"zoo: {one_line(message)}", error=True)
    if refused:
        sys.exit(2 if len(refused) == len(images) else 1)


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
    say(page.write(finished, load_model(run, own_recipe=recipe), images))
