"""The objective of a `Distiller`: the losses of labels, soft targets and knowledge."""

import re

import keras
from keras import ops

from zoo.losses import Mean, replicas
from zoo.objectives.compiled_losses import check_activations, check_take_logits
from zoo.objectives.deep_supervision import DeeplySupervised
from zoo.objectives.settings import now
from zoo.objectives.step_data import Pass, labels_of, losses_of_examples, output_of, weights_of


class DistillationObjective(keras.Model):
    """The part of a `Distiller` that computes its objective in a step.

    `_logs` has the parts that were present when the Distiller was made.
    """

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        if not isinstance(y_pred, Pass):  # Keras builds its losses outside of a step.
            sample_weight = weights_of(sample_weight)
            return self._label_objective(x, labels_of(y), y_pred, sample_weight, training)
        outputs, labels = y_pred.outputs, y.labels
        decoding = self._decoding(outputs, sample_weight)
        if not training:
            return decoding + self._label_objective(x, labels, outputs, sample_weight, training)
        self._check_compiled(outputs)
        label_weight, soft_weight = self._shares(labels)
        objective = regularization = self._regularization()
        if "label_loss" in self._logs and labels is not None:
            objective = self._label_objective(x, labels, outputs, sample_weight, training)
            self._log("label_loss", objective - regularization, y_pred)
            # `objective` contains the regularization, whose weights add up to 1.
            objective = label_weight * objective + (1 - label_weight) * regularization
        logits = self._teacher_logits(y, now(self.temperature, self.steps))
        if "soft_target_loss" in self._logs:
            soft = self._soft_objective(logits, y_pred, sample_weight)
            objective = objective + soft_weight * soft
        for name, lesson in self._named.items():
            known, weights = self._labelled(lesson, y, outputs, sample_weight)
            losses = losses_of_examples(lesson, known, logits, y_pred)
            loss = Mean()(losses, losses, sample_weight=weights)
            self._log(name, loss, y_pred)
            objective = objective + now(lesson.weight, self.steps) * loss
        return objective + decoding

    def _labelled(self, lesson, targets, outputs, sample_weight):
        """Return targets and weights of a lesson: an image without a label, as decoders take it,
        weighs 0 where the lesson needs labels.
        """
        if not lesson.needs_labels or targets.labels is None or not self._has_companions(outputs):
            return targets, sample_weight
        labels, _, weights = self.student.for_metrics(
            targets.labels, output_of(outputs), sample_weight
        )
        return targets._replace(labels=labels), weights

    def _shares(self, labels):
        """Return the weights of the labels and of the soft targets at this step."""
        soft_weight = now(self.soft_weight, self.steps)
        if self.label_weight is not None:
            return now(self.label_weight, self.steps), soft_weight
        if labels is None:
            return 0.0, 1.0
        return 1 - soft_weight, soft_weight

    def _teacher_logits(self, targets, temperature):
        """Return the logits of the teacher or ensemble; None if nothing learns from them."""
        learned = any("output" in lesson.teacher_layers for lesson in self.knowledge)
        if not targets.logits or not (learned or "soft_target_loss" in self._logs):
            return None
        return self._soft_outputs.merged(
            targets.logits, self._teacher_model(), self.teacher_weights, temperature
        )

    def _teacher_model(self):
        """Return the first teacher, of whose form all are; None if the data bring soft targets."""
        return next(iter(self._teachers.models), None)

    def _check_compiled(self, outputs):
        """Raise ValueError if the compiled loss takes no logits, or suits no soft targets."""
        if self.loss is not None:
            check_take_logits(self.student, self.loss)
        if self._has_companions(outputs) and self.student.companion_loss:
            check_take_logits(self.student, self.student.companion_loss)
        if "soft_target_loss" in self._logs:
            check_activations(self.loss, self._soft_outputs.of_student(output_of(outputs)))

    def _label_objective(self, x, labels, outputs, sample_weight, training):
        """Return the loss that the student would minimize alone."""
        if labels is None or (self.loss is None and not training):
            return self._regularization()
        if self.loss is None:
            raise ValueError("Compile with a loss of the labels, or set soft_weight=1.")

        def output_objective(y, output, sample_weight):
            return super(DistillationObjective, self).compute_loss(
                x, y, output, sample_weight, training
            )

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
        temperature = now(self.temperature, self.steps)

        def soft_target_loss(outputs):
            return sum(
                self._soft_outputs.loss(activation, temperature)(
                    teacher, student, sample_weight=sample_weight
                )
                for activation, teacher, student in self._soft_outputs.pairs(
                    teacher_logits, outputs, self._teacher_model()
                )
            )

        soft = soft_target_loss(output_of(y_pred.outputs))
        self._log("soft_target_loss", soft, y_pred)
        if self.soft_companions:
            companions = zip(self.student.companions, y_pred.outputs["companions"], strict=True)
            for layer, scores in companions:
                soft = soft + self.student.weight_now(layer) * soft_target_loss(scores)
        return soft

    def _compare(self, targets, output, sample_weight):
        """Update the metrics that compare the student with the teacher, at temperature 1."""
        teacher, outputs = self._teacher_model(), self._soft_outputs
        logits = outputs.merged(targets.logits, teacher, self.teacher_weights, 1.0)
        agreement, divergence = self._comparison.values()
        for pair in outputs.pairs(logits, output, teacher):
            same, divergences = outputs.compared(*pair)
            agreement.update_state(same, sample_weight=sample_weight)
            divergence.update_state(divergences, sample_weight=sample_weight)

    def _regularization(self):
        """Return this replica's share of the regularization loss."""
        losses = (ops.cast(ops.sum(loss), "float32") for loss in self.losses)
        return sum(losses, ops.zeros((), "float32")) / replicas()

    def _log(self, name, loss, y_pred):
        examples = ops.shape(keras.tree.flatten(output_of(y_pred.outputs))[0])[0]
        # Keras has divided the loss by the number of replicas.
        self._logs[name].update_state(loss * replicas(), sample_weight=examples)


def by_log_name(knowledge):
    """Return {name in the logs: knowledge}; a second `Hint` has the name "hint_loss_2"."""
    by_name = {}
    for lesson in knowledge:
        name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(lesson).__name__).lower() + "_loss"
        count = sum(type(other) is type(lesson) for other in by_name.values())
        by_name[f"{name}_{count + 1}" if count else name] = lesson
    return by_name
