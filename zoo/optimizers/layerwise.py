"""Caffe's gradient descent: a factor for each layer, and momentum that can start afresh."""

import math
import re

import keras
from keras import ops

from zoo.optimizers.schedules import Schedule


@keras.saving.register_keras_serializable("zoo")
class LayerwiseSGD(keras.optimizers.SGD):
    """`keras.optimizers.SGD` with a learning rate a layer, and momentum that can start afresh.

    velocity <- momentum velocity - learning_rate factor gradient, variable <- variable + velocity:
    Caffe's update, where the factors are its `blobs_lr` (later `lr_mult`). Without multipliers
    and fresh momentum the numbers are those of SGD, bit for bit. The NIN of the paper has factor 2
    on biases, and 0.1 on its last convolution.

    Steps are counted from 0 by `iterations`, in updates: with `gradient_accumulation_steps` the
    micro-batches of an update count as one. Keras gives a schedule as `learning_rate` the number of
    micro-batches instead.

    Arguments:
        learning_rate, momentum, nesterov, **kwargs: of `keras.optimizers.SGD`.
        multipliers: {regular expression, searched in `variable.path`: factor}, such as
            `{"bias": 2.0, "cccp6/": 0.1}`. A factor is a non-negative number, or a
            `keras.optimizers.schedules.LearningRateSchedule` of the step. The factors of all
            expressions found in a path multiply; a variable with none has 1. With factor 0 only
            the velocity gathered before moves it. Begin no expression with "^" or the model's name:
            Keras puts that before the paths of a Sequential model until it is loaded from a file.
        fresh_momentum_at: the steps whose update starts from velocity zero, as that of a Caffe run
            resumed from its weights alone does.

    Raises:
        ValueError: for a factor that is negative, not finite or neither number nor schedule, an
            invalid expression, a step that is not a whole number >= 0, or `weight_decay` together
            with multipliers: Keras' decay is apart from the gradient, where no factor reaches it.
            Caffe's `weight_decay` d is the regularizer `keras.regularizers.L2(d / 2)`. When it is
            built, on the trainable variables: for an expression found in no path.
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
                    "fresh_momentum_at is a list of step numbers, whole and >= 0; received "
                    f"{step!r}."
                )
        if multipliers and self.weight_decay:
            raise ValueError(
                f"LayerwiseSGD received weight_decay={self.weight_decay} and multipliers, which "
                "that decay would ignore. Give the layers a regularizer instead: "
                f"keras.regularizers.L2({self.weight_decay / 2}) is Caffe's decay, in the gradient."
            )
        self.multipliers = multipliers
        self.fresh_momentum_at = list(fresh_momentum_at)

    def build(self, variables):
        if self.built:
            return
        self._factors = [self._factors_of(variable) for variable in variables]
        self._refuse_expressions_without_variable(variables)
        super().build(variables)

    def _factors_of(self, variable):
        """The product of a variable's numbers, and the schedules that it is still to be times."""
        found = [
            factor
            for expression, factor in self.multipliers.items()
            if re.search(expression, variable.path)
        ]
        numbers = [factor for factor in found if not isinstance(factor, Schedule)]
        return math.prod(numbers), [factor for factor in found if isinstance(factor, Schedule)]

    def _refuse_expressions_without_variable(self, variables):
        for expression in self.multipliers:
            if not any(re.search(expression, variable.path) for variable in variables):
                paths = ", ".join(variable.path for variable in variables[:6])
                more = ", ..." if len(variables) > 6 else ""
                raise ValueError(
                    f"The multiplier {expression!r} is found in the path of no trainable variable; "
                    f"they are {paths}{more}."
                )

    def update_step(self, gradient, variable, learning_rate):
        # The backend's own variable arrives here, and that of TensorFlow has no path.
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
            f"The multiplier of {expression!r} is {factor!r}; it is a number >= 0, or a "
            "LearningRateSchedule."
        )
