"""Knowledge of a teacher's hidden layers: what each of them gives for an example."""

import keras
from keras import layers, ops

from zoo.objectives.feature_math import flat, of_one_size, resized, unit
from zoo.objectives.knowledge.base import Knowledge, are_maps


@keras.saving.register_keras_serializable("zoo")
class Hint(Knowledge):
    """The mean squared difference of a teacher's feature and the student's, through a connector.

    Maps (batch, h, w, c), or vectors (batch, units), of any size and width on either side ->
    (batch,), summed over the pairs of layers. The student's map is resized to the teacher's height
    and width, if they differ. The connector, a 1 x 1 convolution, or a dense layer for vectors,
    maps it to the teacher's channels. Romero et al., FitNets, arXiv:1412.6550, equation 3. Their
    connector is a convolution large enough to change the size by itself.
    """

    def __init__(self, student, teacher, *, weight=1.0, **kwargs):
        super().__init__(student, teacher, weight=weight, **kwargs)
        self.connectors = []
        self.sizes = []

    def connect(self, names, student, teacher):
        if len(student) != len(teacher) or len(student) not in (2, 4) or None in teacher[1:]:
            self.refuse(names, student, teacher, "two maps, or two vectors, of known sizes")
        number, channels = len(self.connectors) + 1, teacher[-1]
        if len(student) == 2:
            connector = layers.Dense(channels, name=f"connector{number}", dtype="float32")
        else:
            connector = layers.Conv2D(
                channels,
                1,
                data_format="channels_last",
                name=f"connector{number}",
                dtype="float32",
            )
        connector.build((*teacher[:-1], student[-1]))
        self.connectors.append(connector)
        self.sizes.append(teacher[1:-1] if teacher[1:-1] != student[1:-1] else None)

    def loss(self, student, teacher, labels):
        errors = []
        pairs = zip(student, teacher, self.connectors, self.sizes, strict=True)
        for hidden, target, connector, size in pairs:
            difference = flat(connector(resized(hidden, size) if size else hidden) - target)
            errors.append(ops.mean(ops.square(difference), axis=-1))
        return sum(errors)


@keras.saving.register_keras_serializable("zoo")
class AttentionTransfer(Knowledge):
    """Attention transfer: the squared difference of attention maps, averaged over places.

    Maps (batch, h, w, c) of any width -> (batch,), summed over the pairs of layers. Attention is
    the mean over channels of |activation|^power. The larger of two attention maps is resized to
    the size of the smaller; then both are scaled to length 1 over all places. Zagoruyko and
    Komodakis, arXiv:1612.03928, section 3.1, and the authors' code.
    """

    def __init__(self, student, teacher, *, power=2, weight=1.0, **kwargs):
        super().__init__(student, teacher, weight=weight, **kwargs)
        self.power = power

    def connect(self, names, student, teacher):
        if not are_maps(student, teacher):
            self.refuse(names, student, teacher, "two maps of known sizes")

    def of_pair(self, *maps):
        student, teacher = of_one_size(*map(self._attention, maps))
        difference = unit(flat(student)) - unit(flat(teacher))
        return ops.mean(ops.square(difference), axis=-1)

    def _attention(self, maps):
        return ops.mean(ops.abs(maps) ** self.power, axis=-1, keepdims=True)

    def get_config(self):
        return {**super().get_config(), "power": self.power}
