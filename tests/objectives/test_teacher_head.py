"""SimKD: a student that ends in a frozen copy of its teacher's last layers."""

import inspect
import textwrap

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import zoo

pytestmark = pytest.mark.eager


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def net(width=4, size=8, stride=1, head="pool", seed=0):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((size, size, 1))
    x = layers.Conv2D(width, 3, stride, padding="same", activation="relu", name="conv")(inputs)
    if head == "skip":
        x = layers.Add()([x, layers.Conv2D(width, 1, activation="relu", name="second")(x)])
    x = layers.Flatten()(x) if head == "flat" else layers.GlobalAveragePooling2D()(x)
    x = layers.Dropout(0.5)(x)
    return keras.Model(inputs, layers.Dense(3, name="logits")(x))


def joined(student, teacher, layer="conv", **keywords):
    return zoo.with_teacher_head(
        student, teacher, student_layer="conv", teacher_layer=layer, **keywords
    )


def images(rng, size=8):
    return rng.normal(size=(4, size, size, 1)).astype("float32")


def convolved(maps, kernel):
    margin = kernel.shape[0] // 2
    padded = np.pad(maps, [(0, 0), (margin, margin), (margin, margin), (0, 0)])
    height, width = maps.shape[1:3]
    return sum(
        padded[:, i : i + height, j : j + width] @ kernel[i, j]
        for i in range(kernel.shape[0])
        for j in range(kernel.shape[1])
    )


def test_a_projector_that_changes_nothing_gives_the_teachers_output(rng):
    teacher = net()
    student = keras.models.clone_model(teacher)
    student.set_weights(teacher.get_weights())
    model = joined(student, teacher, factor=1)
    scale = np.full(4, np.sqrt(1 + 1e-5))
    for number, size in ((1, 1), (2, 3), (3, 1)):
        kernel = np.zeros((size, size, 4, 4))
        kernel[size // 2, size // 2] = np.eye(4)
        projector = model.get_layer("projector")
        projector.get_layer(f"conv{number}").set_weights([kernel])
        norm = projector.get_layer(f"norm{number}")
        norm.set_weights([scale, np.zeros(4), np.zeros(4), np.ones(4)])
    x = images(rng)
    np.testing.assert_allclose(model(x), teacher(x), rtol=1e-4, atol=1e-5)
    teacher.get_layer("logits").bias.assign([1, 2, 3])
    assert np.abs(np.asarray(model(x)) - np.asarray(teacher(x))).max() > 0.5  # the head is a copy


@pytest.mark.parametrize(("student", "teacher"), [(1, 2), (2, 1)])
def test_the_projected_maps_are_the_formula(student, teacher, rng):
    teacher, student = net(6, stride=teacher), net(3, stride=student, seed=1)
    model = joined(student, teacher)
    projector = model.get_layer("projector")
    projector.set_weights([rng.uniform(0.5, 1.5, w.shape) for w in projector.get_weights()])
    x = images(rng)
    maps = np.float64(keras.Model(student.input, student.get_layer("conv").output)(x))
    if maps.shape[1] == 8:
        maps = maps.reshape(4, 4, 2, 4, 2, 3).mean((2, 4))
    for number in (1, 2, 3):
        (kernel,) = projector.get_layer(f"conv{number}").get_weights()
        assert kernel.shape[-1] == (6 if number == 3 else 3)
        gamma, beta, mean, variance = projector.get_layer(f"norm{number}").get_weights()
        maps = (convolved(maps, kernel) - mean) / np.sqrt(variance + 1e-5) * gamma + beta
        maps = np.maximum(maps, 0)
    found = keras.Model(model.input, projector.output)(x)
    np.testing.assert_allclose(found, maps, rtol=1e-4)
    kernel, bias = teacher.get_layer("logits").get_weights()
    np.testing.assert_allclose(model(x), maps.mean((1, 2)) @ kernel + bias, rtol=1e-4, atol=1e-4)


def test_training_moves_the_student_and_the_projector_alone(rng, tmp_path):
    teacher, x, labels = net(6, seed=1), images(rng), np.array([0, 1, 2, 1])
    model = joined(net(3), teacher)
    head = model.get_layer("teacher_head")
    kept = [np.array(w) for w in (*teacher.get_weights(), *head.get_weights())]
    assert not head.trainable_variables
    moving = [np.array(v) for v in model.trainable_variables]
    assert len(moving) == 2 + 9  # a convolution, three without biases, three normalizations
    lesson = zoo.knowledge.MapRegression("projector", "conv")
    distiller = zoo.Distiller(
        student=model, teacher=teacher, soft_weight=0, label_weight=0, knowledge=[lesson]
    )
    distiller.compile(keras.optimizers.SGD(0.05), zoo.SoftmaxCrossEntropy())
    logs = [distiller.train_on_batch(x, labels, return_dict=True) for _ in range(4)]
    assert logs[-1]["map_regression_loss"] < logs[0]["map_regression_loss"]
    for log in logs:
        np.testing.assert_allclose(log["loss"], log["map_regression_loss"], rtol=1e-6)
    for old, new in zip(kept, (*teacher.get_weights(), *head.get_weights()), strict=True):
        np.testing.assert_array_equal(old, new)
    for old, new in zip(moving, model.trainable_variables, strict=True):
        assert np.abs(old - np.array(new)).max() > 0, new.path

    expected = model.predict(x, verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again.predict(x, verbose=0), expected)
    assert not again.get_layer("teacher_head").trainable_variables
    model.export(tmp_path / "served", verbose=False)
    served = tf.saved_model.load(str(tmp_path / "served"))
    np.testing.assert_allclose(served.serve(x), expected, rtol=1e-5, atol=1e-6)


def test_a_nin_ends_in_the_head_of_a_nin_as_the_docstring_says(rng):
    text = inspect.getdoc(zoo.with_teacher_head)
    lines = text[text.index("    small = ") : text.index("Chen et al.")]
    names = {"zoo": zoo, "large": zoo.nin((32, 32, 3), 10, width=0.06)}
    names["images"] = rng.integers(0, 256, (2, 32, 32, 3)).astype("float32")
    names["labels"] = np.array([3, 7])
    code = textwrap.dedent(lines).replace("width=0.25", "width=0.03")
    exec(compile(code, "docstring", "exec"), names)
    assert names["model"](names["images"]).shape == (2, 10)
    found, large = (
        names[each].get_layer(layer)
        for each, layer in [("model", "teacher_head"), ("large", "class_maps")]
    )
    for one, other in zip(
        found.get_layer("class_maps").get_weights(), large.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_a_sequential_teacher_gives_its_head(rng):
    teacher = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(4, 3, activation="relu", name="conv"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3),
        ]
    )
    model = joined(net(), teacher)
    assert model(images(rng)).shape == (4, 3)


def test_a_teacher_of_another_input_size_gives_its_head_and_the_distiller_asks_to_resize(rng):
    teacher = net(size=16, seed=1)
    model = joined(net(), teacher)
    assert model(images(rng)).shape == (4, 3)
    with pytest.raises(ValueError, match="does not take the student's examples"):
        zoo.Distiller(student=model, teacher=teacher)
    resizing = keras.Sequential([keras.Input((8, 8, 1)), layers.Resizing(16, 16), teacher])
    lesson = zoo.knowledge.MapRegression("projector", f"{teacher.name}/conv")
    zoo.Distiller(student=model, teacher=resizing, knowledge=[lesson])


class Subclassed(keras.Model):
    def call(self, x):
        return x


def softmax_teacher():
    maps = net()
    means = layers.GlobalAveragePooling2D()(maps.get_layer("conv").output)
    return keras.Model(maps.inputs, layers.Dense(3, "softmax", name="end")(means))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: joined(net(), Subclassed()), "functional or sequential"),
        (lambda: joined(keras.Sequential([layers.Dense(2)]), net()), "functional or sequential"),
        (lambda: joined(net(), net(), "convv"), "no layer 'convv'. Did you mean 'conv'"),
        (lambda: joined(net(), net(), "logits"), r"expects maps \(batch, h, w, c\)"),
        (lambda: joined(net(), net(head="skip"), "second"), "take more than its output"),
        (lambda: joined(net(stride=2), net(head="flat")), "do not take maps of 4 x 4"),
        (
            lambda: joined(net(), softmax_teacher()),
            r"gives probabilities.*teacher.get_layer\('end'\).activation = ",
        ),
        (lambda: joined(net(), net(), factor=0), "factor .* is 0"),
        (lambda: joined(net(), net(), factor=5), "4 channels"),
    ],
)
def test_what_cannot_be_joined_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
