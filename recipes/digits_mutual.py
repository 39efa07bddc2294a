"""Deep mutual learning on 8x8 digits: two peers and no teacher; not measured."""

from dataclasses import dataclass

import keras

import zoo
import zoo.recipe
from zoo.losses import SoftTargets


class Peers(keras.Model):
    """Nets that learn from the labels, and from one another as they are at this step.

    Zhang et al., arXiv:1706.00384, equation 10: of each, the loss of the labels plus the mean of
    the divergences from what the others say. All take their step at once, not in turns.
    """

    def __init__(self, peers):
        super().__init__()
        self.peers = list(peers)
        self.soft_targets = SoftTargets(temperature=1.0)

    def shipped_model(self):
        """The one that ships."""
        return self.peers[0]

    def call(self, images, training=None):
        return [peer(images, training=training) for peer in self.peers]

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        objective = 0.0
        for index, said in enumerate(y_pred):
            objective += super().compute_loss(x, y, said, sample_weight, training)
            others = [*y_pred[:index], *y_pred[index + 1 :]]
            divergences = [self.soft_targets(other, said, sample_weight) for other in others]
            objective += sum(divergences) / len(others)
        return objective

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        return super().compute_metrics(x, y, y_pred[0], sample_weight)


@dataclass(frozen=True)
class Recipe(zoo.recipe.Recipe):
    """The first peer ships; the second has the width that you give it."""

    data: str = "digits"
    epochs: int = 60
    precision: zoo.recipe.Precision = "float32"
    width: float = 0.25
    """Factor on the widths of the CIFAR-10 net, of the net that ships."""
    peer_width: float = 0.25
    """Of the other."""

    def model(self, data, steps):
        widths = (self.width, self.peer_width)
        return Peers(zoo.nin(data.image_shape, data.classes, width=width) for width in widths)
