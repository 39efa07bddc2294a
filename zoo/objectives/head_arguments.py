"""The arguments of a `DeeplySupervised` are checked here, before the first step."""

import math

from keras import ops

from zoo.text import did_you_mean


def weight_by_layer(argument, weight, heads):
    """Return {layer: weight} from one weight for all heads, or from a dictionary of weights.

    `argument` is the name by which an error calls the weight; `heads` is {layer: head}.
    """
    weights = weight if isinstance(weight, dict) else dict.fromkeys(heads, weight)
    if set(weights) != set(heads):
        raise ValueError(
            f"{argument} names the layers {', '.join(weights) or '(none)'}; there are heads at "
            f"{', '.join(heads) or '(none)'}. Give each head one weight."
        )
    for layer, number_or_schedule in weights.items():
        scheduled = callable(number_or_schedule)
        value = float(number_or_schedule(0)) if scheduled else number_or_schedule
        if not (math.isfinite(value) and value >= 0):
            start = "a schedule that starts at " if scheduled else ""
            raise ValueError(
                f"The {argument} of {layer!r} is {start}{value}; it is a schedule or a number >= 0 "
                "(0 switches the head off)."
            )
    return {layer: weights[layer] for layer in heads}


def threshold_by_layer(threshold, companions):
    """Return {layer: threshold} from None, one threshold for all companions, or a dictionary."""
    if threshold is None:
        return {}
    thresholds = threshold if isinstance(threshold, dict) else dict.fromkeys(companions, threshold)
    for layer, value in thresholds.items():
        if layer not in companions:
            raise ValueError(
                f"threshold names {layer!r}, which has no companion loss to switch off; there are "
                f"companions of {', '.join(companions) or '(none)'}."
            )
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"The threshold of {layer!r} is {value}; it is a number >= 0.")
    if not thresholds:
        raise ValueError(
            "threshold was given without a companion whose loss it could switch off. "
            "Leave it out, or add a companion."
        )
    return dict(thresholds)


def layer_output(model, layer):
    """Return the symbolic output of the layer with this name."""
    if not hasattr(model, "inputs") or len(getattr(model, "outputs", None) or ()) != 1:
        raise ValueError(
            "DeeplySupervised wraps a built functional or sequential model with one output; "
            f"received {model!r}."
        )
    names = [candidate.name for candidate in model.layers]
    if layer not in names:
        hint = did_you_mean(layer, names, f"It has {', '.join(names)}.")
        raise ValueError(f"Model {model.name!r} has no layer {layer!r}. {hint}")
    return model.get_layer(layer).output


def decoding_target(model, decoder):
    """Return the symbolic target of a decoder: a map of the model, or its input in 0..1."""
    if decoder.of is None:
        return ops.cast(model.inputs[0], "float32") / 255
    return layer_output(model, decoder.of)


def check_scores(model, scores):
    """Raise ValueError if the scores of a companion, {layer: scores}, do not fit the output."""
    for layer, tensor in scores.items():
        if tensor.shape != model.output_shape:
            raise ValueError(
                f"The companion of {layer!r} gives scores of shape {tensor.shape}; the model "
                f"gives {model.output_shape}. All heads learn the same labels, so give the "
                "companion as many classes as the model."
            )
