"""Gradient descent with Nesterov momentum, and weight decay of the kernels alone."""

import keras


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
