"""Load a recipe's data, make its plan, and check both before the first step."""

from typing import TYPE_CHECKING

import keras
import numpy as np

from zoo.data import ImageData
from zoo.recipe import Plan, Recipe, RecipeError
from zoo.saving import shipped
from zoo.training import distribute

if TYPE_CHECKING:
    import tensorflow as tf


def checked_data(recipe: Recipe) -> tuple[ImageData, ImageData]:
    """Return the training images and the images to evaluate on.

    Raises:
        RecipeError: if the two differ in shape or classes, or a batch has more images than there
            are.
        zoo.data.DataError: if the images cannot be read, or the augmentation does not suit them.
    """
    training, judging = recipe.datasets()
    for name in ("image_shape", "label_names"):
        if getattr(training, name) != getattr(judging, name):
            raise RecipeError(
                f"{training.name} has the {name} {getattr(training, name)} to train with, and "
                f"{getattr(judging, name)} to be judged by."
            )
    if recipe.batch_size > training.examples:
        raise RecipeError(
            f"--batch-size is at most {training.examples}, the number of training images; "
            f"received {recipe.batch_size}."
        )
    training.check_augmentation(recipe.augmentation())
    return training, judging


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
        zoo.distribute.StrategyError: if the training would change on several replicas.
    """
    with distribute.scope(strategy):
        plan = make_plan(recipe, training, steps)
        classes = shipped(plan.model).output_shape[-1]
        if classes != training.classes:
            raise RecipeError(
                f"The model gives {classes} scores; {training.name} has {training.classes} classes."
            )
        plan.model.compile(optimizer=plan.optimizer, loss=plan.loss, metrics=["accuracy"])
        plan.model.optimizer.build(plan.model.trainable_variables)
    _check_backend(recipe, plan)
    if is_divided(recipe, strategy):
        _check_divided(recipe, plan, training, classes, strategy)
    return plan


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
