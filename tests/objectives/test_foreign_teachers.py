"""Teachers that others made: probabilities in the place of logits, and examples of other shapes."""

import contextlib
import warnings

import keras
import numpy as np
import pytest
from keras import layers, ops
from oracles import log_softmax, softmax

import zoo
from zoo.objectives import knowledge
from zoo.objectives.probabilities import kind_of_values, kinds_of, logits_from

pytestmark = pytest.mark.eager

CLASSES, FEATURES, EXAMPLES = 3, 5, 22


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).normal(size=(EXAMPLES, FEATURES)).astype("float32")


@pytest.fixture(scope="module")
def y():
    return np.random.default_rng(1).integers(0, CLASSES, EXAMPLES)


def net(seed=0, hidden=4, classes=CLASSES):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((FEATURES,))
    h = layers.Dense(hidden, "relu", name="h")(inputs)
    return keras.Model(inputs, layers.Dense(classes, name="logits")(h))


class Around(keras.Model):
    """A subclass whose graph shows nothing."""

    def __init__(self, model, last):
        super().__init__()
        self.model, self.last = model, last

    def call(self, inputs):
        return self.last(self.model(inputs))


def ending(model, last, squash):
    """The model with a last step in one of the forms, by name."""
    squash_op = {"softmax": ops.softmax, "sigmoid": ops.sigmoid}[squash]
    if last == "dense":
        h = model.get_layer("h").output
        dense = layers.Dense(model.output_shape[-1], squash)
        made = keras.Model(model.inputs, dense(h))
        dense.set_weights(model.get_layer("logits").get_weights())
        return made
    if last == "layer":
        return keras.Sequential([model, layers.Activation(squash)])
    if last == "operation":
        return keras.Model(model.inputs, squash_op(model.output))
    if last == "reshape":
        p = squash_op(model.output)
        shaped = layers.Reshape((1, *model.output_shape[1:]))(p)
        return keras.Model(model.inputs, ops.squeeze(layers.Dropout(0.5)(shaped), 1))
    if last == "function":
        return keras.Sequential([model, layers.Activation(lambda values: squash_op(values))])
    if last == "operation in a subclass":
        return Around(model, squash_op)
    assert last == "layer in a subclass"
    return Around(ending(model, "dense", squash), lambda values: values)


FORMS = [
    *("dense", "layer", "operation", "reshape", "function"),
    *("operation in a subclass", "layer in a subclass"),
]


def taught(given, x, y, *, student=None, targets=None, **arguments):
    """The weights of a student after a few steps, and the logs."""
    student = student or net(1)
    keras.utils.set_random_seed(3)
    distiller = zoo.Distiller(
        **{"student": student, "teacher": given, "temperature": 3.0, **arguments}
    )
    distiller.compile(keras.optimizers.SGD(0.1, momentum=0.9), zoo.SoftmaxCrossEntropy())
    given_y = y if targets is None else {"labels": y, "teacher_logits": targets}
    logs = distiller.fit(x, given_y, batch_size=8, shuffle=False, verbose=0)
    return student.get_weights(), logs.history


def assert_taught_alike(one, other):
    for a, b in zip(one[0], other[0], strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    assert one[1].keys() == other[1].keys()
    for name, values in one[1].items():
        np.testing.assert_allclose(other[1][name], values, rtol=1e-4)


@pytest.fixture(scope="module")
def by_logits(x, y):
    """What a teacher that gives logits teaches."""
    return taught(net(9, 6), x, y)


@pytest.fixture(scope="module")
def by_one_logit(x, y):
    """What a teacher teaches that gives one logit, of the second of two classes."""
    student = net(1, classes=1)
    return taught(net(9, 6, 1), x, np.minimum(y, 1), student=student, soft_weight=1.0)


@pytest.mark.parametrize("form", FORMS)
def test_a_softmax_teacher_teaches_what_its_logits_teach(form, x, y, by_logits):
    with pytest.warns(UserWarning, match=r"The teacher '.*' gives the probabilities of a softmax"):
        given = taught(ending(net(9, 6), form, "softmax"), x, y)
    assert_taught_alike(by_logits, given)


def test_teachers_matter_in_these_tests(x, y, by_logits):
    """Else all of them would pass whatever a teacher gives."""
    for other in (
        taught(None, x, y, soft_weight=0.0),
        taught(keras.Sequential([net(9, 6), layers.Rescaling(0.5)]), x, y),
    ):
        assert max(np.abs(a - b).max() for a, b in zip(other[0], by_logits[0], strict=True)) > 1e-3


@pytest.mark.parametrize("classes", [1, CLASSES])
@pytest.mark.parametrize("form", FORMS)
def test_a_sigmoid_teacher_teaches_what_its_logits_teach(
    form, classes, x, y, by_logits, by_one_logit
):
    student, labels = net(1, classes=classes), np.minimum(y, 1) if classes == 1 else y
    with pytest.warns(UserWarning, match="the probabilities of a sigmoid"):
        given = taught(
            ending(net(9, 6, classes), form, "sigmoid"),
            x,
            labels,
            student=student,
            soft_weight=1.0 if classes == 1 else 0.5,
        )
    assert_taught_alike(by_one_logit if classes == 1 else by_logits, given)


@contextlib.contextmanager
def quiet():
    """While active, a warning of probabilities is an error."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*probabilities")
        yield


def test_logits_are_taken_as_they_are_and_in_silence(x, y, by_logits):
    model = net(9, 6)
    with quiet():
        given = Around(net(9, 6), lambda values: values)
        assert_taught_alike(by_logits, taught(given, x, y))
        for given in (
            keras.Sequential([net(9, 6), layers.Activation("linear")]),
            keras.Model(model.inputs, ops.log_softmax(model.output)),
        ):
            assert zoo.Distiller(student=net(1), teacher=given)._teachers.kinds == [["logits"]]


@pytest.mark.parametrize("last", ["relu", "zeros"])
def test_small_outputs_that_are_no_probabilities_are_logits(last, x, y):
    model = net(9, 6)
    if last == "zeros":
        model.get_layer("logits").set_weights([np.zeros((6, CLASSES)), np.zeros(CLASSES)])
        given = Around(model, lambda values: values)
    else:
        given = Around(model, lambda values: ops.relu(values) / 50)
    with quiet():
        distiller = zoo.Distiller(student=net(1), teacher=given)
    assert distiller._teachers.kinds == [["logits"]]


def test_an_ensemble_may_mix_logits_and_probabilities(x, y):
    expected = taught([net(9, 6), net(8, 6)], x, y)
    mixed = [net(9, 6), ending(net(8, 6), "operation", "softmax")]
    with pytest.warns(UserWarning, match="softmax"):
        assert_taught_alike(expected, taught(mixed, x, y))


def test_mapped_classes_are_those_of_the_logits(x, y):
    mapped = {"class_map": {0: 2, 2: 3}, "soft_weight": 0.7}
    expected = taught(net(9, 6, 4), x, y, **mapped)
    for squash in ("softmax", "sigmoid"):
        with pytest.warns(UserWarning, match=squash):
            given = taught(ending(net(9, 6, 4), "layer", squash), x, y, **mapped)
        assert_taught_alike(expected, given)


def test_knowledge_of_the_output_is_that_of_the_logits(x, y):
    """Regression of centred logits, since log p is a logit up to a constant of the example."""
    lessons = {"soft_weight": 0.0}
    expected = taught(
        net(9, 6), x, y, knowledge=[knowledge.LogitRegression(centered=True)], **lessons
    )
    given = ending(net(9, 6), "reshape", "softmax")
    with pytest.warns(UserWarning, match="softmax"):
        found = taught(given, x, y, knowledge=[knowledge.LogitRegression(centered=True)], **lessons)
    assert_taught_alike(expected, found)


def test_two_outputs_may_be_of_two_kinds(x):
    def two(seed, squashed):
        keras.utils.set_random_seed(seed)
        inputs = keras.Input((FEATURES,))
        a, b = (layers.Dense(CLASSES, name=name)(inputs) for name in ("zed", "all"))
        return keras.Model(inputs, {"zed": ops.softmax(a) if squashed else a, "all": b})

    results = []
    for squashed in (False, True):
        student = two(1, False)
        distiller = zoo.Distiller(student=student, teacher=two(9, squashed), soft_weight=1.0)
        distiller.compile(keras.optimizers.SGD(0.1))
        distiller.fit(x, None, batch_size=8, shuffle=False, verbose=0)
        results.append(student.get_weights())
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("form", ["arrays", "dataset", "sequence", "generator"])
def test_cached_probabilities_are_taken_in_every_form_of_data(form, x, y, by_logits):
    import tensorflow as tf

    model = net(9, 6)
    z = model.predict(x, verbose=0)
    p = softmax(z).astype("float32")
    rows = [
        (x[i : i + 8], {"labels": y[i : i + 8], "teacher_logits": p[i : i + 8]})
        for i in range(0, EXAMPLES, 8)
    ]

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return len(rows)

        def __getitem__(self, index):
            return rows[index]

    student = net(1)
    keras.utils.set_random_seed(3)
    distiller = zoo.Distiller(student=student, temperature=3.0)
    distiller.compile(keras.optimizers.SGD(0.1, momentum=0.9), zoo.SoftmaxCrossEntropy())
    data = {
        "arrays": (x, {"labels": y, "teacher_logits": p}),
        "dataset": (
            tf.data.Dataset.from_tensor_slices((x, {"labels": y, "teacher_logits": p})).batch(8),
        ),
        "sequence": (Batches(),),
        "generator": ((row for row in rows),),
    }[form]
    steps = {"arrays": {"batch_size": 8}, "generator": {"steps_per_epoch": 3}}.get(form, {})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        logs = distiller.fit(*data, shuffle=False, verbose=0, **steps)
    assert_taught_alike(by_logits, (student.get_weights(), logs.history))
    said = [str(each.message) for each in caught if "teacher_logits" in str(each.message)]
    assert len(said) == (form != "dataset")


@pytest.mark.parametrize("form", ["arrays", "generator"])
def test_cached_values_of_a_sigmoid_are_refused_before_the_first_step(form, x, y):
    p = np.array(np.random.default_rng(0).uniform(size=(EXAMPLES, CLASSES)), "float32")
    p[0, :2] = 0, 1
    student = net(1)
    before = student.get_weights()
    distiller = zoo.Distiller(student=student)
    distiller.compile("sgd", zoo.SoftmaxCrossEntropy())
    soft = {"labels": y, "teacher_logits": p}
    data = (x, soft) if form == "arrays" else ((pair for pair in [(x, soft)]),)
    with pytest.raises(ValueError, match=r"within 0..1.*log\(p / \(1 - p\)\).*subtract 1"):
        distiller.fit(*data, verbose=0)
    for one, other in zip(before, student.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    distiller.fit(x, {"labels": y, "teacher_logits": p - 1}, verbose=0)


@pytest.mark.parametrize("form", ["normal", "zeros", "nearly"])
def test_cached_logits_are_unchanged(form, x, y):
    """Also those that a careless test would take for probabilities."""
    z = np.random.default_rng(0).normal(size=(EXAMPLES, CLASSES)).astype("float32")
    z = {"normal": z, "zeros": np.zeros_like(z), "nearly": softmax(z) - 0.1}[form]
    np.testing.assert_array_equal(logits_from("unknown", z), z.astype("float32"))
    with quiet():
        one, other = (taught(None, x, y, targets=logits) for logits in (z, z - 7))
    assert_taught_alike(one, other)


# The formulas.


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_logits_are_finite_and_those_of_the_formula(dtype):
    z = np.array([[3.0, -2, 0.5], [0, 0, 0], [9, -9, 1]])
    p = ops.cast(softmax(z), dtype)
    exact = ops.convert_to_numpy(ops.cast(p, "float32")).astype("float64")
    found = ops.convert_to_numpy(logits_from("softmax", p))
    if dtype != "float16":  # there the smallest p is a subnormal number
        np.testing.assert_allclose(found, np.log(exact), rtol=1e-5, atol=1e-6)
    p = ops.cast(1 / (1 + np.exp(-z)), dtype)
    exact = ops.convert_to_numpy(ops.cast(p, "float32")).astype("float64")
    inside = exact < 1
    found = ops.convert_to_numpy(logits_from("sigmoid", p))
    exact = np.where(inside, exact, 0.5)
    np.testing.assert_allclose(
        found[inside], (np.log(exact) - np.log1p(-exact))[inside], rtol=1e-4, atol=1e-5
    )
    hard = ops.cast(np.array([[0.0, 1.0, 0.0]]), dtype)
    for kind in ("softmax", "sigmoid", "unknown"):
        found = ops.convert_to_numpy(logits_from(kind, hard))
        assert np.isfinite(found).all()
        assert found[0, 1] - found[0, 0] > 16


def test_a_sure_softmax_has_all_digits():
    z = np.array([[60.0, 0, -20]], "float32")
    found = ops.convert_to_numpy(logits_from("softmax", ops.softmax(z)))
    np.testing.assert_allclose(found, log_softmax(z.astype("float64")), rtol=1e-6)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([[0.2, 0.8], [0.5, 0.5]], "softmax"),
        ([[0.0, 1.0], [1.0, 0.0]], "softmax"),
        ([[0.2, 0.8], [0.5, 0.6]], "logits"),
        ([[1.2, -0.2], [0.5, 0.5]], "logits"),
        ([[0.0, 1.0], [1.0, 1.0]], "sigmoid"),
        ([[0.0, 1.0], [1.1, 1.0]], "logits"),
        ([[0.3, 0.4], [0.1, 0.2]], "logits"),
        ([[0.0, 0.0]], "logits"),
        ([[1.0], [1.0]], "logits"),
        ([[0.0], [1.0]], "sigmoid"),
        ([[np.nan, 0.5], [0.2, 0.8]], "softmax"),
        ([[np.nan, 0.5]], "unknown"),
        (np.zeros((0, 3)), "unknown"),
    ],
)
def test_values_show_their_kind(values, kind):
    assert kind_of_values(np.array(values, "float32")) == kind


@pytest.mark.parametrize("form", FORMS[:4])
def test_the_layers_show_a_sigmoid_whose_values_do_not(form):
    model = net(9, 6)
    model.get_layer("logits").set_weights([np.zeros((6, CLASSES)), np.full(CLASSES, 0.3)])
    assert kinds_of(ending(model, form, "sigmoid")) == ["sigmoid"]
    assert kinds_of(ending(model, form, "softmax")) == ["softmax"]
    assert kinds_of(model) == ["logits"]


def test_the_kind_of_a_16_bit_softmax_is_seen():
    z = np.random.default_rng(0).normal(size=(8, 1000)) * 3
    for dtype in ("float16", "bfloat16"):
        assert kind_of_values(ops.cast(softmax(z), dtype)) == "softmax"


# Students.


@pytest.mark.parametrize("squash", ["softmax", "sigmoid"])
@pytest.mark.parametrize("form", FORMS)
def test_a_student_gives_logits(form, squash, x):
    with pytest.raises(ValueError, match=rf"The student .* of a {squash}.*from_logits=True"):
        zoo.Distiller(student=built(ending(net(1), form, squash), x), teacher=net(9, 6))


def built(model, x):
    model(x)
    return model


def following(message, student):
    """Do what the message says."""
    if "student.pop()" in message:
        student.pop()
        return student
    if "keras.Model(" in message:
        start = message.index("keras.Model(")
        return eval(message[start : message.index(".input)") + 7])
    assert ".activation = keras.activations.linear." in message, message
    exec(message[message.index("student.get_layer") : message.index(" Then")].rstrip("."))
    return student


@pytest.mark.parametrize(
    "make",
    [
        lambda: keras.Sequential([keras.Input((FEATURES,)), layers.Dense(CLASSES, "softmax")]),
        lambda: ending(net(1), "dense", "softmax"),
        lambda: ending(net(1), "layer", "softmax"),
        lambda: keras.Sequential(
            [keras.Input((FEATURES,)), layers.Dense(CLASSES), layers.Softmax()]
        ),
        lambda: keras.Model((model := net(1)).inputs, layers.Softmax(name="last")(model.output)),
    ],
    ids=["sequential dense", "dense", "activation", "sequential softmax", "softmax"],
)
def test_the_advice_to_a_student_works(make, x, y):
    student = make()
    with pytest.raises(ValueError, match="gives probabilities") as refused:
        zoo.Distiller(student=student, teacher=net(9, 6))
    before = np.log(student.predict(x, verbose=0))
    student = following(str(refused.value), student)
    zoo.Distiller(student=student, teacher=net(9, 6))
    found = keras.models.clone_model(student)
    found.set_weights(student.get_weights())
    np.testing.assert_allclose(
        log_softmax(found.predict(x, verbose=0).astype("float64")), before, atol=1e-5
    )


def test_a_saved_distiller_takes_its_softmax_teacher_again(x, y, tmp_path):
    given = ending(net(9, 6), "operation", "softmax")
    with pytest.warns(UserWarning, match="softmax"):
        distiller = zoo.Distiller(student=net(1), teacher=given)
    distiller.compile("sgd", zoo.SoftmaxCrossEntropy())
    distiller.save(tmp_path / "d.keras")
    again = keras.models.load_model(tmp_path / "d.keras")
    with pytest.warns(UserWarning, match="softmax"):
        again.learn_from(given)
    assert again._teachers.kinds == [["softmax"]]


# Examples of other shapes.


def of_images(size, channels=1):
    inputs = keras.Input((size, size, channels))
    return keras.Model(inputs, layers.Dense(CLASSES)(layers.Flatten()(inputs)))


def refused(teacher, student):
    with pytest.raises(ValueError, match="does not take the student's examples") as error:
        zoo.Distiller(student=student, teacher=teacher)
    return str(error.value)


def test_another_size_is_told_with_the_real_sizes_and_advice_that_works():
    teacher, student = of_images(12), of_images(6)
    message = refused(teacher, student)
    assert "(None, 12, 12, 1)" in message
    assert "(None, 6, 6, 1)" in message
    assert "64" not in message
    start, end = message.index("keras.Sequential("), message.index(", teacher])") + 11
    wrapped = eval(message[start:end], {"keras": keras, "teacher": teacher})
    zoo.Distiller(student=student, teacher=wrapped)


def test_other_channels_are_not_told_to_resize():
    message = refused(of_images(6, 3), of_images(6))
    assert "3 channels" in message
    assert "layers.Resizing" not in message


def test_other_numbers_of_dimensions_and_features():
    assert "Reshape" in refused(net(), of_images(6))
    keras.utils.set_random_seed(0)
    wide = keras.Sequential([keras.Input((9,)), layers.Dense(CLASSES)])
    message = refused(wide, net())
    assert "(None, 9)" in message
    assert "Resizing" not in message


@pytest.mark.parametrize("form", [list, dict])
def test_a_teacher_of_two_inputs_is_told_by_its_structure(form):
    named = {name: keras.Input((FEATURES,), name=name) for name in ("left", "right")}
    inputs = named if form is dict else [*named.values()]
    two = keras.Model(inputs, layers.Dense(CLASSES)(layers.Concatenate()([*named.values()])))
    with pytest.raises(ValueError, match=r"teacher 'functional.*' (takes|does not)") as error:
        zoo.Distiller(student=net(1), teacher=two)
    message = str(error.value)
    assert "Resizing" not in message
    assert "keras.Model(inputs, teacher(" in message
    assert ("left, right" if form is dict else "[(None, 5), (None, 5)]") in message
    one = keras.Input((FEATURES,))
    given = {"left": one, "right": one} if form is dict else [one, one]
    zoo.Distiller(student=net(1), teacher=keras.Model(one, two(given)))
