"""Answers of the companions: accuracy over the operations of a shorter net

A companion is a classifier of a hidden layer. After the training it can answer in place of the
output, and the layers above it need not be computed. The papers do not do this; Teerapittayanon et
al., BranchyNet, arXiv:1709.01686, do. Here the trained models of the zoo do it, whose companions
are pooled: a 1 x 1 convolution and an average.

Squares: all images leave at the same layer. Dots: an image leaves at the first head whose largest
probability reaches a threshold, and pays for all heads that it passes. The thresholds are the same
for all models, and no images were used to choose them. The cross is a smaller trained net without
exits. Operations are counted by TensorFlow's profiler, as a share of those of the whole net without
companions.

The companion of mlpconv2 is of little use by itself: it costs nine tenths of the net. Leaving by
confidence saves most where most images are easy: 60 % of the operations on MNIST, and 9 % on
CIFAR-10, for 0.06 and 0.16 points at a threshold of 0.95. The smaller nets need 3 to 12 % of the
operations, which no exit comes near. TF Serving computes all heads of the signature `exits`, so
only a program that calls the parts one by one saves time. Not tested: companions with convolutions,
and nets that were trained to answer early.
"""

import keras
import numpy as np

from zoo.data import load
from zoo.experiments.studies import drawing
from zoo.measures import softmax
from zoo.models import pretrained
from zoo.tables import Table
from zoo.training import operations

SEEDS = 1
RUNS = {}
MODELS = {
    "CIFAR-10": "cifar10_nin_dsn",
    "Fashion-MNIST": "fashion_mnist_nin_dsn",
    "MNIST": "mnist_nin_dsn",
}
THRESHOLDS = (0.8, 0.9, 0.95, 0.99, 0.999)


def show(finished):
    """Draw the accuracy over the operations, and tabulate both."""
    title = "Early answers: accuracy over the operations"
    figure, panels = drawing.panels(title, 3, sharex=True, height=3.2)
    rows = []
    for axes, (name, weights) in zip(panels, MODELS.items(), strict=True):
        data, student = (weights.replace("_nin_dsn", end) for end in ("", "_student"))
        model, test = pretrained.load(weights, with_companions=True).model, load(data, "test")
        logits = model.exits(test.images[:].astype("float32"))
        passing = costs_of(model, together=True)
        small = pretrained.load(student).model
        points = {
            "all at one layer": at_each(logits, costs_of(model, together=False), test.labels),
            "by confidence": [
                (f"from {threshold:g} on", *leaving(logits, passing, test.labels, threshold))
                for threshold in THRESHOLDS
            ],
            "a smaller net": [(student, *_alone(small, test))],
        }
        whole = operations.of_an_image(model)
        for index, (kind, found) in enumerate(points.items()):
            shares = [100 * cost / whole for _, _, cost in found]
            accuracies = [accuracy for _, accuracy, _ in found]
            drawing.curve(
                axes, shares, np.array([accuracies]), index, label=kind, marker="sox"[index]
            )
            rows += [
                (name, label, f"{accuracy:.2f}", f"{share:.1f}")
                for (label, accuracy, _), share in zip(found, shares, strict=True)
            ]
        axes.set_title(name, fontsize=drawing.TEXT)
        drawing.label(axes, "Operations (%)", "Test accuracy (%)" if axes is panels[0] else "")
    drawing.legend(figure, {"each net": [0]})
    columns = ("Data", "Images leave", "Test accuracy (%)", "Operations (%)")
    return figure, Table(columns, tuple(rows))


def costs_of(model, *, together):
    """Return the operations of an image up to each head of a `DeeplySupervised`, in order.

    Arguments:
        model: the model. Its companions are the first heads, from the lowest layer up; its output
            is the last.
        together: True counts the heads that an image passes on its way; False each one alone.
    """
    heads = [head(model.trunk.get_layer(tap).output) for tap, head in model.companions.items()]
    heads.append(model.trunk.output)
    return [
        operations.of_an_image(
            keras.Model(model.trunk.inputs, heads[: place + 1] if together else heads[place])
        )
        for place in range(len(heads))
    ]


def at_each(logits, costs, labels):
    """Return [(layer, accuracy in %, operations)] where all images leave at one layer."""
    return [
        (layer, 100 * (scores.argmax(axis=1) == labels).mean(), cost)
        for (layer, scores), cost in zip(logits.items(), costs, strict=True)
    ]


def leaving(logits, costs, labels, threshold):
    """Return (accuracy in %, mean operations of an image) at a threshold.

    Arguments:
        logits: {layer: logits (n, classes)}, from the lowest layer up; the last is the output.
        costs: the operations of an image that leaves at each layer.
        labels: (n,).
        threshold: the probability from which on an image leaves.
    """
    probabilities = np.stack([softmax(scores) for scores in logits.values()])
    sure = probabilities.max(axis=2) >= threshold
    sure[-1] = True  # the output answers all that are left
    places = sure.argmax(axis=0)
    answers = probabilities.argmax(axis=2)[places, np.arange(len(labels))]
    return 100 * (answers == labels).mean(), float(np.asarray(costs)[places].mean())


def _alone(net, test):
    """Return (accuracy in %, operations) of a net without exits."""
    answers = net.predict(test.images[:].astype("float32"), batch_size=256, verbose=0)
    right = (answers.argmax(axis=1) == test.labels).mean()
    return 100 * right, operations.of_an_image(net)
