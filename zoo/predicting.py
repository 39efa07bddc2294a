"""Ask a trained model, as a run folder or an export: images or a data set in, a table out."""

from pathlib import Path

import keras
import numpy as np
from rich.console import Console
from rich.table import Table

# Keras must know our layers before it reads a model; `zoo.serving` is TensorFlow's, and waits.
from zoo import (  # noqa: F401
    answers,
    data,
    deep_supervision,
    distillation,
    layers,
    measures,
    preprocessing,
)

WITH_COMPANIONS = "with_companions.keras"


def model_file(path, *, with_companions=False):
    """The file of a run folder's model, or `path` if it is a file itself.

    `with_companions` asks for the `DeeplySupervised` that was trained, not for what ships of it.

    Raises:
        zoo.serving.served.ExportError: for a run that has none.
    """
    path = Path(path)
    if not path.is_dir():
        return path
    file = path / (WITH_COMPANIONS if with_companions else "model.keras")
    if not file.is_file():
        from zoo.serving.served import ExportError

        raise ExportError(f"There is no {file}: the run was not deeply supervised, or is older.")
    return file


def most_complete_file(path):
    """The file of a run folder's model with all that was trained, companions too; or `path`."""
    companions = Path(path) / WITH_COMPANIONS
    return companions if companions.is_file() else model_file(path)


def load_model(run, *, with_companions=False):
    """The trained model of `model_file`: raw pixels (batch, h, w, c) -> logits."""
    # Not compiled: else Keras must know the run's loss and optimizer too.
    return keras.models.load_model(model_file(run, with_companions=with_companions), compile=False)


def read_examples(model, files):
    """Image files -> (n, h, w, c) uint8, as `model` takes them; None for no files."""
    if not files:
        return None
    shape = getattr(model, "trunk", model).input_shape[1:]
    return np.stack([data.read_image(file, shape) for file in files])


def has_exits(version):
    """Whether an export has the signature `exits`."""
    from zoo.serving import served

    return bool(served.card(version)["exits"])


def predict(model, labels, images):
    """Probabilities (images, classes) and labels from a run folder or an export.

    `images` are files. An export gets the bytes of each, as a server does; a run's model gets the
    pixels, resized where they have another size.
    """
    if (Path(model) / "model.keras").is_file():
        network = load_model(model)
        pixels = [data.read_image(image, network.input_shape[1:]) for image in images]
        logits = network.predict(np.stack(pixels).astype("float32"), verbose=0)
        return keras.ops.convert_to_numpy(keras.ops.softmax(logits)), labels
    from zoo.serving.served import ServedModel

    served = ServedModel(model)
    answers = []
    for image in images:  # one by one: in a batch, one bad image costs the others their answers
        try:
            answers.append(served.predict_bytes([Path(image).read_bytes()])["probabilities"])
        except ValueError as error:
            raise data.DataError(f"{image} is refused: {error}") from error
    return np.concatenate(answers), served.labels


def measure(model, images):
    """(logits (n, classes), mean cross-entropy in nats) of a model over an `ImageData`."""
    logits = model.predict(images.batches(256), verbose=0)
    losses = keras.losses.sparse_categorical_crossentropy(images.labels, logits, from_logits=True)
    return logits, float(keras.ops.mean(losses))


def show_predictions(model, labels, images, top):
    """Print the `top` classes of each image."""
    probabilities, labels = predict(model, labels, images)
    ranked = [
        [(str(labels[index]), row[index]) for index in np.argsort(-row)[:top]]
        for row in probabilities
    ]
    answers.show(images, ranked, len(labels))


def show_evaluation(model, images):
    """Print accuracy and loss over an `ImageData`, and recall and precision of every class."""
    logits, loss = measure(model, images)
    counts = measures.confusion_counts(images.labels, logits.argmax(1), images.classes)
    errors = images.examples - int(np.trace(counts))
    share = errors / images.examples
    low, high = measures.wilson_interval(share, images.examples)
    off = measures.calibration_error(logits, images.labels)
    console = Console(highlight=False)
    console.print(
        f"{images.name}, {images.split}: accuracy {_percent(1 - share)}, {errors} errors in "
        f"{images.examples} images (error {_percent(low)} to {_percent(high)} with 95 % "
        f"confidence), loss {loss:.4f}, calibration error {_percent(off)}"
    )
    table = Table("class", "images", "recall", "precision", box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    for each in measures.per_class(counts, images.label_names):
        shares = (each["recall"], each["precision"])
        told = ["-" if share is None else _percent(share) for share in shares]
        table.add_row(each["name"], str(each["count"]), *told)
    console.print(table)


def _percent(share):
    return f"{100 * share:.2f} %"
