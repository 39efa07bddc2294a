"""Load a recipe's data, make its plan, and check both before the first step."""

import dataclasses
import math
from typing import TYPE_CHECKING

import keras
import numpy as np

from zoo import memory
from zoo.data import ImageData
from zoo.recipe import Plan, Recipe, RecipeError
from zoo.saving import shipped
from zoo.training import distribute

if TYPE_CHECKING:
    import tensorflow as tf


def checked_data(recipe: Recipe) -> tuple[Recipe, ImageData, ImageData]:
    """Return the recipe, the training images and the images to evaluate on.

    A batch size that is the recipe's default becomes the number of images if these are fewer. A
    batch size of 0 becomes a twenty-fourth of the number of images, from 8 to 64.

    Raises:
        RecipeError: if the two differ in shape or classes, or a batch has more images than there
            are.
        zoo.data.DataError: if the images cannot be read, or the augmentation does not suit them.
        zoo.memory.TooLarge: if the memory is too small for the images.
    """
    if size := recipe.reading["image_size"]:  # before the images are read, which may take long
        _require_memory_of_batch(recipe, size)
    training, judging = recipe.datasets()
    for name in ("image_shape", "label_names"):
        if getattr(training, name) != getattr(judging, name):
            raise RecipeError(
                f"{training.name} has the {name} {getattr(training, name)} to train with, and "
                f"{getattr(judging, name)} to be judged by."
            )
    if not recipe.batch_size:
        follows = min(max(training.examples // 24, 8), 64, training.examples)
        recipe = dataclasses.replace(recipe, batch_size=follows)
    if recipe.batch_size > training.examples:
        if recipe.batch_size != type(recipe)().batch_size:
            raise RecipeError(
                f"--batch-size is at most {training.examples}, the number of training images; "
                f"received {recipe.batch_size}."
            )
        recipe = dataclasses.replace(recipe, batch_size=training.examples)
    training.check_augmentation(recipe.augmentation())
    return recipe, training, judging


def _require_memory_of_batch(recipe, shape):
    """Refuse a batch that does not fit: its float32 images, and the next ones that wait."""
    memory.require(
        2 * 4 * recipe.batch_size * math.prod(shape),
        f"Batches of {recipe.batch_size} images of {shape}",
        "give a smaller --batch-size or --image-size",
    )


def make_plan(recipe: Recipe, training: ImageData, steps: int) -> Plan:
    """Return the recipe's plan.

    Raises:
        RecipeError: if one of the recipe's methods refuses a value.
    """
    try:
        return recipe.plan(training, steps)
    except RecipeError:
        raise
    except ValueError as error:  # a factory refuses an argument
        raise RecipeError(f"{type(recipe).__module__}: {error}") from error


def compiled_plan(
    recipe: Recipe,
    training: ImageData,
    steps: int,
    strategy: "tf.distribute.Strategy | None",
) -> Plan:
    """Return the recipe's plan, with its model compiled in the strategy's scope.

    Arguments:
        recipe: the recipe.
        training: the training images.
        steps: the number of steps of the whole training.
        strategy: a strategy; None for one device.

    Raises:
        RecipeError: if the model has another number of classes, or an option needs another backend.
        zoo.memory.TooLarge: if the memory is too small for the model or a step.
        zoo.distribute.StrategyError: if the training would change on several replicas.
    """
    with distribute.scope(strategy):
        plan = make_plan(recipe, training, steps)
        classes = shipped(plan.model).output_shape[-1]
        if classes != training.classes:
            raise RecipeError(
                f"The model gives {classes} scores; {training.name} has {training.classes} classes."
            )
        _require_memory_of_step(recipe, plan.model, strategy)
        plan.model.compile(optimizer=plan.optimizer, loss=plan.loss, metrics=["accuracy"])
        plan.model.optimizer.build(plan.model.trainable_variables)
    _check_backend(recipe, plan)
    if is_divided(recipe, strategy):
        _check_divided(recipe, plan, training, classes, strategy)
    return plan


def _require_memory_of_step(recipe, model, strategy):
    """Refuse a step that does not fit: gradients, momentum, and the values of a batch.

    The values are those of each convolution and dense layer of the model that ships, kept for the
    gradients, and as much again. Measured steps took 1.1 to 1.3 times as much. A GPU says by itself
    that its memory is too small; nobody says before how much it has.
    """
    if keras.backend.backend() == "torch" or "cpu" not in keras.distribution.list_devices()[0]:
        return
    placed = distribute.described(strategy)
    copies = placed["replicas"] if placed["kind"] == "mirrored" else 1  # on this machine
    images = math.ceil(recipe.batch_size / recipe.micro_batches * copies / placed["replicas"])
    weights = sum(math.prod(variable.shape) for variable in model.trainable_variables)
    values = sum(map(_bytes_an_image, shipped(model).layers))
    shape = shipped(model).input_shape[1:]
    memory.require(
        2 * 4 * weights * copies + 2 * values * images,
        f"A step with {images:,} images of {shape} and {weights:,} weights",
        "give a smaller --batch-size or --image-size, a smaller net, or more --micro-batches",
    )


def _bytes_an_image(layer):
    """Return how many bytes a layer's convolutions or dense layers give; 0 if it is not known."""
    try:
        shape = layer.output.shape[1:]
    except (AttributeError, ValueError):  # it has several outputs, or was never called
        return 0
    if not shape or None in shape:
        return 0
    kernels = [weight.shape for weight in layer.trainable_weights if len(weight.shape) > 1]
    features = sum(kernel[-1] for kernel in kernels) or shape[-1]
    return math.prod(shape[:-1]) * features * (2 if "16" in layer.compute_dtype else 4)


def is_divided(recipe: Recipe, strategy: "tf.distribute.Strategy | None") -> bool:
    """Return True if the training divides batches into parts, and so needs our own loop."""
    return strategy is not None or recipe.micro_batches > 1


def _check_backend(recipe, plan):
    if keras.backend.backend() == "tensorflow":
        return
    if recipe.micro_batches > 1:
        raise RecipeError(
            "--micro-batches is TensorFlow's; with Keras' other backends give the optimizer "
            "gradient_accumulation_steps."
        )
    if plan.model.optimizer.use_ema:
        raise RecipeError(
            "An optimizer's use_ema is TensorFlow's here: Keras makes the averages the weights "
            "at the end of each call of fit, and with its other backends an epoch is a call."
        )


def _check_divided(recipe, plan, training, classes, strategy):
    distribute.check(plan.model)
    labels, scores = training.labels[:2], np.zeros((2, classes), "float32")
    distribute.check_gives_one_loss_an_example(plan.model.loss, labels, scores)
    parts = distribute.described(strategy)["replicas"] * recipe.micro_batches
    if recipe.batch_size < parts:
        raise RecipeError(
            f"--batch-size is at least {parts}, one image a replica and micro-batch; "
            f"received {recipe.batch_size}."
        )
