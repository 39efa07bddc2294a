"""`nin`: Network in Network (arXiv:1312.4400)."""

import keras
from keras import layers

from zoo.layers import GlobalAveragePoolingHead, MLPConv
from zoo.layers.mlpconv import copy_of, normalization_layer
from zoo.models import pretrained
from zoo.models.variants import VARIANTS


def nin(
    input_shape=None,
    classes=None,
    *,
    weights=None,
    variant="modern",
    preprocessing=None,
    width=None,
    dropout=None,
    final_relu=None,
    head="pool",
    head_dropout=0.0,
    linear_taps=False,
    normalization=None,
    kernel_regularizer=None,
    name="nin",
):
    """Network in Network: mlpconv layers, and global average pooling of one map a class.

    Raw images (batch, *input_shape), 0..255 -> logits (batch, classes), float32. Built, not
    compiled. To cut at: `mlpconv1`, `mlpconv2`, ..., `class_maps` (the confidence maps) and
    `logits`. Lin, Chen and Yan, arXiv:1312.4400.

    Arguments:
        input_shape: (height, width, channels); (32, 32, 3), or that of the weights. With weights
            another height and width are possible, but not other channels.
        classes: 2 or more; 10, or those of the weights.
        weights: trained ones, see `zoo.pretrained.load`: "mnist", "fashion_mnist" or "cifar10";
            a folder of saved_models/, such as "mnist_student"; or the path of an export. With
            another number of classes, all but the head. Compared with their checksum and card.
        variant: "modern", the one to use, has batch normalization, He initialization and linear
            class maps. "plain" is the same without normalization and with the papers' dropout of
            0.5; "cnn" is "plain" without the 1 x 1 convolutions. "mnist", "cifar10", "cifar100",
            "svhn" (mavenlin/cuda-convnet) and "imagenet" (Caffe model zoo, 224 x 224) are the
            released definitions: Gaussian initialization, pooling that rounds up, classical
            dropout (all units pass, halved, when not training) and a ReLU on the class maps.
        preprocessing: a layer, or a list of layers, for raw pixels, such as
            `[GlobalContrastNormalization(), whitening]` for the paper's CIFAR. None scales to
            -1..1; `[]` leaves the pixels alone.
        width: factor on all hidden widths; 1, or that of the weights. 0.25 makes a small student.
        dropout: rate after each pooling that has one in the variant (in "imagenet" the third);
            None for the variant's own, 0.5 in the released ones.
        final_relu: a ReLU on the class maps; None for the variant's own. The released nets have
            one, and often never start: once all maps of an image are negative its logits are 0,
            no gradient passes, and the loss stays at ln(classes). Deeply-Supervised Nets left it
            out, and so does "modern".
        head: "pool", the global average pooling of the class maps; or, to compare with, "dense":
            a fully connected layer on them, `logits`, as in section 4.6 of the paper.
        head_dropout: rate before the fully connected layer.
        linear_taps: make the first convolution of each mlpconv layer a layer of its own, `conv1`,
            `conv2`, ..., whose output, before its ReLU, the released code of Deeply-Supervised
            Nets supervises. The function and the parameters are the same.
        normalization: what follows each convolution, as `MLPConv` takes it: "batch", or a Keras
            layer or layer class. None for the variant's own.
        kernel_regularizer: of all convolutions, and of a dense head. Caffe's weight decay d is
            `L2(d / 2)` here.

    Raises:
        ValueError: for an unknown variant or head, fewer than 2 classes, a width or dropout out of
            range, an image too small for the variant, or weights that are not there, were changed,
            or do not fit.
    """
    if variant not in VARIANTS:
        raise ValueError(f"variant is one of {', '.join(VARIANTS)}; received {variant!r}.")
    trained = None if weights is None else pretrained.load(weights)
    own = _as_trained(trained, variant) if trained else {}
    input_shape = own.get("input_shape", (32, 32, 3)) if input_shape is None else input_shape
    classes = own.get("classes", 10) if classes is None else classes
    width = own.get("width", 1.0) if width is None else width
    preprocessing = own.get("preprocessing") if preprocessing is None else preprocessing
    if len(input_shape) != 3:
        raise ValueError(f"input_shape is (height, width, channels); received {input_shape}.")
    if classes < 2:
        raise ValueError(f"A classifier needs at least 2 classes; received classes={classes}.")
    if not width > 0:
        raise ValueError(f"width is a positive factor; received {width}.")
    spec = VARIANTS[variant]
    rate = spec.dropout if dropout is None else dropout
    for what, value in (("dropout", rate), ("head_dropout", head_dropout)):
        if not 0 <= value < 1:
            raise ValueError(f"{what} is a rate in 0 <= rate < 1; received {value}.")
    if head not in ("pool", "dense"):
        raise ValueError(f'head is "pool" or "dense"; received {head!r}.')
    if head_dropout and head == "pool":
        raise ValueError('head_dropout is of the fully connected layer that head="dense" adds.')

    images = x = keras.Input(input_shape, name="images")
    for layer in _as_list(preprocessing):
        x = layer(x)
    normalization = normalization or spec.normalization
    for index, block in enumerate(spec.blocks, 1):
        for layer in _mlpconv(
            index,
            block,
            width,
            normalization or spec.normalization,
            kernel_regularizer,
            linear_taps,
        ):
            x = layer(x)
        if index < len(spec.blocks):
            x = _pool(x, spec.released, name=f"pool{index}")
        if block.dropout and rate:
            x = layers.Dropout(rate, name=f"dropout{index}")(x)
            if spec.released:
                # Keras divides by the keep rate while training; the released nets multiply by it
                # when they predict, so that what follows sees half the values.
                x = layers.Rescaling(1 - rate, name=f"classical_dropout{index}")(x)

    relu = spec.final_relu if final_relu is None else final_relu
    pooling = GlobalAveragePoolingHead(
        classes,
        activation="relu" if relu else None,
        kernel_initializer=_gaussian(spec.head_deviation) if spec.head_deviation else "he_normal",
        kernel_regularizer=kernel_regularizer,
    )
    # The head's layers stand in the graph by themselves, so that `get_layer("class_maps")` finds
    # the confidence maps.
    x = pooling.class_maps(x)
    if head == "pool":
        x = pooling.average(x)
    else:
        x = layers.Flatten(name="flatten")(x)
        if head_dropout:
            x = layers.Dropout(head_dropout, name="head_dropout")(x)
        x = layers.Dense(
            classes, kernel_regularizer=kernel_regularizer, name="logits", dtype="float32"
        )(x)
    model = keras.Model(images, x, name=name)
    return trained.give(model) if trained else model


def _mlpconv(index, block, width, normalization, kernel_regularizer, linear_tap):
    """The layers of a block: one MLPConv, or its first convolution and the rest."""
    filters = [max(1, round(filters * width)) for filters in block.filters]
    initializers = [_gaussian(d) for d in block.deviations] or ["he_normal"] * len(filters)
    first = {"strides": block.strides, "padding": block.padding}
    common = {"kernel_regularizer": kernel_regularizer}
    mlp = {**common, "normalization": normalization, "name": f"mlpconv{index}"}
    if not linear_tap:
        yield MLPConv(filters, block.kernel_size, kernel_initializer=initializers, **first, **mlp)
        return
    yield layers.Conv2D(
        filters[0],
        block.kernel_size,
        use_bias=normalization is None,
        kernel_initializer=initializers[0],
        name=f"conv{index}",
        **first,
        **common,
    )
    if normalization:
        yield copy_of(normalization_layer(normalization), name=f"conv{index}_norm")
    yield layers.ReLU(name=f"relu{index}")
    if filters[1:]:
        yield MLPConv(filters[1:], 1, kernel_initializer=initializers[1:], **mlp)


def _as_trained(trained, variant):
    """Return the arguments of `nin` for a net that these weights fit."""
    own = trained.trunk
    filters = {layer.name: layer.filters for layer in own.layers if isinstance(layer, MLPConv)}
    if "mlpconv1" not in filters:
        raise ValueError(f"{trained.version} is no nin: it has no layer mlpconv1.")
    pairs = [
        pair
        for index, block in enumerate(VARIANTS[variant].blocks, 1)
        # From the last: with linear taps, the first convolution is not in the MLPConv.
        for pair in zip(filters.get(f"mlpconv{index}", ())[::-1], block.filters[::-1], strict=False)
    ]
    # Any factor between these gives the same numbers of filters, which are rounded.
    least = max((filters - 0.5) / full for filters, full in pairs)
    most = min((filters + 0.5) / full for filters, full in pairs)
    return {
        "input_shape": own.input_shape[1:],
        "classes": own.output_shape[-1],
        "width": (least + most) / 2,
        "preprocessing": trained.preprocessing(),
    }


def _as_list(preprocessing):
    if preprocessing is None:
        return [layers.Rescaling(1 / 127.5, offset=-1.0, name="scale", dtype="float32")]
    return preprocessing if isinstance(preprocessing, (list, tuple)) else [preprocessing]


def _gaussian(deviation):
    return keras.initializers.RandomNormal(stddev=deviation)


def _pool(x, released, name):
    """3 x 3 max pooling of stride 2; the released nets round the number of windows up."""
    if not released:
        return layers.MaxPooling2D(3, 2, padding="same", name=name)(x)
    height, width = x.shape[1:3]
    if min(height, width) < 3:
        raise ValueError(f"{name} receives maps of {height} x {width}; the image is too small.")
    # Windows of 3 at a stride of 2 cover an odd size exactly; on an even one the last window hangs
    # over by one row, which is where "same" pads.
    if height % 2 != width % 2:
        raise ValueError(
            f"{name} receives maps of {height} x {width}; the released nets pool square images, or "
            "those whose height and width are both odd or both even."
        )
    return layers.MaxPooling2D(3, 2, padding="valid" if height % 2 else "same", name=name)(x)
