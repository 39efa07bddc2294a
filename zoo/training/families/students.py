"""A small NIN taught by a large one: the bases of the recipes `student` and `<data>_student`."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from zoo.recipe import Recipe
from zoo.training.families.fast import FastRecipe

if TYPE_CHECKING:
    import keras

    from zoo.data import ImageData

# Teachers that lose more of their right answers on the views than this share answer on the images.
_LOST = 0.2
_IMAGES_TO_TELL = 500


Method = Literal["soft targets", "standardized", "decoupled", "dist"]


def lessons(method: str) -> dict[str, Any]:
    """Return what a `Distiller` takes for a method of logits, with the weights of its authors."""
    import zoo

    knowledge = zoo.knowledge
    if method == "standardized":
        standardized = knowledge.SoftTargets(2.0, standardize=True, weight=9.0)
        return {"soft_weight": 0.0, "label_weight": 0.1, "knowledge": [standardized]}
    if method == "decoupled":
        return {"soft_weight": 0.0, "knowledge": [knowledge.DecoupledSoftTargets(4.0, 1.0, 8.0)]}
    if method == "dist":
        return {"soft_weight": 0.0, "knowledge": [knowledge.RelationalMatching(1.0, weight=2.0)]}
    return {}


@dataclass(frozen=True)
class TaughtRecipe(Recipe):
    """A student, and the trained models that teach it. A subclass says what the student is.

    If its teachers can read them, they see the same views of the images as the student, moved and
    mirrored alike. Teachers that cannot would teach their mistakes.
    """

    width: float = 1.0
    """Factor on the widths of the student."""
    teachers: tuple[str, ...] = ()
    """Folders of saved_models/, run folders, or .keras files. Several teach as an ensemble."""
    method: Method = "soft targets"
    """What the student learns of the teacher's logits.
    All but soft targets have their authors' temperature and weights: see docs/guides/methods.md."""
    temperature: float = 4.0
    """Temperature of the soft targets."""
    soft_weight: float = 0.9
    """Share of the soft targets in the loss; the labels have the rest. 0: no teacher."""
    teacher_preprocessing: str | None = None
    """What prepares the pixels for a teacher of keras.applications that does not do so itself.
    The name of its module, such as resnet50, or tf, caffe or torch."""
    teacher_resize: bool = False
    """Resize the images in front of the teachers to the size that they take."""
    teachers_see: Literal["auto", "views", "images"] = "auto"
    """The teachers answer on the moved and mirrored views that the student sees, at every step
    (views), or once on each image as it is (images).
    auto: views, unless the teachers then have less than 80 % of their right answers left."""
    views: int = 0
    """Number of views of each image, which the student sees in turns.
    The teachers answer all of them once, before the first step.
    0: a new view in each epoch, answered at each step."""

    def check(self) -> None:
        super().check()
        self.require("soft_weight", 0 <= self.soft_weight <= 1, "a share in 0..1")
        has_teachers = self.teachers or not self.soft_weight
        self.require("teachers", has_teachers, "one teacher or more where --soft-weight is not 0")
        if self.soft_weight and self.method != "soft targets":
            for name in ("temperature", "soft_weight"):
                default = type(self).__dataclass_fields__[name].default
                like = f"{default} with --method {self.method}, which has weights of its own"
                self.require(name, getattr(self, name) == default, like)
        if self.teacher_preprocessing is not None:
            from zoo.layers.applications import NAMES

            known = self.teacher_preprocessing in NAMES
            self.require("teacher_preprocessing", known, f"one of {', '.join(NAMES)}")

    def model(self, data: "ImageData", steps: int) -> "keras.Model":
        import zoo

        student = self.student(data, steps)
        if not self.soft_weight:
            return student
        weights = {"temperature": self.temperature, "soft_weight": self.soft_weight}
        weights |= lessons(self.method)
        return zoo.Distiller(student=student, teacher=self._teachers(data), **weights)

    def student(self, data: "ImageData", steps: int) -> "keras.Model":
        """Return the built student, raw pixels -> logits, for `data` and `steps` steps."""
        raise NotImplementedError

    def training_batches(self, data: "ImageData", start_step: int) -> Any:
        if not self.soft_weight:
            return super().training_batches(data, start_step)
        if self.teachers_answer_on(data) == "views":
            if not self.views:
                return super().training_batches(data, start_step)
            return self._cached_batches(data, start_step)
        return data.training_batches(
            self.batch_size,
            seed=self.seed,
            start_step=start_step,
            augmentation=self.augmentation(),
            teacher_logits=self._answers(data)[None],
        )

    def _cached_batches(self, data: "ImageData", start_step: int) -> Any:
        """Return the training batches of `views` views, with the teachers' answers to them."""
        from zoo.training import teachers

        models = self._teachers(data)
        views: dict[str, Any] = {"seed": self.seed, "augmentation": self.augmentation()}
        # The logits of one teacher serve all temperatures; the mean of an ensemble serves one.
        temperature = self.temperature if len(models) > 1 else None
        cache = teachers.cache(
            models, data, "runs/soft_targets", temperature=temperature, views=self.views, **views
        )
        return cache.batches(
            data, self.batch_size, start_step=start_step, temperature=self.temperature, **views
        )

    def teachers_answer_on(self, data: "ImageData") -> str:
        """Return what the teachers answer on, "views" or "images", as the field says.

        With "auto" some of the images are shown to them as they are, and changed.
        """
        from zoo.data import AS_THEY_ARE

        if self.teachers_see != "auto":
            return self.teachers_see
        augmentation = self.augmentation()
        if augmentation == AS_THEY_ARE:
            return "images"  # as good, and the teachers answer once
        some = data.subset(min(data.examples, max(_IMAGES_TO_TELL, data.classes)))
        on_images, on_views = (
            (self._answers(some, changes).argmax(axis=-1) == some.labels).mean()
            for changes in (AS_THEY_ARE, augmentation)
        )
        return "views" if on_views >= (1 - _LOST) * on_images else "images"

    def _answers(self, data: "ImageData", changes: Any = None) -> Any:
        """Return the logits (n, classes) of the teachers for n images, which may be changed."""
        from zoo.data import AS_THEY_ARE
        from zoo.training import measuring

        return measuring.answers_of(
            self._teachers(data), data, changes or AS_THEY_ARE, temperature=self.temperature
        )

    def _teachers(self, data: "ImageData") -> "list[keras.Model]":
        from zoo.training import teachers

        return teachers.load_for(
            data,
            self.teachers,
            preprocessing=self.teacher_preprocessing,
            resize=self.teacher_resize,
        )


@dataclass(frozen=True)
class StudentRecipe(TaughtRecipe):
    """A NIN of a sixth of the paper's widths, taught by a trained model of the zoo."""

    width: float = 1 / 6  # on grey images an eighth of the parameters of a teacher at 1 / 2
    """Factor on the widths of the CIFAR-10 net."""
    dropout: float = 0.0
    """Share of the units that dropout zeroes."""

    def student(self, data: "ImageData", steps: int) -> "keras.Model":
        import zoo

        return zoo.nin(data.image_shape, data.classes, width=self.width, dropout=self.dropout)


@dataclass(frozen=True)
class FastStudentRecipe(TaughtRecipe, FastRecipe):
    """A small net of `FastRecipe`, taught by a trained model."""

    # Those of `Recipe`, not of `FastRecipe`: all students were measured with them.
    learning_rate: float = 0.1
    weight_decay: float = 0.0005
    variant: Literal["fast", "small", "modern"] = "small"

    def student(self, data: "ImageData", steps: int) -> "keras.Model":
        return FastRecipe.model(self, data, steps)
