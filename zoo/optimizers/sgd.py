"""Gradient descent with Nesterov momentum, and weight decay of the kernels alone."""

import keras


@keras.saving.register_keras_serializable("zoo")
class KernelDecaySGD(keras.optimizers.SGD):
    """`keras.optimizers.SGD` whose `weight_decay` applies to kernels only.

    No bias, and no variable of a normalization, decays. The model file of another optimizer does
    not keep the variables that `exclude_from_weight_decay` excluded; a loaded `KernelDecaySGD`
    excludes them again.
    """

    def __init__(self, *arguments, **keywords):
        super().__init__(*arguments, **keywords)
        self.exclude_from_weight_decay(var_names=_NO_KERNELS)


_NO_KERNELS = ["bias", "gamma", "beta"]


def warm_cosine_sgd(steps, learning_rate, weight_decay, kind=KernelDecaySGD):
    """Return SGD with Nesterov momentum and a learning rate that rises, then falls to zero.

    The learning rate rises linearly over the first 5 % of the steps. A cosine then takes it to
    zero.

    Arguments:
        steps: the number of steps of the whole training.
        learning_rate: the highest learning rate.
        weight_decay: the weight decay of the kernels, per step and unit of learning rate.
        kind: `keras.optimizers.SGD` or a subclass.
    """
    warmup = max(1, steps // 20)
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, max(1, steps - warmup), warmup_target=learning_rate, warmup_steps=warmup
    )
    optimizer = kind(schedule, momentum=0.9, nesterov=True, weight_decay=weight_decay or None)
    if weight_decay:  # another kind than KernelDecaySGD does not do so itself
        optimizer.exclude_from_weight_decay(var_names=_NO_KERNELS)
    return optimizer
