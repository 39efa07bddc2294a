"""Presets of a deeply supervised net: the paper's objective, its released code's, and ours."""

from dataclasses import dataclass, replace

import keras

from zoo.losses import MulticlassSquaredHinge, OneVsAllSquaredHinge, SoftmaxCrossEntropy
from zoo.optimizers import CompanionDecay, InversePowerDecay, LayerwiseSGD, warm_cosine_sgd

PRESETS = ("modern", "official", "paper")


@dataclass(frozen=True)
class Preset:
    """Arguments of `nin_dsn`, and what to compile it with."""

    model: dict
    loss: keras.losses.Loss
    optimizer: keras.optimizers.Optimizer


def preset(
    name, *, steps, epochs, classes=10, objective=None, learning_rate=None, weight_decay=5e-4
):
    """A `Preset`: "paper", "official" or "modern".

        chosen = zoo.preset("official", steps=200_000, epochs=400)
        model = zoo.nin_dsn((32, 32, 3), 10, **chosen.model)
        model.compile(chosen.optimizer, chosen.loss, metrics=["accuracy"])

    "paper" is equation 3 of Deeply-Supervised Nets with the multiclass squared hinge of equations 4
    and 5 on every head, dense heads on the hidden mlpconv layers, a companion weight that falls
    linearly over the epochs, and a threshold. The paper gives neither weight nor threshold: 1.0
    (which its rule multiplies by 0.1) and 0.1 are ours, untuned. Its learning rate falls once, by
    a factor of 20.

    "official" is the released code, s9xie/DSN: one-vs-all squared hinges, and dense heads on each
    mlpconv's first convolution before its ReLU. The companions have weight 1; their own weights
    learn at 1/1000 of the rate, which falls further as (1 + step / 10,000)^-0.75. Biases learn at
    twice the rate and without decay, the class maps at a tenth. After a quarter of the steps the
    companions are removed and the momentum starts afresh; after three quarters the rate falls to
    1/20, and after 85 % to 1/250, with fresh momentum: 50,000 + 120,000 + 30,000 steps, in
    proportion.

    "modern" is the one to use: batch normalization, softmax, pooled heads, and a companion weight
    of 0.3 that a cosine takes to zero. What held-out images said of form, weight and fade is in
    docs/results/README.md: no difference beyond that of the seeds.

    Arguments:
        steps: of the whole training. epochs: what they are divided into.
        classes: of the data.
        objective: "svm" or "softmax", of all heads; None for the preset's own. The released code
            has softmax for CIFAR-100 and SVHN.
        learning_rate: the highest; None for the preset's own.
        weight_decay: as Caffe counts it, on kernels.

    Raises:
        ValueError: for an unknown name or objective, or fewer than one step an epoch.
    """
    if name not in PRESETS:
        raise ValueError(f"A preset is one of {', '.join(PRESETS)}; received {name!r}.")
    if not steps >= epochs >= 1:
        raise ValueError(
            f"A training has 1 epoch or more of 1 step or more; received steps={steps}, "
            f"epochs={epochs}."
        )
    if objective not in (None, "svm", "softmax"):
        raise ValueError(f'objective is "svm" or "softmax"; received {objective!r}.')
    make = {"modern": _modern, "official": _official, "paper": _paper}[name]
    chosen = make(steps, epochs, classes, learning_rate, weight_decay)
    if objective == "softmax":
        return replace(chosen, loss=SoftmaxCrossEntropy())
    if objective == "svm" and name == "modern":
        return replace(chosen, loss=OneVsAllSquaredHinge())
    return chosen


def _modern(steps, epochs, classes, learning_rate, weight_decay):
    fade = keras.optimizers.schedules.CosineDecay(0.3, steps)
    model = {"variant": "modern", "companion_form": "pool", "companion_weight": fade}
    optimizer = warm_cosine_sgd(steps, learning_rate or 0.1, weight_decay)
    return Preset(model, SoftmaxCrossEntropy(), optimizer)


def _official(steps, epochs, classes, learning_rate, weight_decay):
    rate = learning_rate or 0.025
    removal, drop, last = (round(steps * share) for share in (0.25, 0.75, 0.85))
    piecewise = keras.optimizers.schedules.PiecewiseConstantDecay
    model = {
        **_published(weight_decay),
        "companion_form": "dense",
        "companion_taps": "conv",
        # Caffe's "xavier" of that time counted the classes into the fan-in.
        "companion_initializer": keras.initializers.VarianceScaling(
            1 / classes, "fan_in", "uniform"
        ),
        "companion_weight": piecewise([removal - 1], [1.0, 0.0]),
    }
    optimizer = LayerwiseSGD(
        piecewise([drop - 1, last - 1], [rate, rate / 20, rate / 250]),
        momentum=0.9,
        multipliers={
            "bias": 2.0,
            "class_maps": 0.1,
            "companion": InversePowerDecay(1e-3, 1e-4, 0.75),
        },
        fresh_momentum_at=(removal, last),
    )
    return Preset(model, OneVsAllSquaredHinge(), optimizer)


def _paper(steps, epochs, classes, learning_rate, weight_decay):
    rate = learning_rate or 0.025
    steps_per_epoch = max(1, round(steps / epochs))
    model = {
        **_published(weight_decay),
        "companion_form": "dense",
        "companion_weight": CompanionDecay(1.0, epochs, steps_per_epoch, compounding=False),
        "threshold": 0.1,
    }
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay(
        [round(0.75 * steps) - 1], [rate, rate / 20]
    )
    return Preset(model, MulticlassSquaredHinge(), keras.optimizers.SGD(schedule, momentum=0.9))


def _published(weight_decay):
    """The nets of both: Network in Network's, without the ReLU on the class maps."""
    decay = keras.regularizers.L2(weight_decay / 2) if weight_decay else None
    return {
        "variant": "cifar10",
        "final_relu": False,
        "kernel_regularizer": decay,
        "companion_regularizer": decay,
    }
