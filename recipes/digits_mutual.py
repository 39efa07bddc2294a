"""Deep mutual learning on 8x8 digits: two peers and no teacher; not measured."""

from dataclasses import dataclass

import zoo
import zoo.recipe


@dataclass(frozen=True)
class Recipe(zoo.recipe.Recipe):
    """The first net is saved and exported. The second may have another width.

    Zhang et al., arXiv:1706.00384: see `zoo.MutualLearning`.
    """

    data: str = "digits"
    epochs: int = 60
    precision: zoo.recipe.Precision = "float32"
    width: float = 0.25
    """Factor on the widths of the CIFAR-10 net, for the first net."""
    peer_width: float = 0.25
    """Factor on the widths of the CIFAR-10 net, for the second net."""

    def model(self, data, steps):
        widths = (self.width, self.peer_width)
        return zoo.MutualLearning(
            [zoo.nin(data.image_shape, data.classes, width=width) for width in widths]
        )
