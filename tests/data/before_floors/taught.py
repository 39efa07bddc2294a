"""A small net taught by another, for tests: not measured."""

from dataclasses import dataclass

from zoo.students import StudentRecipe


@dataclass(frozen=True)
class Recipe(StudentRecipe):
    """Digits, moved by up to a pixel."""

    data: str = "digits"
    teachers: tuple[str, ...] = ("teacher.keras",)
    width: float = 0.05
    epochs: int = 2

    def augmentation(self):
        from zoo.data import Augmentation

        return Augmentation(shift=1)
