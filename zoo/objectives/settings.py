"""Settings of a training: numbers or schedules of the step, which may change between steps."""

import math
import numbers

import keras
from keras import ops


def start(name, value):
    """Return the number that a setting has at the first step.

    Raises:
        ValueError: for a setting that is neither a number nor a schedule.
    """
    if callable(value):
        return float(value(0))
    if not hasattr(value, "__float__"):
        raise ValueError(
            f"The {name} is a number, or a keras.optimizers.schedules.LearningRateSchedule of the "
            f"step; received {value!r}."
        )
    return float(value)


def check_weight(name, value):
    """Raise ValueError for a weight that is neither a number >= 0 nor a schedule of them."""
    first = start(name, value)
    if not (math.isfinite(first) and first >= 0):
        received = f"a schedule that starts at {first}" if callable(value) else f"{value}"
        raise ValueError(f"The {name} is {received}; it is a finite number >= 0, or a schedule.")


def now(value, steps):
    """Return the value of a setting at the running step.

    `steps` counts the steps, the running one included. The first step uses the schedule at 0.
    """
    if not callable(value):
        return value
    return ops.cast(value(ops.maximum(steps - 1, 0)), "float32")


def step_counter(model, settings):
    """Return a variable of the model that counts its steps; None if no setting is a schedule.

    It is kept with the weights, so that a training that goes on finds its step.
    """
    if not any(map(callable, settings)):
        return None
    return model.add_weight(
        shape=(),
        initializer="zeros",
        dtype="int32",
        trainable=False,
        aggregation="only_first_replica",
        name="steps",
    )


def check_counted(model, settings):
    """Raise ValueError if a setting became a schedule in a model that counts no steps."""
    if model.steps is None and any(map(callable, settings)):
        raise ValueError(
            f"A setting of {model.name!r} has become a schedule. The model was made without one, "
            "and does not count its steps. Give it the schedule when you make it."
        )


def numbers_of(layer):
    """Return {name: number or schedule} of the public attributes of a layer."""
    return {
        name: value
        for name, value in vars(layer).items()
        if (isinstance(value, numbers.Number) or callable(value))
        and not name.startswith("_")
        and name != "built"
    }


def setting_to_config(value):
    """Return a number as it is, and a schedule as Keras writes it."""
    return keras.saving.serialize_keras_object(value) if callable(value) else value


def setting_from_config(value, custom_objects=None):
    """Return the setting that `setting_to_config` wrote."""
    if not isinstance(value, dict):
        return value
    return keras.saving.deserialize_keras_object(value, custom_objects=custom_objects)


def following(model, make):
    """Return a function that calls what `make` returns, made anew when a setting has changed.

    A step that is traced into a graph keeps the numbers that it was traced with. So `make` is
    called again, and the step is traced again, before the first step after a change. `model` has
    `settings()`, or else `make` is called once. The attribute `refresh` of the function does so
    before a step needs it.

    Raises:
        ValueError: for a setting that the model's `check_settings()` refuses. On JAX with a
            `keras.distribution`, for one that changes within a `fit`: Keras has then moved the
            variables, whose devices it needs to know, out of the model.
    """
    step = used = None

    def refresh():
        nonlocal step, used
        found = model.settings() if hasattr(model, "settings") else None
        if step is None or found != used:
            if found is not None:
                model.check_settings()
            step, used = make(), found

    def run(*arguments):
        if step and _placed_by_jax() and model.settings() != used:
            raise ValueError(
                "With a keras.distribution on JAX, a setting is assigned between two calls of fit. "
                "Within one, give a schedule of the step."
            )
        refresh()
        return step(*arguments)

    run.refresh = refresh
    return run


def _placed_by_jax():
    return keras.backend.backend() == "jax" and keras.distribution.distribution() is not None


class LiveSettings(keras.Model):
    """A model whose settings may be assigned at any time: the next step uses them.

    A class that derives from it has `settings()`, which returns what is compared with `==`, and
    `check_settings()`, which raises ValueError for settings that no step can use. One with
    schedules has `steps`, the variable that counts them.
    """

    steps = None

    def make_train_function(self, force=False):
        if self.train_function is not None and not force:
            getattr(self.train_function, "refresh", int)()
            return self.train_function
        make_once = super().make_train_function

        def make():
            make_once(force=True)
            # Keras has put the new step here. What follows the settings stays in its place.
            step, self.train_function = self.train_function, run
            return step

        run = self.train_function = following(self, make)
        run.refresh()
        return run
