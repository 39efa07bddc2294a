"""Train a recipe: resumable at every step, and a run folder that says what was done."""

import contextlib
import csv
import dataclasses
import fcntl
import hashlib
import inspect
import json
import math
import signal
import threading
import time
from pathlib import Path

import keras
import numpy as np

from zoo import checkpoint, distribute, files, measures, numpy_data, predicting, provenance
from zoo.deep_supervision import DeeplySupervised
from zoo.progress import Progress
from zoo.recipe import RecipeError, title


class TrainingError(RuntimeError):
    """A training that cannot go on: a loss that is not finite, or a net that does not learn."""


class Interrupted(Exception):
    """SIGINT or SIGTERM came; the state is saved. `signal` is its number."""

    def __init__(self, number, step):
        name = signal.Signals(number).name
        super().__init__(f"stopped by {name} and saved at step {step}; the same command resumes")
        self.signal = number


class TimeUp(Exception):
    """The sitting's minutes are over; the state is saved."""

    def __init__(self, step):
        super().__init__(f"time is up; saved at step {step}, the same command goes on")


def train(
    recipe,
    file,
    *,
    runs="runs",
    name=None,
    checkpoint_seconds=60.0,
    deterministic=True,
    page=True,
    console=None,
    strategy="none",
    replicas=0,
    minutes=None,
    taught_by=None,
):
    """Train `recipe`, defined in `file`, in the folder runs/<recipe>/<name>; returns that folder.

    The same call again resumes, from the last step saved: at the end of each epoch, every
    `checkpoint_seconds` seconds, and when SIGINT or SIGTERM asks to stop. On a CPU, with
    `deterministic` operations, a run killed and resumed ends with the bits of one left alone.
    Without `page` the run folder has neither page nor example images.
    `strategy` and `replicas` are of `zoo.distribute.make_strategy`; of several workers, which share
    the folder `runs`, the chief alone writes. After so many `minutes` the training stops, saved.
    `name` is by default made of the fields that differ from the recipe's own. `taught_by` are the
    fingerprints that the teachers of a `Distiller` must have.

    Raises:
        RecipeError: for values no training can use, a folder that holds another run, or teachers
            that are others than `taught_by`.
        zoo.data.DataError: for data that cannot be trained on.
        TrainingError: when the loss stops being finite, or the net never starts to learn.
        Interrupted: after saving, when SIGINT or SIGTERM came; of several workers to any.
        TimeUp: after saving, when the minutes are over.
        zoo.distribute.StrategyError: for a strategy that cannot be had, or does not fit.
        zoo.distribute.WorkerLost: when another worker stopped.
    """
    deadline = None if minutes is None else time.monotonic() + 60 * minutes
    recipe.check()
    strategy = distribute.make_strategy(strategy, replicas)
    chief = distribute.is_chief(strategy)
    folder = Path(runs) / Path(file).stem / (name or name_of(recipe))
    with (
        locked(folder) if chief else contextlib.nullcontext(),
        Progress(console, quiet=not chief) as progress,
    ):
        record = _record(recipe, file)
        _refuse_other_run(folder, record, dataclasses.asdict(type(recipe)()))
        if (folder / "results.json").exists():
            progress.say(f"{folder} is complete; choose another --name to train again.")
            return folder
        keras.utils.set_random_seed(recipe.seed)
        if deterministic and keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            tf.config.experimental.enable_op_determinism()
        keras.config.set_dtype_policy(provenance.dtype_policy(recipe.precision))
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
        session = _Session(recipe, folder, training, judging, progress, strategy)
        session.checkpoint_seconds, session.deadline = checkpoint_seconds, deadline
        if taught_by not in (None, session.teacher):
            raise RecipeError(
                f"The teacher now is {session.teacher}; expected {taught_by}. It has been trained "
                "again since; an older commit has the one expected."
            )
        versions = provenance.versions(recipe, deterministic, strategy)
        versions["recipe"] = files.sha256(file)
        if chief:
            # Only now: a start that was refused must not bind the folder to its fields.
            _write_json(folder / "recipe.json", record)
        session.restore()
        if chief:
            session.compare_versions(versions)
            session.name_skipped()
            session.name_copies()
            _write_json(folder / "versions.json", versions)
        session.fit()
        if chief:
            session.finish(page)
        distribute.wait_for_all(strategy)  # a worker that leaves takes the others with it
    return folder


class _Session:
    """One sitting of a run: the compiled model, the data, and how far the training is."""

    def __init__(self, recipe, folder, training, judging, progress, strategy):
        self.recipe, self.folder, self.progress = recipe, folder, progress
        self.training, self.judging = training, judging
        self.strategy, self.chief = strategy, distribute.is_chief(strategy)
        self.checkpoint_seconds, self.deadline = 60.0, None
        one_pass = math.ceil(training.examples / recipe.batch_size)
        self.steps_an_epoch = recipe.steps_per_epoch or one_pass
        steps = recipe.epochs * self.steps_an_epoch
        with distribute.scope(strategy):
            self.model = self.made(steps)
            self.shipped = _shipped(self.model)
            classes = self.shipped.output_shape[-1]
            if classes != training.classes:
                raise RecipeError(
                    f"The model gives {classes} scores; {training.name} has {training.classes} "
                    "classes."
                )
            self.model.compile(
                optimizer=recipe.optimizer(steps), loss=recipe.loss(), metrics=["accuracy"]
            )
            self.model.optimizer.build(self.model.trainable_variables)
        # Keras' own fit, but for what it does not have or does otherwise.
        self.divided = strategy is not None or recipe.micro_batches > 1
        if recipe.micro_batches > 1 and keras.backend.backend() != "tensorflow":
            raise RecipeError(
                "--micro-batches is TensorFlow's; with Keras' other backends give the optimizer "
                "gradient_accumulation_steps."
            )
        if self.model.optimizer.use_ema and keras.backend.backend() != "tensorflow":
            raise RecipeError(
                "An optimizer's use_ema is TensorFlow's here: Keras makes the averages the weights "
                "at the end of each call of fit, and with its other backends an epoch is a call."
            )
        if self.divided:
            distribute.check(self.model)
            labels, scores = training.labels[:2], np.zeros((2, classes), "float32")
            distribute.check_gives_one_loss_an_example(self.model.loss, labels, scores)
            parts = distribute.described(strategy)["replicas"] * recipe.micro_batches
            if recipe.batch_size < parts:
                raise RecipeError(
                    f"--batch-size is at least {parts}, one image a replica and micro-batch; "
                    f"received {recipe.batch_size}."
                )
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

    def made(self, steps):
        """The recipe's model."""
        try:
            return self.recipe.model(self.training, steps)
        except ValueError as error:  # of a factory that was given what it cannot use
            raise RecipeError(f"{type(self.recipe).__module__}: {error}") from error

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

    @property
    def checkpoints(self):
        return self.folder / "checkpoints"

    def restore(self):
        """Take up where the last sitting stopped, if there was one."""
        meta, damaged = checkpoint.restore(self.checkpoints, self.variables)
        if meta:
            self.position, self.history = meta["position"], meta["history"]
            self.memory, self.metrics = meta["callbacks"], meta["metrics"]
            if self.metrics and not isinstance(self.metrics[0], list):
                self.metrics = [self.metrics]  # of a run begun before there were replicas
            if meta.get("teacher") != self.teacher:
                raise RecipeError(
                    f"{self.folder} was begun with the teacher {meta.get('teacher')}, which now is "
                    f"{self.teacher}: it was trained again. Choose another --name."
                )
            if meta.get("data", self.data) != self.data:
                raise RecipeError(
                    f"{self.folder} was begun with the images {meta['data']}, which now are "
                    f"{self.data}: other ones may be held out. Choose another --name."
                )
            self.position["resumed"] += 1
            self.progress.say(f"Resumed {self.folder} at step {self.position['step']}.")
        for commit in damaged:
            self.warn(f"Checkpoint {commit} was damaged and passed over.")
        if self.strategy is not None:
            distribute.check_same_everywhere(self.strategy, "step", self.position["step"])
            distribute.decorrelate(self.model, self.strategy)

    def fit(self):
        """Keras' own fit, over what is left."""
        if self.position["finished"]:
            # Of use_ema: Keras makes the averages the weights after the last state was saved.
            with distribute.scope(self.strategy):
                optimizer = self.model.optimizer
                optimizer.finalize_variable_values(self.model.trainable_variables)
            return
        done = self.position["step"]
        self.progress.start(self.recipe.epochs, self.steps_an_epoch, done, self.judged_on)
        self.progress.say(
            f"{self.training.name}: {self.training.examples} training images, "
            f"{self.judging.examples} {self.judged_on} images, {self.training.classes} classes; "
            f"{self.shipped.count_params():,} parameters; {self.folder}"
        )
        recipe, others = self.recipe, self.recipe.callbacks()
        batches = recipe.training_batches(self.training, done)
        with _stop_signals() as stop:
            state = _State(self, others, stop)
            callbacks = [_ShortFirstEpoch(self), *self._tensorboard(), *others, _Watch(self), state]
            arguments = {
                "initial_epoch": self.position["epoch"],
                "epochs": recipe.epochs,
                "steps_per_epoch": self.steps_an_epoch,
                "callbacks": callbacks,
            }
            judging = self.judging.batches(self.judged_at_once())
            if self.divided:
                distribute.fit(
                    self.model,
                    self.strategy,
                    batches,
                    validation=judging,
                    micro_batches=recipe.micro_batches,
                    ballot=state.ballot,
                    **arguments,
                )
                return
            if self.metrics is not None:  # Keras makes their variables when it first needs them
                self.model.evaluate(judging, steps=1, verbose=0)
            if keras.backend.backend() != "tensorflow":
                numpy_data.fit(self.model, batches, validation=judging, **arguments)
                return
            self.model.fit(batches, validation_data=judging, shuffle=False, verbose=0, **arguments)

    def judged_at_once(self, most=256):
        """Images a batch, such that of the last one, too, every replica has one where it can.

        On CPUs TensorFlow's oneDNN convolution gives an empty batch the wrong channels.
        """
        parts, examples = distribute.described(self.strategy)["replicas"], self.judging.examples
        sizes = range(most, parts - 1, -1)
        return next((size for size in sizes if not 0 < examples % size < parts), most)

    def _tensorboard(self):
        """Its callback, which writes with TensorFlow; with JAX that may be absent."""
        if not self.chief or keras.backend.backend() != "tensorflow":
            return []
        return [keras.callbacks.TensorBoard(self.folder / "tensorboard", write_graph=False)]

    def compare_versions(self, versions):
        """Between other releases or machines a resumed run goes on, but not with the same bits."""
        path = self.folder / "versions.json"
        if path.exists():
            before = json.loads(path.read_text(encoding="utf-8"))
            compared = ("commit", "recipe", "packages", "hardware", "backend", "strategy")
            for key in (*compared, "precision"):
                if key in before and before[key] != versions[key]:
                    self.warn(f"Resumed with other {key}: {before[key]}, now {versions[key]}.")

    def name_skipped(self):
        """Say which images could not be read and were left out, and keep the list."""
        skipped = list(dict.fromkeys([*self.training.skipped, *self.judging.skipped]))
        if skipped:
            (self.folder / "skipped.txt").write_text("\n".join(skipped) + "\n", encoding="utf-8")
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
            checkpoint.save(self.checkpoints, self.position["step"], self.variables, meta)
            _write_metrics(self.folder / "metrics.csv", self.history)
        except OSError as error:
            self.unsaved = error
            self.progress.warn(
                f"The checkpoint of step {self.position['step']} could not be written ({error}); "
                "training goes on, the last good one is kept."
            )

    def advice(self):
        kept = checkpoint.latest_step(self.checkpoints)
        where = f"The state of step {kept} is kept" if kept else "No state was saved before it"
        return f"{where}. Try a lower --learning-rate (it is {self.recipe.learning_rate})."

    def finish(self, page):
        """The files a person opens: the model to ship, its results, the page."""
        self.progress.stop()
        if self.strategy is not None:
            self.model = self.undistributed()
            self.shipped = _shipped(self.model)
        model = self.shipped
        _save(model, self.folder / "model.keras")
        logits, loss = predicting.measure(model, self.judging)
        labels, examples = self.judging.labels, self.judging.examples
        counts = measures.confusion_counts(labels, logits.argmax(1), len(self.names))
        errors = examples - int(counts.trace())
        results = {
            "evaluated_on": self.judged_on,
            "accuracy": 1 - errors / examples,
            "error_percent": 100 * errors / examples,
            "errors": errors,
            "loss": loss,
            "calibration_error": measures.calibration_error(logits, labels),
            "classes": measures.per_class(counts, self.names),
            "confusions": measures.confusions(counts, self.names),
            "examples": examples,
            "train_examples": self.training.examples,
            "epochs": self.position["epoch"],
            "seconds": self.position["seconds"],
            "parameters": model.count_params(),
            "label_names": self.names,
            "teacher": self.teacher,
            "data": self.data,
            "warnings": self.position["warnings"],
            "resumed": self.position["resumed"],
        }
        supervised = getattr(self.model, "student", self.model)
        if isinstance(supervised, DeeplySupervised):
            results["exits"] = self.exits(supervised)
            _save_uncompiled(supervised, self.folder / predicting.WITH_COMPANIONS)
        _write_metrics(self.folder / "metrics.csv", self.history)
        if page:
            self.write_examples()
        # Written last but for the page, which can be drawn again: its presence says "complete".
        _write_json(self.folder / "results.json", results)
        if page:
            from zoo import report

            report.write(self.folder, model, self.judging)
        self.progress.say(
            f"{self.judged_on} accuracy {100 * results['accuracy']:.2f} % "
            f"({results['errors']} errors in {results['examples']}), last epoch, "
            f"{results['seconds']:.0f} s of training"
        )

    def undistributed(self):
        """The model again, with the same weights, for this process alone."""
        model = self.made(self.recipe.epochs * self.steps_an_epoch)
        for variable, trained in zip(model.variables, self.model.variables, strict=True):
            variable.assign(np.asarray(trained))
        return model

    def exits(self, model):
        """{layer, or "output": accuracy of its classifier}."""
        logits = model.exits(self.judging.batches(256))
        labels = self.judging.labels
        return {k: float((v.argmax(axis=1) == labels).mean()) for k, v in logits.items()}

    def write_examples(self, count=8):
        """A few of the images judged on, as files to try `zoo predict` with."""
        from PIL import Image

        folder = self.folder / "examples"
        folder.mkdir(exist_ok=True)
        labels = self.judging.labels
        firsts = [int(np.argmax(labels == label)) for label in np.unique(labels)[:count]]
        for index in firsts:
            name = "".join(c if c.isalnum() else "_" for c in self.names[labels[index]])
            image = self.judging.images[index]
            image = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
            image.save(folder / f"{index:05d}_{name}.png")

    @property
    def names(self):
        return [str(name) for name in self.training.label_names]


def _save(model, path):
    with files.whole(path) as partial:
        model.save(partial)


def _save_uncompiled(model, path):
    """Save a copy: without the optimizer, which is as large as the model, and without a loss."""
    copy = type(model).from_config(model.get_config())
    copy.set_weights(model.get_weights())
    _save(copy, path)


def _shipped(model):
    """Without what only trains it: a Distiller's student, a DeeplySupervised's trunk."""
    for within in ("student", "trunk"):
        model = getattr(model, within, model)
    return model


class _ShortFirstEpoch(keras.callbacks.Callback):
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


class _Watch(keras.callbacks.Callback):
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


class _State(keras.callbacks.Callback):
    """Count steps, keep the history, and commit. Last in the list, to see what the others did."""

    def __init__(self, session, others, stop):
        super().__init__()
        self.session, self.others, self.stop = session, others, stop
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
        if self.session.deadline is not None and now > self.session.deadline:
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


@contextlib.contextmanager
def _stop_signals():
    """A list that receives the first SIGINT or SIGTERM; the second one acts as ever."""
    received, before = [], {}

    def note(number, frame):
        received.append(number)
        for each, handler in before.items():
            signal.signal(each, handler)

    if threading.current_thread() is threading.main_thread():  # only there may handlers be set
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, note)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def locked(folder):
    """One process a run folder: two would take turns at destroying each other's checkpoints."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RecipeError(f"Another process is training in {folder}.") from None
        yield


def name_of(recipe):
    """A run's name, of the fields that differ from the recipe's own, such as "epochs=3,seed=1"."""
    own = type(recipe)()
    fields = [field.name for field in dataclasses.fields(recipe)]
    changed = [f"{f}={getattr(recipe, f)}" for f in fields if getattr(recipe, f) != getattr(own, f)]
    text = ",".join(changed) or "default"
    name = "".join(c if c.isalnum() or c in "=,.-_" else "_" for c in text)
    if len(name) <= 200:  # a file system takes 255
        return name
    return f"{name[:190]}~{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _record(recipe, file):
    """What recipe.json holds."""
    return {
        "recipe": Path(file).stem,
        "file": str(Path(file).resolve()),
        "title": title(file),
        "fields": json.loads(json.dumps(dataclasses.asdict(recipe))),
    }


def _refuse_other_run(folder, record, defaults):
    """A folder belongs to the fields that it was begun with; later ones had their defaults."""
    path = folder / "recipe.json"
    if not path.exists():
        return
    begun, now = json.loads(path.read_text(encoding="utf-8"))["fields"], record["fields"]
    begun = {**json.loads(json.dumps(defaults)), **begun}
    differing = sorted(key for key in {*begun, *now} if begun.get(key) != now.get(key))
    if differing:
        told = ", ".join(f"{k}={begun.get(k)!r}, now {now.get(k)!r}" for k in differing)
        raise RecipeError(f"{folder} holds a run with {told}; choose another --name.")


def _write_metrics(path, history):
    """All epochs of all sittings; columns that only some rows have stay empty in the others."""
    columns = list(dict.fromkeys(key for row in history for key in row))
    with files.whole(path) as partial, open(partial, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(history)


def _write_json(path, record):
    files.write(path, json.dumps(record, indent=2) + "\n")
