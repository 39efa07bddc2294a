"""The commands about a trained model: `zoo evaluate`, `predict` and `report`."""

import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from zoo import tables
from zoo.commands import models, pictures
from zoo.commands.output import FOR_PEOPLE, AsForm, Form
from zoo.commands.sending import ask_server
from zoo.commands.tensorflow import import_tensorflow
from zoo.errors import MOST_SECONDS, UsageError, check_number
from zoo.terminal import say
from zoo.text import one_line


def evaluate(
    model: Annotated[Positional[str], arg(metavar="MODEL")],
    data: str | None = None,
    labels: Path | None = None,
    recipe: Path | None = None,
    test_time_mirror: bool = False,
    form: AsForm = FOR_PEOPLE,
) -> None:
    """Measure a model again: accuracy, loss, and the recall and precision of every class.

    Arguments:
        model: A name from `zoo list`, a run folder, an export, or a .keras file.
        data: Data set to evaluate on. Default: that of the training.
            Its test images are used, or all images of another folder without a test split.
            They are resized to the model's input size. Images of one of its classes are enough.
        labels: Text file with one class a line, for a .keras file.
        recipe: File of the run's recipe.
            Needed only for a recipe of your own that you never trained with on this machine.
        test_time_mirror: Also measure the mean answer to each image and its mirror image, apart.
        form: How to print the results.
    """
    path = models.find(model)
    with form.alone():
        import_tensorflow()
        from zoo.commands import evaluating
        from zoo.commands.predicting import load

        loaded = load(path, recipe)
        images = evaluating.test_images(path, loaded, data, labels)
        results = evaluating.evaluate(loaded, images, mirror=test_time_mirror)
    if form.is_for_programs:
        rows = [tuple(row.values()) for row in results["classes"]]
        form.write({"model": model, **results}, tuple(results["classes"][0]), rows)
    else:
        evaluating.show_evaluation(results)


def predict(
    inputs: Annotated[Positional[tuple[str, ...]], arg(name="", metavar="[MODEL] IMAGE...")],
    top: int = 5,
    server: str | None = None,
    check: Path | None = None,
    timeout: float = 10.0,
    retries: int = 2,
    ca: Path | None = None,
    token_file: Path | None = None,
    tolerance: float | None = None,
    labels: Path | None = None,
    recipe: Path | None = None,
    form: AsForm = FOR_PEOPLE,
) -> None:
    """Classify images, and print a table of labels and probabilities.

    Exit code 1 if some images were refused, 2 if all were. The reasons are printed.

    Arguments:
        inputs: A model, then images. With --server, images only.
            A model is a name from `zoo list`, a run folder, an export, or a .keras file.
            An image is a file, a folder with all images below it, or - for standard input.
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
        labels: Text file with one class a line, for a .keras file.
        recipe: File of the run's recipe.
            Needed only for a recipe of your own that you never trained with on this machine.
        form: How to print the answers.
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
    named = inputs if server else inputs[1:]
    if not named and not check:
        place = "--server URL" if server else "MODEL"
        raise UsageError(f"zoo predict {place} IMAGE... received no image.")
    with tempfile.TemporaryDirectory() as scratch, form.alone():
        answers = _Answers(form, f"{scratch}/")
        images = pictures.find(named, Path(scratch))
        if server:
            connection: dict[str, Any] = {"timeout": timeout, "retries": retries, "ca": ca}
            checked: dict[str, Any] = {"check": check, "tolerance": tolerance}
            connection |= {**checked, "token_file": token_file, "show": answers.show}
            refused, holds = ask_server(server, images, top, **connection)
        else:
            path, holds = models.find(inputs[0]), True
            import_tensorflow()
            from zoo.commands.predicting import show_predictions

            refused = show_predictions(
                path, images, top, labels=labels, own_recipe=recipe, show=answers.show
            )
    answers.end(server or inputs[0], refused)
    if refused or not holds:
        sys.exit(2 if images and len(refused) == len(images) else 1)


class _Answers:
    """The answers of `zoo predict`: a table at once, or one document at the end."""

    def __init__(self, form: Form, scratch: str) -> None:
        self.form, self.scratch = form, scratch
        self.rows: list[tuple[str, Sequence[tuple[str, float]]]] = []

    def show(
        self, images: Iterable[Path], ranked: Iterable[Sequence[tuple[str, float]]], classes: int
    ) -> None:
        """Show or keep the (label, probability) pairs of images; standard input is called -."""
        names = [str(image).replace(self.scratch, "") for image in images]
        if self.form.is_for_programs:
            self.rows += zip(names, ranked, strict=True)
        else:
            tables.show_predictions(names, ranked, classes)

    def end(self, model: str, refused: Sequence[str]) -> None:
        """Print the document, and a line on standard error for each refused image."""
        refused = [one_line(message.replace(self.scratch, "")) for message in refused]
        if self.form.is_for_programs:
            pairs = ("label", "probability")
            images = [
                {
                    "image": image,
                    **dict(zip(pairs, ranking[0], strict=True)),
                    "ranking": [dict(zip(pairs, pair, strict=True)) for pair in ranking],
                }
                for image, ranking in self.rows
            ]
            width = max((len(ranking) for _, ranking in self.rows), default=1)
            more = (f"{name}_{rank}" for rank in range(2, width + 1) for name in pairs)
            rows = [(image, *(cell for pair in row for cell in pair)) for image, row in self.rows]
            document = {"model": model, "images": images, "refused": refused}
            self.form.write(document, ("image", *pairs, *more), rows)
        for message in refused:
            say(f"zoo: {message}", error=True)


def report(run: Annotated[Positional[str], arg(metavar="RUN")], recipe: Path | None = None) -> None:
    """Draw the page of a finished run again.

    Arguments:
        run: Run folder.
        recipe: File of the run's recipe.
            Needed only for a recipe of your own that you never trained with on this machine.
    """
    finished = models.run_at(run)
    import_tensorflow()
    from zoo.commands.evaluating import refuse_changed_images
    from zoo.report import page
    from zoo.saving import load_model

    _, images = finished.recipe(recipe).datasets()
    refuse_changed_images(finished, images)
    say(page.write(finished, load_model(finished.folder, own_recipe=recipe), images))
