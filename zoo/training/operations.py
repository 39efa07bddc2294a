"""Count the floating-point operations of a net, and of its training."""

import contextlib
import io
import logging

import keras


def of_an_image(model: keras.Model) -> int | None:
    """Return the floating-point operations of one image's prediction, counted by TensorFlow.

    A multiplication and an addition are two operations. None without the TensorFlow backend, and
    for a model that TensorFlow cannot trace.
    """
    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf

    image = tf.TensorSpec((1, *model.input_shape[1:]), tf.float32)
    graph = tf.function(lambda images: model(images, training=False)).get_concrete_function(image)
    profiler = tf.compat.v1.profiler
    options = profiler.ProfileOptionBuilder(profiler.ProfileOptionBuilder.float_operation())
    logger = logging.getLogger("tensorflow")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it advises against the only counter that TensorFlow has
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            found = profiler.profile(graph.graph, options=options.with_empty_output().build())
    finally:
        logger.setLevel(level)
    return int(found.total_float_ops)


def of_training(an_image: int | None, images: int) -> int | None:
    """Return the operations of a training: three times those of its images' predictions.

    The gradients with respect to the weights and those with respect to the maps take as many
    operations as the prediction. Companions, teachers and the optimizer are not counted.

    Arguments:
        an_image: those of one image's prediction; None if they are not known.
        images: the number of images of all steps together.
    """
    return None if an_image is None else 3 * an_image * images
