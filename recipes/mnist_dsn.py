"""DSN on MNIST in the paper's setting: not measured here (paper: 0.39 %)."""

from dataclasses import dataclass

from zoo.training.families import papers


@dataclass(frozen=True)
class Recipe(papers.DeeplySupervisedNet):
    """MNIST as it is, mean subtracted.

    Nothing was released for MNIST: the net is NIN's, the schedule CIFAR-10's.
    """

    data: str = "mnist"
    variant: papers.Variant = "mnist"
    preprocessing: papers.Preprocessing = "mean"
