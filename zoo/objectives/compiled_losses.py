"""Compiled losses are checked against what the outputs of a model are, before the first step."""

import functools
import inspect

import keras

# Names of Keras' losses, as `_names` gives them.
_REGRESSIONS = {
    *("meansquarederror", "meanabsoluteerror", "meanabsolutepercentageerror"),
    *("meansquaredlogarithmicerror", "huber", "logcosh"),
}
_OF_INDEPENDENT_LABELS = {"binarycrossentropy", "binaryfocalcrossentropy"}
_OF_PROBABILITIES_ALONE = {"kldivergence", "categoricalgeneralizedcrossentropy"}
_OF_KERAS = {name.lower(): name for name in dir(keras.losses) if name[0].isupper()}
del _OF_KERAS["loss"]  # every loss derives from it


def check_take_logits(model, losses):
    """Raise ValueError if a compiled loss of a model that gives logits takes probabilities.

    `losses` is what `compile` takes: a loss, or a structure of losses.
    """
    for loss in keras.tree.flatten(losses):
        name = next((_OF_KERAS[each] for each in _names(loss) if each in _OF_KERAS), None)
        if _names(loss) & _OF_PROBABILITIES_ALONE:
            advice = "keras.losses.CategoricalCrossentropy(from_logits=True)"
        elif _takes_probabilities(loss):
            advice = f"keras.losses.{name}" if name else "a loss"
            advice += "(from_logits=True)" if name else " of from_logits=True"
        else:
            continue
        received = loss if isinstance(loss, str) else name or type(loss).__name__
        raise ValueError(
            f"{model.name!r} gives logits, and its loss {received!r} takes probabilities. Compile "
            f"it with {advice}."
        )


def check_activations(losses, outputs, advice=None):
    """Raise ValueError if soft targets do not suit the compiled loss of an output.

    Arguments:
        losses: what `compile` takes: a loss, or a list or dictionary of losses.
        outputs: {name of an output: (its activation, the number of its logits)}, in the order of a
            list of losses. The activation is None if the output learns no soft targets.
        advice: what to do instead; None for what a `Distiller` offers.
    """
    if isinstance(losses, (list, tuple)):
        losses = dict(zip(outputs, losses, strict=False))
    elif not isinstance(losses, dict):
        losses = dict.fromkeys(outputs, losses)
    for output, (activation, size) in outputs.items():
        found = _names(losses.get(output))
        if activation and found & _REGRESSIONS:
            others = [name for name in outputs if name != output]
            naming = dict.fromkeys(others, "softmax")
            instead = (
                "Give soft_weight=0 and knowledge=[zoo.knowledge.LogitRegression()], which "
                "compares the values."
            )
            if others:
                instead += f" Or name the outputs that learn soft targets: activation={naming}."
            raise ValueError(
                f"The output {output!r} is compiled with {_named(found)}. So it is a regression, "
                f"and soft targets compare probabilities. {advice or instead}"
            )
        if activation == "softmax" and size != 1 and found & _OF_INDEPENDENT_LABELS:
            raise ValueError(
                f"The output {output!r} is compiled with {_named(found)}. So its {size} labels are "
                "independent, and the soft targets are those of a softmax over all of them. "
                + (advice or 'Give the Distiller activation="sigmoid".')
            )


def _named(names):
    return next(_OF_KERAS[name] for name in names if name in _OF_KERAS)


def _names(loss):
    """Return the names of a loss and of the classes that it derives from, as one word each."""
    if isinstance(loss, str) and loss.lower() not in ("crossentropy", "ce"):  # Keras chooses one
        loss = keras.losses.get(loss)
    if isinstance(loss, keras.losses.Loss):
        names = [kind.__name__ for kind in type(loss).__mro__]
    else:
        function = loss.func if isinstance(loss, functools.partial) else loss
        names = [getattr(function, "__name__", "")]
    return {name.replace("_", "").lower() for name in names}


def _takes_probabilities(loss):
    """Return whether a loss has an argument `from_logits` that is False."""
    if isinstance(loss, str):
        if loss.lower() in ("crossentropy", "ce"):
            return True
        loss = keras.losses.get(loss)
    if isinstance(loss, keras.losses.Loss):
        try:
            return loss.get_config().get("from_logits") is False
        except NotImplementedError:  # a loss of the user's own
            return False
    if not callable(loss):
        return False
    try:
        argument = inspect.signature(loss).parameters.get("from_logits")
    except ValueError:  # a function that is not written in Python
        return False
    return argument is not None and argument.default is False
