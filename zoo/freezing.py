"""A frozen layer keeps the layers that it holds frozen, also after a file, a clone or a copy."""


def freeze_held_layers(layer):
    """Freeze the layers that `layer` holds, if it is frozen itself.

    Keras stores `trainable` of a layer, and not that of the layers which it makes. So a layer that
    makes others calls this at the end of `build`. A layer that is not frozen changes nothing: a
    frozen one within it stays frozen.
    """
    if not layer.trainable:
        # Keras passes the value to all layers within. TensorFlow would skip it if it were no other.
        layer.trainable = True
        layer.trainable = False
