"""Caffe's gradient descent, a factor a layer, and the schedules of Deeply-Supervised Nets."""

import math
import re

import keras
from keras import ops

Schedule = keras.optimizers.schedules.LearningRateSchedule


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


@keras.saving.register_keras_serializable("zoo")
class InversePowerDecay(Schedule):
    """Caffe's "inv" policy: step -> initial (1 + rate step)^-power, float32.

    The SVM layers of the released Deeply-Supervised Nets have rate 1e-4 and power 0.75: 0.26 of
    the initial value at step 50,000.

    Raises:
        ValueError: for an initial value, rate or power that is negative or not finite.
    """

    def __init__(self, initial, rate, power):
        _check_non_negative(initial=initial, rate=rate, power=power)
        self.initial, self.rate, self.power = initial, rate, power

    def __call__(self, step):
        return self.initial * ops.power(1 + self.rate * ops.cast(step, "float32"), -self.power)

    def get_config(self):
        return {"initial": self.initial, "rate": self.rate, "power": self.power}


@keras.saving.register_keras_serializable("zoo")
class CompanionDecay(Schedule):
    """The weight of companion objectives as Deeply-Supervised Nets lets it vanish.

    step -> weight, float32, constant within an epoch, 0 from step epochs x steps_per_epoch on.
    The paper's rule is "weight <- weight * 0.1 * (1 - t / N)", t the epoch and N = epochs, which
    can be read in two ways; what the weights start from it does not say.

    Arguments:
        initial: the weight before the first decay, >= 0.
        epochs, steps_per_epoch: whole numbers >= 1.
        compounding: True reads an assignment: epoch 0 has `initial`, and each epoch t = 1, 2, ...
            multiplies what the one before had. Of a weight of 1 under 0.001 is left after three
            epochs. False reads a formula for epoch t, initial 0.1 (1 - t / N): a line from
            0.1 `initial` in epoch 0.

    Raises:
        ValueError: for an initial value that is negative or not finite, or counts that are not
            whole numbers >= 1.
    """

    def __init__(self, initial, epochs, steps_per_epoch, compounding=True):
        _check_non_negative(initial=initial)
        for name, count in {"epochs": epochs, "steps_per_epoch": steps_per_epoch}.items():
            if not isinstance(count, int) or count < 1:
                raise ValueError(f"{name} is a whole number >= 1; received {count!r}.")
        self.initial, self.epochs, self.steps_per_epoch = initial, epochs, steps_per_epoch
        self.compounding = compounding
        decays = [0.1 * (1 - epoch / epochs) for epoch in range(epochs + 1)]
        self._weights = [initial * decay for decay in decays]
        if compounding:
            self._weights = [initial]
            for decay in decays[1:]:
                self._weights.append(self._weights[-1] * decay)

    def __call__(self, step):
        epoch = ops.floor_divide(ops.cast(step, "int32"), self.steps_per_epoch)
        weights = ops.convert_to_tensor(self._weights, dtype="float32")
        return ops.take(weights, ops.minimum(epoch, self.epochs))

    def get_config(self):
        return {
            "initial": self.initial,
            "epochs": self.epochs,
            "steps_per_epoch": self.steps_per_epoch,
            "compounding": self.compounding,
        }


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


def _check_non_negative(**numbers):
    for name, number in numbers.items():
        if not (math.isfinite(number) and number >= 0):
            raise ValueError(f"{name} is a number >= 0; received {number!r}.")


@keras.saving.register_keras_serializable("zoo")
class KernelDecaySGD(keras.optimizers.SGD):
    """`keras.optimizers.SGD` whose `weight_decay` is of kernels: no bias, no normalization decays.

    What `exclude_from_weight_decay` was told of another optimizer, no file of a model remembers.
    """

    def __init__(self, *arguments, **keywords):
        super().__init__(*arguments, **keywords)
        self.exclude_from_weight_decay(var_names=_NO_KERNELS)


_NO_KERNELS = ["bias", "gamma", "beta"]


def warm_cosine_sgd(steps, learning_rate, weight_decay, kind=KernelDecaySGD):
    """SGD with Nesterov momentum, 5 % of the steps of warm-up and a cosine to zero.

    `learning_rate` is the highest; `weight_decay`, of kernels, counts a step and unit of it;
    `kind` is SGD or a class derived from it.
    """
    warmup = max(1, steps // 20)
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, max(1, steps - warmup), warmup_target=learning_rate, warmup_steps=warmup
    )
    optimizer = kind(schedule, momentum=0.9, nesterov=True, weight_decay=weight_decay or None)
    if weight_decay:  # of another kind, until it is saved
        optimizer.exclude_from_weight_decay(var_names=_NO_KERNELS)
    return optimizer
