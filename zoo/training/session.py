"""One sitting of a run: from the first step to the last, or to the next stop."""

import math

import keras
import numpy as np

from zoo.recipe import RecipeError
from zoo.saving import shipped
from zoo.training import checkpoint, distribute
from zoo.training.callbacks import ShortFirstEpoch, State, Watch
from zoo.training.loops import one_call_an_epoch, one_device, replicas
from zoo.training.plan import compiled, is_divided
from zoo.training.stopping import TrainingError, stop_signals


class Session:
    """One sitting of a run: the compiled model, the data, and how far the training is."""

    def __init__(self, recipe, run, training, judging, progress, strategy, *, checkpoint_seconds):
        self.recipe, self.run, self.progress = recipe, run, progress
        self.training, self.judging = training, judging
        self.strategy, self.chief = strategy, distribute.is_chief(strategy)
        self.checkpoint_seconds = checkpoint_seconds
        one_pass = math.ceil(training.examples / recipe.batch_size)
        self.steps_an_epoch = recipe.steps_per_epoch or one_pass
        self.steps = recipe.epochs * self.steps_an_epoch
        plan = compiled(recipe, training, self.steps, strategy)
        self.model, self.callbacks = plan.model, plan.callbacks
        self.divided = is_divided(recipe, strategy)
        self.counted = distribute.Counted(self.model, strategy)
        self.position = {
            "epoch": 0,
            "step": 0,
            "seconds": 0.0,
            "finished": False,
            "resumed": 0,
            "warnings": [],
        }
        self.unsaved = None  # why the last commit failed
        self.history = []
        self.memory = None  # of the callbacks
        self.metrics = None  # of an epoch that was interrupted

    @property
    def variables(self):
        return [*self.model.variables, *self.model.optimizer.variables]

    @property
    def teacher(self):
        """The fingerprints of those whom a `Distiller` learns from; else None."""
        return getattr(self.model, "teacher_fingerprint", None)

    @property
    def data(self):
        """What tells whether the images are those that the run was begun with."""
        return {each.split: each.identity for each in (self.training, self.judging)}

    def restore(self):
        """Take up where the last sitting stopped, if there was one."""
        meta, damaged = checkpoint.restore(self.run.checkpoints, self.variables)
        if meta:
            self.position, self.history = meta["position"], meta["history"]
            self.memory, self.metrics = meta["callbacks"], meta["metrics"]
            if self.metrics and not isinstance(self.metrics[0], list):
                self.metrics = [self.metrics]  # of a run begun before there were replicas
            if meta.get("teacher") != self.teacher:
                raise RecipeError(
                    f"{self.run.folder} was begun with the teacher {meta.get('teacher')}, which "
                    f"now is {self.teacher}: it was trained again. Choose another --name."
                )
            if meta.get("data", self.data) != self.data:
                raise RecipeError(
                    f"{self.run.folder} was begun with the images {meta['data']}, which now are "
                    f"{self.data}: other ones may be held out. Choose another --name."
                )
            self.position["resumed"] += 1
            self.progress.say(f"Resumed {self.run.folder} at step {self.position['step']}.")
        for commit in damaged:
            self.warn(f"Checkpoint {commit} was damaged and passed over.")
        if self.strategy is not None:
            distribute.check_same_everywhere(self.strategy, "step", self.position["step"])
            distribute.decorrelate(self.model, self.strategy)

    def fit(self, deadline=None):
        """Train what is left; `deadline` is a time of `time.monotonic` to stop at."""
        if self.position["finished"]:
            # Of use_ema: Keras makes the averages the weights after the last state was saved.
            with distribute.scope(self.strategy):
                optimizer = self.model.optimizer
                optimizer.finalize_variable_values(self.model.trainable_variables)
            return
        done = self.position["step"]
        self.progress.start(self.recipe.epochs, self.steps_an_epoch, done, self.judged_on)
        parameters = shipped(self.model).count_params()
        self.progress.say(
            f"{self.training.name}: {self.training.examples} training images, "
            f"{self.judging.examples} {self.judged_on} images, {self.training.classes} classes; "
            f"{parameters:,} parameters; {self.run.folder}"
        )
        batches = self.recipe.training_batches(self.training, done)
        with stop_signals() as stop:
            parts = distribute.described(self.strategy)["replicas"]
            state = State(self, self.callbacks, stop, deadline)
            judging = self.judging.batches(judged_at_once(self.judging.examples, parts))
            loop = self._loop(judging, state.ballot)
            loop(
                self.model,
                batches,
                validation=judging,
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

    def _loop(self, judging, ballot):
        """The loop that this training runs in: a function with the arguments of Keras' `fit`."""
        if self.divided:

            def fit_divided(model, batches, **arguments):
                parts = {"micro_batches": self.recipe.micro_batches, "ballot": ballot}
                return replicas.fit(model, self.strategy, batches, **parts, **arguments)

            return fit_divided
        if self.metrics is not None:  # Keras makes their variables when it first needs them
            self.model.evaluate(judging, steps=1, verbose=0)
        tensorflow = keras.backend.backend() == "tensorflow"
        return one_device.fit if tensorflow else one_call_an_epoch.fit

    def _tensorboard(self):
        """Its callback, which writes with TensorFlow; with JAX that may be absent."""
        if not self.chief or keras.backend.backend() != "tensorflow":
            return []
        return [keras.callbacks.TensorBoard(self.run.tensorboard, write_graph=False)]

    def compare_versions(self, versions):
        """Between other releases or machines a resumed run goes on, but not with the same bits."""
        if before := self.run.versions_before:
            compared = ("commit", "recipe", "packages", "hardware", "backend", "strategy")
            for key in (*compared, "precision"):
                if key in before and before[key] != versions[key]:
                    self.warn(f"Resumed with other {key}: {before[key]}, now {versions[key]}.")

    def name_skipped(self):
        """Say which images could not be read and were left out, and keep the list."""
        skipped = list(dict.fromkeys([*self.training.skipped, *self.judging.skipped]))
        if skipped:
            self.run.skipped_file.write_text("\n".join(skipped) + "\n", encoding="utf-8")
            shown = "; ".join(skipped[:5])
            self.warn(
                f"{len(skipped)} files of {self.training.name} were left out, see skipped.txt: "
                f"{shown}{'; ...' if len(skipped) > 5 else ''}"
            )

    def name_copies(self):
        """Say which images are judged on though they are trained on, too."""
        copies = self.judging.also_in(self.training)
        if copies:
            shown = ", ".join(f"{i} ({self.names[self.judging.labels[i]]})" for i in copies[:5])
            self.warn(
                f"{len(copies)} of the {self.judging.examples} {self.judged_on} images are among "
                f"the training images, which flatters the result: number {shown}"
                f"{', ...' if len(copies) > 5 else ''}."
            )

    def warn(self, text):
        if text not in self.position["warnings"]:
            self.position["warnings"].append(text)
            self.progress.warn(text)

    @property
    def judged_on(self):
        return "validation" if self.recipe.validation else "test"

    def save(self, callbacks, metrics):
        """Commit the state. A failed write costs a warning, not the run, nor the last commit."""
        for variable in self.variables:
            value = np.asarray(variable)
            if value.dtype.kind == "f" and not np.isfinite(value).all():
                raise TrainingError(
                    f"{variable.path} is no longer finite after step {self.position['step']}. "
                    + self.advice()
                )
        if not self.chief:
            return
        meta = {
            "position": self.position,
            "history": self.history,
            "callbacks": callbacks,
            "metrics": metrics,
            "teacher": self.teacher,
            "data": self.data,
        }
        self.unsaved = None
        try:
            checkpoint.save(self.run.checkpoints, self.position["step"], self.variables, meta)
            self.run.write_history(self.history)
        except OSError as error:
            self.unsaved = error
            self.progress.warn(
                f"The checkpoint of step {self.position['step']} could not be written ({error}); "
                "training goes on, the last good one is kept."
            )

    def advice(self):
        kept = checkpoint.latest_step(self.run.checkpoints)
        where = f"The state of step {kept} is kept" if kept else "No state was saved before it"
        return f"{where}. Try a lower --learning-rate (it is {self.recipe.learning_rate})."

    @property
    def names(self):
        return [str(name) for name in self.training.label_names]


def judged_at_once(examples, replicas, most=256):
    """Images a batch, such that every replica has one of the last batch, too, where it can.

    On CPUs TensorFlow's oneDNN convolution gives an empty batch the wrong channels.
    """
    sizes = range(most, replicas - 1, -1)
    return next((size for size in sizes if not 0 < examples % size < replicas), most)
