"""The schedules of Deeply-Supervised Nets (arXiv:1409.5185) and of its released code."""

import math

import keras
from keras import ops

Schedule = keras.optimizers.schedules.LearningRateSchedule


@keras.saving.register_keras_serializable("zoo")
class InversePowerDecay(Schedule):
    """The policy "inv" of Caffe: step -> initial (1 + rate step)^-power, float32.

    The SVM layers of the released Deeply-Supervised Nets have the rate 1e-4 and the power 0.75, so
    that step 50,000 has 0.26 of the initial value.

    Arguments:
        initial, rate, power: numbers >= 0.

    Raises:
        ValueError: if a number is negative or not finite.
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
    """The weight of companion objectives that falls to zero as in Deeply-Supervised Nets.

    step -> weight, float32; constant within an epoch, and 0 from step epochs x steps_per_epoch on

    The paper's rule is "weight <- weight * 0.1 * (1 - t / N)", where t is the epoch and N the
    number of epochs. It can be read in two ways, and the paper does not give the first weight.

    Arguments:
        initial: the weight before the first decay, a number >= 0.
        epochs, steps_per_epoch: whole numbers >= 1.
        compounding: True reads the rule as an assignment: epoch 0 has `initial`, and each epoch
            t = 1, 2, ... multiplies the weight of the epoch before. After three epochs less than
            0.001 of it is left. False reads it as a formula: epoch t has
            `initial` 0.1 (1 - t / N), a line that starts at 0.1 `initial`.

    Raises:
        ValueError: if the initial weight is negative or not finite, or if a count is not a whole
            number >= 1.
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


def _check_non_negative(**numbers):
    for name, number in numbers.items():
        if not (math.isfinite(number) and number >= 0):
            raise ValueError(f"{name} is a number >= 0; received {number!r}.")
