"""Show the progress of a training: a bar with the time left, and a line for each epoch."""

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from zoo import terminal


class Progress:
    """On a terminal, a bar. Elsewhere, a line for each epoch and each minute of a long epoch."""

    def __init__(self, console: Console | None = None, quiet: bool = False) -> None:
        self.console = console or Console(highlight=False, quiet=quiet)
        self.bar: Bar | None = None

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, epochs: int, steps_an_epoch: int, done: int, judged_on: str) -> None:
        """Start the clock, and the bar on a terminal.

        Arguments:
            epochs: the number of epochs of the whole training.
            steps_an_epoch: the number of steps of an epoch.
            done: the number of steps that were done before.
            judged_on: the name of the images that the model is evaluated on, "test" or
                "validation".
        """
        self.judged_on = judged_on
        self.epochs, self.steps_an_epoch = epochs, steps_an_epoch
        self.steps = epochs * steps_an_epoch
        self.first, self.began = done, time.monotonic()
        self.last_line = self.began
        if self.console.is_terminal:
            columns = (
                TextColumn("epoch {task.fields[epoch]}/{task.fields[epochs]}"),
                BarColumn(),
                TextColumn("{task.fields[numbers]}"),
                TimeRemainingColumn(compact=True),
                TextColumn("left"),
            )
            self.bar = Bar(
                *columns, console=self.console, transient=True, speed_estimate_period=120
            )
            texts: dict[str, Any] = {
                "epoch": done // steps_an_epoch + 1,
                "epochs": epochs,
                "numbers": "",
            }
            self.task = self.bar.add_task("", total=self.steps, completed=done, **texts)
            self.bar.start()

    def step(self, step: int, logs: dict[str, float]) -> None:
        """Show that step number `step` is done; `logs` holds the epoch's means so far."""
        epoch = min(step // self.steps_an_epoch + 1, self.epochs)
        numbers = f"loss {logs['loss']:.4f}"
        if "accuracy" in logs:
            numbers += f", accuracy {100 * logs['accuracy']:.2f} %"
        if self.bar:
            self.bar.update(self.task, completed=step, epoch=epoch, numbers=numbers)
        elif time.monotonic() - self.last_line > 60:
            self.say(f"epoch {epoch}/{self.epochs}, step {step}: {numbers}, {self._left(step)}")

    def epoch(self, row: dict[str, Any]) -> None:
        """Show the results of an epoch; `row` is its row of metrics.csv."""
        numbers = [f"loss {row['loss']:.4f}", f"accuracy {100 * row['accuracy']:.2f} %"]
        if "val_accuracy" in row:
            numbers.append(f"{self.judged_on} {100 * row['val_accuracy']:.2f} %")
        numbers.append(self._left(row["step"]))
        self.say(f"epoch {row['epoch']}/{self.epochs}: " + ", ".join(numbers))

    def _left(self, step):
        pace = (time.monotonic() - self.began) / max(1, step - self.first)
        minutes, seconds = divmod(round(pace * (self.steps - step)), 60)
        return f"{minutes}:{seconds:02d} left"

    def say(self, text: str) -> None:
        """Print a line."""
        self.last_line = time.monotonic()
        terminal.say(text, console=self.console)

    def warn(self, text: str) -> None:
        """Print a warning."""
        terminal.say(f"Warning: {text}", console=self.console, style="yellow")

    def stop(self) -> None:
        """Remove the bar."""
        if self.bar:
            self.bar.stop()
            self.bar = None
