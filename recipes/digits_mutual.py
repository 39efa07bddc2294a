"""Deep mutual learning on 8x8 digits: two peers and no teacher; not measured."""

from dataclasses import dataclass

import keras

import zoo
import zoo.recipe
from zoo.losses import SoftTargets


class Peers(keras.Model):
    """Nets that learn from the labels and from one another.

    The loss of a net is that of the labels plus the mean of its divergences from the other nets.
    Zhang et al., arXiv:1706.00384, equation 10. All nets take their steps at once, not in turns.
    """

    def __init__(self, peers):
        super().__init__()
        self.peers = list(peers)
        self.soft_targets = SoftTargets(temperature=1.0)

    def shipped_model(self):
        """Return the net that is saved and exported."""
        return self.peers[0]

    def call(self, images, training=None):
        return [peer(images, training=training) for peer in self.peers]

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        objective = 0.0
        for index, logits in enumerate(y_pred):
            objective += super().compute_loss(x, y, logits, sample_weight, training)
            others = [*y_pred[:index], *y_pred[index + 1 :]]
            divergences = [self.soft_targets(other, logits, sample_weight) for other in others]
            objective += sum(divergences) / len(others)
        return objective

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        return super().compute_metrics(x, y, y_pred[0], sample_weight)


@dataclass(frozen=True)
class Recipe(zoo.recipe.Recipe):
    """The first net is saved and exported. The second may have another width."""

    data: str = "digits"
    epochs: int = 60
    precision: zoo.recipe.Precision = "float32"
    width: float = 0.25
    """Factor on the widths of the CIFAR-10 net, for the first net."""
    peer_width: float = 0.25
    """Factor on the widths of the CIFAR-10 net, for the second net."""

    def model(self, data, steps):
        widths = (self.width, self.peer_width)
        return Peers(zoo.nin(data.image_shape, data.classes, width=width) for width in widths)
