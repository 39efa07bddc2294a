"""Distillation (arXiv:1503.02531): a student that learns what its teachers say of each example."""

import contextlib
import re
import threading
from typing import NamedTuple

import keras
from keras import ops

from zoo.fingerprint import fingerprint
from zoo.losses import Mean, check_temperature, replicas
from zoo.objectives.deep_supervision import DeeplySupervised
from zoo.objectives.taps import shapes
from zoo.objectives.teaching import (
    MappedSoftTargets,
    Teachers,
    check_classes,
    check_gives_logits,
    check_no_shared_weights,
    shapes_of,
    symbolic_inputs,
    watch,
    why_refused,
)
from zoo.objectives.wrapping import shipped, supervised


@keras.saving.register_keras_serializable("zoo")
class Distiller(keras.Model):
    """A student that learns from labels and from the soft targets of a teacher.

    Examples -> the student's logits. `fit` minimizes

        (1 - soft_weight) L + soft_weight `soft_target_loss` + sum of weight x knowledge

    plus the student's regularization, where L is the compiled loss of the student's output; of
    examples without labels (`y=None`) L is left out and the soft targets have the whole weight.
    The teacher only predicts: it runs once a step, without dropout and outside of the gradient, and
    neither it nor its file is changed. `evaluate` and `predict` are the student's, who may ship as
    `.student`: an ordinary model. With `soft_weight=0` and no knowledge, the numbers are those of
    the student trained alone. Hinton, Vinyals and Dean, arXiv:1503.02531, section 2.

        distiller = zoo.Distiller(student=small, teacher=large, temperature=4, soft_weight=0.9)
        distiller.compile("adam", zoo.SoftmaxCrossEntropy(), metrics=["accuracy"])
        distiller.fit(images, labels)

    The logs have `label_loss`, `soft_target_loss` and the loss of each knowledge, unweighted.
    Saved are the student, the connectors of the knowledge and the optimizer, and the teacher's
    fingerprint; after loading, `distiller.learn_from(large)` gives it back.

    Arguments:
        student: a built Keras model that gives logits, (batch, classes) or (batch, ..., classes),
            or a structure of such. One logit is taken as that of the second of two classes. A
            `DeeplySupervised` student keeps its companions, and its decoders with their weight.
        teacher: a Keras model, or a list of them: an ensemble, whose probabilities at the
            temperature are averaged. None if the soft targets come with the data, in the place of
            the labels: `{"labels": y, "teacher_logits": logits}` (see `zoo.teachers.cache`). For a
            teacher of other images put in front what makes them:
            `keras.Sequential([keras.layers.Resizing(64, 64), teacher])`.
        temperature: of the soft targets, above 0.
        soft_weight: in 0..1, the share of the soft targets. The paper found a "considerably lower
            weight" of the labels best.
        knowledge: objects of `zoo.knowledge`: what else the teacher teaches.
        soft_companions: the companions of a `DeeplySupervised` student learn the soft targets too,
            (1 - soft_weight) l_m + soft_weight `soft_target_loss`, in the place of l_m.
        class_map: {class of the student: class of the teacher}, where their classes differ. The
            soft targets are then of these classes alone.
        agreement: `evaluate` also runs the teacher, and logs `teacher_agreement` (the share of
            examples of which both name the same class first) and `teacher_divergence`
            (KL(teacher || student) in nats, at temperature 1).

    Raises:
        ValueError: for a temperature, soft_weight or class_map out of range, a student that is not
            built, a teacher that shares weights with it, gives probabilities, takes other examples
            or has other classes, or knowledge of a layer that does not exist or fit.
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
        # The examples go to student and teacher as they come: a cast to the student's type here
        # would not happen without the distiller.
        super().__init__(name=name, autocast=False, **kwargs)
        check_temperature(temperature)
        if not 0 <= soft_weight <= 1:
            raise ValueError(f"soft_weight is a share in 0..1; received {soft_weight!r}.")
        check_gives_logits("student", student)
        if soft_companions and not isinstance(student, DeeplySupervised):
            raise ValueError(
                "soft_companions are those of a DeeplySupervised student; received a "
                f"{type(student).__name__}."
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
        # Plain objects, into which Keras does not look for layers of this model.
        self._student = watch(student, _wanted(self.knowledge, "student_layers"))
        self._teachers = Teachers([], ())
        if teacher is not None:
            self.learn_from(teacher)

        def trackers(*names):
            return {each: keras.metrics.Mean(name=each) for each in names}

        self._named = _named(self.knowledge)
        parts = [("label_loss", soft_weight < 1), ("soft_target_loss", soft_weight > 0)]
        self._logs = trackers(*(part for part, there in parts if there), *self._named)
        self._comparison = trackers(*(_COMPARISON if agreement else ()))
        self._in_step = threading.local()
        self._evaluating = False
        self.built = True

    @property
    def teacher(self):
        """The model, or the list of models, that teaches; None if the data bring soft targets."""
        models = list(self._teachers.models)
        return models[0] if len(models) == 1 else models or None

    def shipped_model(self):
        """The plain model that ships: what the student leaves behind."""
        return shipped(self.student)

    def supervised_model(self):
        """The student, if it is a `DeeplySupervised`; else None."""
        return supervised(self.student)

    def learn_from(self, teacher):
        """Give the teacher, or the list of teachers: after loading, the one there was before.

        Raises:
            ValueError: as the constructor, and for a teacher of another fingerprint.
        """
        models = list(teacher) if isinstance(teacher, (list, tuple)) else [teacher]
        for model in models:
            check_gives_logits("teacher", model)
            check_no_shared_weights(self.student, model)
        found = [fingerprint(model) for model in models]
        if self.teacher_fingerprint not in (None, found):
            raise ValueError(
                f"This Distiller has learned from the teacher {self.teacher_fingerprint}; the one "
                f"received is {found}: other weights, or another architecture."
            )
        teachers = Teachers(models, _wanted(self.knowledge, "teacher_layers"))
        self._check_fit(teachers)
        self._teachers, self.teacher_fingerprint = teachers, found
        # What was traced with another teacher holds that one.
        self.train_function = self.test_function = None

    def _check_fit(self, teachers):
        """One symbolic step: what does not fit is refused here, and the connectors get built."""
        examples = symbolic_inputs(self.student)
        student, learnt = shapes(self._student, examples)
        for watched in teachers.watched:
            try:
                teacher, taught = shapes(watched, examples)
            except ValueError as error:
                raise ValueError(
                    f"The teacher {watched.model.name!r} does not take the student's examples, of "
                    f"shape {shapes_of(examples)}: {why_refused(watched.model, examples, error)}"
                ) from error
            check_classes(student, teacher, self.class_map)
        for each in self.knowledge:
            own = getattr(each, "temperature", self.temperature)
            if len(teachers.models) > 1 and own != self.temperature:
                raise ValueError(
                    f"An ensemble's soft targets are those of one temperature, here "
                    f"{self.temperature}; {type(each).__name__} has {own}."
                )
            each(
                [{**learnt, "output": student}[layer] for layer in each.student_layers],
                [{**taught, "output": teacher}[layer] for layer in each.teacher_layers],
            )

    def call(self, inputs, training=None):
        if not getattr(self._in_step, "running", False):
            return self.student(inputs, training=training)
        return _Pass(*self._student(inputs, training))

    @property
    def losses(self):
        """Those of the student, and of the connectors."""
        connectors = (loss for each in self.knowledge for loss in each.losses)
        # On JAX those of the pass, which Keras hands over.
        return self._losses_override or [*self.student.losses, *connectors]

    @property
    def metrics(self):
        """In training the parts of the objective; in evaluation the comparison with the teacher."""
        # Keras asks the metrics that it compiles for results that they have not before a label.
        ready = [metric for metric in super().metrics if getattr(metric, "built", True)]
        special = [*self._logs.values(), *self._comparison.values()]
        logs = self._comparison if self._evaluating else self._logs
        own = [metric for metric in ready if not any(metric is each for each in special)]
        within = self.supervised_model()
        heads = within.head_metrics if within else ()
        return [*own, *heads, *logs.values()]

    # Keras has these once a backend, with different arguments; the data are the last. All call the
    # model and then `compute_loss` and `compute_metrics`, which take what `call` gives meanwhile.
    def train_step(self, *arguments):
        *state, data = arguments
        x, y, sample_weight = _unpacked(data)
        # Here, and so outside of the tape.
        lesson = self._lesson(x, y, self.temperature)
        with self._step():
            return super().train_step(*state, (x, lesson, sample_weight))

    def test_step(self, *arguments):
        *state, data = arguments
        x, y, sample_weight = _unpacked(data)
        lesson = (
            self._lesson(x, y, temperature=1.0) if self.agreement else _Lesson(_labels(y), None, {})
        )
        with self._step():
            return super().test_step(*state, (x, lesson, sample_weight))

    def evaluate(self, *arguments, **keywords):
        with self.evaluation():
            return super().evaluate(*arguments, **keywords)

    def test_on_batch(self, *arguments, **keywords):
        with self.evaluation():
            return super().test_on_batch(*arguments, **keywords)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        if not isinstance(y_pred, _Pass):  # Keras builds its losses
            return self._label_objective(x, _labels(y), y_pred, _weights(sample_weight), training)
        decoding = self._decoding(y_pred.answer, sample_weight)
        if not training:
            answer = y_pred.answer
            return decoding + self._label_objective(x, y.labels, answer, sample_weight, training)
        soft_weight = self.soft_weight if y.labels is not None else float(self.soft_weight > 0)
        objective = regularization = self._regularization()
        if soft_weight < 1 and y.labels is not None:
            objective = self._label_objective(x, y.labels, y_pred.answer, sample_weight, training)
            self._log("label_loss", objective - regularization, y_pred)
        if soft_weight:
            soft = self._soft_objective(y.logits, y_pred, sample_weight)
            # The regularization keeps its weight, whoever teaches.
            kept = soft_weight * regularization
            objective = (1 - soft_weight) * objective + soft_weight * soft + kept
        for name, each in self._named.items():
            objective = objective + each.weight * self._know(name, each, y, y_pred, sample_weight)
        return objective + decoding

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        answer = y_pred.answer if isinstance(y_pred, _Pass) else y_pred
        output = _output(answer)
        if isinstance(y, _Lesson) and self._evaluating and self.agreement:
            self._compare(y.logits, output, sample_weight)
        labels = _labels(y)
        if labels is None:
            return self.get_metrics_result()
        sample_weight = _weights(sample_weight)
        if self._supervises(answer):
            labels, output, sample_weight = self.student.for_metrics(labels, output, sample_weight)
        return super().compute_metrics(x, labels, output, sample_weight)

    def _lesson(self, x, y, temperature):
        """Return what teacher or cache say of the examples; an ensemble at a temperature."""
        labels = _labels(y)
        if isinstance(y, dict) and "teacher_logits" in y:
            return _Lesson(labels, y["teacher_logits"], {})
        if not self._teachers.models:
            if self.soft_weight == 0 and not self.knowledge and not self.agreement:
                return _Lesson(labels, None, {})
            raise ValueError(
                "This Distiller has no teacher, and the data bring no soft targets. Give it one, "
                "distiller.learn_from(teacher) (a Distiller is saved without), or train on "
                '{"labels": y, "teacher_logits": logits} in the place of y.'
            )
        return _Lesson(labels, *self._teachers(x, temperature))

    def _label_objective(self, x, labels, answer, sample_weight, training):
        """Return the loss that the student would minimize alone."""
        if labels is None or (self.loss is None and not training):
            return self._regularization()
        if self.loss is None:
            raise ValueError("Compile with a loss of the labels, or set soft_weight=1.")

        def stock(y, output, sample_weight):
            return super(Distiller, self).compute_loss(x, y, output, sample_weight, training)

        if self._supervises(answer):
            return self.student.objective(self.loss, stock, labels, answer, sample_weight)
        return stock(labels, answer, sample_weight)

    def _supervises(self, answer):
        return isinstance(self.student, DeeplySupervised) and isinstance(answer, dict)

    def _decoding(self, answer, sample_weight):
        """Return the errors of the student's decoders, which learn from the images."""
        if not self._supervises(answer):
            return 0.0
        return self.student.decoding(answer, sample_weight)

    def _soft_objective(self, teacher, y_pred, sample_weight):
        loss = MappedSoftTargets(self.temperature, self.class_map)

        def taught(answer):
            pairs = zip(keras.tree.flatten(teacher), keras.tree.flatten(answer), strict=True)
            return sum(loss(given, said, sample_weight=sample_weight) for given, said in pairs)

        soft = taught(_output(y_pred.answer))
        self._log("soft_target_loss", soft, y_pred)
        if self.soft_companions:
            for layer, scores in zip(
                self.student.companions, y_pred.answer["companions"], strict=True
            ):
                soft = soft + self.student.weight_now(layer) * taught(scores)
        return soft

    def _know(self, name, knowledge, lesson, y_pred, sample_weight):
        if knowledge.needs_labels and lesson.labels is None:
            raise ValueError(f"{type(knowledge).__name__} needs labels; received none.")
        taught = {**lesson.features, "output": lesson.logits}
        learnt = {**y_pred.features, "output": _output(y_pred.answer)}
        missing = [layer for layer in knowledge.teacher_layers if layer not in taught]
        if missing:
            raise ValueError(
                f"{type(knowledge).__name__} is of the teacher's layers {', '.join(missing)}, of "
                "which cached soft targets know nothing: give the Distiller its teacher."
            )
        values = knowledge(
            [learnt[layer] for layer in knowledge.student_layers],
            [taught[layer] for layer in knowledge.teacher_layers],
            labels=lesson.labels,
        )
        loss = Mean()(values, values, sample_weight=sample_weight)
        self._log(name, loss, y_pred)
        return loss

    def _compare(self, teacher, output, sample_weight):
        soft = MappedSoftTargets(1.0, self.class_map)
        agreement, divergence = self._comparison.values()
        for given, said in zip(
            keras.tree.flatten(teacher), keras.tree.flatten(output), strict=True
        ):
            first = [ops.argmax(each, axis=-1) for each in soft.mapped(given, said)]
            same = ops.cast(ops.equal(*first), "float32")
            agreement.update_state(same, sample_weight=sample_weight)
            divergence.update_state(soft.call(given, said), sample_weight=sample_weight)

    def _regularization(self):
        """Return this replica's share of the regularization loss."""
        return sum((ops.sum(loss) for loss in self.losses), ops.zeros(())) / replicas()

    def _log(self, name, loss, y_pred):
        examples = ops.shape(keras.tree.flatten(_output(y_pred.answer))[0])[0]
        # Keras has divided the loss by the number of replicas.
        self._logs[name].update_state(loss * replicas(), sample_weight=examples)

    @contextlib.contextmanager
    def _step(self):
        self._in_step.running = True
        supervised = isinstance(self.student, DeeplySupervised)
        try:
            with self.student.with_companions() if supervised else contextlib.nullcontext():
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
            "student": serialize(self.student),
            "temperature": self.temperature,
            "soft_weight": self.soft_weight,
            "knowledge": [serialize(each) for each in self.knowledge],
            "soft_companions": self.soft_companions,
            # JSON has no whole numbers for keys.
            "class_map": self.class_map and [list(pair) for pair in self.class_map.items()],
            "agreement": self.agreement,
            "teacher_fingerprint": self.teacher_fingerprint,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        def restore(value):
            return keras.saving.deserialize_keras_object(value, custom_objects=custom_objects)

        config = dict(config)
        learned_from = config.pop("teacher_fingerprint")
        config["student"] = restore(config["student"])
        config["knowledge"] = [restore(each) for each in config["knowledge"]]
        config["class_map"] = config["class_map"] and dict(config["class_map"])
        distiller = cls(**config)
        distiller.teacher_fingerprint = learned_from
        return distiller


_COMPARISON = ("teacher_agreement", "teacher_divergence")


class _Lesson(NamedTuple):
    """The labels of a step, together with what the teacher says."""

    labels: object
    logits: object  # of the teacher, or a structure of them; None if it is not asked
    features: dict  # of the teacher, by layer


class _Pass(NamedTuple):
    """One pass through the student."""

    answer: object  # its output, or what a DeeplySupervised gives meanwhile
    features: dict  # by layer


def _wanted(knowledge, which):
    """The layers to watch, each once."""
    names = (layer for each in knowledge for layer in getattr(each, which))
    return [name for name in dict.fromkeys(names) if name != "output"]


def _named(knowledge):
    """{name in the logs: knowledge}: "hint_loss", and of a second one "hint_loss_2"."""
    named = {}
    for each in knowledge:
        name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(each).__name__).lower() + "_loss"
        count = sum(type(other) is type(each) for other in named.values())
        named[f"{name}_{count + 1}" if count else name] = each
    return named


def _unpacked(data):
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    return x, y, _weights(sample_weight)


def _weights(sample_weight):
    """Return the weights of the examples. For arrays Keras repeats them for every entry of y."""
    if isinstance(sample_weight, dict) and "teacher_logits" in sample_weight:
        return sample_weight["teacher_logits"]
    return sample_weight


def _labels(y):
    """Without the soft targets that came with them."""
    if isinstance(y, _Lesson):
        return y.labels
    return y.get("labels") if isinstance(y, dict) and "teacher_logits" in y else y


def _output(answer):
    """Return the output alone of what a DeeplySupervised returns in a step."""
    return answer["output"] if isinstance(answer, dict) and "companions" in answer else answer
