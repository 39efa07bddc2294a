"""A warning for pixels that somebody scaled, given to a model that scales them itself."""

import warnings


class RawPixels:
    """Warns once if `fit`, `evaluate` or `predict` receive images whose pixels are in -1..1.

    It comes before the class of Keras among the bases of a model. It looks at the first batch of
    arrays, of tensors and of a `keras.utils.PyDataset`. Other data would lose a batch, so it does
    not look at them. A model is silent if it has no layer `scale`, which expects 0..255.
    """

    _has_warned = False

    def fit(self, x=None, *arguments, **keywords):
        self._look_at(x)
        return super().fit(x, *arguments, **keywords)

    def evaluate(self, x=None, *arguments, **keywords):
        self._look_at(x)
        return super().evaluate(x, *arguments, **keywords)

    def predict(self, x, *arguments, **keywords):
        self._look_at(x)
        return super().predict(x, *arguments, **keywords)

    def _look_at(self, x):
        if self._has_warned or not self._scales_pixels():
            return
        batch = _first_batch(x)
        if batch is not None and is_scaled(batch):
            self._has_warned = True
            warnings.warn(
                f"{self.name} received pixels in {batch.min():.3g}..{batch.max():.3g}. It expects "
                "0..255 and scales them itself: give it the raw pixels.",
                stacklevel=3,
            )

    def _scales_pixels(self):
        # Models that train another one know which.
        model = self.shipped_model() if hasattr(self, "shipped_model") else self
        return any(layer.name == "scale" for layer in model.layers)


def is_scaled(images):
    """Return whether all pixels of a batch are in -1..1. A batch of one value may be raw."""
    low, high = images.min(), images.max()
    return bool(-1 <= low < high <= 1)


def _first_batch(x):
    """Return the first images of some data as an array; None if it cannot be known."""
    import keras
    import numpy as np

    if isinstance(x, keras.utils.PyDataset):
        batch = x[0]
        x = batch[0] if isinstance(batch, tuple) else batch
    if not hasattr(x, "shape") or not hasattr(x, "__getitem__") or not len(x.shape):
        return None
    batch = np.asarray(keras.ops.convert_to_numpy(x[:256]), "float32")
    return batch if batch.size else None
