"""Distillation (arXiv:1503.02531): a student learns from the outputs of its teachers."""

import contextlib
import threading

import keras

from zoo.fingerprint import fingerprint
from zoo.objectives.class_weights import ClassWeights
from zoo.objectives.compatibility import (
    check_fit,
    check_gives_logits,
    check_is_model,
    check_no_shared_weights,
    symbolic_inputs,
)
from zoo.objectives.deep_supervision import DeeplySupervised
from zoo.objectives.distillation_objective import DistillationObjective, by_log_name
from zoo.objectives.distillation_settings import DistillerSettings, is_present, weight_of_labels
from zoo.objectives.head_arguments import check_log_names
from zoo.objectives.probabilities import UNKNOWN, GivenSoftTargets
from zoo.objectives.settings import setting_from_config, setting_to_config, step_counter
from zoo.objectives.soft_outputs import SoftOutputs
from zoo.objectives.step_data import (
    Pass,
    Targets,
    explaining_replicas,
    labels_of,
    output_of,
    unpacked,
    weights_of,
)
from zoo.objectives.teaching import Teachers, detached_logits, layers_to_watch, relative, watch
from zoo.objectives.wrapping import Wrapping, shipped, supervised
from zoo.pixel_range import RawPixels

_COMPARISON = ("teacher_agreement", "teacher_divergence")


@keras.saving.register_keras_serializable("zoo")
class Distiller(
    RawPixels,
    GivenSoftTargets,
    Wrapping,
    ClassWeights,
    DistillerSettings,
    DistillationObjective,
    keras.Model,
):
    """A student that learns from labels and from the soft targets of a teacher.

    Examples -> the student's logits. Examples are what the student takes: a tensor, or a list or a
    dictionary of tensors, which the teacher takes too. `fit` minimizes

        (1 - soft_weight) L + soft_weight `soft_target_loss` + sum of weight x knowledge

    plus the student's regularization, once. L is the compiled loss of the student's output. With
    `label_weight` given, it stands in the place of 1 - soft_weight. Without labels (`y=None`) L is
    left out, and the soft targets have the whole weight, or soft_weight beside a `label_weight`.
    The teacher only predicts: it runs once a step, without dropout and without a gradient, and it
    is not changed. `evaluate` and `predict` use the student alone. `.student` is an ordinary model
    to ship. With `soft_weight=0` and no knowledge, the numbers are those of the student trained
    alone. Hinton, Vinyals and Dean, arXiv:1503.02531, section 2.

        distiller = zoo.Distiller(student=small, teacher=large, temperature=4, soft_weight=0.9)
        distiller.compile("adam", zoo.SoftmaxCrossEntropy(), metrics=["accuracy"])
        distiller.fit(images, labels)

    Temperature, `soft_weight`, `label_weight` and the weights of the knowledge are numbers, or
    `keras.optimizers.schedules.LearningRateSchedule`s of the number of steps trained, which is kept
    with the weights. A number may be assigned at any time, for example by a callback:
    `distiller.knowledge[0].weight = 0.5`. The next step uses it, and is traced again. For a value
    that changes in every step use a schedule.

    The logs have `label_loss`, `soft_target_loss` and the loss of each knowledge, unweighted. A
    file holds the student, the connectors of the knowledge, the optimizer and the teacher's
    fingerprint, but not the teacher. After loading, `distiller.learn_from(large)` sets it again.

    Arguments:
        student: a built Keras model that gives logits, (batch, classes) or (batch, ..., classes),
            or a structure of such logits. A single logit is taken as the logit of the second of two
            classes. A `DeeplySupervised` student keeps its companions, and its decoders with their
            weight.
        teacher: a Keras model, or a list of them: an ensemble, whose probabilities at the
            temperature are averaged. A teacher may give the probabilities of a softmax or sigmoid:
            log p or log(p / (1 - p)) are taken as its logits, with a warning. None if the data
            bring the soft targets instead of labels: `{"labels": y, "teacher_logits": logits}` (see
            `zoo.teachers.cache`). If the teacher takes images of another size, put a layer that
            converts them in front of it:
            `keras.Sequential([keras.layers.Resizing(64, 64), teacher])`.
        temperature: the temperature of the soft targets, above 0.
        soft_weight: the share of the soft targets, in 0..1; with a `label_weight` any number >= 0.
            The paper found a "considerably lower weight" of the labels best.
        label_weight: the weight of the labels, a number >= 0; None for 1 - soft_weight. With
            `label_weight=1, soft_weight=1` the loss is L + `soft_target_loss`.
        knowledge: objects of `zoo.knowledge`, further losses that compare student and teacher.
        soft_companions: True lets the companions of a `DeeplySupervised` student learn the soft
            targets too: (1 - soft_weight) l_m + soft_weight `soft_target_loss` replaces l_m.
        class_map: {class of the student: class of the teacher}, if their classes differ. The soft
            targets then cover these classes alone.
        activation: what makes probabilities of logits: "softmax" for one class of several, or
            "sigmoid" for independent labels, of which an example has any number
            (`binary_soft_target_loss`). {name of an output: "softmax" or "sigmoid"} chooses for
            each of several outputs. Then only these learn soft targets, from the teacher's outputs
            of the same names. Names are the keys of a dictionary of outputs, or those of the
            layers that make them.
        teacher_weights: the weights of an ensemble's members in the mean of their probabilities,
            relative to one another: numbers >= 0. None for equal weights.
        agreement: True lets `evaluate` also run the teacher, and log `teacher_agreement` (the
            share of examples to which both give the same most probable class; with a sigmoid, the
            share of labels that both find more, or less, probable than not) and
            `teacher_divergence` (KL(teacher || student) in nats, at temperature 1).

    Raises:
        ValueError: for a temperature, weight, activation or class_map out of range; for a student
            that is not built, or gives probabilities; for a teacher that shares weights with the
            student, takes other examples, or has other classes where soft targets or agreement
            compare them; for knowledge of a layer that does not exist or does not fit. Before the
            first step, for a compiled loss that takes probabilities, or that shows a regression or
            independent labels where soft targets compare classes.
    """

    def __init__(
        self,
        *,
        student,
        teacher=None,
        temperature=4.0,
        soft_weight=0.5,
        label_weight=None,
        knowledge=(),
        soft_companions=False,
        class_map=None,
        activation="softmax",
        teacher_weights=None,
        agreement=False,
        name=None,
        **kwargs,
    ):
        # Without autocast the student receives the examples unchanged, as it does on its own.
        super().__init__(name=name, autocast=False, **kwargs)
        check_gives_logits(student)
        if soft_companions and not isinstance(student, DeeplySupervised):
            raise ValueError(
                "soft_companions are those of a DeeplySupervised student; received a "
                f"{type(student).__name__}. Wrap it, or leave soft_companions out."
            )
        self.student = student
        self.temperature, self.soft_weight = temperature, soft_weight
        self.label_weight = label_weight
        self.knowledge = list(knowledge)
        self.soft_companions = soft_companions
        if class_map is not None:
            class_map = {int(k): int(class_map[k]) for k in class_map}
        self._soft_outputs = SoftOutputs(student, activation, class_map)
        self.teacher_weights = None if teacher_weights is None else list(teacher_weights)
        self.teacher_fingerprint = None
        self._named = by_log_name(self.knowledge)
        labels = weight_of_labels(soft_weight, label_weight)
        parts = [("label_loss", labels), ("soft_target_loss", soft_weight)]
        names = [name for name, weight in parts if is_present(weight)]
        self._logs = _trackers(*names, *self._named)
        self._comparison = _trackers(*_COMPARISON) if agreement else {}
        # Keras does not look into these plain objects for layers of this model.
        self._teachers = Teachers([], ())
        self._student = watch(student, layers_to_watch(self.knowledge, "student_layers"))
        self.check_ranges()
        if teacher is not None:
            self.learn_from(teacher)
        self._check_log_names([*names, *self._named])
        self.steps = step_counter(self, self.scheduled())
        self._in_step = threading.local()
        self._evaluating = False
        self.build_as_shipped()

    @property
    def class_map(self):
        """{class of the student: class of the teacher}, or None."""
        return self._soft_outputs.class_map

    @property
    def activation(self):
        """The function from logits to probabilities: its name, or {name of an output: its name}."""
        return self._soft_outputs.activation

    @property
    def agreement(self):
        """True if `evaluate` compares the student with the teacher."""
        return bool(self._comparison)

    def _check_log_names(self, names):
        """Raise ValueError if the student logs one of these names too."""
        with_companions = self.supervised_model()
        heads = with_companions.head_metrics if with_companions else ()
        outputs = getattr(self.student, "output_names", ())
        losses = [f"{output}_loss" for output in outputs] if len(outputs) > 1 else []
        check_log_names([*(metric.name for metric in heads), *losses, *names])

    @property
    def teacher(self):
        """The teacher, or the list of teachers; None if the data bring soft targets."""
        models = list(self._teachers.models)
        return models[0] if len(models) == 1 else models or None

    def shipped_model(self):
        """Return the plain model that ships: the student, or the model that the student trains."""
        return shipped(self.student)

    def supervised_model(self):
        """Return the student if it is a `DeeplySupervised`; else None."""
        return supervised(self.student)

    def learn_from(self, teacher, *, force=False):
        """Set the teacher, or the list of teachers. After loading, set the same as before.

        Arguments:
            teacher: a Keras model, or a list of them.
            force: True accepts a teacher of another fingerprint, such as one whose weights have
                moved on: a mean of the student's, for example.

        Raises:
            ValueError: as the constructor, and for a teacher of another fingerprint.
        """
        models = list(teacher) if isinstance(teacher, (list, tuple)) else [teacher]
        for model in models:
            check_is_model("teacher", model)
            check_no_shared_weights(self.student, model)
        fingerprints = [fingerprint(model) for model in models]
        if not force and self.teacher_fingerprint not in (None, fingerprints):
            raise ValueError(
                f"This Distiller has learned from the teacher {self.teacher_fingerprint}; received "
                f"{fingerprints}, of other weights or another architecture. Give it the first one. "
                "If its weights are meant to differ, as those of a moving average do: "
                "learn_from(teacher, force=True)."
            )
        if self.teacher_weights is not None:
            relative(self.teacher_weights, len(models))
        teachers = Teachers(models, layers_to_watch(self.knowledge, "teacher_layers"))
        compared = self.agreement or "soft_target_loss" in self._logs
        outputs = self._soft_outputs if compared else None
        check_fit(self._student, teachers, self.knowledge, outputs, self.temperature)
        teachers.recognize(symbolic_inputs(self._student.model))
        self._teachers, self.teacher_fingerprint = teachers, fingerprints
        # A function that was traced before still calls the previous teacher. That of a training
        # follows the settings.
        self.test_function = None

    def call(self, inputs, training=None):
        if not getattr(self._in_step, "running", False):
            return self.student(inputs, training=training)
        if training and self.steps is not None:
            self.steps.assign(self.steps + 1)
        return Pass(*self._student(inputs, training))

    @property
    def losses(self):
        """The losses of the student and of the connectors."""
        connectors = (loss for lesson in self.knowledge for loss in lesson.losses)
        # On JAX, Keras sets `_losses_override` to the losses of the running pass.
        return self._losses_override or [*self.student.losses, *connectors]

    @property
    def metrics(self):
        """The compiled metrics, those of the student's heads, and the parts of the objective.

        In an evaluation the comparison with the teacher replaces the parts of the objective.
        """
        # Compiled metrics have no result before the first label, but Keras reads all of these.
        ready = [metric for metric in super().metrics if getattr(metric, "built", True)]
        switched = {id(metric) for metric in (*self._logs.values(), *self._comparison.values())}
        compiled = [metric for metric in ready if id(metric) not in switched]
        deeply_supervised = self.supervised_model()
        heads = deeply_supervised.head_metrics if deeply_supervised else ()
        logs = self._comparison if self._evaluating else self._logs
        return [*compiled, *heads, *logs.values()]

    # The arguments of these two differ between the backends of Keras, but the data come last. On
    # each backend they call the model, and pass what it returns to `compute_loss` and
    # `compute_metrics`.
    def train_step(self, *arguments):
        *state, data = arguments
        x, y, sample_weight = self.with_class_weights(*unpacked(data))
        # The teacher runs here, outside of the gradient tape.
        targets = self._targets(x, y)
        with self._step():
            return super().train_step(*state, (x, targets, sample_weight))

    def test_step(self, *arguments):
        *state, data = arguments
        x, y, sample_weight = unpacked(data)
        targets = self._targets(x, y) if self.agreement else Targets(labels_of(y), [], {})
        with self._step():
            return super().test_step(*state, (x, targets, sample_weight))

    def evaluate(self, *arguments, **keywords):
        with self.evaluation(), explaining_replicas(self):
            return super().evaluate(*arguments, **keywords)

    def test_on_batch(self, *arguments, **keywords):
        with self.evaluation():
            return super().test_on_batch(*arguments, **keywords)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        outputs = y_pred.outputs if isinstance(y_pred, Pass) else y_pred
        output = output_of(outputs)
        if isinstance(y, Targets) and self._evaluating and self.agreement:
            self._compare(y, output, sample_weight)
        labels = labels_of(y)
        if labels is None:
            return self.get_metrics_result()
        sample_weight = weights_of(sample_weight)
        if self._has_companions(outputs):
            labels, output, sample_weight = self.student.for_metrics(labels, output, sample_weight)
        return super().compute_metrics(x, labels, output, sample_weight)

    def _targets(self, x, y):
        """Return the targets of a step, from the data or from the teachers."""
        labels = labels_of(y)
        if isinstance(y, dict) and "teacher_logits" in y:
            return Targets(labels, [detached_logits([UNKNOWN], y["teacher_logits"])], {})
        if not self._teachers.models:
            if "soft_target_loss" not in self._logs and not self.knowledge and not self.agreement:
                return Targets(labels, [], {})
            raise ValueError(
                "This Distiller has no teacher, and the data bring no soft targets. Give it its "
                "teacher, which its file does not hold, with distiller.learn_from(teacher), or "
                'train on {"labels": y, "teacher_logits": logits} in the place of y.'
            )
        return Targets(labels, *self._teachers(x))

    @contextlib.contextmanager
    def _step(self):
        """While active, `call` returns a `Pass`."""
        self._in_step.running = True
        deeply_supervised = isinstance(self.student, DeeplySupervised)
        companions = (
            self.student.with_companions() if deeply_supervised else contextlib.nullcontext()
        )
        try:
            with companions:
                yield
        finally:
            self._in_step.running = False

    @contextlib.contextmanager
    def evaluation(self):
        """While active, the metrics are those of `evaluate`."""
        self._evaluating = True
        try:
            yield
        finally:
            self._evaluating = False

    def get_config(self):
        serialize = keras.saving.serialize_keras_object
        weights = self.teacher_weights and list(self.teacher_weights)
        # What is as it was before it could be chosen is left out: files and fingerprints stay.
        chosen = {
            "label_weight": (setting_to_config(self.label_weight), None),
            "activation": (self.activation, "softmax"),
            "teacher_weights": (weights, None),
        }
        return {
            "name": self.name,
            **self.frozen_config(),
            "student": serialize(self.student),
            "temperature": setting_to_config(self.temperature),
            "soft_weight": setting_to_config(self.soft_weight),
            "knowledge": [serialize(lesson) for lesson in self.knowledge],
            "soft_companions": self.soft_companions,
            # The keys of a JSON object are strings, so the map becomes a list of pairs.
            "class_map": self.class_map and [list(pair) for pair in self.class_map.items()],
            **{name: value for name, (value, default) in chosen.items() if value != default},
            "agreement": self.agreement,
            "teacher_fingerprint": self.teacher_fingerprint,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        def restore(value):
            return keras.saving.deserialize_keras_object(value, custom_objects=custom_objects)

        config = dict(config)
        teacher_fingerprint = config.pop("teacher_fingerprint")
        config["student"] = restore(config["student"])
        config["knowledge"] = [restore(lesson) for lesson in config["knowledge"]]
        config["class_map"] = config["class_map"] and dict(config["class_map"])
        for name in {"temperature", "soft_weight", "label_weight"} & set(config):
            config[name] = setting_from_config(config[name], custom_objects)
        distiller = cls(**config)
        distiller.teacher_fingerprint = teacher_fingerprint
        return distiller


def _trackers(*names):
    return {name: keras.metrics.Mean(name, "float32") for name in names}
