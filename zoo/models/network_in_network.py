"""`nin`: Network in Network (arXiv:1312.4400)."""

import keras
from keras import layers

from zoo import memory
from zoo.layers import Dirac, GlobalAveragePoolingHead, ImageClassifier, MLPConv
from zoo.layers.mlpconv import copy_of, normalization_layer
from zoo.models import pretrained
from zoo.models.variants import VARIANTS


def nin(
    input_shape=None,
    classes=None,
    *,
    weights=None,
    variant=None,
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
    """Build Network in Network: mlpconv layers, then global average pooling of a map per class.

    Raw images (batch, *input_shape), pixels 0..255 -> logits (batch, classes), float32

    The model is built, but not compiled. These layers have fixed names, so that
    `model.get_layer(name).output` returns their output: `mlpconv1`, `mlpconv2`, ..., `class_maps`
    (the confidence maps) and `logits`. Lin, Chen and Yan, arXiv:1312.4400.

    Arguments:
        input_shape: (height, width, channels). The default is (32, 32, 3), or the shape that the
            weights were trained on. With weights, height and width may differ from that shape;
            the channels may not.
        classes: the number of classes, 2 or more. The default is 10, or the number of the weights.
        weights: trained weights, see `zoo.pretrained.load`: "mnist", "fashion_mnist" or "cifar10";
            the name of a trained model, such as "mnist_student"; or the path of an export, a run
            folder or a `.keras` file. With another number of classes, all layers but the head are
            loaded. The files of an export are compared with their checksums and their card first.
        variant: None takes "modern", or the variant of the weights among "modern", "fast" and
            "small". "modern" has batch normalization, He initialization and
            linear class maps. "plain" is the same without normalization and with the papers'
            dropout of 0.5; "cnn" is "plain" without the 1 x 1 convolutions. "fast" is
            for short trainings, see recipes/cifar10_fast.py: six mlpconv layers of 3 x 3 with 64 to
            256 filters, three of them residual, that start as the identity. "small" is the same
            with 32 to 56 filters, see recipes/cifar10_student.py. "mnist", "cifar10", "cifar100",
            "svhn" (mavenlin/cuda-convnet) and "imagenet" (Caffe model zoo, 224 x 224) are the
            released definitions: Gaussian initialization, pooling that rounds up, classical
            dropout (at prediction all units pass, halved) and a ReLU on the class maps.
        preprocessing: a layer, or a list of layers, for raw pixels, such as
            `[GlobalContrastNormalization(), whitening]` for the paper's CIFAR. None scales the
            pixels to -1..1; `[]` does not change them.
        width: a factor on the number of filters of all hidden layers. The default is 1, or the
            factor of the weights. 0.25 makes a small student.
        dropout: the dropout rate after each pooling that has one in the variant (in "imagenet" the
            third). None takes the variant's own rate, 0.5 in the released ones.
        final_relu: True puts a ReLU on the class maps. None takes the variant's own choice. The
            released nets have this ReLU, and often never begin to learn: once all maps of an image
            are negative its logits are 0, no gradient passes, and the loss stays at ln(classes).
            Deeply-Supervised Nets and "modern" leave it out.
        head: "pool" averages each class map. "dense" puts a fully connected layer, `logits`, on
            the class maps, for the comparison of section 4.6 of the paper.
        head_dropout: the dropout rate before the fully connected layer.
        linear_taps: True makes the first convolution of each mlpconv layer a layer of its own,
            `conv1`, `conv2`, ... The released code of Deeply-Supervised Nets supervises its output,
            before the ReLU. The function and the number of parameters do not change.
        normalization: the normalization after each convolution, as `MLPConv` takes it: "batch", or
            a Keras layer or layer class. None takes the variant's own, or that of the weights.
        kernel_regularizer: the regularizer of all convolutions, and of a dense head. Caffe's weight
            decay d is `L2(d / 2)` here.

    Raises:
        ValueError: if the variant or head is unknown, if there are fewer than 2 classes, if the
            width or a dropout rate is out of range, if the image is too small for the variant, or
            if the weights do not exist, were changed, or do not fit.
    """
    if variant not in (None, *VARIANTS):
        raise ValueError(f"variant is one of {', '.join(VARIANTS)}; received {variant!r}.")
    trained = None if weights is None else pretrained.load(weights)
    if variant is None:
        variant = _variant_of(trained.trunk) if trained else "modern"
    spec = VARIANTS[variant]
    fitting = _fitting_arguments(trained, spec) if trained else {}
    input_shape = fitting.get("input_shape", (32, 32, 3)) if input_shape is None else input_shape
    classes = fitting.get("classes", 10) if classes is None else classes
    width = fitting.get("width", 1.0) if width is None else width
    preprocessing = fitting.get("preprocessing") if preprocessing is None else preprocessing
    dropout = spec.dropout if dropout is None else dropout
    final_relu = spec.final_relu if final_relu is None else final_relu
    of_variant = spec.normalization and fitting.get("normalization", spec.normalization)
    normalization = normalization or of_variant
    _check(spec, input_shape, classes, width, dropout, head, head_dropout)
    if linear_taps and any(block.residual for block in spec.blocks):
        raise ValueError(f"The mlpconv layers of variant={variant!r} have no linear_taps.")

    images = x = keras.Input(input_shape, name="images", dtype="float32")
    for layer in _preprocessing_layers(preprocessing):
        x = layer(x)
    for index, block in enumerate(spec.blocks, 1):
        if min(x.shape[1:3]) < block.pool_size:
            raise ValueError(
                f"mlpconv{index} received maps of {x.shape[1]} x {x.shape[2]}, and halves them. "
                "The image is too small."
            )
        for layer in _mlpconv_layers(
            index, block, width, normalization, kernel_regularizer, linear_taps
        ):
            x = layer(x)
        if block.pooled and index < len(spec.blocks):
            x = _pool(x, spec.released, name=f"pool{index}")
        if block.dropout and dropout:
            x = _drop(x, dropout, spec.released, index)
    x = _class_maps_and_logits(
        x, classes, final_relu, spec.head_deviation, kernel_regularizer, head, head_dropout
    )
    model = ImageClassifier(images, x, name=name)
    return trained.give(model) if trained else model


def _check(spec, input_shape, classes, width, dropout, head, head_dropout):
    if len(input_shape) != 3:
        raise ValueError(f"input_shape is (height, width, channels); received {input_shape}.")
    if classes < 2:
        raise ValueError(f"A classifier needs at least 2 classes; received classes={classes}.")
    most = max(max(block.filters) for block in spec.blocks)
    if not 0 < width * most < 2**31:
        raise ValueError(
            f"width is a positive factor, and all layers have fewer than 2^31 filters; received "
            f"{width}."
        )
    for name, rate in (("dropout", dropout), ("head_dropout", head_dropout)):
        if not 0 <= rate < 1:
            raise ValueError(f"{name} is a rate in 0 <= rate < 1; received {rate}.")
    if head not in ("pool", "dense"):
        raise ValueError(f'head is "pool" or "dense"; received {head!r}.')
    if head_dropout and head == "pool":
        raise ValueError(
            f'head_dropout needs the fully connected layer of head="dense"; received head={head!r} '
            f"and head_dropout={head_dropout}."
        )
    weights = _weights(spec, input_shape[-1], classes, width)
    _require_memory(weights, f"width {width:g} and {classes} classes")


def _require_memory(weights, reason):
    what = f"The {weights:,} weights of a net with {reason}"
    memory.require(4 * weights, what, "give a smaller width, image or number of classes")


def _weights(spec, channels, classes, width):
    """Return how many numbers the kernels of a net with a pooling head have."""
    count = 0
    for block in spec.blocks:
        area = block.kernel_size**2
        for filters in _filters(block, width):
            count += area * channels * filters
            channels, area = filters, 1
    return count + channels * classes


def _filters(block, width):
    return [max(1, round(filters * width)) for filters in block.filters]


def _preprocessing_layers(preprocessing):
    if preprocessing is None:
        return [layers.Rescaling(1 / 127.5, offset=-1.0, name="scale", dtype="float32")]
    return preprocessing if isinstance(preprocessing, (list, tuple)) else [preprocessing]


def _mlpconv_layers(index, block, width, normalization, kernel_regularizer, linear_tap):
    """Yield the layers of a block: one MLPConv, or its first convolution and then the rest."""
    filters = _filters(block, width)
    initializers = [_gaussian(deviation) for deviation in block.deviations]
    initializers = initializers or [Dirac() if block.dirac else "he_normal"] * len(filters)
    first = {"strides": block.strides, "padding": block.padding}
    pool = {"pool_size": block.pool_size}
    residual = {"residual": block.residual}
    common = {"kernel_regularizer": kernel_regularizer}
    mlp = {**common, "normalization": normalization, "name": f"mlpconv{index}"}
    if not linear_tap:
        kernel = {"kernel_size": block.kernel_size, "kernel_initializer": initializers}
        yield MLPConv(filters, **kernel, **first, **pool, **residual, **mlp)
        return
    yield layers.Conv2D(
        filters[0],
        block.kernel_size,
        data_format="channels_last",
        use_bias=normalization is None,
        kernel_initializer=initializers[0],
        name=f"conv{index}",
        **first,
        **common,
    )
    if block.pool_size > 1:
        yield layers.MaxPooling2D(**pool, data_format="channels_last", name=f"conv{index}_pool")
    if normalization:
        yield copy_of(normalization_layer(normalization), name=f"conv{index}_norm")
    yield layers.ReLU(name=f"relu{index}")
    if filters[1:]:
        yield MLPConv(filters[1:], 1, kernel_initializer=initializers[1:], **mlp)


def _pool(x, released, name):
    """Apply 3 x 3 max pooling of stride 2; the released nets round the number of windows up."""
    if not released:
        return layers.MaxPooling2D(3, 2, "same", "channels_last", name=name)(x)
    height, width = x.shape[1:3]
    if min(height, width) < 3:
        raise ValueError(
            f"{name} received maps of {height} x {width}; it needs 3 x 3 or more. The image is too "
            "small."
        )
    # Windows of 3 at a stride of 2 cover an odd size exactly; on an even one the last window hangs
    # over by one row, which is where "same" pads.
    if height % 2 != width % 2:
        raise ValueError(
            f"{name} received maps of {height} x {width}; the released nets pool square images, or "
            "those whose height and width are both odd or both even."
        )
    padding = "valid" if height % 2 else "same"
    return layers.MaxPooling2D(3, 2, padding, "channels_last", name=name)(x)


def _drop(x, rate, released, index):
    x = layers.Dropout(rate, name=f"dropout{index}")(x)
    if not released:
        return x
    # Keras divides by the keep rate while training. The released nets multiply by it when they
    # predict, so the layers that follow see half the values.
    return layers.Rescaling(1 - rate, name=f"classical_dropout{index}")(x)


def _class_maps_and_logits(x, classes, relu, deviation, kernel_regularizer, head, head_dropout):
    pooling = GlobalAveragePoolingHead(
        classes,
        activation="relu" if relu else None,
        kernel_initializer=_gaussian(deviation) if deviation else "he_normal",
        kernel_regularizer=kernel_regularizer,
    )
    # The two layers of the pooling head are called one by one, so that `get_layer("class_maps")`
    # finds the confidence maps.
    x = pooling.class_maps(x)
    if head == "pool":
        return pooling.average(x)
    policy = keras.config.dtype_policy()
    if kernel_regularizer and policy.variable_dtype != "float32":
        raise ValueError(
            f'head="dense" has float32 weights, and Keras cannot add their kernel_regularizer to '
            f"those of {policy.variable_dtype}; leave it out, or call "
            'keras.config.set_dtype_policy("float32") first.'
        )
    x = layers.Flatten("channels_last", name="flatten")(x)
    _require_memory(x.shape[-1] * classes, f'head="dense" on {x.shape[-1]:,} values')
    if head_dropout:
        x = layers.Dropout(head_dropout, name="head_dropout")(x)
    return layers.Dense(
        classes, kernel_regularizer=kernel_regularizer, name="logits", dtype="float32"
    )(x)


def _gaussian(deviation):
    return keras.initializers.RandomNormal(stddev=deviation)


def _variant_of(trunk):
    """Return which of "modern", "fast" and "small" has the mlpconv layers of a trained net.

    It is "modern" if none has them; the check of the weights then says what differs.
    """
    found = [layer for layer in trunk.layers if isinstance(layer, MLPConv)]
    for variant in ("fast", "small"):
        blocks = VARIANTS[variant].blocks
        ours = [(len(b.filters), b.kernel_size, b.pool_size, b.residual) for b in blocks]
        theirs = [(len(m.filters), m.kernel_size, m.pool_size, m.residual) for m in found]
        if ours == theirs:
            pairs = [(m.filters[0], b.filters[0]) for m, b in zip(found, blocks, strict=True)]
            least, most = _factors(pairs)
            if least <= most:
                return variant
    return "modern"


def _factors(pairs):
    """Return the least and the largest width that makes the second of each pair the first.

    Numbers of filters are rounded, so all factors between the two give the same numbers.
    """
    least = max((filters - 0.5) / full for filters, full in pairs)
    most = min((filters + 0.5) / full for filters, full in pairs)
    return least, most


def _fitting_arguments(trained, spec):
    """Return the arguments of a `nin` of the variant `spec` that has the shapes of the weights."""
    trunk = trained.trunk
    filters = {layer.name: layer.filters for layer in trunk.layers if isinstance(layer, MLPConv)}
    if "mlpconv1" not in filters:
        raise ValueError(
            f"{trained.version} is no nin: it has no layer 'mlpconv1'. Give the weights of a nin."
        )
    pairs = [
        pair
        for index, block in enumerate(spec.blocks, 1)
        # From the last: with linear taps, the first convolution is not in the MLPConv.
        for pair in zip(filters.get(f"mlpconv{index}", ())[::-1], block.filters[::-1], strict=False)
    ]
    least, most = _factors(pairs)
    return {
        "input_shape": trunk.input_shape[1:],
        "classes": trunk.output_shape[-1],
        "width": (least + most) / 2,
        "preprocessing": trained.preprocessing(),
        "normalization": _normalization(trunk),
    }


def _normalization(trunk):
    """Return the normalization of a trained net's mlpconv layers, as `MLPConv` takes it."""
    layer = next(layer for layer in trunk.layers if isinstance(layer, MLPConv))
    if layer.normalization in (None, "batch"):
        return layer.normalization
    return copy_of(layer.normalizations[0], trainable=True)
