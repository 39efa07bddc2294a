import keras
import numpy as np
import pytest
from keras import ops

import zoo
from zoo.layers import BatchNormalization, CompanionHead, GlobalAveragePoolingHead, MLPConv

IMAGES = np.random.default_rng(0).normal(2, 3, (4, 6, 5, 3)).astype("float32")


def float32(tensor):
    return ops.convert_to_numpy(ops.cast(tensor, "float32"))


def convolve(images, kernel, bias, stride=1):
    """A "same" convolution, written as the sum over the window."""
    size = kernel.shape[0]
    height, width = (-(-n // stride) for n in images.shape[1:3])
    pads = [
        max((after - 1) * stride + size - before, 0)
        for after, before in zip((height, width), images.shape[1:3], strict=True)
    ]
    padded = np.pad(images, [(0, 0), *((p // 2, p - p // 2) for p in pads), (0, 0)])
    out = np.zeros((len(images), height, width, kernel.shape[-1]))
    for y in range(height):
        for x in range(width):
            window = padded[:, y * stride : y * stride + size, x * stride : x * stride + size]
            out[:, y, x] = np.tensordot(window, kernel, 3) + bias
    return out


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("final_activation", ["same", None])
def test_mlpconv_is_a_convolution_then_a_perceptron_at_each_place(stride, final_activation):
    layer = MLPConv((7, 6, 4), 3, strides=stride, final_activation=final_activation)
    layer.build(IMAGES.shape)
    for index, variable in enumerate(layer.variables):
        variable.assign(np.random.default_rng(index).normal(size=variable.shape))
    expected = IMAGES.astype("float64")
    for index in range(3):
        kernel, bias = layer.get_weights()[2 * index : 2 * index + 2]
        expected = convolve(expected, kernel, bias, stride if index == 0 else 1)
        if index < 2 or final_activation == "same":
            expected = np.maximum(expected, 0)
    np.testing.assert_allclose(layer(IMAGES), expected, rtol=1e-4, atol=1e-3)
    assert layer.compute_output_shape(IMAGES.shape) == expected.shape


def test_mlpconv_pools_behind_its_first_convolution():
    layer = MLPConv((7, 4), 3, pool_size=2)
    maps = np.asarray(layer(IMAGES))
    first, second = layer.convolutions
    expected = second(ops.relu(ops.max_pool(first(IMAGES), 2, data_format="channels_last")))
    np.testing.assert_allclose(maps, np.maximum(expected, 0), rtol=1e-5, atol=1e-5)
    assert layer.compute_output_shape(IMAGES.shape) == maps.shape == (4, 3, 2, 4)
    again = MLPConv.from_config(layer.get_config())
    again.build(IMAGES.shape)
    again.set_weights(layer.get_weights())
    np.testing.assert_array_equal(again(IMAGES), maps)


@pytest.mark.parametrize("normalization", [None, "batch"])
def test_a_residual_mlpconv_adds_its_input_before_the_last_activation(normalization):
    arguments = {"normalization": normalization, "final_activation": None}
    plain = MLPConv((7, 3), 3, **arguments)
    residual = MLPConv((7, 3), 3, residual=True, **{**arguments, "final_activation": "relu"})
    expected = np.maximum(np.asarray(plain(IMAGES)) + IMAGES, 0)
    residual.build(IMAGES.shape)
    residual.set_weights(plain.get_weights())
    np.testing.assert_allclose(residual(IMAGES), expected, rtol=1e-5, atol=1e-5)
    again = MLPConv.from_config(residual.get_config())
    again.build(IMAGES.shape)
    again.set_weights(plain.get_weights())
    np.testing.assert_array_equal(again(IMAGES), residual(IMAGES))
    for changes in ({"pool_size": 2}, {"filters": (7, 4)}):
        with pytest.raises(ValueError, match="both have one shape"):
            MLPConv(**{"filters": (7, 3), "kernel_size": 3, "residual": True, **changes})(IMAGES)


def test_mlpconv_normalizes_before_each_activation():
    layer = MLPConv((7, 4), 3, normalization="batch", final_activation=None)
    outputs = float32(layer(IMAGES, training=True))
    np.testing.assert_allclose(outputs.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(outputs.std((0, 1, 2)), 1, atol=1e-2)
    assert len(layer.trainable_variables) == 2 * 3  # kernel, gamma, beta; no bias
    again = float32(layer(IMAGES, training=True))
    inference = float32(layer(IMAGES, training=False))
    np.testing.assert_allclose(again, outputs, atol=1e-5)
    assert np.abs(inference - outputs).max() > 0.1  # the moving statistics have hardly moved


def test_mlpconv_leaves_the_default_names_of_other_layers_as_they_are():
    keras.layers.BatchNormalization()  # the first of a process has no number
    names = [keras.layers.BatchNormalization().name]
    MLPConv((7, 4), 3, normalization="batch")
    names.append(keras.layers.BatchNormalization().name)
    first, second = (int(name.rpartition("_")[2]) for name in names)
    assert second == first + 1


def test_mlpconv_draws_kernels_of_one_seeded_initializer_differently():
    layer = MLPConv((8, 8), 1, kernel_initializer="he_normal")
    layer.build((None, 4, 4, 8))
    first, second = layer.get_weights()[0], layer.get_weights()[2]
    assert np.abs(first - second).max() > 0.1


def test_mlpconv_takes_an_initializer_and_a_regularizer_a_convolution():
    deviations = [keras.initializers.RandomNormal(stddev=s) for s in (0.001, 0.5)]
    layer = MLPConv(
        (64, 64), 5, kernel_initializer=deviations, kernel_regularizer=keras.regularizers.L2(2)
    )
    layer.build((None, 8, 8, 64))
    kernels = [w for w in layer.get_weights() if w.ndim == 4]
    np.testing.assert_allclose([k.std() for k in kernels], [0.001, 0.5], rtol=0.05)
    expected = sum(2 * np.square(k, dtype="float64").sum() for k in kernels)
    np.testing.assert_allclose(sum(layer.losses), expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"filters": ()}, "no filters"),
        ({"filters": 8, "normalization": "layer"}, "'layer'"),
        ({"filters": (8, 8), "kernel_initializer": ["zeros"]}, "1 initializers for 2"),
    ],
)
def test_mlpconv_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        MLPConv(kernel_size=3, **arguments)


@pytest.mark.parametrize("arguments", [{}, {"scale": False}, {"center": False}, {"epsilon": 1e-4}])
def test_batch_normalization_has_the_numbers_of_the_stock_layer(arguments, policy):
    ours, stock = BatchNormalization(**arguments), keras.layers.BatchNormalization(**arguments)
    tolerance = 1e-5 if policy == "float32" else 2e-2
    for step in range(3):
        images = IMAGES * (step + 1)
        np.testing.assert_allclose(
            float32(ours(images, training=True)),
            float32(stock(images, training=True)),
            atol=tolerance,
        )
    assert [v.path.split("/")[-1] for v in ours.variables] == [
        v.path.split("/")[-1] for v in stock.variables
    ]
    for one, other in zip(ours.get_weights(), stock.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        float32(ours(IMAGES)), float32(stock(IMAGES)), atol=tolerance, rtol=tolerance
    )
    assert ours(IMAGES).dtype == stock(IMAGES).dtype


@pytest.mark.parametrize(
    "normalization",
    [keras.layers.BatchNormalization, keras.layers.BatchNormalization(momentum=0.9)],
    ids=["class", "layer"],
)
def test_an_mlpconv_takes_any_normalization_layer(normalization):
    """The stock layer in the place of ours: the same numbers, and no biases."""
    images = np.random.default_rng(0).normal(size=(4, 6, 6, 3)).astype("float32")
    ours = MLPConv((5, 4), 3, normalization="batch")
    stock = MLPConv((5, 4), 3, normalization=normalization)
    for layer in (ours, stock):
        layer.build(images.shape)
    stock.set_weights(ours.get_weights())
    assert all(type(layer) is keras.layers.BatchNormalization for layer in stock.normalizations)
    assert len({id(layer) for layer in stock.normalizations}) == 2
    assert not any(convolution.use_bias for convolution in stock.convolutions)
    for training in (False, True):  # the momentum of the class is another one
        expected = ours(images, training=training)
        np.testing.assert_allclose(stock(images, training=training), expected, atol=2e-5)


@pytest.mark.parametrize("linear_taps", [False, True])
def test_a_net_with_another_normalization_comes_back_from_a_file(linear_taps, tmp_path):
    prototype = keras.layers.GroupNormalization(1)
    net = zoo.nin((8, 8, 1), 3, width=0.05, normalization=prototype, linear_taps=linear_taps)
    kinds = [
        type(layer)
        for outer in net.layers
        for layer in (outer, *getattr(outer, "normalizations", ()))
    ]
    assert kinds.count(keras.layers.GroupNormalization) == 8
    assert zoo.BatchNormalization not in kinds
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 1)).astype("float32")
    expected = net(images)
    net.save(tmp_path / "net.keras")
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "net.keras")(images), expected)


def test_batch_normalization_has_the_gradient_of_the_stock_layer():
    import tensorflow as tf

    weights = np.random.default_rng(1).normal(size=IMAGES.shape)
    gradients = []
    for layer in (BatchNormalization(), keras.layers.BatchNormalization()):
        images = tf.constant(IMAGES)
        with tf.GradientTape() as tape:
            tape.watch(images)
            score = tf.reduce_sum(layer(images, training=True) * weights)
        gradients.append(
            tape.gradient(score, [images, *(v.value for v in layer.trainable_variables)])
        )
    for one, other in zip(*gradients, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_batch_normalization_is_fused_where_it_can_be():
    import tensorflow as tf

    def operations(layer, shape):
        layer.build(shape)
        function = tf.function(lambda x: layer(x, training=True))
        return {
            op.type
            for op in function.get_concrete_function(tf.TensorSpec(shape)).graph.get_operations()
        }

    fused = "FusedBatchNormV3"
    assert fused in operations(BatchNormalization(), (4, 6, 5, 3))
    assert fused not in operations(BatchNormalization(), (4, 3))
    assert fused not in operations(BatchNormalization(axis=1), (4, 6, 5, 3))


def test_a_frozen_batch_normalization_keeps_its_statistics():
    layer = BatchNormalization(trainable=False)
    np.testing.assert_allclose(layer(IMAGES, training=True), IMAGES, rtol=1e-3)
    np.testing.assert_array_equal(layer.moving_mean, np.zeros(3))


def test_the_global_average_pooling_head_means_its_class_maps(policy):
    head = GlobalAveragePoolingHead(7)
    logits = head(IMAGES)
    maps = float32(head.class_maps(IMAGES))
    assert maps.shape == (4, 6, 5, 7)
    np.testing.assert_allclose(float32(logits), maps.mean((1, 2)), rtol=1e-5, atol=1e-5)
    assert keras.backend.standardize_dtype(logits.dtype) == "float32"
    assert (maps < 0).any()


def test_the_relu_of_the_released_head_comes_before_the_mean():
    head = GlobalAveragePoolingHead(7, activation="relu")
    kernel = np.random.default_rng(0).normal(size=(3, 7))
    head.build(IMAGES.shape)
    head.class_maps.kernel.assign(kernel[None, None])
    np.testing.assert_allclose(head(IMAGES), np.maximum(IMAGES @ kernel, 0).mean((1, 2)), rtol=1e-4)


@pytest.mark.parametrize(("form", "weights"), [("pool", 3 * 7 + 7), ("dense", 6 * 5 * 3 * 7 + 7)])
def test_the_companion_head_classifies_the_map_or_its_means(form, weights, policy):
    head = CompanionHead(7, form)
    scores = head(ops.cast(IMAGES, "bfloat16" if policy == "mixed_bfloat16" else "float32"))
    assert keras.backend.standardize_dtype(scores.dtype) == "float32"
    seen = float32(ops.cast(IMAGES, "bfloat16")) if policy == "mixed_bfloat16" else IMAGES
    features = seen.mean((1, 2)) if form == "pool" else seen.reshape(4, -1)
    kernel, bias = head.get_weights()
    np.testing.assert_allclose(scores, features @ kernel + bias, rtol=1e-4, atol=1e-4)
    assert head.count_params() == weights


def test_the_conv_head_is_an_mlpconv_layer_in_front_of_the_pooling_head(policy):
    head = CompanionHead(7, "conv", kernel_regularizer="l2")
    scores = head(IMAGES, training=True)
    assert keras.backend.standardize_dtype(scores.dtype) == "float32"
    layer = MLPConv((3, 3), 3, strides=2, normalization="batch", dtype="float32")
    layer.build(IMAGES.shape)
    layer.set_weights([0 * w if "moving" in v.path else w for v, w in weights_of(head.mlpconv)])
    maps = layer(IMAGES, training=True)
    assert maps.shape == (4, 3, 3, 3)
    kernel, bias = head.classifier.get_weights()
    np.testing.assert_allclose(scores, float32(maps).mean((1, 2)) @ kernel + bias, atol=1e-4)
    assert head.count_params() == 3 * 3 * 3 * 3 + 3 * 3 + 2 * 4 * 3 + 3 * 7 + 7
    assert len(head.losses) == 3  # of all kernels


def weights_of(layer):
    return [(variable, variable.numpy()) for variable in layer.weights]


def test_the_official_dense_heads_have_as_many_weights_as_in_the_released_code():
    sizes = []
    for side in (32, 16, 8):
        head = CompanionHead(10, "dense")
        head.build((None, side, side, 192))
        sizes.append(head.count_params())
    assert sizes == [1_966_090, 491_530, 122_890]


def test_the_companion_head_refuses_what_is_no_map():
    with pytest.raises(ValueError, match=r"'flat'.*\(None, 12\)"):
        keras.Sequential([keras.Input((12,)), CompanionHead(3, name="flat")])
    with pytest.raises(ValueError, match="'mean'"):
        CompanionHead(3, "mean")


@pytest.mark.parametrize(
    "layer",
    [
        MLPConv(
            (4, 3), 3, strides=2, activation="elu", final_activation=None, normalization="batch"
        ),
        MLPConv(4, 3, kernel_initializer=keras.initializers.RandomNormal(stddev=0.3)),
        GlobalAveragePoolingHead(5, activation="relu"),
        CompanionHead(5, "dense", kernel_regularizer=keras.regularizers.L2(0.1)),
        CompanionHead(5, "conv", kernel_regularizer=keras.regularizers.L2(0.1)),
        BatchNormalization(momentum=0.7),
    ],
)
def test_a_saved_layer_comes_back_with_its_numbers_and_its_configuration(layer, tmp_path, policy):
    layer = type(layer).from_config({**layer.get_config(), "dtype": policy})
    model = keras.Sequential([keras.Input(IMAGES.shape[1:]), layer])
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(float32(again(IMAGES)), float32(model(IMAGES)))
    assert again.layers[0].get_config() == layer.get_config()
    assert len(again.losses) == len(model.losses)
