"""Specialists: nets for classes that a generalist confuses (arXiv:1503.02531, section 5).

In turn: `confusable_classes` finds the classes, `specialist` copies the generalist for some of them
and a dustbin, `specialist_examples` chooses what it learns from, `correct_dustbin` undoes the
choice, `combine` asks all of them about an image. What comes out are probabilities: their
logarithms are logits, from which a `Distiller` teaches a single net.
"""

import math
from dataclasses import dataclass

import keras
import numpy as np
from keras import layers, ops


def confusable_classes(probabilities, count, *, seed=0):
    """`count` clusters of classes that a generalist predicts together, at most.

    (examples, classes) probabilities -> a list of sorted (n,) arrays of classes, n >= 2. On-line
    k-means of the columns of the covariance matrix of the predictions, which needs no labels
    (section 5.3). Classes that are alone in their cluster belong to none. Our deviation: the
    covariances are correlations, a class's own variance is left out, and columns have length 1;
    else a class resembles only itself, and rare classes one another.

    Raises:
        ValueError: for probabilities of another shape, or a count not in 1..classes.
    """
    from sklearn.cluster import MiniBatchKMeans

    probabilities = np.asarray(probabilities, "float64")
    if probabilities.ndim != 2 or not 1 <= count <= probabilities.shape[1]:
        raise ValueError(
            f"The classes of (examples, classes) probabilities make 1 to {probabilities.shape[-1]} "
            f"clusters; received {count} of probabilities of shape {probabilities.shape}."
        )
    covariance = np.cov(probabilities, rowvar=False)
    deviation = np.sqrt(np.maximum(np.diag(covariance), 1e-300))
    columns = covariance / np.outer(deviation, deviation)
    np.fill_diagonal(columns, 0)
    columns /= np.maximum(np.linalg.norm(columns, axis=1, keepdims=True), 1e-300)
    means = MiniBatchKMeans(count, n_init=10, random_state=seed, reassignment_ratio=0)
    cluster = means.fit_predict(columns)
    found = [np.flatnonzero(cluster == each) for each in range(count)]
    return [classes for classes in found if len(classes) > 1]


@keras.saving.register_keras_serializable("zoo")
class Dustbin(layers.Layer):
    """Logits of some classes, and one for all others together.

    (batch, all classes) -> (batch, classes + 1), float32, the dustbin last: the logarithm of the
    sum of the others' exponentials, plus `correction`. So the softmax gives each class the
    probability that it had among all, and the dustbin the others' sum.
    """

    def __init__(self, classes, *, correction=0.0, **kwargs):
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.classes = [int(each) for each in classes]
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
            raise ValueError(f"A specialist of all {count} classes has nothing for its dustbin.")
        self.others = [each for each in range(count) if each not in set(unique)]

    def call(self, logits):
        own = ops.take(logits, self.classes, axis=-1)
        rest = ops.logsumexp(ops.take(logits, self.others, axis=-1), axis=-1, keepdims=True)
        return ops.concatenate([own, rest + self.correction], axis=-1)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], len(self.classes) + 1)

    def get_config(self):
        return {**super().get_config(), "classes": self.classes, "correction": self.correction}


def specialist(generalist, classes, *, name="specialist"):
    """A copy of the generalist, to be trained for some of its classes and a dustbin.

    Raw images -> logits (batch, classes + 1), float32. It begins with the generalist's weights and
    probabilities, and shares neither layers nor weights with it. The paper makes a smaller softmax
    layer; here all of the generalist's stays, and the others' probabilities are summed (`Dustbin`),
    so that this works for any functional or sequential model that gives logits.

    Raises:
        ValueError: for classes that the generalist does not have, repeated ones, or all of them.
    """
    copy = type(generalist).from_config(generalist.get_config())
    copy.set_weights(generalist.get_weights())
    images = keras.Input(generalist.input_shape[1:], name="images")
    return keras.Model(images, Dustbin(classes, name="dustbin")(copy(images)), name=name)


def specialist_examples(labels, classes, *, seed=0):
    """Choose a specialist's examples: all of its classes, and as many others at random.

    (n,) labels -> (indices (m,), their labels 0..len(classes), the last being the dustbin (m,), and
    the oversampling: by what factor its classes are more frequent among these, against the others,
    than among all). Fewer others than that are all taken, once. Section 5.2.

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
    """The specialist with the logarithm of the oversampling added to its dustbin's logit.

    Shares its weights with `model`. Its probabilities are then those of the data before examples
    were chosen (section 5.2; Bayes' rule).

    Raises:
        ValueError: for an oversampling that is not above 0, or a model whose last layer is not a
            `Dustbin`.
    """
    last = model.layers[-1]
    if not isinstance(last, Dustbin):
        raise ValueError(f"{model.name!r} does not end in a Dustbin, as a specialist does.")
    if not 0 < oversampling < math.inf:
        raise ValueError(f"The oversampling is a factor above 0; received {oversampling!r}.")
    correction = last.correction + math.log(oversampling)
    corrected = Dustbin(last.classes, correction=correction, name="dustbin")
    return keras.Model(model.inputs, corrected(last.input), name=model.name)


def combine(probabilities, specialists, *, top=1, tolerance=1e-6, most_steps=10_000):
    """The generalist's and the specialists' probabilities made one: equation 5.

    (examples, classes) probabilities of the generalist, and a list of pairs of classes (n,) and
    probabilities (examples, n + 1) of a specialist -> (examples, classes), float64. For each
    example those specialists are active that have one of its `top` most probable classes; q
    minimizes KL(generalist, q) + sum over the active of KL(specialist, q), where a dustbin is
    compared with the sum of q over the classes of others. Where none is active q is the
    generalist's.

    The paper minimizes by gradient descent. Here q <- mean over generalist and active specialists
    of what each says, its dustbin shared out as q does: expectation maximization, which needs no
    step size, goes downhill at each step, and to the same minimum, as the sum is convex in q. It
    stops when no probability moves by more than `tolerance` in a step.

    Raises:
        ValueError: for probabilities whose shapes do not fit.
        RuntimeError: if `most_steps` do not suffice.
    """
    p = np.asarray(probabilities, "float64")
    likely = np.argsort(-p, axis=1, kind="stable")[:, :top]
    asked = []
    for classes, said in specialists:
        classes, said = np.asarray(classes), np.asarray(said, "float64")
        if said.shape != (len(p), len(classes) + 1):
            raise ValueError(
                f"The specialist of the classes {classes.tolist()} gives probabilities of shape "
                f"{said.shape}; expected {(len(p), len(classes) + 1)}, the dustbin last."
            )
        asked.append((classes, said, np.isin(likely, classes).any(axis=1)))
    active = 1 + sum((on.astype(int) for _, _, on in asked), np.zeros(len(p), int))
    q = p.copy()
    moving = np.flatnonzero(active > 1)
    for _ in range(most_steps):
        if not len(moving):
            return q
        mean = p[moving].copy()
        for classes, said, on in asked:
            rows = np.flatnonzero(on[moving])
            mean[rows] += _shared_out(q[moving[rows]], classes, said[moving[rows]])
        mean /= active[moving, np.newaxis]
        step = np.abs(mean - q[moving]).max(axis=1)
        q[moving] = mean
        moving = moving[step > tolerance]
    raise RuntimeError(
        f"{len(moving)} examples still move after {most_steps} steps: raise most_steps or the "
        "tolerance."
    )


def _shared_out(q, classes, said):
    """A specialist's probabilities of all classes, those of its dustbin in proportion to q."""
    rest = q.copy()
    rest[:, classes] = 0
    total = rest.sum(axis=1, keepdims=True)
    full = rest * (said[:, -1:] / np.maximum(total, 1e-300))
    full[:, classes] = said[:, :-1]
    return full


@dataclass(frozen=True)
class Covering:
    """A row of Table 4: the examples whose true class so many specialists have."""

    covering: int
    examples: int
    change: int
    """In the number of examples that are named rightly."""
    relative: float
    """The same, as a share in % of those that the generalist names rightly."""


def table(before, after, covering):
    """Table 4 of the paper: a list of `Covering`, by the number of covering specialists.

    Three (examples,): whether the generalist is right, whether all together are, and how many
    specialists have the true class.
    """
    before, after, covering = np.asarray(before), np.asarray(after), np.asarray(covering)
    rows = []
    for count in np.unique(covering):
        among = covering == count
        right = int(before[among].sum())
        change = int(after[among].sum()) - right
        rows.append(Covering(int(count), int(among.sum()), change, 100 * change / max(right, 1)))
    return rows
