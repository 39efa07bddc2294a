"""A small net taught by your own model, on your own images, `zoo distill`: not measured."""

from dataclasses import dataclass

from zoo.training.families.students import FastStudentRecipe


@dataclass(frozen=True)
class Recipe(FastStudentRecipe):
    """A student of any Keras classifier. Give --data and --teacher."""

    data: str = ""
    """Your images: a folder of class folders, a TFDS name, or an .npz file."""
    teachers: tuple[str, ...] = ()
    """Your .keras files, run folders, or folders of saved_models/. Several teach as an ensemble."""
    epochs: int = 40
    batch_size: int = 0
    """Number of images in a batch. 0: a twenty-fourth of the training images, from 8 to 64."""
    shift: int = 4
    """Move each training image by up to this many pixels, and repeat the edge."""

    def check(self):
        super().check()
        self.require("data", self.data, "the folder of your images, with a folder for each class")
