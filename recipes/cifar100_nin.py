"""NIN on CIFAR-100 in the paper's setting: not measured here (paper: 35.68 %)."""

from dataclasses import dataclass

from zoo.training.families import papers


@dataclass(frozen=True)
class Recipe(papers.NetworkInNetwork):
    """Global contrast normalization and ZCA whitening.

    The released files of CIFAR-100 have these rates, and do not slow the last layer.
    """

    data: str = "cifar100"
    variant: papers.Variant = "cifar100"
    learning_rate: float = 0.02
    weight_decay: float = 5e-4
    last_layer_factor: float = 1.0
