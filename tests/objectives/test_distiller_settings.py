"""Weights and temperature of a Distiller: numbers or schedules, which change between steps.

The steps here are traced, as in any training: an assignment must reach the graph.
"""

import keras
import numpy as np
import pytest
from keras import layers
from keras.optimizers import schedules
from oracles import log_softmax, softmax

import zoo
from zoo.objectives import ensemble_logits, knowledge

CLASSES, FEATURES, EXAMPLES = 3, 5, 16
X = np.random.default_rng(0).normal(size=(EXAMPLES, FEATURES)).astype("float32")
Y = np.random.default_rng(1).integers(0, CLASSES, EXAMPLES)


def net(seed=0, hidden=4, l2=None):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((FEATURES,))
    h = layers.Dense(hidden, "tanh", kernel_regularizer=l2, name="h")(inputs)
    return keras.Model(inputs, layers.Dense(CLASSES, name="logits")(h))


def compiled(model, rate=0.0):
    model.compile(keras.optimizers.SGD(rate), zoo.SoftmaxCrossEntropy())
    return model


def fit(model, epochs=1, batch_size=8, **how):
    how = {"epochs": epochs, "batch_size": batch_size, "shuffle": False, "verbose": 0, **how}
    return model.fit(X, Y, **how).history


def scores(model):
    """Its logits in float64. A call costs less than `predict`, which traces a graph."""
    return np.asarray(model(X), "float64")


def parts(student, teacher, temperature):
    """The two losses of the paper, in float64."""
    z, v = (scores(m) for m in (student, teacher))
    p = softmax(v / temperature)
    soft = temperature**2 * (p * (np.log(p) - log_softmax(z / temperature))).sum(-1).mean()
    return -log_softmax(z)[np.arange(EXAMPLES), Y].mean(), soft


class ByEpoch(keras.callbacks.Callback):
    """Assigns a value at the start of each epoch, which begins with 1."""

    def __init__(self, assign):
        super().__init__()
        self.assign = assign

    def on_epoch_begin(self, epoch, logs=None):
        self.assign(self.model, epoch + 1)


def warm_up(epoch):
    """The weight of mdistiller's DKD."""
    return min(epoch / 20, 1.0)


def test_the_warm_up_of_decoupled_soft_targets_as_a_schedule():
    """2 steps an epoch, 22 epochs."""
    boundaries = [2 * epoch - 1 for epoch in range(1, 20)]
    weight = schedules.PiecewiseConstantDecay(boundaries, [warm_up(e) for e in range(1, 21)])
    assert_warmed_up(weight, range(1, 23), [])


def test_the_warm_up_of_decoupled_soft_targets_by_a_callback():
    """Some of its epochs."""
    epochs = [1, 2, 20, 22]

    def assign(model, epoch):
        model.knowledge[0].weight = warm_up(epochs[epoch - 1])

    assert_warmed_up(1.0, epochs, [ByEpoch(assign)])


def assert_warmed_up(weight, epochs, callbacks):
    lesson = knowledge.DecoupledSoftTargets(weight=weight)
    distiller = compiled(
        zoo.Distiller(student=net(), teacher=net(9), soft_weight=0.0, knowledge=[lesson])
    )
    logs = fit(distiller, epochs=len(epochs), callbacks=callbacks)
    found = (np.array(logs["loss"]) - logs["label_loss"]) / logs["decoupled_soft_targets_loss"]
    np.testing.assert_allclose(found, [warm_up(e) for e in epochs], rtol=0, atol=1e-5)
    assert logs["decoupled_soft_targets_loss"][0] > 0.1


def test_what_is_assigned_between_two_fits_is_used():
    student, teacher = net(), net(9)
    distiller = compiled(zoo.Distiller(student=student, teacher=teacher, temperature=2))
    fit(distiller)
    for name, value in [("temperature", 5.0), ("soft_weight", 0.9), ("soft_weight", 0.0)]:
        setattr(distiller, name, value)
        logs = fit(distiller)
        hard, soft = parts(student, teacher, distiller.temperature)
        share = distiller.soft_weight
        np.testing.assert_allclose(logs["soft_target_loss"], soft, rtol=1e-4)
        np.testing.assert_allclose(logs["loss"], (1 - share) * hard + share * soft, rtol=1e-5)


def test_a_number_of_a_knowledge_is_used_too():
    """Its weight is not its only one."""
    lesson = knowledge.DecoupledSoftTargets(other_weight=1.0)
    distiller = compiled(
        zoo.Distiller(student=net(), teacher=net(9), soft_weight=0.0, knowledge=[lesson])
    )
    logs = [fit(distiller)]
    lesson.other_weight = 8.0
    logs.append(fit(distiller))
    fresh = knowledge.DecoupledSoftTargets(other_weight=8.0)
    other = compiled(
        zoo.Distiller(student=net(), teacher=net(9), soft_weight=0.0, knowledge=[fresh])
    )
    assert logs[1] == fit(other)
    assert logs[1]["loss"][0] > logs[0]["loss"][0] + 0.1


def test_a_step_is_traced_again_only_after_a_change():
    distiller = compiled(zoo.Distiller(student=net(), teacher=net(9)))
    traced = []
    compute = distiller.compute_loss

    def counting(*arguments, **keywords):
        traced.append(True)
        return compute(*arguments, **keywords)

    distiller.compute_loss = counting
    fit(distiller, epochs=3)
    before = len(traced)
    fit(distiller, epochs=3)
    assert len(traced) == before
    distiller.soft_weight = 0.25
    fit(distiller, epochs=3)
    assert before < len(traced) <= 2 * before


def test_schedules_of_the_step():
    student, teacher = net(), net(9)
    share = schedules.PiecewiseConstantDecay([0, 2], [0.0, 0.5, 1.0])
    distiller = compiled(
        zoo.Distiller(
            student=student,
            teacher=teacher,
            soft_weight=share,
            temperature=schedules.PolynomialDecay(6.0, 4, end_temperature := 2.0),
        )
    )
    shares, temperatures = [0.0, 0.5, 0.5, 1.0, 1.0], [6.0, 5.0, 4.0, 3.0, end_temperature]
    for step in range(5):
        logs = distiller.train_on_batch(X, Y, return_dict=True)
        distiller.reset_metrics()
        hard, soft = parts(student, teacher, temperatures[step])
        expected = (1 - shares[step]) * hard + shares[step] * soft
        np.testing.assert_allclose(logs["loss"], expected, rtol=1e-4)


def scheduled():
    keras.utils.set_random_seed(8)
    return compiled(
        zoo.Distiller(
            student=net(),
            teacher=net(9),
            temperature=schedules.PolynomialDecay(6.0, 8, 2.0),
            soft_weight=schedules.PolynomialDecay(0.1, 8, 0.9),
            knowledge=[knowledge.Hint("h", "h", weight=schedules.CosineDecay(1.0, 8))],
        ),
        rate=0.1,
    )


@pytest.mark.parametrize("form", ["file", "weights"])
def test_a_training_that_goes_on_finds_its_step(form, tmp_path):
    whole, halved = scheduled(), scheduled()
    logs = fit(whole, epochs=4)["loss"]
    fit(halved, epochs=2)
    if form == "file":
        halved.save(tmp_path / "d.keras")
        again = keras.models.load_model(tmp_path / "d.keras")
        again.learn_from(halved.teacher)
    else:
        halved.save_weights(tmp_path / "d.weights.h5")
        again = scheduled()
        again.load_weights(tmp_path / "d.weights.h5")
    assert int(again.steps) == 4
    assert logs[2:] == fit(again, epochs=2)["loss"]
    for one, other in zip(whole.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_without_a_schedule_a_file_has_no_counter():
    """So that files of earlier versions have what this one reads."""
    distiller = zoo.Distiller(student=net(), teacher=net(9))
    assert distiller.steps is None
    assert len(distiller.weights) == len(distiller.student.weights)
    known = {"name", "student", "temperature", "soft_weight", "knowledge", "soft_companions"}
    known |= {"class_map", "agreement", "teacher_fingerprint"}
    assert distiller.get_config().keys() == known  # which its fingerprint is made of


# Free weights.


@pytest.mark.parametrize(
    ("label_weight", "soft_weight", "beta"), [(1.0, 1.0, 0.8), (0.1, 9.0, 0.0), (0.0, 2.0, 1.0)]
)
def test_the_weights_are_free(label_weight, soft_weight, beta):
    """CE + KD + beta x, and CE 0.1 + KD 9; regularization is counted once."""
    student, teacher = net(l2=keras.regularizers.L2(0.1)), net(9)
    lesson = knowledge.LogitRegression(weight=beta)
    distiller = compiled(
        zoo.Distiller(
            student=student,
            teacher=teacher,
            temperature=4,
            label_weight=label_weight,
            soft_weight=soft_weight,
            knowledge=[lesson],
        )
    )
    hard, soft = parts(student, teacher, 4.0)
    z, v = (scores(m) for m in (student, teacher))
    more = beta * np.square(z - v).sum(-1).mean() / 2
    penalty = 0.1 * np.square(keras.ops.convert_to_numpy(student.get_layer("h").kernel)).sum()
    expected = label_weight * hard + soft_weight * soft + more + penalty
    logs = fit(distiller)
    np.testing.assert_allclose(logs["loss"], expected, rtol=1e-5)
    assert ("label_loss" in logs) == (label_weight > 0)
    again = zoo.Distiller.from_config(distiller.get_config())
    assert (again.label_weight, again.soft_weight) == (label_weight, soft_weight)


def test_with_a_label_weight_nothing_replaces_the_labels():
    """Unlabelled data have the soft targets with their own weight."""
    student, teacher = net(), net(9)
    distiller = compiled(
        zoo.Distiller(student=student, teacher=teacher, label_weight=1.0, soft_weight=0.5)
    )
    logs = distiller.fit(X, batch_size=8, verbose=0).history
    _, soft = parts(student, teacher, 4.0)
    np.testing.assert_allclose(logs["loss"], 0.5 * soft, rtol=1e-4)


def test_the_complement_is_the_share():
    """label_weight=1 - soft_weight trains as without it, and as stock Keras with (1, 0)."""
    models = []
    for weights in ({"soft_weight": 0.3}, {"soft_weight": 0.3, "label_weight": 0.7}):
        distiller = zoo.Distiller(student=net(), teacher=net(9), **weights)
        fit(compiled(distiller, 0.1), epochs=2)
        models.append(distiller.student)
    alone, taught = net(), net()
    fit(compiled(alone, 0.1), epochs=2)
    none = zoo.Distiller(student=taught, teacher=net(9), label_weight=1.0, soft_weight=0.0)
    fit(compiled(none, 0.1), epochs=2)
    for pair in (models, (alone, taught)):
        for one, other in zip(*(model.get_weights() for model in pair), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-6)


# What cannot be.


@pytest.mark.parametrize(
    ("assign", "message"),
    [
        (lambda d: setattr(d, "temperature", -1), "temperature is a finite number > 0; rec.* -1"),
        (lambda d: setattr(d, "temperature", None), "temperature is a number, or a .*None"),
        (lambda d: setattr(d, "soft_weight", 1.5), "share in 0..1; received 1.5"),
        (lambda d: setattr(d, "soft_weight", schedules.CosineDecay(0.5, 9)), "has become a sched"),
        (lambda d: setattr(d.knowledge[0], "weight", float("nan")), "weight of Hint is nan"),
        (lambda d: setattr(d.knowledge[0], "weight", -1.0), "weight of Hint is -1.0; it is a fin"),
        (lambda d: d.knowledge.append(knowledge.Hint("h", "h")), "knowledge .* does not change"),
    ],
)
def test_a_wrong_assignment_is_refused_before_the_next_step(assign, message):
    taught = [knowledge.Hint("h", "h")]
    distiller = compiled(zoo.Distiller(student=net(), teacher=net(9), knowledge=taught), 0.1)
    fit(distiller)
    before = distiller.student.get_weights()
    assign(distiller)
    with pytest.raises(ValueError, match=message):
        fit(distiller)
    for one, other in zip(before, distiller.student.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(("made", "missing"), [(0.0, "soft_target_loss"), (1.0, "label_loss")])
def test_a_part_that_was_left_out_does_not_come_back(made, missing):
    distiller = compiled(zoo.Distiller(student=net(), teacher=net(9), soft_weight=made))
    distiller.soft_weight = 0.5
    with pytest.raises(ValueError, match=f"made without the {missing}.*now 0.5"):
        fit(distiller)


@pytest.mark.parametrize("name", ["class_map", "activation", "agreement"])
def test_what_does_not_change_cannot_be_assigned(name):
    distiller = zoo.Distiller(student=net(), teacher=net(9))
    with pytest.raises(AttributeError):
        setattr(distiller, name, {0: 1, 1: 0})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"label_weight": -1.0}, "label_weight is -1.0; it is a finite number >= 0"),
        ({"label_weight": 1.0, "soft_weight": -1.0}, "soft_weight is -1.0"),
        ({"temperature": schedules.PolynomialDecay(0.0, 5)}, "temperature .* > 0; received 0.0"),
        ({"soft_weight": schedules.PolynomialDecay(2.0, 5)}, "share in 0..1; received 2.0"),
        ({"teacher_weights": [1.0]}, "An ensemble of 2 has 2 weights.*received .1.0."),
        ({"teacher_weights": [0.0, 0.0]}, "not all 0"),
        ({"teacher_weights": [1.0, -1.0]}, "numbers >= 0"),
    ],
)
def test_what_cannot_be_is_refused_when_it_is_made(arguments, message):
    with pytest.raises(ValueError, match=message):
        zoo.Distiller(student=net(), teacher=[net(8), net(9)], **arguments)


# Teachers.


def test_a_weighted_ensemble_is_the_weighted_mean_of_the_probabilities():
    student, members = net(), [net(7), net(8), net(9)]
    distiller = compiled(
        zoo.Distiller(
            student=student,
            teacher=members,
            temperature=3,
            soft_weight=1.0,
            teacher_weights=[2, 0, 6],
            agreement=True,
        )
    )
    z, *vs = (scores(m) for m in (student, *members))

    def divergence(temperature, weights):
        p = np.average([softmax(v / temperature) for v in vs], axis=0, weights=weights)
        return (p * (np.log(p) - log_softmax(z / temperature))).sum(-1).mean()

    logs = fit(distiller)
    np.testing.assert_allclose(logs["loss"], 9 * divergence(3, [2, 0, 6]), rtol=1e-4)
    found = distiller.evaluate(X, Y, verbose=0, return_dict=True)
    np.testing.assert_allclose(
        found["teacher_divergence"], divergence(1, [2, 0, 6]), rtol=1e-4, atol=1e-6
    )
    distiller.teacher_weights = [1, 1, 1]
    np.testing.assert_allclose(fit(distiller)["loss"], 9 * divergence(3, None), rtol=1e-4)
    again = zoo.Distiller.from_config(distiller.get_config())
    assert again.teacher_weights == [1, 1, 1]


def test_equal_weights_are_none():
    logits = [np.random.default_rng(seed).normal(size=(4, 3)).astype("float32") for seed in (1, 2)]
    one = ensemble_logits(logits, 2.0)
    other = ensemble_logits(logits, 2.0, weights=[5, 5])
    np.testing.assert_allclose(one, other, atol=1e-6)


def test_a_teacher_whose_weights_moved_on_is_taken_by_force(tmp_path):
    teacher = net(9)
    distiller = compiled(zoo.Distiller(student=net(), teacher=teacher), 0.1)
    first = fit(distiller)
    teacher.set_weights([0.9 * weight for weight in teacher.get_weights()])  # a moving average
    distiller.save(tmp_path / "d.keras")
    again = keras.models.load_model(tmp_path / "d.keras")
    with pytest.raises(ValueError, match=r"force=True"):
        again.learn_from(teacher)
    recorded = again.teacher_fingerprint
    again.learn_from(teacher, force=True)
    assert again.teacher_fingerprint != recorded
    again.learn_from(teacher)  # which is now the one that is known
    assert fit(again)["soft_target_loss"] != first["soft_target_loss"]


def test_another_teacher_may_come_within_a_training():
    """A callback sets it; the next step is traced with it."""
    student, teachers = net(), [net(9), net(10)]
    distiller = compiled(zoo.Distiller(student=student, teacher=teachers[0], soft_weight=1.0))

    def assign(model, epoch):
        model.learn_from(teachers[epoch - 1], force=True)

    logs = fit(distiller, epochs=2, callbacks=[ByEpoch(assign)])
    expected = [parts(student, teacher, 4.0)[1] for teacher in teachers]
    np.testing.assert_allclose(logs["soft_target_loss"], expected, rtol=1e-4)


# Deeply supervised models have such settings too.


def deep(weight=0.4):
    trunk = net()
    return compiled(
        zoo.DeeplySupervised(trunk, {"h": layers.Dense(CLASSES)}, companion_weight=weight)
    )


@pytest.mark.parametrize("taught", [False, True])
def test_a_companion_weight_that_is_assigned_is_used(taught):
    model = inner = deep()
    if taught:
        model = compiled(zoo.Distiller(student=inner, teacher=net(9), soft_weight=0.0))
    first = fit(model)
    inner.companion_weight["h"] = 1.4
    second = fit(model)
    expected = np.array(first["loss"]) + first["h_loss"]
    np.testing.assert_allclose(second["loss"], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("assign", "message"),
    [
        (lambda m: m.companion_weight.update({"h": -1.0}), "companion_weight of 'h' is -1.0"),
        (lambda m: m.companion_weight.update({"i": 1.0}), "names the layers h, i"),
        (lambda m: setattr(m, "companion_weight", 1.0), r"received 1.0. Assign to one layer"),
        (lambda m: setattr(m, "temperature", 0.0), "temperature"),
        (lambda m: setattr(m, "soft_weight", 0.5), "made without .*h_soft_target_error"),
        (lambda m: m.threshold.update({"h": 0.1}), "made without .*h_gate"),
        (
            lambda m: m.companion_weight.update({"h": schedules.CosineDecay(1.0, 5)}),
            "has become a sch",
        ),
    ],
)
def test_a_wrong_assignment_to_a_companion_is_refused(assign, message):
    model = deep()
    fit(model)
    assign(model)
    with pytest.raises(ValueError, match=message):
        fit(model)


# Several devices.


def test_our_loop_of_replicas_follows_settings_and_counts_steps():
    import tensorflow as tf

    from zoo import distribute

    def assign(model, epoch):
        model.temperature = 2.0 * epoch

    share = schedules.PolynomialDecay(0.2, 4, 0.6)
    student, teacher = net(), net(9)
    distiller = compiled(zoo.Distiller(student=student, teacher=teacher, soft_weight=share))
    batches = tf.data.Dataset.from_tensor_slices((X, Y)).batch(8)
    logs = distribute.fit(
        distiller, None, batches, epochs=2, micro_batches=2, callbacks=[ByEpoch(assign)]
    ).history
    assert int(distiller.steps) == 4
    for epoch in (0, 1):
        expected = []
        for step in (0, 1):
            half = slice(8 * step, 8 * step + 8)
            z, v = (scores(m)[half] for m in (student, teacher))
            t, w = 2.0 * (epoch + 1), 0.2 + 0.1 * (2 * epoch + step)
            p = softmax(v / t)
            soft = t**2 * (p * (np.log(p) - log_softmax(z / t))).sum(-1).mean()
            hard = -log_softmax(z)[np.arange(8), Y[half]].mean()
            expected.append((1 - w) * hard + w * soft)
        np.testing.assert_allclose(logs["loss"][epoch], np.mean(expected), rtol=1e-4)
