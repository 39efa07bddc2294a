import keras
import numpy as np
import pytest

from zoo.layers import (
    GlobalContrastNormalization,
    LocalContrastNormalization,
    PatchWhitening,
    ZCAWhitening,
)

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (40, 6, 5, 3)).astype("float32")


def test_global_contrast_normalization_gives_every_image_mean_zero_and_norm_55():
    x = IMAGES.reshape(40, -1).astype("float64")
    x -= x.mean(1, keepdims=True)
    x *= 55 / np.sqrt((x**2).sum(1, keepdims=True))
    np.testing.assert_allclose(
        GlobalContrastNormalization()(IMAGES), x.reshape(IMAGES.shape), rtol=1e-4, atol=1e-4
    )


def test_its_root_mean_square_on_cifar_is_that_of_the_notes():
    images = RNG.integers(0, 256, (2, 32, 32, 3)).astype("float32")
    outputs = np.asarray(GlobalContrastNormalization()(images))
    np.testing.assert_allclose(np.sqrt((outputs**2).mean((1, 2, 3))), 0.992, atol=5e-4)


def test_with_use_std_it_divides_by_the_deviation_and_the_bias():
    layer = GlobalContrastNormalization(2.0, use_std=True, sqrt_bias=10.0)
    x = IMAGES.reshape(40, -1).astype("float64")
    deviation = np.sqrt(10 + x.var(1, ddof=1, keepdims=True))
    expected = 2 * (x - x.mean(1, keepdims=True)) / deviation
    np.testing.assert_allclose(layer(IMAGES), expected.reshape(IMAGES.shape), rtol=1e-4, atol=1e-4)


def test_an_image_of_one_grey_becomes_zero_and_not_nan():
    grey = np.full((1, 4, 4, 1), 7, "float32")
    np.testing.assert_array_equal(GlobalContrastNormalization()(grey), np.zeros((1, 4, 4, 1)))
    assert np.isfinite(LocalContrastNormalization()(grey)).all()


def zca(images, bias):
    x = images.reshape(len(images), -1).astype("float64")
    centred = x - x.mean(0)
    covariance = centred.T @ centred / len(x) + bias * np.eye(x.shape[1])
    values, vectors = np.linalg.eigh(covariance)
    return (centred @ vectors @ np.diag(values**-0.5) @ vectors.T).reshape(images.shape)


def test_zca_whitening_is_the_formula():
    images = IMAGES / 100
    layer = ZCAWhitening()
    layer.adapt(images)
    np.testing.assert_allclose(layer(images), zca(images, 0.1), rtol=1e-3, atol=1e-4)


def test_zca_whitening_makes_the_covariance_the_identity():
    images = RNG.normal(size=(500, 2, 2, 2)) @ RNG.normal(size=(2, 2))
    layer = ZCAWhitening(filter_bias=0.0)
    layer.adapt(images.astype("float32"))
    white = np.asarray(layer(images)).reshape(500, -1)
    np.testing.assert_allclose(np.cov(white.T, bias=True), np.eye(8), atol=1e-3)


def test_zca_whitening_adapts_to_batches_as_to_one_array():
    import tensorflow as tf

    one, batches, pairs = ZCAWhitening(), ZCAWhitening(), ZCAWhitening()
    one.adapt(IMAGES)
    batches.adapt(tf.data.Dataset.from_tensor_slices(IMAGES).batch(7))
    pairs.adapt([(IMAGES[:9], np.zeros(9)), (IMAGES[9:], np.zeros(31))])
    for other in (batches, pairs):
        np.testing.assert_allclose(other.matrix, one.matrix, rtol=1e-5, atol=1e-8)
        np.testing.assert_allclose(other.mean, one.mean, rtol=1e-6)


@pytest.mark.parametrize("kind", [ZCAWhitening, PatchWhitening])
def test_whitening_says_when_it_was_not_adapted(kind):
    with pytest.raises(ValueError, match=f"{kind.__name__}.*adapt"):
        kind()(IMAGES)
    with pytest.raises(ValueError, match="no images"):
        kind().adapt([])


def patches(images, size):
    """All patches of (n, h, w, c) as rows, in the order of the places."""
    return np.array(
        [
            image[row : row + size, column : column + size].ravel()
            for image in images
            for row in range(image.shape[0] - size + 1)
            for column in range(image.shape[1] - size + 1)
        ]
    ).astype("float64")


@pytest.mark.parametrize("size", [1, 2, 3])
def test_patch_whitening_is_the_formula(size):
    images = IMAGES / 100
    layer = PatchWhitening(size, filter_bias=0.01)
    layer.adapt(images)
    rows = patches(images, size)
    mean = rows.mean(0)
    values, vectors = np.linalg.eigh((rows - mean).T @ (rows - mean) / len(rows))
    expected = (rows - mean) @ vectors / np.sqrt(values + 0.01)
    outputs = np.asarray(layer(images))
    assert outputs.shape == layer.compute_output_shape(images.shape)
    outputs = outputs.reshape(len(rows), 2, -1)
    np.testing.assert_allclose(outputs[:, 0], -outputs[:, 1], atol=1e-4)
    # The sign of an eigenvector is free.
    np.testing.assert_allclose(abs(outputs[:, 0]), abs(expected), rtol=1e-3, atol=1e-3)


def test_patch_whitening_makes_the_covariance_the_identity_and_does_not_learn():
    mixing = RNG.normal(size=(3, 3))
    layer = PatchWhitening(2, filter_bias=0.0)
    layer.adapt((RNG.normal(size=(200, 5, 5, 3)) @ mixing).astype("float32"))
    white = np.asarray(layer((RNG.normal(size=(900, 2, 2, 3)) @ mixing).astype("float32")))
    np.testing.assert_allclose(np.cov(white.reshape(900, 24)[:, :12].T), np.eye(12), atol=0.25)
    assert layer.trainable_weights == []


def test_patch_whitening_adapts_to_batches_as_to_one_array():
    one, batches = PatchWhitening(), PatchWhitening()
    one.adapt(IMAGES)
    batches.adapt([(IMAGES[:9], np.zeros(9)), (IMAGES[9:], np.zeros(31))])
    np.testing.assert_allclose(batches.kernel, one.kernel, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("arguments", [{"kernel_size": 0}, {"filter_bias": -1.0}])
def test_patch_whitening_refuses_what_is_no_size_or_variance(arguments):
    with pytest.raises(ValueError, match="kernel_size is a whole number"):
        PatchWhitening(**arguments)


def test_local_contrast_normalization_is_the_formula():
    offsets = np.arange(-3, 4)
    window = np.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / 8.0)
    window /= window.sum()

    def smooth(x):
        padded = np.pad(x, [(0, 0), (3, 3), (3, 3), (0, 0)])
        return sum(
            window[dy, dx] * padded[:, dy : dy + x.shape[1], dx : dx + x.shape[2]]
            for dy in range(7)
            for dx in range(7)
        )

    x = IMAGES.astype("float64")
    centred = x - smooth(x)
    deviation = np.sqrt(smooth(centred**2))
    expected = centred / np.maximum(deviation, deviation.mean((1, 2), keepdims=True))
    np.testing.assert_allclose(LocalContrastNormalization()(IMAGES), expected, rtol=1e-3, atol=1e-4)


def test_pixels_may_be_whole_numbers():
    pixels, whitening = IMAGES.astype("uint8"), ZCAWhitening()
    whitening.adapt(pixels)
    patch_whitening = PatchWhitening()
    patch_whitening.adapt(pixels)
    contrasts = GlobalContrastNormalization(), LocalContrastNormalization()
    for layer in (*contrasts, whitening, patch_whitening):
        np.testing.assert_array_equal(layer(pixels), layer(IMAGES))


def test_preprocessing_stays_in_float32_and_survives_a_file(policy, tmp_path):
    whitening = ZCAWhitening()
    contrast = GlobalContrastNormalization()
    whitening.adapt(contrast(IMAGES))
    patch_whitening = PatchWhitening()
    patch_whitening.adapt(whitening(contrast(IMAGES)))
    local = LocalContrastNormalization(5)
    model = keras.Sequential(
        [keras.Input(IMAGES.shape[1:]), contrast, whitening, patch_whitening, local]
    )
    expected = np.asarray(model(IMAGES))
    assert expected.dtype == np.float32
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(again(IMAGES), expected, rtol=1e-6, atol=1e-6)
    for one, other in zip(again.layers, model.layers, strict=True):
        assert one.get_config() == other.get_config()
