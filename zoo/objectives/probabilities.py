"""Probabilities in the place of logits: how they are recognized, and which logits they stand for.

The last layer of a graph shows a softmax or a sigmoid. Where it shows nothing, as in a subclassed
model, a few examples do: each row of a softmax sums to 1, and a sigmoid stays within 0..1 however
large its input is. Teachers may give probabilities, since log p and log(p / (1 - p)) are logits.
"""

import types
import warnings

import keras
import numpy as np
from keras import layers, ops

from zoo.objectives.wrapping import shipped

SOFTMAX, SIGMOID, LOGITS, UNKNOWN = "softmax", "sigmoid", "logits", "unknown"
_TAKEN = {SOFTMAX: "Their logarithms are", SIGMOID: "log(p / (1 - p)) is"}
# The sizes of the values in the examples that are tried. Large ones saturate a sigmoid.
_SIZES = np.array([1, 1, 100, 255, 1e3, 1e4, 1e5, 1e5], "float32")
# Layers and operations that leave the values as they are.
_KEEPING = {"reshape", "flatten", "squeeze", "identity", "dropout", "cast"}
# By type: the smallest value above 0, and the largest whose neighbour is 1.
_LIMITS = {"float16": (2.0**-24, 1 - 2.0**-12), "bfloat16": (2.0**-126, 1 - 2.0**-9)}


def logits_from(kind, values):
    """Return the logits that values of a kind stand for: (batch, ..., classes) -> the same shape.

    A softmax gives log p. A sigmoid gives log(p / (1 - p)). A probability that was rounded to 0 or
    1 gives the logit of the nearest number that is neither, so all are finite. Values of an unknown
    kind give log p if all of their rows are probabilities, and otherwise themselves.
    """
    if kind == LOGITS:
        return values
    values = ops.convert_to_tensor(values)
    dtype = keras.backend.standardize_dtype(values.dtype)
    least, most = _LIMITS.get(dtype, (2.0**-126, 1 - 2.0**-24))
    p = ops.cast(values, "float32")
    log_p = ops.log(ops.maximum(p, least))
    if kind == SIGMOID:
        return log_p - ops.log1p(-ops.minimum(p, most))
    if kind == UNKNOWN:
        return ops.where(_rows_sum_to_1(values), log_p, p) if values.shape[-1] != 1 else p
    return log_p


def _rows_sum_to_1(values):
    """Return whether no value is below 0 and all rows sum to 1, as a tensor."""
    tolerance = 1e-2 if "16" in keras.backend.standardize_dtype(values.dtype) else 1e-3
    values = ops.cast(values, "float32")
    sums = ops.abs(ops.sum(values, axis=-1) - 1) < tolerance
    return ops.logical_and(ops.all(values >= 0), ops.all(sums))


def kind_of_values(values):
    """Return the kind of these values (batch, ..., classes), as far as they show it."""
    values = ops.convert_to_tensor(values)
    rows = ops.convert_to_numpy(ops.cast(values, "float32")).reshape(-1, values.shape[-1])
    finite = np.isfinite(rows).all(axis=-1)
    rows = rows[finite]
    if not rows.size:
        return UNKNOWN
    if rows.shape[-1] > 1:
        whole = ops.cast(rows, keras.backend.standardize_dtype(values.dtype))
        if bool(ops.convert_to_numpy(_rows_sum_to_1(whole))):
            return SOFTMAX
    return SIGMOID if 0 <= rows.min() < 0.01 and 0.99 < rows.max() <= 1 else LOGITS


def kinds_of(model, examples=None):
    """Return the kind of each output of a model.

    Arguments:
        model: a Keras model.
        examples: symbolic examples that it takes. Without them, only its layers are looked at.
    """
    shown = [_kind_of_layer(end) for end in ends(model)]
    if shown and UNKNOWN not in shown and len(shown) == len(getattr(model, "outputs", shown)):
        return shown
    outputs = None if examples is None else _tried(model, examples)
    if outputs is None:
        return shown or [UNKNOWN]
    found = [kind_of_values(values) for values in outputs]
    if len(shown) == len(found):  # the layers are surer than the values
        found = [f if s == UNKNOWN else s for s, f in zip(shown, found, strict=True)]
    return found


def _kind_of_layer(end):
    """Return the kind of what a layer or an operation gives, as far as it shows it."""
    activation, name = getattr(end, "activation", None), type(end).__name__
    for kind in (SOFTMAX, SIGMOID):
        if activation is getattr(keras.activations, kind) or name.lower() == kind:
            return kind
    weighs = isinstance(end, (layers.Dense, layers.Conv1D, layers.Conv2D, layers.Conv3D))
    return LOGITS if weighs and activation in (None, keras.activations.linear) else UNKNOWN


def _tried(model, examples):
    """Return the outputs of a model for a few examples of many sizes; None if it takes none."""
    random = np.random.default_rng(0)

    def made(tensor):
        shape = (len(_SIZES), *(32 if size is None else size for size in tensor.shape[1:]))
        dtype = keras.backend.standardize_dtype(tensor.dtype)
        if "float" not in dtype:
            return random.integers(0, 2, shape).astype(dtype)
        sizes = _SIZES.reshape(-1, *[1] * (len(shape) - 1))
        # Noise alone has the mean 0 in every image.
        level = random.normal(size=(*shape[:1], *[1] * (len(shape) - 2), *shape[1:][-1:]))
        return ((random.normal(size=shape) + level) * sizes).astype(dtype)

    try:
        outputs = model(keras.tree.map_structure(made, examples), training=False)
    except Exception:  # odd examples: a model may fail in any way
        return None
    return keras.tree.flatten(outputs)


def ends(model):
    """Return the layers and operations that make the values of the outputs, also in nested models.

    Those that only reshape or cast are left out.
    """
    model = shipped(model)
    if isinstance(model, keras.Sequential):
        last = model.layers[-1:]
    else:
        by_name = {each.name: each for each in getattr(model, "operations", ())}
        outputs = getattr(model, "output_names", None) or ()
        last = [by_name[name] for name in outputs if name in by_name]
    inner = []
    for each in last:
        each = _source(model, each)
        inner += ends(each) or [each] if isinstance(each, keras.Model) else [each]
    return inner


def _source(model, end):
    """Return what made the values that `end` gives: `end` itself, or what it only reshapes."""
    if type(end).__name__.lower() not in _KEEPING:
        return end
    try:
        before = [each for each in model.operations if each is not end and each.output is end.input]
    except (AttributeError, ValueError):  # one of them ran twice, or never
        return end
    return _source(model, before[0]) if before else end


def say_what_is_taken(whose, kinds):
    """Warn that these probabilities are taken as logits, if some are."""
    for kind in dict.fromkeys(kinds):
        if kind in _TAKEN:
            warnings.warn(
                f"{whose} gives the probabilities of a {kind}. {_TAKEN[kind]} taken as logits.",
                stacklevel=4,
            )


class GivenSoftTargets:
    """Looks at the soft targets that the data bring, before the first step of `fit`.

    It looks at arrays, tensors, the first batch of a `keras.utils.PyDataset`, and that of a
    generator, which it gives back. Another look at a `tf.data.Dataset` could shuffle it otherwise,
    so there is none. Rows of probabilities are recognized in each step, in all forms of data.
    """

    def fit(self, x=None, y=None, *arguments, **keywords):
        if isinstance(x, types.GeneratorType):
            first = next(x, None)
            _look_at(first)
            x = _again(first, x)
        else:
            _look_at(x[0] if isinstance(x, keras.utils.PyDataset) else (x, y))
        return super().fit(x, y, *arguments, **keywords)


def _again(first, rest):
    if first is not None:
        yield first
    yield from rest


def _look_at(batch):
    """Warn of probabilities in the soft targets of a batch; raise ValueError for a sigmoid's."""
    y = batch[1] if isinstance(batch, (tuple, list)) and len(batch) > 1 else None
    if not isinstance(y, dict) or "teacher_logits" not in y:
        return
    for values in keras.tree.flatten(y["teacher_logits"]):
        kind = kind_of_values(values[:256]) if hasattr(values, "shape") else LOGITS
        if kind == SIGMOID:
            raise ValueError(
                "The teacher_logits of the data are within 0..1, and their rows do not sum to 1. "
                "If they are probabilities of a sigmoid, give keras.ops.log(p / (1 - p)). If they "
                "are logits, subtract 1 from all of them: that changes no soft target."
            )
        if kind == SOFTMAX:
            warnings.warn(
                "The teacher_logits of the data are probabilities: each row sums to 1. Their "
                "logarithms are taken as logits.",
                stacklevel=4,
            )
