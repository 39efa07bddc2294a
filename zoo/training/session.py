"""The part of a run from one start of the program to its end: restore, train, save."""

import dataclasses
import functools
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from zoo.data import ImageData
from zoo.data.packs import damage_told
from zoo.recipe import Recipe, RecipeError
from zoo.runs import Run, differences_of
from zoo.saving import shipped
from zoo.training import checkpoint, distribute, failures
from zoo.training.callbacks import Board, ShortFirstEpoch, State, Watch
from zoo.training.loops import Loop, one_call_an_epoch, one_device, replicas
from zoo.training.plan import compiled_plan, is_divided
from zoo.training.progress import Progress
from zoo.training.stopping import TrainingError, stop_signals

if TYPE_CHECKING:
    import tensorflow as tf


class Session:
    """The part of a run from one start of the program to its end or the next stop.

    It holds the compiled model, the data, and the position in the training.

    Arguments:
        recipe: the recipe.
        run: the run's folder.
        training: the training images.
        judging: the images to evaluate on.
        progress: shows lines and warnings.
        strategy: a strategy; None for one device.
        checkpoint_seconds: the time between two saved states within an epoch, in seconds.
        record: the record of this start, from `zoo.runs.record_of`.
        versions: the contents of versions.json for this start.
    """

    def __init__(
        self,
        recipe: Recipe,
        run: Run,
        training: ImageData,
        judging: ImageData,
        progress: Progress,
        strategy: "tf.distribute.Strategy | None",
        *,
        checkpoint_seconds: float,
        record: dict[str, Any],
        versions: dict[str, Any],
    ) -> None:
        self.recipe, self.run, self.progress = recipe, run, progress
        self.training, self.judging = training, judging
        self.strategy, self.chief = strategy, distribute.is_chief(strategy)
        self.checkpoint_seconds = checkpoint_seconds
        self.record, self.versions = record, versions
        # Of the last start, and of the state that was restored.
        self.versions_before = [run.versions_before or {}]
        one_pass = math.ceil(training.examples / recipe.batch_size)
        self.steps_an_epoch = recipe.steps_per_epoch or one_pass
        self.steps = recipe.epochs * self.steps_an_epoch
        plan = compiled_plan(recipe, training, self.steps, strategy)
        self.model, self.callbacks = plan.model, plan.callbacks
        self.divided = is_divided(recipe, strategy)
        self.counted = distribute.Counted(self.model, strategy)
        self.position: dict[str, Any] = {
            "epoch": 0,
            "step": 0,
            "seconds": 0.0,
            "finished": False,
            "resumed": 0,
            "warnings": [],
        }
        self.history: list[dict[str, Any]] = []
        self.counters: list[dict[str, Any]] | None = None  # restored, of the recipe's callbacks
        self.metrics: list[list[float]] | None = None  # restored, of an interrupted epoch
        self.save_error: OSError | None = None  # if the last save failed
        self.failed_saves = 0  # since the last one that did not

    @property
    def variables(self) -> list[Any]:
        """The variables of the model and of the optimizer."""
        return [*self.model.variables, *self.model.optimizer.variables]

    @property
    def teacher(self) -> list[str] | None:
        """The fingerprints of the teachers of a `Distiller`; None without teachers."""
        return getattr(self.model, "teacher_fingerprint", None)

    @property
    def data(self) -> dict[str, Any]:
        """The identities of both sets of images, to compare with those at the run's start."""
        return {images.split: images.identity for images in (self.training, self.judging)}

    @property
    def judged_on(self) -> str:
        """The name of the images to evaluate on, "validation" or "test"."""
        return self.recipe.judged_on

    @property
    def label_names(self) -> list[str]:
        """The names of the classes, in the order of the logits."""
        return [str(name) for name in self.training.label_names]

    def restore(self) -> None:
        """Continue from the last saved state, if there is one.

        Raises:
            RecipeError: if it is the state of another run, or the teacher or the images have
                changed since the run's start.
            zoo.training.checkpoint.CheckpointError: if no saved state can be used.
            zoo.distribute.StrategyError: if the workers are at different steps.
        """
        folder = self.run.checkpoints
        meta, damaged = checkpoint.restore(folder, self.variables, self._refuse_foreign)
        if meta:
            self.position, self.history = meta["position"], meta["history"]
            self.counters, metrics = meta["callbacks"], meta["metrics"]
            if metrics and not isinstance(metrics[0], list):
                metrics = [metrics]  # a run from before there were replicas
            self.metrics = metrics
            self.versions_before.append(meta.get("versions", {}))
            self.position["resumed"] += 1
            self.progress.say(f"Resumed {self.run.folder} at step {self.position['step']}.")
        for commit in damaged:
            self.warn(f"Checkpoint {commit} was damaged and skipped.")
        if self.strategy is not None:
            distribute.check_same_everywhere(self.strategy, "step", self.position["step"])
            distribute.decorrelate(self.model, self.strategy)

    def _refuse_foreign(self, commit: Path, meta: dict[str, Any]) -> None:
        """Refuse a commit of another run, as far as the commit knows: an older one knows less.

        Other code, packages or devices are no other run; the session warns of them.
        """
        defaults = dataclasses.asdict(type(self.recipe)())
        begun = meta.get("run")
        if begun and (differences := differences_of(begun, self.record, defaults)):
            raise RecipeError(
                f"{commit} is a checkpoint of another run, with {differences}. Move it out of the "
                "folder, or choose another --name."
            )
        if meta.get("teacher") != self.teacher:
            raise RecipeError(
                f"{self.run.folder} was begun with the teacher {meta.get('teacher')}, which "
                f"now is {self.teacher}: it was trained again. Choose another --name."
            )
        self._refuse_changed_images(meta.get("data", {}))

    def _refuse_changed_images(self, begun: dict[str, Any]) -> None:
        """Refuse images that are not those of the run's start, as far as its record knows them."""
        for images in (self.training, self.judging):
            if changes := images.changes_since(begun.get(images.split)):
                raise RecipeError(
                    f"{self.run.folder} was begun with other {images.split} images of "
                    f"{images.name} ({changes}). Put them back, or choose another --name."
                )

    def fit(self, deadline: float | None = None) -> None:
        """Train the remaining steps.

        Arguments:
            deadline: the time of `time.monotonic` to stop at; None for no limit.

        Raises:
            TrainingError: if the loss is not finite, the net never starts to learn, the memory is
                too small, no state can be saved, or the run folder was moved or deleted.
            Interrupted: after saving, if SIGINT, SIGTERM or SIGHUP came.
            TimeUp: after saving, at the deadline.
        """
        if self.position["finished"]:
            # With use_ema, Keras makes the averages the weights after the last save.
            with distribute.scope(self.strategy):
                optimizer = self.model.optimizer
                optimizer.finalize_variable_values(self.model.trainable_variables)
            return
        done = self.position["step"]
        needed, folder = checkpoint.size(self.variables), self.run.checkpoints
        if self.chief and not done and failures.free_bytes(folder) < needed:
            raise failures.no_room(folder, needed)
        parameters = shipped(self.model).count_params()
        self.progress.say(
            f"{self.training.name}: {self.training.examples} training images, "
            f"{self.judging.examples} {self.judged_on} images, {self.training.classes} classes; "
            f"{parameters:,} parameters; {self.run.folder}"
        )
        shard = distribute.shard(self.strategy, self.recipe.batch_size)
        alone = shard == self.training.shard
        images = self.training if alone else dataclasses.replace(self.training, shard=shard)
        batches = self.recipe.training_batches(images, done)
        if self.recipe.class_weights:
            batches = self.training.balanced(batches)
        # Not before: teachers that answer all images once may take minutes, which no epoch takes.
        self.progress.start(self.recipe.epochs, self.steps_an_epoch, done, self.judged_on)
        parts = distribute.described(self.strategy)["replicas"]
        memory = failures.memory_explained(self._lack_of_memory)
        with stop_signals() as stop, memory, damage_told():
            state = State(self, self.callbacks, stop, deadline)
            validation = self.judging.batches(evaluation_batch_size(self.judging.examples, parts))
            if not self.divided:
                self._build_metrics()
            self._loop(state.ballot, sharded=not alone)(
                self.model,
                batches=batches,
                validation=validation,
                initial_epoch=self.position["epoch"],
                epochs=self.recipe.epochs,
                steps_per_epoch=self.steps_an_epoch,
                callbacks=[
                    ShortFirstEpoch(self),
                    *self._tensorboard(),
                    *self.callbacks,
                    Watch(self),
                    state,
                ],
            )

    def _build_metrics(self):
        """Make the variables of the compiled metrics, as Keras does at the first batch.

        They must exist before they can be restored. And a step that makes variables is traced
        twice, which takes seconds.
        """
        image = self.judging.images[0][np.newaxis].astype("float32")
        self.model.compute_metrics(
            image, self.judging.labels[:1], self.model(image, training=False)
        )
        self.model.reset_metrics()

    def _loop(self, ballot, sharded) -> Loop:
        """Return the loop that suits this training."""
        if self.divided:
            return functools.partial(
                replicas.fit,
                strategy=self.strategy,
                micro_batches=self.recipe.micro_batches,
                ballot=ballot,
                sharded=sharded,
            )
        tensorflow = keras.backend.backend() == "tensorflow"
        return one_device.fit if tensorflow else one_call_an_epoch.fit

    def _tensorboard(self):
        """Return the TensorBoard callback. It writes with TensorFlow, which JAX may lack."""
        return [Board(self)] if self.chief and keras.backend.backend() == "tensorflow" else []

    def save(self, counters: list[dict[str, Any]], metrics: list[list[float]] | None) -> None:
        """Save the state. If a write fails after one that did not, the run continues.

        Arguments:
            counters: the counters of the recipe's callbacks.
            metrics: the counts of the metrics within an epoch; None at its end.

        Raises:
            TrainingError: if a variable is not finite, no state could ever be saved, or the run
                folder was moved or deleted.
        """
        for variable in self.variables:
            value = np.asarray(variable)
            if value.dtype.kind == "f" and not np.isfinite(value).all():
                raise TrainingError(
                    f"{variable.path} is no longer finite after step {self.position['step']}. "
                    + self.advice()
                )
        if not self.chief:
            return
        step, place = self.position["step"], self.run.place
        if place is None:
            raise failures.gone(self.run.folder, None, step, saved=False)
        run = Run(place)
        meta = {
            "position": self.position,
            "history": self.history,
            "callbacks": counters,
            "metrics": metrics,
            "teacher": self.teacher,
            "data": self.data,
            "run": {key: self.record[key] for key in ("recipe", "fields")},
            "versions": self.versions,
        }
        self.save_error = None
        try:
            checkpoint.save(run.checkpoints, step, self.variables, meta)
            run.write_history(self.history)
            self.failed_saves = 0
        except OSError as error:
            self.save_error = error
        if place != self.run.folder:
            raise failures.gone(self.run.folder, place, step, saved=self.save_error is None)
        if self.save_error:
            self._say_that_save_failed(self.save_error)

    def _say_that_save_failed(self, error: OSError) -> None:
        """Warn, or stop the training if it never was saved."""
        kept = checkpoint.latest_step(self.run.checkpoints)
        if kept is None:
            needed = checkpoint.size(self.variables)
            raise failures.no_room(self.run.checkpoints, needed, error) from error
        self.failed_saves += 1
        many = f"the last {self.failed_saves} saves failed; " if self.failed_saves > 1 else ""
        self.progress.warn(
            f"The checkpoint of step {self.position['step']} could not be written ({error}); "
            f"{many}training goes on, and the state of step {kept} is kept."
        )

    def _lack_of_memory(self) -> str:
        """Return a sentence about a lack of memory: where it was, and what may fit."""
        step, replicas = self.position["step"], distribute.described(self.strategy)["replicas"]
        if step == (self.position["epoch"] + 1) * self.steps_an_epoch:
            text = (
                f"The memory is too small to evaluate the model after step {step}: take smaller "
                "images, a smaller net or more memory."
            )
        else:
            text = failures.too_large(self.recipe, replicas, step + 1)
        return f"{text} {self.kept()}."

    def advice(self) -> str:
        """Return a sentence about the last saved state, and what to try."""
        rate = self.recipe.learning_rate
        return f"{self.kept()}. Try a lower --learning-rate (it is {rate})."

    def kept(self) -> str:
        """Return words about the last saved state."""
        kept = checkpoint.latest_step(self.run.checkpoints)
        return f"The state of step {kept} is kept" if kept else "No state was saved before it"

    def warn_of_other_versions(self) -> None:
        """Warn if the last start, or the saved state, had other code, packages or hardware.

        The run can continue, but not with the same bits.
        """
        for before in self.versions_before:
            compared = ("commit", "recipe", "packages", "hardware", "backend", "strategy")
            for key in (*compared, "precision"):
                if key in before and before[key] != self.versions[key]:
                    self.warn(f"Resumed with other {key}: {before[key]}, now {self.versions[key]}.")

    def warn_of_skipped_files(self) -> None:
        """Warn of odd files and folders. Write those that could not be read to skipped.txt."""
        for note in dict.fromkeys([*self.training.notes, *self.judging.notes]):
            self.warn(note)
        skipped = list(dict.fromkeys([*self.training.skipped, *self.judging.skipped]))
        if skipped:
            self.run.write_skipped(skipped)
            shown = "; ".join(skipped[:5])
            self.warn(
                f"{len(skipped)} files of {self.training.name} were left out, see skipped.txt: "
                f"{shown}{'; ...' if len(skipped) > 5 else ''}"
            )

    def warn_of_untested_classes(self) -> None:
        """Warn of classes that no image can judge."""
        missing = sorted(set(range(len(self.label_names))) - set(self.judging.labels.tolist()))
        if missing:
            names = ", ".join(repr(self.label_names[label]) for label in missing[:5])
            self.warn(
                f"{len(missing)} of {len(self.label_names)} classes have no {self.judged_on} "
                f"image, so nothing says how well they are recognized: {names}"
                f"{', ...' if len(missing) > 5 else ''}."
            )

    def warn_of_shared_images(self) -> None:
        """Warn of images that are both trained and evaluated on."""
        shared = self.judging.also_in(self.training)
        if shared:
            labels = self.judging.labels
            shown = ", ".join(
                f"{index} ({self.label_names[labels[index]]})" for index in shared[:5]
            )
            self.warn(
                f"{len(shared)} of the {self.judging.examples} {self.judged_on} images are among "
                f"the training images, which flatters the result: number {shown}"
                f"{', ...' if len(shared) > 5 else ''}."
            )

    def warn(self, text: str) -> None:
        """Print a warning and keep it for the results, once in a run."""
        if text not in self.position["warnings"]:
            self.position["warnings"].append(text)
            self.progress.warn(text)


def evaluation_batch_size(examples: int, replicas: int, most: int = 256) -> int:
    """Return a batch size at which each replica has an image of every batch, if there is one.

    On CPUs, TensorFlow's oneDNN convolution gives an empty batch the wrong channels.

    Arguments:
        examples: the number of images.
        replicas: the number of replicas that share each batch.
        most: the largest size to try, and the result if none suits.
    """
    sizes = range(most, replicas - 1, -1)
    return next((size for size in sizes if not 0 < examples % size < replicas), most)
