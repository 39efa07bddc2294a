"""DSN on CIFAR-10 as released: not measured here (log: 9.65 %, augmented 7.97 %)."""

from dataclasses import dataclass

from zoo.training.families import papers


@dataclass(frozen=True)
class Recipe(papers.DeeplySupervisedNet):
    """Global contrast normalization and ZCA whitening; --augment adds the augmentation."""

    data: str = "cifar10"
