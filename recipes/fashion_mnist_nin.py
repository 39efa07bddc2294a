"""NIN on Fashion-MNIST in the paper's setting: not measured here."""

from dataclasses import dataclass

from zoo.training.families import papers


@dataclass(frozen=True)
class Recipe(papers.NetworkInNetwork):
    """The papers have no Fashion-MNIST: this is their MNIST setting."""

    data: str = "fashion_mnist"
    variant: papers.Variant = "mnist"
    preprocessing: papers.Preprocessing = "mean"
