import keras
import numpy as np
import pytest
from keras import ops

from zoo.layers import Dirac

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(("channels", "filters"), [(3, 5), (5, 3), (4, 4)])
@pytest.mark.parametrize("size", [1, 3])
def test_the_first_filters_pass_their_channels(channels, filters, size):
    kernel = np.asarray(Dirac(seed=1)((size, size, channels, filters)))
    images = RNG.normal(size=(2, 6, 6, channels)).astype("float32")
    outputs = np.asarray(ops.conv(images, kernel, padding="same", data_format="channels_last"))
    passed = min(channels, filters)
    np.testing.assert_allclose(outputs[..., :passed], images[..., :passed], rtol=1e-6)
    further, limit = kernel[..., passed:], (size * size * channels) ** -0.5
    assert np.all(abs(further) <= limit)
    if further.size:
        assert further.std() == pytest.approx(limit / 3**0.5, rel=0.5)


def test_copies_differ_and_seeds_repeat():
    shape = (3, 3, 2, 8)
    one, other = Dirac(), Dirac()
    assert np.any(np.asarray(one(shape)) != np.asarray(other(shape)))
    np.testing.assert_array_equal(Dirac(seed=3)(shape), Dirac(seed=3)(shape))
    again = keras.initializers.deserialize(keras.initializers.serialize(Dirac(seed=3)))
    np.testing.assert_array_equal(again(shape), Dirac(seed=3)(shape))


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match="shape"):
        Dirac()((3, 4))
