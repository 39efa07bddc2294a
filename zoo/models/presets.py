"""Presets of a deeply supervised net: the objectives of the paper, of its code and of the zoo."""

from dataclasses import dataclass, replace

import keras

from zoo.losses import MulticlassSquaredHinge, OneVsAllSquaredHinge, SoftmaxCrossEntropy
from zoo.optimizers import CompanionDecay, InversePowerDecay, LayerwiseSGD, warm_cosine_sgd

PRESETS = ("modern", "official", "paper")


@dataclass(frozen=True)
class Preset:
    """The arguments of `nin_dsn` and of its `compile`."""

    model: dict
    """Keyword arguments of `nin_dsn`."""
    loss: keras.losses.Loss
    """The loss to compile with; the companions use it too."""
    optimizer: keras.optimizers.Optimizer
    """The optimizer to compile with, and its schedule."""


def preset(
    name, *, steps, epochs, classes=10, objective=None, learning_rate=None, weight_decay=5e-4
):
    """Return the `Preset` of a name: "modern", "official" or "paper".

        chosen = zoo.preset("official", steps=200_000, epochs=400)
        model = zoo.nin_dsn((32, 32, 3), 10, **chosen.model)
        model.compile(chosen.optimizer, chosen.loss, metrics=["accuracy"])

    "modern" is that of the zoo's trained models. It has batch normalization, softmax, pooled heads,
    and a companion weight of 0.3 that a cosine lowers to zero. On held-out images, other forms,
    weights and fades made no difference beyond that between seeds. Neither did no companions at
    all, so nothing shows that it is better than `nin`: see docs/results/README.md.

    "official" is the released code, s9xie/DSN. It has one-vs-all squared hinges, and dense heads on
    the first convolution of each mlpconv layer, before its ReLU. The companions have weight 1.
    Their variables learn at 1/1000 of the learning rate, a factor that falls further as
    (1 + step / 10,000)^-0.75. Biases learn at twice the learning rate and without decay, the class
    maps at a tenth of it. After 25 % of the steps the companions are removed, and the momentum
    starts at zero again. After 75 % the learning rate falls to 1/20. After 85 % it falls to 1/250,
    and the momentum starts at zero again. The released run had 50,000 + 120,000 + 30,000 steps.

    "paper" is equation 3 of Deeply-Supervised Nets, arXiv:1409.5185. It has the multiclass squared
    hinge of equations 4 and 5 on every head, dense heads on the hidden mlpconv layers, a companion
    weight that falls linearly over the epochs, and a threshold. The paper gives no value for the
    weight and the threshold. The zoo has 1.0, which the paper's rule multiplies by 0.1, and 0.1;
    neither is tuned. The learning rate falls once, by a factor of 20.

    Arguments:
        name: "modern", "official" or "paper".
        steps: the number of steps of the whole training.
        epochs: the number of epochs of the whole training.
        classes: the number of classes.
        objective: the loss of all heads, "svm" or "softmax"; None takes the preset's own. The
            released code has softmax for CIFAR-100 and SVHN.
        learning_rate: the highest learning rate of the schedule. None takes the preset's own: 0.1
            for "modern", 0.025 for the others.
        weight_decay: the weight decay of the kernels, as Caffe counts it.

    Raises:
        ValueError: if the name or the objective is unknown, or if there are fewer steps than
            epochs.
    """
    if name not in PRESETS:
        raise ValueError(f"A preset is one of {', '.join(PRESETS)}; received {name!r}.")
    if not steps >= epochs >= 1:
        raise ValueError(
            "A training has at least 1 epoch, and at least 1 step in each epoch; received "
            f"steps={steps}, epochs={epochs}."
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
        # Caffe's "xavier" of that time multiplied the fan-in by the number of classes.
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
    """Return the arguments that "official" and "paper" share: their net and its weight decay."""
    decay = keras.regularizers.L2(weight_decay / 2) if weight_decay else None
    return {
        "variant": "cifar10",
        "final_relu": False,
        "kernel_regularizer": decay,
        "companion_regularizer": decay,
    }
