"""The arguments of a `DeeplySupervised` are checked here, before the first step."""

import math

from zoo.objectives.wrapping import shipped


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


def check_heads(argument, heads):
    """Raise ValueError for heads that are no {layer name: layer}, such as a list of names."""
    if not isinstance(heads, dict):
        raise ValueError(
            f"{argument} is {{name of a layer of the model: the head on it}}, such as "
            f'{{"backbone/conv3": zoo.CompanionHead(10)}}; received {heads!r}.'
        )


def check_trunk(model):
    """Raise ValueError if `DeeplySupervised` cannot wrap the model."""
    plain = hasattr(model, "inputs") and shipped(model) is model
    if not plain or len(getattr(model, "outputs", None) or ()) != 1:
        raise ValueError(
            "DeeplySupervised wraps a built functional or sequential model with one output; "
            f"received {model!r}."
        )


def check_scores(model, scores):
    """Raise ValueError if the scores of a companion, {layer: scores}, do not fit the output."""
    for layer, tensor in scores.items():
        if tensor.shape != model.output_shape:
            raise ValueError(
                f"The companion of {layer!r} gives scores of shape {tensor.shape}; the model "
                f"gives {model.output_shape}. All heads learn the same labels, so give the "
                "companion as many classes as the model."
            )


def check_log_names(names):
    """Raise ValueError if two values would have one name in the logs."""
    for name in names:
        if names.count(name) > 1:
            raise ValueError(
                f"Two values would have the name {name!r} in the logs. Rename the layer or the "
                "knowledge that one of them is named after."
            )
