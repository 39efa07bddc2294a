"""Specialists: nets for classes that a generalist confuses (arXiv:1503.02531, section 5).

`confusable_classes` finds the classes. `specialist` copies the generalist for some of them and a
dustbin. `specialist_examples` chooses its training examples. `correct_dustbin` undoes the bias of
that choice. `combine` merges the probabilities of all nets. A `Distiller` can teach a single net
from the logarithms of these probabilities, which are logits.
"""

import math
from dataclasses import dataclass

import keras
import numpy as np
from keras import layers, ops


def confusable_classes(probabilities, count, *, seed=0):
    """Find at most `count` clusters of classes that a generalist predicts together.

    (examples, classes) probabilities -> a list of sorted (n,) arrays of classes, n >= 2. On-line
    k-means of the columns of the covariance matrix of the predictions, which needs no labels
    (section 5.3). A class that is alone in its cluster is left out. Our deviation: we use
    correlations, leave out a class's own variance, and scale columns to length 1. Otherwise a class
    would resemble only itself, and rare classes one another.

    Raises:
        ValueError: for probabilities of another shape, or a count not in 1..classes.
    """
    from sklearn.cluster import MiniBatchKMeans

    probabilities = np.asarray(probabilities, "float64")
    if probabilities.ndim != 2 or not 1 <= count <= probabilities.shape[1]:
        raise ValueError(
            f"Probabilities are (examples, classes), and count is 1 to {probabilities.shape[-1]} "
            f"clusters; received {count} and probabilities of shape {probabilities.shape}."
        )
    covariance = np.cov(probabilities, rowvar=False)
    deviation = np.sqrt(np.maximum(np.diag(covariance), 1e-300))
    columns = covariance / np.outer(deviation, deviation)
    np.fill_diagonal(columns, 0)
    columns /= np.maximum(np.linalg.norm(columns, axis=1, keepdims=True), 1e-300)
    means = MiniBatchKMeans(count, n_init=10, random_state=seed, reassignment_ratio=0)
    cluster = means.fit_predict(columns)
    clusters = [np.flatnonzero(cluster == index) for index in range(count)]
    return [classes for classes in clusters if len(classes) > 1]


@keras.saving.register_keras_serializable("zoo")
class Dustbin(layers.Layer):
    """Selects the logits of some classes, and adds one logit for all others, the dustbin.

    (batch, all classes) -> (batch, classes + 1), float32, the dustbin last. Its logit is the
    logarithm of the sum of the others' exponentials, plus `correction`. Without a correction the
    softmax gives each class the probability that it had among all classes, and the dustbin the sum
    of the others' probabilities.
    """

    def __init__(self, classes, *, correction=0.0, **kwargs):
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.classes = [int(index) for index in classes]
        self.correction = float(correction)

    def build(self, input_shape):
        count = input_shape[-1]
        unique = sorted(set(self.classes))
        if unique != sorted(self.classes) or not unique or unique[0] < 0 or unique[-1] >= count:
            raise ValueError(
                f"A specialist has some of the classes 0 to {count - 1}, each once; received "
                f"{self.classes}."
            )
        if len(unique) == count:
            raise ValueError(
                f"A specialist of all {count} classes has nothing for its dustbin. Leave some out."
            )
        self.others = [index for index in range(count) if index not in set(unique)]

    def call(self, logits):
        own = ops.take(logits, self.classes, axis=-1)
        rest = ops.logsumexp(ops.take(logits, self.others, axis=-1), axis=-1, keepdims=True)
        return ops.concatenate([own, rest + self.correction], axis=-1)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], len(self.classes) + 1)

    def get_config(self):
        return {**super().get_config(), "classes": self.classes, "correction": self.correction}


def specialist(generalist, classes, *, name="specialist"):
    """Copy the generalist, as a net to be trained for some of its classes and a dustbin.

    Raw images -> logits (batch, classes + 1), float32. The copy starts with the generalist's
    weights and probabilities, and shares neither layers nor weights with it. Our deviation: the
    paper makes a smaller softmax layer. We keep the generalist's whole output and sum the
    probabilities of the other classes (`Dustbin`), which works for any functional or sequential
    model that gives logits.

    Raises:
        ValueError: for classes that the generalist does not have, repeated ones, or all of them.
    """
    copy = type(generalist).from_config(generalist.get_config())
    copy.set_weights(generalist.get_weights())
    images = keras.Input(generalist.input_shape[1:], name="images", dtype="float32")
    return keras.Model(images, Dustbin(classes, name="dustbin")(copy(images)), name=name)


def specialist_examples(labels, classes, *, seed=0):
    """Choose a specialist's examples: all of its classes, and as many others at random.

    (n,) labels -> (indices (m,), labels (m,) in 0..len(classes), oversampling). The last label is
    the dustbin. The ratio of the specialist's classes to the others is larger among the chosen
    examples than among all, by the factor `oversampling`. If there are fewer others than examples
    of its classes, all others are chosen, once each. Section 5.2.

    Raises:
        ValueError: if no example is of these classes, or every one.
    """
    labels, classes = np.asarray(labels), np.asarray(classes)
    own = np.flatnonzero(np.isin(labels, classes))
    rest = np.flatnonzero(~np.isin(labels, classes))
    if not len(own) or not len(rest):
        raise ValueError(
            f"Of {len(labels)} examples {len(own)} are of the specialist's classes "
            f"{classes.tolist()}; it needs some, and some others for its dustbin."
        )
    drawn = np.random.default_rng(seed).choice(rest, min(len(own), len(rest)), replace=False)
    indices = np.sort(np.concatenate([own, drawn]))
    place = np.full(max(labels.max(), classes.max()) + 1, len(classes))
    place[classes] = np.arange(len(classes))
    return indices, place[labels[indices]], len(rest) / len(drawn)


def correct_dustbin(model, oversampling):
    """Return the specialist with the logarithm of the oversampling added to its dustbin's logit.

    It shares its weights with `model`. By Bayes' rule its probabilities are those for the data
    before examples were chosen. Section 5.2.

    Raises:
        ValueError: for an oversampling that is not above 0, or a model whose last layer is not a
            `Dustbin`.
    """
    last = model.layers[-1]
    if not isinstance(last, Dustbin):
        raise ValueError(
            f"The last layer of {model.name!r} is a {type(last).__name__}; expected a Dustbin. "
            "Make the model with `specialist`."
        )
    if not 0 < oversampling < math.inf:
        raise ValueError(f"The oversampling is a factor above 0; received {oversampling!r}.")
    correction = last.correction + math.log(oversampling)
    corrected = Dustbin(last.classes, correction=correction, name="dustbin")
    return keras.Model(model.inputs, corrected(last.input), name=model.name)


def combine(probabilities, specialists, *, top=1, tolerance=1e-6, most_steps=10_000):
    """Combine the probabilities of the generalist and the specialists by equation 5.

    (examples, classes) probabilities of the generalist, and a list of pairs of classes (n,) and
    probabilities (examples, n + 1) of a specialist -> probabilities q (examples, classes), float64.
    For an example, a specialist is active if it has one of the `top` most probable classes. q
    minimizes KL(generalist, q) + sum over the active specialists of KL(specialist, q), where a
    dustbin is compared with the sum of q over the other classes. If no specialist is active, q is
    the generalist's.

    Our deviation: the paper minimizes by gradient descent, we use expectation maximization. Each
    step replaces q by the mean of the probabilities of the generalist and the active specialists,
    whose dustbins are divided among the other classes in proportion to q. It needs no step size.
    No step increases the sum, and it reaches the same minimum, because the sum is convex in q. It
    stops when no probability changes by more than `tolerance` in a step.

    Raises:
        ValueError: for probabilities whose shapes do not fit.
        RuntimeError: if `most_steps` steps are not enough.
    """
    p = np.asarray(probabilities, "float64")
    likely = np.argsort(-p, axis=1, kind="stable")[:, :top]
    team = []
    for classes, own in specialists:
        classes, own = np.asarray(classes), np.asarray(own, "float64")
        if own.shape != (len(p), len(classes) + 1):
            raise ValueError(
                f"The specialist of the classes {classes.tolist()} gives probabilities of shape "
                f"{own.shape}; expected {(len(p), len(classes) + 1)}, the dustbin last."
            )
        team.append((classes, own, np.isin(likely, classes).any(axis=1)))
    # The generalist is always active.
    active = 1 + sum((on.astype(int) for _, _, on in team), np.zeros(len(p), int))
    q = p.copy()
    moving = np.flatnonzero(active > 1)
    for _ in range(most_steps):
        if not len(moving):
            return q
        mean = p[moving].copy()
        for classes, own, on in team:
            rows = np.flatnonzero(on[moving])
            mean[rows] += _over_all_classes(q[moving[rows]], classes, own[moving[rows]])
        mean /= active[moving, np.newaxis]
        step = np.abs(mean - q[moving]).max(axis=1)
        q[moving] = mean
        moving = moving[step > tolerance]
    raise RuntimeError(
        f"{len(moving)} examples still move after {most_steps} steps: raise most_steps or the "
        "tolerance."
    )


def _over_all_classes(q, classes, own):
    """Divide the dustbin of a specialist's probabilities among the others, in proportion to q."""
    rest = q.copy()
    rest[:, classes] = 0
    total = rest.sum(axis=1, keepdims=True)
    full = rest * (own[:, -1:] / np.maximum(total, 1e-300))
    full[:, classes] = own[:, :-1]
    return full


@dataclass(frozen=True)
class Covering:
    """A row of Table 4: the examples whose true class is covered by this many specialists."""

    covering: int
    """The number of specialists that have the true class."""
    examples: int
    """The number of such examples."""
    change: int
    """The number of examples classified correctly, minus that of the generalist alone."""
    relative: float
    """The change in % of the examples that the generalist classifies correctly."""


def table(before, after, covering):
    """Return Table 4 of the paper: a list of `Covering`, by the number of covering specialists.

    Takes three arrays (examples,): 1 or True if the generalist is right, the same of the
    combination, and the number of specialists that have the true class.
    """
    before, after, covering = np.asarray(before), np.asarray(after), np.asarray(covering)
    rows = []
    for count in np.unique(covering):
        among = covering == count
        right = int(before[among].sum())
        change = int(after[among].sum()) - right
        rows.append(Covering(int(count), int(among.sum()), change, 100 * change / max(right, 1)))
    return rows
