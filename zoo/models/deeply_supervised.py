"""`nin_dsn`: Network in Network with companion objectives (arXiv:1409.5185)."""

import keras
from keras import layers

from zoo.layers import CompanionHead, MLPConv
from zoo.models import pretrained
from zoo.models.network_in_network import nin
from zoo.objectives import DeeplySupervised

# What `nin_dsn` hands on to `DeeplySupervised`; its other arguments are those of `nin`.
_SUPERVISION = (
    *("companion_weight", "companion_loss", "threshold", "soft_weight", "temperature"),
    *("decoders", "decoder_weight"),
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
    """A `nin` whose hidden layers also learn from the labels, each by a companion head.

    Raw images (batch, *input_shape), 0..255 -> logits (batch, classes), float32. A
    `DeeplySupervised` model: `fit` takes one label an image, `predict` gives the output's logits,
    `.trunk` is the plain `nin` to ship. `zoo.preset` has the arguments of the paper and of its
    released code. Lee et al., Deeply-Supervised Nets, arXiv:1409.5185.

    Arguments:
        companion_form: "pool" or "dense", as in `CompanionHead`.
        companion_taps: where they attach: "mlpconv", to the hidden mlpconv layers, or "conv", to
            the first convolution of every mlpconv layer, before its ReLU, as the released code.
        weights: as of `nin`, of a model that was trained with companions; these come with it,
            unless the number of classes is another.
        companion_initializer, companion_regularizer: of the heads' kernels.
        arguments: companion_weight, companion_loss, threshold, soft_weight, temperature, decoders
            and decoder_weight are those of `DeeplySupervised`; all others those of `nin`.

    Raises:
        ValueError: for unknown taps, and as `nin` and `DeeplySupervised`.
    """
    if companion_taps not in ("mlpconv", "conv"):
        raise ValueError(f'companion_taps is "mlpconv" or "conv"; received {companion_taps!r}.')
    trained = None if weights is None else pretrained.load(weights, with_companions=True)
    supervision = {key: arguments.pop(key) for key in _SUPERVISION if key in arguments}
    if companion_taps == "conv":
        arguments["linear_taps"] = True
    trunk = nin(input_shape, classes, weights=trained, name="trunk", **arguments)
    classes = trunk.output_shape[-1]
    # All but the last: the output classifies that one already, or it makes the class maps.
    kind = layers.Conv2D if companion_taps == "conv" else MLPConv
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
