"""NIN on Fashion-MNIST in the paper's setting: not measured here."""

from dataclasses import dataclass

from zoo.training.families import papers


@dataclass(frozen=True)
class Recipe(papers.NetworkInNetwork):
    """The papers do not use Fashion-MNIST. This is their MNIST setting."""

    data: str = "fashion_mnist"
    variant: papers.Variant = "mnist"
    preprocessing: papers.Preprocessing = "mean"
