"""A small NIN taught by your own model, on your own images, `zoo distill`: not measured."""

from dataclasses import dataclass

from zoo.training.families.students import StudentRecipe


@dataclass(frozen=True)
class Recipe(StudentRecipe):
    """A student of any Keras classifier. Give --data and --teacher."""

    data: str = ""
    """Your images: a folder of class folders, a TFDS name, or an .npz file."""
    teachers: tuple[str, ...] = ()
    """Your .keras files, run folders, or folders of saved_models/. Several teach as an ensemble."""
    width: float = 0.25
    """Factor on the widths of the CIFAR-10 net."""
    pad_and_crop: int = 4
    """Pad each training image by this many pixels, and crop it at random. 0: do neither."""
    flip: bool = True
    """Mirror half of the training images, left to right. Turn it off for images of writing."""

    def check(self):
        super().check()
        self.require("data", self.data, "the folder of your images, with a folder for each class")

    def augmentation(self):
        from zoo.data import Augmentation

        return Augmentation(pad_and_crop=self.pad_and_crop, flip=self.flip)
