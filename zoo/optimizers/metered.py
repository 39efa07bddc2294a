"""Measure the gradients of each layer in training: Deeply-Supervised Nets, section 3.2."""

import keras
import numpy as np
from keras import ops


@keras.saving.register_keras_serializable("zoo")
class MeteredSGD(keras.optimizers.SGD):
    """`keras.optimizers.SGD` that adds up the mean square of every gradient it receives.

    The gradients are those of the loss, before weight decay. The sums are variables of the
    optimizer, which are saved and restored with the others. `GradientMeter` reads them.
    """

    def build(self, variables):
        super().build(variables)
        self.metered_steps = self.add_variable((), name="metered_steps", dtype="float32")
        self.paths = [variable.path for variable in variables]
        self.squares = [
            self.add_variable((), name=f"square_{index}", dtype="float32")
            for index in range(len(variables))
        ]

    def update_step(self, gradient, variable, learning_rate):
        square = ops.mean(ops.square(ops.cast(gradient, "float32")))
        # Keras passes the backend's own variable, which has no path in TensorFlow.
        index = self._get_variable_index(variable)
        self.squares[index].assign_add(square)
        if index == 0:
            self.metered_steps.assign_add(1.0)
        super().update_step(gradient, variable, learning_rate)

    def read(self):
        """Return {variable path: mean square gradient since the last call}, and reset the sums."""
        steps = float(ops.convert_to_numpy(self.metered_steps))
        means = {
            path: float(ops.convert_to_numpy(total)) / max(steps, 1.0)
            for path, total in zip(self.paths, self.squares, strict=True)
        }
        for variable in (self.metered_steps, *self.squares):
            variable.assign(np.zeros(()))
        return means


class GradientMeter(keras.callbacks.Callback):
    """Logs the mean square gradient of a layer's kernel over an epoch, as `gradient_<layer>`.

    The model must be compiled with `MeteredSGD`.

    Arguments:
        names: the names of the layers. A layer with several kernels is measured at its first.
    """

    def __init__(self, names):
        super().__init__()
        self.names = names

    def on_epoch_end(self, epoch, logs=None):
        means = self.model.optimizer.read()
        for name in self.names:
            paths = [path for path in means if f"{name}/" in path and path.endswith("kernel")]
            logs[f"gradient_{name}"] = means[paths[0]]
