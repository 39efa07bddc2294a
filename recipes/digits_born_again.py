"""Born-again nets on 8x8 digits: each generation is taught by the one before; not measured."""

from dataclasses import dataclass

import zoo
import zoo.recipe


@dataclass(frozen=True)
class Recipe(zoo.recipe.Recipe):
    """Each student has the architecture of its teacher. Furlanello et al., arXiv:1805.04770.

    zoo train digits_born_again; then --generation 1, --generation 2, ...
    """

    data: str = "digits"
    epochs: int = 60
    precision: zoo.recipe.Precision = "float32"
    width: float = 0.25
    """Factor on the widths of the CIFAR-10 net."""
    generation: int = 0
    """Number of the generation. 0 learns from labels alone."""
    teacher: str = ""
    """Run folder or .keras file. Default: the run of the generation before, with this seed."""
    temperature: float = 2.0
    """Temperature of the soft targets."""
    soft_weight: float = 0.5
    """Share of the soft targets in the loss; the labels have the rest."""

    def model(self, data, steps):
        net = zoo.nin(data.image_shape, data.classes, width=self.width)
        if self.generation == 0:
            return net
        from zoo.training import teachers

        return zoo.Distiller(
            student=net,
            teacher=teachers.load(self.teachers[0]),
            temperature=self.temperature,
            soft_weight=self.soft_weight,
        )

    @property
    def teachers(self):
        """Paths of the teachers, which `zoo pack` puts in its archive."""
        if self.generation == 0:
            return ()
        return (self.teacher or self._generation_before(),)

    def _generation_before(self):
        seed = [f"seed={self.seed}"] if self.seed else []
        before = [f"generation={self.generation - 1}"] if self.generation > 1 else []
        return f"runs/digits_born_again/{','.join([*seed, *before]) or 'default'}"
