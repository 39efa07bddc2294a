"""`nin_dsn`: Network in Network with companion objectives (arXiv:1409.5185)."""

import keras
from keras import layers

from zoo.layers import CompanionHead, MLPConv
from zoo.models import pretrained
from zoo.models.network_in_network import nin
from zoo.objectives import DeeplySupervised

# The arguments of `nin_dsn` that it passes to `DeeplySupervised`. All others go to `nin`.
_SUPERVISION = (
    *("companion_weight", "companion_loss", "threshold", "soft_weight", "temperature"),
    *("synergy", "decoders", "decoder_weight"),
)


def nin_dsn(
    input_shape=None,
    classes=None,
    *,
    weights=None,
    companion_form="pool",
    companion_taps="mlpconv",
    companion_initializer="glorot_uniform",
    companion_regularizer=None,
    name="nin_dsn",
    **arguments,
):
    """Build a `nin` whose hidden layers also learn from the labels, each by a companion head.

    Raw images (batch, *input_shape), pixels 0..255 -> logits (batch, classes), float32

    The result is a `DeeplySupervised` model: `fit` takes one label per image, `predict` returns the
    logits of the output, and `.trunk` is the plain `nin` to ship. `zoo.preset` returns the
    arguments of the paper and of its released code. Lee et al., Deeply-Supervised Nets,
    arXiv:1409.5185.

    Arguments:
        input_shape, classes: as in `nin`.
        weights: as in `nin`, from a model that was trained with companions. The weights of the
            companions are loaded too, unless the number of classes differs.
        companion_form: "pool", "dense" or "conv", as in `CompanionHead`.
        companion_taps: the layers that get a companion. "mlpconv" takes the hidden mlpconv layers.
            "conv" takes the first convolution of every mlpconv layer, before its ReLU, as the
            released code does.
        companion_initializer: the initializer of the companions' kernels.
        companion_regularizer: the regularizer of the companions' kernels.
        arguments: companion_weight, companion_loss, threshold, soft_weight, temperature, synergy,
            decoders and decoder_weight go to `DeeplySupervised`, all others to `nin`.

    Raises:
        ValueError: if the taps are unknown, and where `nin` and `DeeplySupervised` raise it.
    """
    if companion_taps not in ("mlpconv", "conv"):
        raise ValueError(f'companion_taps is "mlpconv" or "conv"; received {companion_taps!r}.')
    trained = None if weights is None else pretrained.load(weights, with_companions=True)
    supervision = {key: arguments.pop(key) for key in _SUPERVISION if key in arguments}
    if companion_taps == "conv":
        arguments["linear_taps"] = True
    trunk = nin(input_shape, classes, weights=trained, name="trunk", **arguments)
    classes = trunk.output_shape[-1]
    kind = layers.Conv2D if companion_taps == "conv" else MLPConv
    # The last one gets no companion: the output classifies it already, or it is `class_maps`.
    taps = [layer.name for layer in trunk.layers if isinstance(layer, kind)][:-1]
    companions = {
        tap: CompanionHead(
            classes,
            companion_form,
            kernel_initializer=keras.initializers.get(companion_initializer).clone(),
            kernel_regularizer=companion_regularizer,
            name=f"{tap}_companion",
        )
        for tap in taps
    }
    model = DeeplySupervised(trunk, companions, name=name, **supervision)
    return trained.give(model) if trained else model
