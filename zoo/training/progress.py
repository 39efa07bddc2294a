"""What a person sees while a recipe trains: a bar with the time left, and a line an epoch."""

import time

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar


class Progress:
    """A bar on a terminal; elsewhere a line an epoch, and one a minute in long epochs."""

    def __init__(self, console=None, quiet=False):
        self.console = console or Console(highlight=False, quiet=quiet)
        self.bar = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def start(self, epochs, steps_an_epoch, done, judged_on):
        """Begin at step `done`; `judged_on` is "test" or "validation"."""
        self.judged_on = judged_on
        self.epochs, self.steps_an_epoch, self.steps = (
            epochs,
            steps_an_epoch,
            epochs * steps_an_epoch,
        )
        self.first, self.began = done, time.monotonic()
        self.spoke = self.began
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
            fields = {"epoch": done // steps_an_epoch + 1, "epochs": epochs, "numbers": ""}
            self.task = self.bar.add_task("", total=self.steps, completed=done, **fields)
            self.bar.start()

    def step(self, step, logs):
        """Step number `step` is done; `logs` are the epoch's means so far."""
        epoch = min(step // self.steps_an_epoch + 1, self.epochs)
        numbers = f"loss {logs['loss']:.4f}"
        if "accuracy" in logs:
            numbers += f", accuracy {100 * logs['accuracy']:.2f} %"
        if self.bar:
            self.bar.update(self.task, completed=step, epoch=epoch, numbers=numbers)
        elif time.monotonic() - self.spoke > 60:
            self.say(f"epoch {epoch}/{self.epochs}, step {step}: {numbers}, {self._left(step)}")

    def epoch(self, row):
        """An epoch is over; `row` is its line of metrics.csv."""
        numbers = [f"loss {row['loss']:.4f}", f"accuracy {100 * row['accuracy']:.2f} %"]
        if "val_accuracy" in row:
            numbers.append(f"{self.judged_on} {100 * row['val_accuracy']:.2f} %")
        numbers.append(self._left(row["step"]))
        self.say(f"epoch {row['epoch']}/{self.epochs}: " + ", ".join(numbers))

    def _left(self, step):
        pace = (time.monotonic() - self.began) / max(1, step - self.first)
        minutes, seconds = divmod(round(pace * (self.steps - step)), 60)
        return f"{minutes}:{seconds:02d} left"

    def say(self, text):
        self.spoke = time.monotonic()
        self.console.print(text, soft_wrap=True, markup=False)

    def warn(self, text):
        self.console.print(f"Warning: {text}", style="yellow", soft_wrap=True, markup=False)

    def stop(self):
        if self.bar:
            self.bar.stop()
            self.bar = None
