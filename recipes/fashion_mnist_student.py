"""A small NIN on Fashion-MNIST, taught by fashion_mnist_nin_dsn: not measured yet."""

from dataclasses import dataclass

from zoo.students import StudentRecipe


@dataclass(frozen=True)
class Recipe(StudentRecipe):
    """Augmented as its teacher was."""

    data: str = "fashion_mnist"
    teachers: tuple[str, ...] = ("saved_models/fashion_mnist_nin_dsn",)
    epochs: int = 12
    width: float = 1 / 6  # 28,454 parameters, an eighth of the teacher's
    """Factor on the widths of the CIFAR-10 net."""
    shift: int = 2
    """Training images are moved by up to so many pixels."""
    flip: bool = True
    """Half of the training images are mirrored."""

    def augmentation(self):
        from zoo.data import Augmentation

        return Augmentation(shift=self.shift, flip=self.flip)
