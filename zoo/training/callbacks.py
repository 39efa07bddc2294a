"""The callbacks of the runner: count steps, watch the loss, save the state, stop."""

import inspect
import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from zoo.text import one_line
from zoo.training import distribute
from zoo.training.stopping import Interrupted, TimeUp, TrainingError

if TYPE_CHECKING:
    from zoo.training.session import Session


class ShortFirstEpoch(keras.callbacks.Callback):
    """End a resumed epoch where it would have ended, and restore the metrics that it had.

    It must be the first callback, since Keras may see `stop_training` only between the last step
    and this callback's `on_epoch_end`.
    """

    def __init__(self, session: "Session") -> None:
        super().__init__()
        self.session = session
        self.remaining = 0
        self.ended_early = False

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        done = self.session.position["step"] - epoch * self.session.steps_an_epoch
        self.remaining = self.session.steps_an_epoch - done
        if self.session.metrics is not None:
            self.session.counted.write(self.session.metrics)
            self.session.metrics = None

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.remaining -= 1
        self.ended_early = not self.remaining and not self.model.stop_training
        if self.ended_early:
            self.model.stop_training = True

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if self.ended_early:
            self.model.stop_training = False


class Board(keras.callbacks.Callback):
    """Write for TensorBoard. If that fails, as on a full disk, warn, and write no more."""

    def __init__(self, session: "Session") -> None:
        super().__init__()
        self.session = session
        self.board: keras.callbacks.TensorBoard | None = keras.callbacks.TensorBoard(
            session.run.tensorboard, write_graph=False
        )

    def _pass(self, hook, *arguments):
        try:
            if self.board:
                getattr(self.board, hook)(*arguments)
        except Exception as error:  # TensorFlow has many; none of them is worth the training
            self.board = None
            why = one_line(error).partition("}} ")[2] or one_line(error)  # after TensorFlow's node
            self.session.warn(f"TensorBoard's files are no longer written: {why:.200}")

    def set_model(self, model: keras.Model) -> None:
        super().set_model(model)
        self._pass("set_model", model)

    def on_train_begin(self, logs: Any = None) -> None:
        self._pass("on_train_begin", logs)

    def on_test_begin(self, logs: Any = None) -> None:
        self._pass("on_test_begin", logs)

    def on_test_end(self, logs: Any = None) -> None:
        self._pass("on_test_end", logs)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._pass("on_epoch_end", epoch, logs)

    def on_train_end(self, logs: Any = None) -> None:
        self._pass("on_train_end", logs)


class Watch(keras.callbacks.Callback):
    """Stop if the loss is not finite, or the net never starts to learn."""

    DEAD_WARNING, DEAD_STOP = 200, 2000  # steps with the loss at ln(classes)

    def __init__(self, session: "Session") -> None:
        super().__init__()
        self.session = session
        self.dead_steps = 0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        step = self.session.position["step"] + 1
        if not math.isfinite(logs["loss"]):
            raise TrainingError(
                f"The loss became {logs['loss']} at step {step}, batch {batch + 1} of epoch "
                f"{self.session.position['epoch'] + 1}. {self.session.advice()}"
            )
        chance = math.log(self.session.training.classes)
        loss = logs.get("output_loss", logs["loss"])
        # If all class maps are negative before a ReLU, the logits are 0: exactly this loss.
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


# The wishes of a worker: 0 for nothing, _SAVE, _SAVE + the number of a signal (SIGHUP has 1), or
# _TIME_UP. The largest wish of all workers is carried out.
_SAVE, _TIME_UP = 1, 63


class State(keras.callbacks.Callback):
    """Count the steps, keep the history, and save the state.

    It must be the last callback, to see the effects of the others.

    Arguments:
        session: the session.
        others: the recipe's callbacks, whose counters are saved.
        stop: a list that receives the number of a signal, from `stop_signals`.
        deadline: the time of `time.monotonic` to stop at; None for no limit.
    """

    def __init__(
        self,
        session: "Session",
        others: Sequence[keras.callbacks.Callback],
        stop: list[int],
        deadline: float | None,
    ) -> None:
        super().__init__()
        self.session, self.others, self.stop = session, others, stop
        self.deadline = deadline
        self.clock = self.saved_at = time.monotonic()
        self.ballot = distribute.Ballot()

    def on_train_begin(self, logs: Any = None) -> None:
        for callback, counters in zip(self.others, self.session.counters or [], strict=False):
            vars(callback).update(counters)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        position = self.session.position
        position["step"] += 1
        self.session.progress.step(position["step"], logs)
        if not self.session.divided:
            self.ballot.agreed = self._wish()
        if position["step"] % self.session.steps_an_epoch == 0:
            return  # `on_epoch_end` saves
        if self.ballot.agreed:
            if keras.backend.backend() == "jax":
                # Without it the variables would be those of the epoch's start.
                self.model.jax_state_sync()
            self._save(self.session.counted.read())
            self._stop_if_requested()
        self.ballot.wish = self._wish()

    def _wish(self):
        """Return the request of this process: to save, to stop, or nothing."""
        now = time.monotonic()
        if self.stop:
            return _SAVE + int(self.stop[0])
        if self.deadline is not None and now > self.deadline:
            return _TIME_UP
        return _SAVE if now - self.saved_at > self.session.checkpoint_seconds else 0

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._count_seconds()
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
        self._stop_if_requested()

    def _count_seconds(self):
        now = time.monotonic()
        self.session.position["seconds"] += now - self.clock
        self.clock = now

    def _save(self, metrics):
        self._count_seconds()
        self.session.save([_counters(callback) for callback in self.others], metrics)
        self.saved_at = time.monotonic()

    def _stop_if_requested(self):
        if self.session.position["finished"]:
            return
        if self.ballot.agreed > _SAVE and self.session.save_error:
            raise TrainingError(
                f"Stopped, and the state could not be saved ({self.session.save_error}); the last "
                "good one is kept."
            )
        if self.ballot.agreed == _TIME_UP:
            raise TimeUp(self.session.position["step"])
        if self.ballot.agreed > _SAVE:
            raise Interrupted(self.ballot.agreed - _SAVE, self.session.position["step"])


def _counters(callback):
    """Return the counters of a callback: its plain attributes, without its arguments.

    Keras changes the sign of the argument `min_delta`. A restored one would change it twice.
    """
    arguments = inspect.signature(type(callback)).parameters
    return {
        key: value
        for key, value in vars(callback).items()
        if key not in arguments and isinstance(value, (bool, int, float, str, type(None)))
    }
