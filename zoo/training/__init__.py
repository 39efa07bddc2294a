"""Train a recipe: one runner for all of them, on one device or many."""

from zoo.training.runner import train
from zoo.training.stopping import Interrupted, TimeUp, TrainingError

__all__ = ["Interrupted", "TimeUp", "TrainingError", "train"]
