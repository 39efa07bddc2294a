"""Ask a trained model, as a run folder or an export: images or a data set in, a table out."""

from pathlib import Path

import keras
import numpy as np
from rich.console import Console
from rich.table import Table

# Keras must know our layers before it reads a model.
from zoo import data, layers, preprocessing  # noqa: F401


def load_model(run):
    """The trained model of a run folder: raw pixels (batch, h, w, c) -> logits."""
    # Not compiled: else Keras must know the run's loss and optimizer too.
    return keras.models.load_model(Path(run) / "model.keras", compile=False)


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
    from zoo.serving import ServedModel  # TensorFlow's

    served = ServedModel(model)
    answers = []
    for image in images:  # one by one: in a batch, one bad image costs the others their answers
        try:
            answers.append(served.predict_bytes([Path(image).read_bytes()])["probabilities"])
        except ValueError as error:
            raise data.DataError(f"{image} is refused: {error}") from error
    return np.concatenate(answers), served.labels


def measure(model, images):
    """(predicted classes (n,), mean cross-entropy in nats) of a model over an `ImageData`."""
    logits = model.predict(images.batches(256), verbose=0)
    losses = keras.losses.sparse_categorical_crossentropy(images.labels, logits, from_logits=True)
    return logits.argmax(1), float(keras.ops.mean(losses))


def show_predictions(model, labels, images, top):
    """Print the `top` classes of each image."""
    probabilities, labels = predict(model, labels, images)
    table = Table("image", "label", "probability", f"then, of {len(labels)}", box=None)
    table.columns[2].justify = "right"
    table.columns[0].no_wrap = True
    for image, row in zip(images, probabilities, strict=True):
        first, *others = np.argsort(-row)[:top]
        rest = ", ".join(f"{labels[index]} {_percent(row[index])}" for index in others)
        table.add_row(str(image), str(labels[first]), _percent(row[first]), rest)
    # On a narrow terminal a long line breaks; a folded column of paths could not be read at all.
    Console(width=max(Console().width, 140)).print(table)


def show_evaluation(model, images):
    """Print accuracy and loss over an `ImageData`, and recall and precision of every class."""
    from zoo import report

    predicted, loss = measure(model, images)
    correct = predicted == images.labels
    low, high = report.wilson_interval(1 - correct.mean(), images.examples)
    console = Console(highlight=False)
    console.print(
        f"{images.name}, {images.split}: accuracy {_percent(correct.mean())}, "
        f"{(~correct).sum()} errors in {images.examples} images (error {_percent(low)} to "
        f"{_percent(high)} with 95 % confidence), loss {loss:.4f}"
    )
    table = Table("class", "images", "recall", "precision", box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    for index, name in enumerate(images.label_names):
        truly, said = images.labels == index, predicted == index
        table.add_row(
            str(name),
            str(truly.sum()),
            _percent(correct[truly].mean()) if truly.any() else "-",
            _percent(correct[said].mean()) if said.any() else "-",
        )
    console.print(table)


def _percent(share):
    return f"{100 * share:.2f} %"
