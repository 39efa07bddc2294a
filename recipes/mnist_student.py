"""A small NIN on MNIST, taught by mnist_nin_dsn: not measured yet."""

from dataclasses import dataclass

from zoo.students import StudentRecipe


@dataclass(frozen=True)
class Recipe(StudentRecipe):
    """Augmented as its teacher was."""

    data: str = "mnist"
    teachers: tuple[str, ...] = ("saved_models/mnist_nin_dsn",)
    epochs: int = 12
    jitter: float = 0.06
    """Training images are turned, scaled and moved by so much; see `zoo.data.Augmentation`."""

    def augmentation(self):
        from zoo.data import Augmentation

        return Augmentation(jitter=self.jitter)
