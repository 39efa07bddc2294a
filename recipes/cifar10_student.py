"""A small NIN on CIFAR-10, taught: 13.26 % test error, last epoch, 1 seed; alone 14.85 %."""

from dataclasses import dataclass

from zoo.training.families.students import StudentRecipe


@dataclass(frozen=True)
class Recipe(StudentRecipe):
    """The augmentation is that of the teacher without cutout."""

    data: str = "cifar10"
    teachers: tuple[str, ...] = ("saved_models/cifar10_nin_dsn",)
    epochs: int = 20
    width: float = 1 / 3  # 112,766 parameters, an eighth of the teacher's
    """Factor on the widths of the CIFAR-10 net."""
    pad_and_crop: int = 4
    """Pad each training image by this many pixels, and crop it at random."""
    flip: bool = True
    """Mirror half of the training images."""

    def augmentation(self):
        from zoo.data import Augmentation

        return Augmentation(pad_and_crop=self.pad_and_crop, flip=self.flip)
