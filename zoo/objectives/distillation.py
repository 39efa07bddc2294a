"""Distillation (arXiv:1503.02531): a student learns from the outputs of its teachers."""

import contextlib
import re
import threading

import keras
from keras import ops

from zoo.fingerprint import fingerprint
from zoo.losses import Mean, check_share, check_temperature, replicas
from zoo.objectives.class_weights import ClassWeights
from zoo.objectives.compatibility import check_fit, check_gives_logits, check_no_shared_weights
from zoo.objectives.deep_supervision import DeeplySupervised
from zoo.objectives.head_arguments import check_log_names
from zoo.objectives.step_data import (
    Pass,
    Targets,
    explaining_replicas,
    labels_of,
    losses_of_examples,
    output_of,
    paired,
    unpacked,
    weights_of,
)
from zoo.objectives.teaching import MappedSoftTargets, Teachers, layers_to_watch, watch
from zoo.objectives.wrapping import Wrapping, shipped, supervised
from zoo.pixel_range import RawPixels


@keras.saving.register_keras_serializable("zoo")
class Distiller(RawPixels, Wrapping, ClassWeights, keras.Model):
    """A student that learns from labels and from the soft targets of a teacher.

    Examples -> the student's logits. `fit` minimizes

        (1 - soft_weight) L + soft_weight `soft_target_loss` + sum of weight x knowledge

    plus the student's regularization. L is the compiled loss of the student's output. Without
    labels (`y=None`) L is left out, and the soft targets have the whole weight. The teacher only
    predicts: it runs once a step, without dropout and without a gradient, and it is not changed.
    `evaluate` and `predict` use the student alone. `.student` is an ordinary model to ship. With
    `soft_weight=0` and no knowledge, the numbers are those of the student trained alone. Hinton,
    Vinyals and Dean, arXiv:1503.02531, section 2.

        distiller = zoo.Distiller(student=small, teacher=large, temperature=4, soft_weight=0.9)
        distiller.compile("adam", zoo.SoftmaxCrossEntropy(), metrics=["accuracy"])
        distiller.fit(images, labels)

    The logs have `label_loss`, `soft_target_loss` and the loss of each knowledge, unweighted. A
    file holds the student, the connectors of the knowledge, the optimizer and the teacher's
    fingerprint, but not the teacher. After loading, `distiller.learn_from(large)` sets it again.

    Arguments:
        student: a built Keras model that gives logits, (batch, classes) or (batch, ..., classes),
            or a structure of such logits. A single logit is taken as the logit of the second of two
            classes. A `DeeplySupervised` student keeps its companions, and its decoders with their
            weight.
        teacher: a Keras model, or a list of them: an ensemble, whose probabilities at the
            temperature are averaged. None if the data bring the soft targets instead of labels:
            `{"labels": y, "teacher_logits": logits}` (see `zoo.teachers.cache`). If the teacher
            takes images of another size, put a layer that converts them in front of it:
            `keras.Sequential([keras.layers.Resizing(64, 64), teacher])`.
        temperature: the temperature of the soft targets, above 0.
        soft_weight: the share of the soft targets, in 0..1. The paper found a "considerably lower
            weight" of the labels best.
        knowledge: objects of `zoo.knowledge`, further losses that compare student and teacher.
        soft_companions: True lets the companions of a `DeeplySupervised` student learn the soft
            targets too: (1 - soft_weight) l_m + soft_weight `soft_target_loss` replaces l_m.
        class_map: {class of the student: class of the teacher}, if their classes differ. The soft
            targets then cover these classes alone.
        agreement: True lets `evaluate` also run the teacher, and log `teacher_agreement` (the
            share of examples to which both give the same most probable class) and
            `teacher_divergence` (KL(teacher || student) in nats, at temperature 1).

    Raises:
        ValueError: for a temperature, soft_weight or class_map out of range; for a student that is
            not built; for a teacher that shares weights with the student, gives probabilities,
            takes other examples or has other classes; for knowledge of a layer that does not exist
            or does not fit.
    """

    def __init__(
        self,
        *,
        student,
        teacher=None,
        temperature=4.0,
        soft_weight=0.5,
        knowledge=(),
        soft_companions=False,
        class_map=None,
        agreement=False,
        name=None,
        **kwargs,
    ):
        # Without autocast the student receives the examples unchanged, as it does on its own.
        super().__init__(name=name, autocast=False, **kwargs)
        check_temperature(temperature)
        check_share("soft_weight", soft_weight)
        check_gives_logits("student", student)
        if soft_companions and not isinstance(student, DeeplySupervised):
            raise ValueError(
                "soft_companions are those of a DeeplySupervised student; received a "
                f"{type(student).__name__}. Wrap it, or leave soft_companions out."
            )
        self.student = student
        self.temperature, self.soft_weight = temperature, soft_weight
        self.knowledge = list(knowledge)
        self.soft_companions = soft_companions
        self.class_map = (
            None if class_map is None else {int(k): int(class_map[k]) for k in class_map}
        )
        self.agreement = agreement
        self.teacher_fingerprint = None
        # Keras does not look into these plain objects for layers of this model.
        self._student = watch(student, layers_to_watch(self.knowledge, "student_layers"))
        self._teachers = Teachers([], ())
        if teacher is not None:
            self.learn_from(teacher)
        self._named = _by_log_name(self.knowledge)
        parts = [("label_loss", soft_weight < 1), ("soft_target_loss", soft_weight > 0)]
        names = [*(part for part, present in parts if present), *self._named]
        self._logs = _trackers(*names)
        comparison = ("teacher_agreement", "teacher_divergence") if agreement else ()
        self._comparison = _trackers(*comparison)
        self._check_log_names(names)
        self._in_step = threading.local()
        self._evaluating = False
        self.build_as_shipped()

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

    def learn_from(self, teacher):
        """Set the teacher, or the list of teachers. After loading, set the same as before.

        Raises:
            ValueError: as the constructor, and for a teacher of another fingerprint.
        """
        models = list(teacher) if isinstance(teacher, (list, tuple)) else [teacher]
        for model in models:
            check_gives_logits("teacher", model)
            check_no_shared_weights(self.student, model)
        fingerprints = [fingerprint(model) for model in models]
        if self.teacher_fingerprint not in (None, fingerprints):
            raise ValueError(
                f"This Distiller has learned from the teacher {self.teacher_fingerprint}; received "
                f"{fingerprints}, of other weights or another architecture. Give it the first one."
            )
        teachers = Teachers(models, layers_to_watch(self.knowledge, "teacher_layers"))
        check_fit(self._student, teachers, self.knowledge, self.class_map, self.temperature)
        self._teachers, self.teacher_fingerprint = teachers, fingerprints
        # A function that was traced before still calls the previous teacher.
        self.train_function = self.test_function = None

    def call(self, inputs, training=None):
        if not getattr(self._in_step, "running", False):
            return self.student(inputs, training=training)
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
        targets = self._targets(x, y, self.temperature)
        with self._step():
            return super().train_step(*state, (x, targets, sample_weight))

    def test_step(self, *arguments):
        *state, data = arguments
        x, y, sample_weight = unpacked(data)
        if self.agreement:
            targets = self._targets(x, y, temperature=1.0)
        else:
            targets = Targets(labels_of(y), None, {})
        with self._step():
            return super().test_step(*state, (x, targets, sample_weight))

    def evaluate(self, *arguments, **keywords):
        with self.evaluation(), explaining_replicas(self):
            return super().evaluate(*arguments, **keywords)

    def test_on_batch(self, *arguments, **keywords):
        with self.evaluation():
            return super().test_on_batch(*arguments, **keywords)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        if not isinstance(y_pred, Pass):  # Keras builds its losses outside of a step.
            sample_weight = weights_of(sample_weight)
            return self._label_objective(x, labels_of(y), y_pred, sample_weight, training)
        outputs, labels = y_pred.outputs, y.labels
        decoding = self._decoding(outputs, sample_weight)
        if not training:
            return decoding + self._label_objective(x, labels, outputs, sample_weight, training)
        soft_weight = self.soft_weight if labels is not None else float(self.soft_weight > 0)
        objective = regularization = self._regularization()
        if soft_weight < 1 and labels is not None:
            objective = self._label_objective(x, labels, outputs, sample_weight, training)
            self._log("label_loss", objective - regularization, y_pred)
        if soft_weight:
            soft = self._soft_objective(y.logits, y_pred, sample_weight)
            # `objective` contains the regularization, so its weights add up to 1.
            kept = soft_weight * regularization
            objective = (1 - soft_weight) * objective + soft_weight * soft + kept
        for name, lesson in self._named.items():
            losses = losses_of_examples(lesson, y, y_pred)
            loss = Mean()(losses, losses, sample_weight=sample_weight)
            self._log(name, loss, y_pred)
            objective = objective + lesson.weight * loss
        return objective + decoding

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        outputs = y_pred.outputs if isinstance(y_pred, Pass) else y_pred
        output = output_of(outputs)
        if isinstance(y, Targets) and self._evaluating and self.agreement:
            self._compare(y.logits, output, sample_weight)
        labels = labels_of(y)
        if labels is None:
            return self.get_metrics_result()
        sample_weight = weights_of(sample_weight)
        if self._has_companions(outputs):
            labels, output, sample_weight = self.student.for_metrics(labels, output, sample_weight)
        return super().compute_metrics(x, labels, output, sample_weight)

    def _targets(self, x, y, temperature):
        """Return the targets of a step, from the data or from the teachers at a temperature."""
        labels = labels_of(y)
        if isinstance(y, dict) and "teacher_logits" in y:
            return Targets(labels, y["teacher_logits"], {})
        if not self._teachers.models:
            if self.soft_weight == 0 and not self.knowledge and not self.agreement:
                return Targets(labels, None, {})
            raise ValueError(
                "This Distiller has no teacher, and the data bring no soft targets. Give it its "
                "teacher, which its file does not hold, with distiller.learn_from(teacher), or "
                'train on {"labels": y, "teacher_logits": logits} in the place of y.'
            )
        return Targets(labels, *self._teachers(x, temperature))

    def _label_objective(self, x, labels, outputs, sample_weight, training):
        """Return the loss that the student would minimize alone."""
        if labels is None or (self.loss is None and not training):
            return self._regularization()
        if self.loss is None:
            raise ValueError("Compile with a loss of the labels, or set soft_weight=1.")

        def output_objective(y, output, sample_weight):
            return super(Distiller, self).compute_loss(x, y, output, sample_weight, training)

        if self._has_companions(outputs):
            return self.student.objective(
                self.loss, output_objective, labels, outputs, sample_weight
            )
        # A loss of Keras has the type `keras.config.floatx()`.
        return ops.cast(output_objective(labels, outputs, sample_weight), "float32")

    def _has_companions(self, outputs):
        return isinstance(self.student, DeeplySupervised) and isinstance(outputs, dict)

    def _decoding(self, outputs, sample_weight):
        """Return the errors of the student's decoders, which learn from the images."""
        if not self._has_companions(outputs):
            return 0.0
        return self.student.decoding(outputs, sample_weight)

    def _soft_objective(self, teacher_logits, y_pred, sample_weight):
        """Return the loss of the soft targets; with that of the companions, if they learn them."""
        loss = MappedSoftTargets(self.temperature, self.class_map)

        def soft_target_loss(logits):
            pairs = paired(teacher_logits, logits)
            return sum(loss(*pair, sample_weight=sample_weight) for pair in pairs)

        soft = soft_target_loss(output_of(y_pred.outputs))
        self._log("soft_target_loss", soft, y_pred)
        if self.soft_companions:
            companions = zip(self.student.companions, y_pred.outputs["companions"], strict=True)
            for layer, scores in companions:
                soft = soft + self.student.weight_now(layer) * soft_target_loss(scores)
        return soft

    def _compare(self, teacher_logits, output, sample_weight):
        """Update the metrics that compare the student with the teacher."""
        soft = MappedSoftTargets(1.0, self.class_map)
        agreement, divergence = self._comparison.values()
        for teacher, student in paired(teacher_logits, output):
            classes = [ops.argmax(logits, axis=-1) for logits in soft.mapped(teacher, student)]
            same = ops.cast(ops.equal(*classes), "float32")
            agreement.update_state(same, sample_weight=sample_weight)
            divergence.update_state(soft.call(teacher, student), sample_weight=sample_weight)

    def _regularization(self):
        """Return this replica's share of the regularization loss."""
        losses = (ops.cast(ops.sum(loss), "float32") for loss in self.losses)
        return sum(losses, ops.zeros((), "float32")) / replicas()

    def _log(self, name, loss, y_pred):
        examples = ops.shape(keras.tree.flatten(output_of(y_pred.outputs))[0])[0]
        # Keras has divided the loss by the number of replicas.
        self._logs[name].update_state(loss * replicas(), sample_weight=examples)

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
        return {
            "name": self.name,
            **self.frozen_config(),
            "student": serialize(self.student),
            "temperature": self.temperature,
            "soft_weight": self.soft_weight,
            "knowledge": [serialize(lesson) for lesson in self.knowledge],
            "soft_companions": self.soft_companions,
            # The keys of a JSON object are strings, so the map becomes a list of pairs.
            "class_map": self.class_map and [list(pair) for pair in self.class_map.items()],
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
        distiller = cls(**config)
        distiller.teacher_fingerprint = teacher_fingerprint
        return distiller


def _by_log_name(knowledge):
    """Return {name in the logs: knowledge}; a second `Hint` has the name "hint_loss_2"."""
    by_name = {}
    for lesson in knowledge:
        name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(lesson).__name__).lower() + "_loss"
        count = sum(type(other) is type(lesson) for other in by_name.values())
        by_name[f"{name}_{count + 1}" if count else name] = lesson
    return by_name


def _trackers(*names):
    return {name: keras.metrics.Mean(name, "float32") for name in names}
