"""A small NIN taught by a large one: the base of the recipes `<data>_student`."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from zoo.recipe import Recipe

if TYPE_CHECKING:
    import keras

    from zoo.data import ImageData


@dataclass(frozen=True)
class StudentRecipe(Recipe):
    """A NIN of a sixth of the paper's widths, taught by a trained model of the zoo.

    The teacher sees the same view of each image as the student, moved and mirrored alike.
    """

    width: float = 1 / 6  # on grey images an eighth of the parameters of a teacher at 1 / 2
    """Factor on the widths of the CIFAR-10 net."""
    dropout: float = 0.0
    """Share of the units that dropout zeroes."""
    teachers: tuple[str, ...] = ()
    """Folders of saved_models/, run folders, or .keras files. Several teach as an ensemble."""
    temperature: float = 4.0
    """Temperature of the soft targets."""
    soft_weight: float = 0.9
    """Share of the soft targets in the loss; the labels have the rest. 0: no teacher."""
    teacher_preprocessing: str | None = None
    """What prepares the pixels for a teacher of keras.applications that does not do so itself.
    The name of its module, such as resnet50, or tf, caffe or torch."""
    teacher_resize: bool = False
    """Resize the images in front of the teachers to the size that they take."""

    def check(self) -> None:
        super().check()
        self.require("soft_weight", 0 <= self.soft_weight <= 1, "a share in 0..1")
        has_teachers = self.teachers or not self.soft_weight
        self.require("teachers", has_teachers, "one teacher or more where --soft-weight is not 0")
        if self.teacher_preprocessing is not None:
            from zoo.layers.applications import NAMES

            known = self.teacher_preprocessing in NAMES
            self.require("teacher_preprocessing", known, f"one of {', '.join(NAMES)}")

    def model(self, data: "ImageData", steps: int) -> "keras.Model":
        import zoo
        from zoo.training import teachers

        student = zoo.nin(data.image_shape, data.classes, width=self.width, dropout=self.dropout)
        if not self.soft_weight:
            return student
        return zoo.Distiller(
            student=student,
            teacher=teachers.load_for(
                data,
                self.teachers,
                preprocessing=self.teacher_preprocessing,
                resize=self.teacher_resize,
            ),
            temperature=self.temperature,
            soft_weight=self.soft_weight,
        )
