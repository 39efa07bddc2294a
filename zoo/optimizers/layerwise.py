"""The gradient descent of Caffe, with a learning rate for each layer and restarts of momentum."""

import math
import re

import keras
from keras import ops

from zoo.optimizers.schedules import Schedule


@keras.saving.register_keras_serializable("zoo")
class LayerwiseSGD(keras.optimizers.SGD):
    """`keras.optimizers.SGD` with a learning rate for each layer and restarts of the momentum.

    It computes the update of Caffe:

        velocity <- momentum velocity - learning_rate factor gradient
        variable <- variable + velocity

    The factors are Caffe's `blobs_lr` (later `lr_mult`). The NIN of the paper has the factor 2 on
    biases, and 0.1 on its last convolution. Without `multipliers` and `fresh_momentum_at` the
    numbers are exactly those of SGD.

    A step is an update, counted from 0 by `iterations`: with `gradient_accumulation_steps`, the
    micro-batches of an update are one step. A schedule as `learning_rate` is different: Keras gives
    it the number of micro-batches.

    Arguments:
        learning_rate, momentum, nesterov, **kwargs: as in `keras.optimizers.SGD`.
        multipliers: {regular expression: factor}, such as `{"bias": 2.0, "cccp6/": 0.1}`. The
            factor applies to the variables whose `path` the expression is found in. It is a number
            >= 0, or a `keras.optimizers.schedules.LearningRateSchedule` of the step. If several
            expressions match a path, their factors multiply; if none does, the factor is 1. With
            the factor 0, only the velocity from earlier steps moves a variable. Begin no expression
            with "^" or the model's name: Keras puts the name before the paths of a Sequential model
            until it is loaded from a file.
        fresh_momentum_at: the steps whose update starts with a velocity of zero, as in a Caffe run
            that is resumed from its weights alone.

    Raises:
        ValueError: if a factor is negative, not finite, or neither a number nor a schedule; if an
            expression is invalid; if a step is not a whole number >= 0; or if `weight_decay` comes
            with multipliers. Keras applies the decay apart from the gradient, so no factor would
            apply to it. Caffe's `weight_decay` d is the regularizer `keras.regularizers.L2(d / 2)`.
            When the optimizer is built: if an expression matches no trainable variable.
    """

    def __init__(
        self,
        learning_rate=0.01,
        momentum=0.0,
        nesterov=False,
        *,
        multipliers=None,
        fresh_momentum_at=(),
        **kwargs,
    ):
        super().__init__(learning_rate, momentum, nesterov, **kwargs)
        multipliers = dict(multipliers or {})
        for expression, factor in multipliers.items():
            _check_expression(expression)
            _check_factor(expression, factor)
        for step in fresh_momentum_at:
            if not isinstance(step, int) or isinstance(step, bool) or step < 0:
                raise ValueError(
                    "fresh_momentum_at is a list of steps, which are whole numbers >= 0; received "
                    f"{step!r}."
                )
        if multipliers and self.weight_decay:
            raise ValueError(
                f"LayerwiseSGD received weight_decay={self.weight_decay} and multipliers; the "
                "multipliers do not apply to that decay. Give the layers a regularizer instead, as "
                f"Caffe does: keras.regularizers.L2({self.weight_decay / 2})."
            )
        self.multipliers = multipliers
        self.fresh_momentum_at = list(fresh_momentum_at)

    def build(self, variables):
        if self.built:
            return
        self._factors = [self._factors_of(variable) for variable in variables]
        self._check_that_expressions_match(variables)
        super().build(variables)

    def _factors_of(self, variable):
        """Return the product of a variable's constant factors, and its schedules."""
        factors = [
            factor
            for expression, factor in self.multipliers.items()
            if re.search(expression, variable.path)
        ]
        numbers = [factor for factor in factors if not isinstance(factor, Schedule)]
        return math.prod(numbers), [factor for factor in factors if isinstance(factor, Schedule)]

    def _check_that_expressions_match(self, variables):
        for expression in self.multipliers:
            if not any(re.search(expression, variable.path) for variable in variables):
                paths = ", ".join(variable.path for variable in variables[:6])
                more = ", ..." if len(variables) > 6 else ""
                raise ValueError(
                    f"The multiplier {expression!r} matches the path of no trainable variable; "
                    f"the paths are {paths}{more}."
                )

    def update_step(self, gradient, variable, learning_rate):
        # Keras passes the backend's own variable, which has no path in TensorFlow.
        index = self._get_variable_index(variable)
        number, schedules = self._factors[index]
        if number != 1 or schedules:
            learning_rate = ops.cast(learning_rate, "float32") * number
            for schedule in schedules:
                learning_rate = learning_rate * schedule(self.iterations)
        if self.fresh_momentum_at and self.momentum:
            steps = ops.convert_to_tensor(self.fresh_momentum_at, dtype="int32")
            fresh = ops.any(ops.equal(ops.cast(self.iterations, "int32"), steps))
            velocity = self.momentums[index]
            carried = ops.convert_to_tensor(velocity)
            self.assign(velocity, ops.where(fresh, ops.zeros_like(carried), carried))
        super().update_step(gradient, variable, learning_rate)

    def get_config(self):
        serialize = keras.saving.serialize_keras_object
        return {
            **super().get_config(),
            "multipliers": {
                expression: serialize(factor) if isinstance(factor, Schedule) else factor
                for expression, factor in self.multipliers.items()
            },
            "fresh_momentum_at": list(self.fresh_momentum_at),
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        def restore(factor):
            if not isinstance(factor, dict):
                return factor
            return keras.saving.deserialize_keras_object(factor, custom_objects=custom_objects)

        factors = (config.get("multipliers") or {}).items()
        multipliers = {expression: restore(factor) for expression, factor in factors}
        return super().from_config({**config, "multipliers": multipliers}, custom_objects)


def _check_expression(expression):
    try:
        re.compile(expression)
    except (re.error, TypeError) as error:
        raise ValueError(
            f"A multiplier's key is a regular expression; received {expression!r}: {error}."
        ) from error


def _check_factor(expression, factor):
    if isinstance(factor, Schedule):
        return
    if not isinstance(factor, (int, float)) or not (math.isfinite(factor) and factor >= 0):
        raise ValueError(
            f"The multiplier of {expression!r} is a number >= 0, or a LearningRateSchedule; "
            f"received {factor!r}."
        )
