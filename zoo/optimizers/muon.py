"""Muon: gradient descent whose updates of the convolution kernels are made orthogonal."""

import keras
from keras import ops

# The coefficients of the iteration in the authors' code. They take singular values to about 1
# (0.7 to 1.2) in few steps, instead of exactly to 1 in many.
_COEFFICIENTS = 3.4445, -4.7750, 2.0315


@keras.saving.register_keras_serializable("zoo")
class Muon(keras.optimizers.SGD):
    """`keras.optimizers.SGD` that makes the update of each convolution kernel orthogonal.

    For a kernel (h, w, in, out) with the gradient g, seen as a matrix (h w in, out):

        velocity <- momentum velocity + g
        kernel   <- sqrt(out) kernel / |kernel| - learning_rate orthogonal(g + momentum velocity)

    where `orthogonal` replaces the singular values of a matrix by numbers near 1, and |kernel| is
    the root of the sum of squares. So all directions of a kernel learn at one speed, whatever the
    size of their gradients, and its length stays what it is: it should be a kernel in front of a
    normalization, which makes the length meaningless. All other variables are updated by SGD with
    Nesterov momentum. Jordan et al., "Muon: An optimizer for hidden layers in neural networks",
    2024, and the authors' code for CIFAR-10 (github.com/KellerJordan/cifar10-airbench).
    `keras.optimizers.Muon` takes matrices alone, and updates convolution kernels by AdamW.

    Arguments:
        learning_rate: a number or a schedule, for the kernels.
        momentum: the momentum of the kernels, in 0..1.
        plain: the names of layers whose kernels are updated by SGD too: those that no
            normalization follows, such as the one that makes the class maps.
        plain_rate: the learning rate of the plain layers, as a multiple of `learning_rate`.
        bias_rate: the learning rate of the other variables, as a multiple of `learning_rate`.
        plain_momentum: the momentum of the variables that SGD updates, in 0..1.
        steps: the number of steps of the iteration that makes a matrix orthogonal, 1 or more.
        **kwargs: further arguments of `keras.optimizers.SGD`.

    Raises:
        ValueError: if a momentum is not in 0..1, a rate is negative or there are no steps.
    """

    def __init__(
        self,
        learning_rate=0.24,
        momentum=0.6,
        *,
        plain=("class_maps",),
        plain_rate=2.8,
        bias_rate=0.22,
        plain_momentum=0.85,
        steps=3,
        **kwargs,
    ):
        kwargs = {key: value for key, value in kwargs.items() if key != "nesterov"}
        if not (0 <= plain_momentum <= 1 and min(plain_rate, bias_rate) >= 0 and steps >= 1):
            raise ValueError(
                f"plain_momentum is in 0..1, the rates are 0 or more, and steps is 1 or more; "
                f"received {plain_momentum}, {plain_rate}, {bias_rate} and {steps}."
            )
        # Keras makes the velocities if there is a momentum.
        super().__init__(learning_rate, plain_momentum, nesterov=True, **kwargs)
        self.kernel_momentum, self.steps = momentum, steps
        if not 0 <= momentum <= 1:
            raise ValueError(f"momentum is in 0..1; received {momentum}.")
        self.plain = (plain,) if isinstance(plain, str) else tuple(plain)
        self.plain_rate, self.bias_rate = plain_rate, bias_rate

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self._rates = [self._rate_of(variable) for variable in variables]

    def _rate_of(self, variable):
        """Return the multiple of the rate by which SGD updates a variable; None for Muon."""
        folders = variable.path.split("/")
        if any(name in folders for name in self.plain):
            return self.plain_rate
        return None if len(variable.shape) == 4 else self.bias_rate

    def update_step(self, gradient, variable, learning_rate):
        # Keras passes the backend's own variable, which has no path in TensorFlow.
        index = self._get_variable_index(variable)
        if self._rates[index] is not None:
            rate = ops.cast(learning_rate, "float32") * self._rates[index]
            super().update_step(gradient, variable, rate)
            return
        velocity = self.momentums[index]
        gradient = ops.cast(gradient, velocity.dtype)
        moved = self.kernel_momentum * ops.convert_to_tensor(velocity) + gradient
        self.assign(velocity, moved)
        step = ops.reshape(gradient + self.kernel_momentum * moved, (-1, gradient.shape[-1]))
        step = ops.reshape(orthogonal(step, self.steps), gradient.shape)
        kernel = ops.convert_to_tensor(variable)
        length = ops.sqrt(ops.maximum(ops.sum(ops.square(kernel)), 1e-30))
        kernel = kernel * ops.cast(gradient.shape[-1] ** 0.5 / length, kernel.dtype)
        rate = ops.cast(learning_rate, kernel.dtype)
        self.assign(variable, kernel - rate * ops.cast(step, kernel.dtype))

    def get_config(self):
        config = super().get_config()
        config.pop("nesterov")
        return {
            **config,
            "momentum": self.kernel_momentum,
            "plain": list(self.plain),
            "plain_rate": self.plain_rate,
            "bias_rate": self.bias_rate,
            "plain_momentum": self.momentum,
            "steps": self.steps,
        }


def orthogonal(matrix, steps):
    """Return a matrix of the same singular vectors, whose singular values are near 1.

    (rows, columns) -> (rows, columns). Each step of the iteration computes a x + b y x + c y^2 x
    with y = x x^T. It begins with the matrix divided by the root of its sum of squares.
    """
    a, b, c = _COEFFICIENTS
    high = matrix.shape[0] > matrix.shape[1]
    x = ops.transpose(matrix) if high else matrix
    x = x / (ops.sqrt(ops.sum(ops.square(x))) + 1e-7)
    for _ in range(steps):
        y = ops.matmul(x, ops.transpose(x))
        x = a * x + ops.matmul(b * y + c * ops.matmul(y, y), x)
    return ops.transpose(x) if high else x
