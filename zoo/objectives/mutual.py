"""Deep Mutual Learning (arXiv:1706.00384): nets that teach one another, without a teacher."""

import math
import threading

import keras
from keras import ops

from zoo.losses import SoftTargets, check_temperature, loss_object, replicas
from zoo.objectives.compatibility import check_kinds
from zoo.objectives.probabilities import kinds_of
from zoo.objectives.settings import LiveSettings
from zoo.objectives.step_data import unpacked
from zoo.objectives.wrapping import Wrapping


@keras.saving.register_keras_serializable("zoo")
class MutualLearning(Wrapping, LiveSettings, keras.Model):
    """Peers that learn from the labels and from one another.

    Examples -> the logits of the first peer. `fit` minimizes the sum over the K peers of

        L_k + weight / (K - 1) x sum over the other peers l of soft_target_loss(k, l)

    plus the regularization of each. L_k is the compiled loss of peer k, and l gives the soft
    targets, of which it learns nothing. At temperature 1 and weight 1 it is equation 10 of Zhang et
    al., Deep Mutual Learning, arXiv:1706.00384. All peers take their steps at once; the authors let
    them take turns. `evaluate` measures the objective of `fit`; metrics, `predict` and calls are
    those of the first peer, which ships. `.peers` are ordinary models.

        both = zoo.MutualLearning([zoo.nin(width=0.25, name="a"), zoo.nin(width=0.5, name="b")])
        both.compile("adam", zoo.SoftmaxCrossEntropy(), metrics=["accuracy"])
        both.fit(images, labels)

    The logs have the label loss of each peer, `peer1_loss` and so on, and `mutual_loss`: the sum of
    the divergences, divided by K - 1.

    Arguments:
        peers: two or more built Keras models with one output, the logits (batch, classes), that
            take the same examples. They share no weights.
        temperature: the temperature of the soft targets, above 0.
        weight: the weight of what the peers teach, a number >= 0. With 0 each learns alone. It and
            the temperature may be assigned at any time; the next step uses them.

    Raises:
        ValueError: for fewer than two peers; peers that share weights, differ in their classes, or
            give probabilities; a temperature or weight out of range.
    """

    def __init__(self, peers, *, temperature=1.0, weight=1.0, name=None, **kwargs):
        # Without autocast the peers receive the examples unchanged, as they do on their own.
        super().__init__(name=name, autocast=False, **kwargs)
        self.peers = list(peers)
        self.temperature, self.weight = temperature, weight
        self._check_peers()
        self.check_settings()
        self._all = threading.local()
        names = [*(f"peer{number}_loss" for number in range(1, len(self.peers) + 1)), "mutual_loss"]
        self._logs = [keras.metrics.Mean(name, "float32") for name in names]
        self.build_as_shipped()

    def _check_peers(self):
        if len(self.peers) < 2:
            raise ValueError(f"MutualLearning takes two peers or more; received {len(self.peers)}.")
        for peer in self.peers:
            check_kinds("peer", peer, kinds_of(peer))
        shapes = [peer.output_shape for peer in self.peers]
        if any(shape != shapes[0] for shape in shapes):
            raise ValueError(f"All peers give logits of one shape; received {shapes}.")
        variables = [id(variable) for peer in self.peers for variable in peer.variables]
        if len(set(variables)) < len(variables):
            raise ValueError(
                "Two peers share weights, so they would learn nothing from each other. Make each "
                "of its own, for example with keras.models.clone_model."
            )

    def settings(self):
        """Return what a step depends on, and may have changed since the last one."""
        return self.temperature, self.weight

    def check_settings(self):
        """Raise ValueError if a setting was assigned that a step cannot use."""
        check_temperature(self.temperature)
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise ValueError(f"weight is a finite number >= 0; received {self.weight!r}.")

    def shipped_model(self):
        """Return the plain model that ships: the first peer."""
        return self.peers[0]

    def call(self, inputs, training=None):
        if not getattr(self._all, "active", False):
            return self.peers[0](inputs, training=training)
        return [peer(inputs, training=training) for peer in self.peers]

    # The arguments of these two differ between the backends of Keras, but the data come last.
    def train_step(self, *arguments):
        *state, data = arguments
        return self._of_all(super().train_step, *state, data)

    def test_step(self, *arguments):
        *state, data = arguments
        return self._of_all(super().test_step, *state, unpacked(data))

    def _of_all(self, step, *arguments):
        self._all.active = True
        try:
            return step(*arguments)
        finally:
            self._all.active = False

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        if not isinstance(y_pred, list):
            return super().compute_loss(x, y, y_pred, sample_weight, training)
        examples = ops.cast(ops.shape(y_pred[0])[0], "float32")
        label_loss, soft_loss = loss_object(self.loss), SoftTargets(self.temperature)
        # That of the first peer, with the regularization of all of them.
        objective = super().compute_loss(x, y, y_pred[0], sample_weight, training)
        objective, taught = ops.cast(objective, "float32"), 0.0
        for index, logits in enumerate(y_pred):
            loss = ops.cast(label_loss(y, logits, sample_weight=sample_weight), "float32")
            self._log(index, loss, examples)
            objective = objective + loss if index else objective
            others = [*y_pred[:index], *y_pred[index + 1 :]]
            losses = [soft_loss(other, logits, sample_weight=sample_weight) for other in others]
            taught = taught + sum(losses) / len(others)
        self._log(-1, taught, examples)
        return objective + self.weight * taught

    def _log(self, index, loss, examples):
        # Keras has divided the loss by the number of replicas.
        self._logs[index].update_state(loss * replicas(), sample_weight=examples)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        first = y_pred[0] if isinstance(y_pred, list) else y_pred
        return super().compute_metrics(x, y, first, sample_weight)

    def get_config(self):
        return {
            "name": self.name,
            **self.frozen_config(),
            "peers": [keras.saving.serialize_keras_object(peer) for peer in self.peers],
            "temperature": self.temperature,
            "weight": self.weight,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        restore = keras.saving.deserialize_keras_object
        peers = [restore(peer, custom_objects=custom_objects) for peer in config["peers"]]
        return cls(**{**config, "peers": peers})
