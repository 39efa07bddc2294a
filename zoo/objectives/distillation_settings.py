"""The settings of a `Distiller`, which may be assigned between two steps."""

from zoo.losses import check_share, check_temperature
from zoo.objectives.compatibility import check_one_temperature
from zoo.objectives.deep_supervision import DeeplySupervised
from zoo.objectives.settings import LiveSettings, check_counted, check_weight, numbers_of, start
from zoo.objectives.teaching import relative


class DistillerSettings(LiveSettings):
    """The part of a `Distiller` that knows its weights and its temperature."""

    def scheduled(self):
        """Return the settings that may be schedules."""
        weights = (lesson.weight for lesson in self.knowledge)
        return [self.temperature, self.soft_weight, self.label_weight, *weights]

    def settings(self):
        """Return what a step depends on, and may have changed since the last one."""
        student = self.student.settings() if isinstance(self.student, DeeplySupervised) else None
        lessons = [(lesson.weight, numbers_of(lesson)) for lesson in self.knowledge]
        weights = self.teacher_weights and tuple(self.teacher_weights)
        own = (self.temperature, self.soft_weight, self.label_weight, self.soft_companions, weights)
        return own, lessons, student, self._teachers

    def check_settings(self):
        """Raise ValueError if a setting was assigned that a step cannot use."""
        self.check_ranges()
        check_counted(self, self.scheduled())
        if isinstance(self.student, DeeplySupervised):
            self.student.check_settings()
        if list(self._named.values()) != list(self.knowledge):
            raise ValueError(
                "The knowledge of a Distiller does not change. Make a Distiller that has all of "
                "it, and assign weights: 0 switches one off."
            )
        check_one_temperature(self._teachers, self.knowledge, self.temperature)
        labels = weight_of_labels(self.soft_weight, self.label_weight)
        parts = {"label_loss": labels, "soft_target_loss": self.soft_weight}
        for name, weight in parts.items():
            if name not in self._logs and is_present(weight):
                raise ValueError(
                    f"This Distiller was made without the {name}, whose weight was 0; it is now "
                    f"{weight}. Make it with a weight above 0, or a schedule that starts at 0."
                )

    def check_ranges(self):
        """Raise ValueError for a number or the start of a schedule that is out of range."""
        check_temperature(start("temperature", self.temperature))
        if self.label_weight is None:
            check_share("soft_weight", start("soft_weight", self.soft_weight))
        else:
            check_weight("soft_weight", self.soft_weight)
            check_weight("label_weight", self.label_weight)
        for lesson in self.knowledge:
            check_weight(f"weight of {type(lesson).__name__}", lesson.weight)
        if self.teacher_weights is not None:
            relative(self.teacher_weights, len(self._teachers.models or self.teacher_weights))


def weight_of_labels(soft_weight, label_weight):
    """Return the weight of the labels, of which a schedule stands for any number."""
    if label_weight is not None:
        return label_weight
    return soft_weight if callable(soft_weight) else 1 - soft_weight


def is_present(weight):
    """Return whether a part of this weight belongs to the objective."""
    return callable(weight) or weight > 0
