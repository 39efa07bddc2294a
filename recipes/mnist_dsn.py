"""DSN on MNIST in the paper's setting: not measured here (paper: 0.39 %)."""

from dataclasses import dataclass

from zoo.training.families import papers


@dataclass(frozen=True)
class Recipe(papers.DeeplySupervisedNet):
    """The mean image is subtracted, without augmentation.

    No code was released for MNIST. The net is that of NIN, the schedule that of CIFAR-10.
    """

    data: str = "mnist"
    variant: papers.Variant = "mnist"
    preprocessing: papers.Preprocessing = "mean"
