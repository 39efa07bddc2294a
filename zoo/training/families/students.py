"""A small NIN taught by a large one: what the recipes `<data>_student` share."""

from dataclasses import dataclass

from zoo.recipe import Recipe


@dataclass(frozen=True)
class StudentRecipe(Recipe):
    """A sixth of the paper's widths, and a trained model of the zoo that teaches it.

    The teacher sees each image as the student does, moved and mirrored alike.
    """

    width: float = 1 / 6  # on grey images an eighth of the parameters of a teacher at 1 / 2
    """Factor on the widths of the CIFAR-10 net."""
    dropout: float = 0.0
    teachers: tuple[str, ...] = ()
    """Folders of saved_models/, run folders, or .keras files; of several, an ensemble teaches."""
    temperature: float = 4.0
    soft_weight: float = 0.9
    """The share of the soft targets; the labels have the rest. 0: the student alone."""

    def check(self):
        super().check()
        self._require("soft_weight", 0 <= self.soft_weight <= 1, "a share in 0..1")
        taught = self.teachers or not self.soft_weight
        self._require("teachers", taught, "one teacher or more where --soft-weight is not 0")

    def model(self, data, steps):
        import zoo
        from zoo.training import teachers

        student = zoo.nin(data.image_shape, data.classes, width=self.width, dropout=self.dropout)
        if not self.soft_weight:
            return student
        return zoo.Distiller(
            student=student,
            teacher=[teachers.load(each) for each in self.teachers],
            temperature=self.temperature,
            soft_weight=self.soft_weight,
        )
