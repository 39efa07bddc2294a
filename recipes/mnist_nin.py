"""NIN on MNIST in the paper's setting: not measured here (paper: 0.47 %)."""

from dataclasses import dataclass

from zoo.training.families import papers


@dataclass(frozen=True)
class Recipe(papers.NetworkInNetwork):
    """The mean image is subtracted, without augmentation."""

    data: str = "mnist"
    variant: papers.Variant = "mnist"
    preprocessing: papers.Preprocessing = "mean"
