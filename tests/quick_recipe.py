"""A recipe file that trains and is searched in no time."""

RECIPE = '''"""A perceptron that learns in no time: for tests."""

from dataclasses import dataclass, replace

import zoo
import zoo.recipe


@dataclass(frozen=True)
class Recipe(zoo.recipe.Recipe):
    epochs: int = 1
    steps_per_epoch: int = 4
    batch_size: int = 32
    precision: zoo.recipe.Precision = "float32"
    validation: float = 0.25
    units: int = 4

    def search(self, hp):
        return replace(
            self,
            learning_rate=hp.Float("learning_rate", 1e-3, 1.0, sampling="log"),
            units=hp.Choice("units", [4, 8, 16]),
        )

    def model(self, data, steps):
        return zoo.mlp(data.image_shape, data.classes, hidden=(self.units,))
'''
