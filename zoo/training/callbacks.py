"""What the runner does between the steps: count, watch, save, stop."""

import inspect
import math
import time

import keras
import numpy as np

from zoo.training import distribute
from zoo.training.stopping import Interrupted, TimeUp, TrainingError


class ShortFirstEpoch(keras.callbacks.Callback):
    """End a resumed epoch where it would have ended, and give it back the metrics it had.

    First in the list: Keras must see `stop_training` only between the last step and here.
    """

    def __init__(self, session):
        super().__init__()
        self.session = session
        self.remaining = None
        self.cut = False

    def on_epoch_begin(self, epoch, logs=None):
        done = self.session.position["step"] - epoch * self.session.steps_an_epoch
        self.remaining = self.session.steps_an_epoch - done
        if self.session.metrics is not None:
            self.session.counted.write(self.session.metrics)
            self.session.metrics = None

    def on_train_batch_end(self, batch, logs=None):
        self.remaining -= 1
        self.cut = not self.remaining and not self.model.stop_training
        if self.cut:
            self.model.stop_training = True

    def on_epoch_end(self, epoch, logs=None):
        if self.cut:
            self.model.stop_training = False


class Watch(keras.callbacks.Callback):
    """Stop on a loss that is not finite; notice a net that never starts to learn."""

    DEAD_WARNING, DEAD_STOP = 200, 2000  # steps with the loss at ln(classes)

    def __init__(self, session):
        super().__init__()
        self.session = session
        self.dead_steps = 0

    def on_train_batch_end(self, batch, logs=None):
        step = self.session.position["step"] + 1
        if not math.isfinite(logs["loss"]):
            raise TrainingError(
                f"The loss became {logs['loss']} at step {step}, batch {batch + 1} of epoch "
                f"{self.session.position['epoch'] + 1}. {self.session.advice()}"
            )
        chance = math.log(self.session.training.classes)
        loss = logs.get("output_loss", logs["loss"])
        # A net whose class maps are all negative behind a ReLU gives logits 0: exactly this loss.
        self.dead_steps = self.dead_steps + 1 if abs(loss - chance) < 1e-4 else 0
        if self.dead_steps == self.DEAD_WARNING:
            self.session.warn(_dead(step, chance))
        if self.dead_steps == self.DEAD_STOP:
            raise TrainingError(_dead(step, chance))


def _dead(step, chance):
    return (
        f"The loss still stands at ln(classes) = {chance:.4f} after {step} steps: the net does not "
        "learn. Take the ReLU off the class maps (final_relu=False), lower --learning-rate, or try "
        "another --seed."
    )


_SAVE, _TIME_UP = 1, 63  # between them the numbers of signals; the largest wish comes true


class State(keras.callbacks.Callback):
    """Count steps, keep the history, and commit. Last in the list, to see what the others did."""

    def __init__(self, session, others, stop, deadline):
        super().__init__()
        self.session, self.others, self.stop = session, others, stop
        self.deadline = deadline
        self.clock = self.saved_at = time.monotonic()
        self.ballot = distribute.Ballot()

    def on_train_begin(self, logs=None):
        for callback, memory in zip(self.others, self.session.memory or [], strict=False):
            vars(callback).update(memory)

    def on_train_batch_end(self, batch, logs=None):
        position = self.session.position
        position["step"] += 1
        self.session.progress.step(position["step"], logs)
        if not self.session.divided:
            self.ballot.agreed = self._wish()
        if position["step"] % self.session.steps_an_epoch == 0:
            return  # the epoch's end is about to save
        if self.ballot.agreed:
            if keras.backend.backend() == "jax":
                self.model.jax_state_sync()  # else the variables are those of the epoch's start
            self._save(self.session.counted.read())
            self._leave_if_asked()
        self.ballot.wish = self._wish()

    def _wish(self):
        """For the next step, which all workers end alike: to save, to leave, or nothing."""
        now = time.monotonic()
        if self.stop:
            return int(self.stop[0])
        if self.deadline is not None and now > self.deadline:
            return _TIME_UP
        return _SAVE if now - self.saved_at > self.session.checkpoint_seconds else 0

    def on_epoch_end(self, epoch, logs=None):
        self._tick()
        position = self.session.position
        row = {
            "epoch": epoch + 1,
            "step": position["step"],
            "seconds": round(position["seconds"], 2),
            "learning_rate": float(np.asarray(self.model.optimizer.learning_rate)),
            **{key: float(value) for key, value in logs.items()},
        }
        self.session.history.append(row)
        position["epoch"] = epoch + 1
        position["finished"] = self.model.stop_training or epoch + 1 == self.params["epochs"]
        self._save(None)
        self.session.progress.epoch(row)
        self._leave_if_asked()

    def _tick(self):
        now = time.monotonic()
        self.session.position["seconds"] += now - self.clock
        self.clock = now

    def _save(self, metrics):
        self._tick()
        self.session.save([_memory(callback) for callback in self.others], metrics)
        self.saved_at = time.monotonic()

    def _leave_if_asked(self):
        if self.session.position["finished"]:
            return
        if self.ballot.agreed > _SAVE and self.session.unsaved:
            raise TrainingError(
                f"Stopped, and the state could not be saved ({self.session.unsaved}); the last "
                "good one is kept."
            )
        if self.ballot.agreed == _TIME_UP:
            raise TimeUp(self.session.position["step"])
        if self.ballot.agreed > _SAVE:
            raise Interrupted(self.ballot.agreed, self.session.position["step"])


def _memory(callback):
    """What a callback has counted and compared: its plain attributes but its arguments.

    Keras turns the sign of an argument, `min_delta`, in use; put back, it would be turned twice.
    """
    arguments = inspect.signature(type(callback)).parameters
    return {
        key: value
        for key, value in vars(callback).items()
        if key not in arguments and isinstance(value, (bool, int, float, str, type(None)))
    }
