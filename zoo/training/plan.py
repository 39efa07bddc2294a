"""A recipe's plan, made and checked: the compiled model, and the callbacks of the recipe."""

import keras
import numpy as np

from zoo.data import ImageData
from zoo.recipe import Plan, Recipe, RecipeError
from zoo.saving import shipped
from zoo.training import distribute


def checked_data(recipe: Recipe) -> tuple[ImageData, ImageData]:
    """(training images, images to be judged on); raises RecipeError or DataError."""
    training, judging = recipe.datasets()
    for what in ("image_shape", "label_names"):
        if getattr(training, what) != getattr(judging, what):
            raise RecipeError(
                f"{training.name} has the {what} {getattr(training, what)} to train with, and "
                f"{getattr(judging, what)} to be judged by."
            )
    if recipe.batch_size > training.examples:
        raise RecipeError(
            f"--batch-size is at most {training.examples}, the number of training images; "
            f"received {recipe.batch_size}."
        )
    training.check_augmentation(recipe.augmentation())
    return training, judging


def make(recipe: Recipe, training: ImageData, steps: int) -> Plan:
    """The recipe's plan; raises RecipeError for what its factories refuse."""
    try:
        return recipe.plan(training, steps)
    except RecipeError:
        raise
    except ValueError as error:  # of a factory that was given what it cannot use
        raise RecipeError(f"{type(recipe).__module__}: {error}") from error


def compiled(recipe: Recipe, training: ImageData, steps: int, strategy) -> Plan:
    """The plan, its model compiled and its optimizer built in the strategy's scope.

    Raises:
        RecipeError: for a model of another number of classes, or options of other backends.
        zoo.distribute.StrategyError: for what would train otherwise on several replicas.
    """
    with distribute.scope(strategy):
        plan = make(recipe, training, steps)
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


def is_divided(recipe: Recipe, strategy) -> bool:
    """Whether a batch is trained on in parts, which Keras' own `fit` does not do as we do."""
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
