"""What `fit` takes: forms of data x labels and weights x models, as docs/guides/fit_inputs.md says.

Each cell gives the numbers of the arrays, or is refused in one line before the first step.
"""

import functools
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import zoo

pytestmark = [pytest.mark.eager, pytest.mark.filterwarnings("ignore:.*run_functions_eagerly")]

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "guides" / "fit_inputs.md"
EXAMPLES, BATCH, CLASSES = 6, 3, 3
RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(0, 255, (EXAMPLES, 4, 4, 1)).astype("float32")
LABELS = np.array([0, 1, 2, 2, 1, 0])
MISSING = np.where(np.arange(EXAMPLES) % 2, -1, LABELS)
ROWS = np.eye(CLASSES, dtype="float32")[LABELS]
WEIGHTS = RNG.uniform(0.5, 2, EXAMPLES).astype("float32")
LOGITS = RNG.normal(0, 2, (EXAMPLES, CLASSES)).astype("float32")
OF_CLASSES = {0: 1.0, 1: 3.0, 2: 0.5}
AS_EXAMPLES = np.float32([1, 3, 0.5, 0.5, 3, 1])

# {row of the page: (labels, sample_weight, class_weight, sample_weight that says the same)}
INPUTS = {
    "whole numbers, (n, 1)": (LABELS[:, None], None, None, None),
    "one-hot rows": (ROWS, None, None, None),
    "boolean one-hot rows": (ROWS > 0, None, None, None),
    "no labels": (None, None, None, None),
    "sample weights": (LABELS, WEIGHTS, None, WEIGHTS),
    "class weights": (LABELS, None, OF_CLASSES, AS_EXAMPLES),
    "class weights, boolean rows": (ROWS > 0, None, OF_CLASSES, AS_EXAMPLES),
    "class weights, some labels missing": (
        *(MISSING, None, OF_CLASSES),
        np.where(MISSING < 0, 1, AS_EXAMPLES).astype("float32"),
    ),
}


def net(seed=0):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((4, 4, 1))
    x = layers.Rescaling(1 / 255)(inputs)
    x = layers.Conv2D(2, 3, activation="relu", name="conv1")(x)
    return keras.Model(inputs, layers.Dense(CLASSES, name="logits")(layers.Flatten()(x)))


def deep(decoders=None):
    return zoo.DeeplySupervised(net(), {"conv1": zoo.CompanionHead(CLASSES)}, decoders=decoders)


# {column of the page: a model}
MODELS = {
    "plain net": net,
    "`DeeplySupervised`": deep,
    "with decoders": lambda: deep({"conv1": zoo.DecodingHead()}),
    "`Distiller`": lambda: zoo.Distiller(student=net(), teacher=net(5)),
    "with cached soft targets": lambda: zoo.Distiller(student=net()),
}


def batches(data):
    for start in range(0, EXAMPLES, BATCH):
        yield keras.tree.map_structure(lambda array, at=start: array[at : at + BATCH], data)


class Batches(keras.utils.PyDataset):
    def __init__(self, data):
        super().__init__()
        self.batches = list(batches(data))

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, index):
        return self.batches[index]


def one_argument(data):
    data = tuple(part for part in data if part is not None)
    return data if len(data) > 1 else data[0]


FORMS = {
    "arrays": lambda x, y, w: {"x": x, "y": y, "sample_weight": w, "batch_size": BATCH},
    "tf.data": lambda *data: {
        "x": tf.data.Dataset.from_tensor_slices(one_argument(data)).batch(BATCH)
    },
    "PyDataset": lambda *data: {"x": Batches(one_argument(data))},
    "generator": lambda *data: {"x": batches(tuple(part for part in data if part is not None))},
}


def numbers(column, form, labels, sample_weight, class_weight=None):
    """The logs of two steps, and the weights after them; or the error."""
    if "cached" in column:
        labels = {} if labels is None else {"labels": labels}
        labels["teacher_logits"] = LOGITS
    model = MODELS[column]()
    before = model.get_weights()
    model.compile(keras.optimizers.SGD(0.1), zoo.SoftmaxCrossEntropy(), metrics=["accuracy"])
    how = {"class_weight": class_weight, "shuffle": False, "verbose": 0}
    try:
        logs = model.fit(**FORMS[form](IMAGES, labels, sample_weight), **how).history
    except ValueError as error:
        for one, other in zip(model.get_weights(), before, strict=True):
            np.testing.assert_array_equal(one, other, "refused after a step")
        return str(error)
    logs = {name: values[-1] for name, values in logs.items()}
    return logs | {f"weight {i}": value for i, value in enumerate(model.get_weights())}


@functools.cache
def of_whole_numbers(column, weights=None):
    return numbers(column, "arrays", LABELS, weights and np.float32(weights))


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-6, atol=1e-6, err_msg=name)


def table():
    """{row: {column: cell}} of the page's table."""
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("|")]
    header, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    return {row: dict(zip(header[1:], cells, strict=True)) for row, *cells in rows}


CELLS = {"yes": set(), "no": set(FORMS), "no generator": {"generator"}}


@pytest.mark.parametrize("row", INPUTS)
@pytest.mark.parametrize("column", MODELS)
def test_all_forms_of_data_give_the_numbers_of_arrays_or_are_refused(column, row):
    labels, sample_weight, class_weight, same_weights = INPUTS[row]
    cell = table()[row][column]
    if cell == "NaN":
        assert np.isnan(numbers(column, "arrays", labels, sample_weight, class_weight)["loss"])
        return
    results = {}
    for form in FORMS:
        result = numbers(column, form, labels, sample_weight, class_weight)
        if form in CELLS[cell]:
            assert isinstance(result, str), f"{form} is not refused"
            assert len(result) < 200, result
            assert "\n" not in result, result
        else:
            assert not isinstance(result, str), f"{form} is refused: {result}"
            results[form] = result
    if labels is not None and labels is not MISSING and results:
        weights = None if same_weights is None else tuple(same_weights.tolist())
        results["whole numbers"] = of_whole_numbers(column, weights)
    elif class_weight:
        results["weights of examples"] = numbers(column, "arrays", labels, same_weights)
    for result in results.values():
        assert_same(result, results["arrays"])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("labels", "sample_weight", "message"),
    [
        (None, None, "class_weight needs the labels of one output; received none"),
        (LABELS, WEIGHTS, "both class_weight and sample_weight"),
    ],
)
def test_class_weights_of_no_labels_or_beside_other_weights_are_refused(
    form, labels, sample_weight, message
):
    assert message in numbers("`Distiller`", form, labels, sample_weight, OF_CLASSES)


@pytest.mark.parametrize("labels", [ROWS > 0, MISSING[:, None]])
def test_an_evaluation_takes_them_too(labels):
    model = MODELS["with decoders"]()
    model.compile(loss=zoo.SoftmaxCrossEntropy(), metrics=["accuracy"])
    expected = model.evaluate(IMAGES, labels.astype("float32"), batch_size=BATCH, verbose=0)
    for form in ("arrays", "tf.data", "generator"):
        found = model.evaluate(**FORMS[form](IMAGES, labels, None), verbose=0)
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_the_page_has_these_rows_and_columns():
    assert list(table()) == list(INPUTS)
    assert all(list(cells) == list(MODELS) for cells in table().values())


def test_rows_without_a_label_weigh_one_whatever_the_first_class_weighs():
    """Their argmax is class 0, and so is that of rows of NaN."""
    rows = np.where(MISSING[:, None] < 0, -1, ROWS)
    by_class = numbers("with decoders", "arrays", rows, None, {0: 5.0, 1: 3.0})
    weights = np.where(MISSING < 0, 1, np.array([5, 3, 1])[LABELS]).astype("float32")
    assert_same(by_class, numbers("with decoders", "arrays", MISSING, weights))
    nan = np.where(MISSING < 0, np.nan, MISSING)
    assert_same(numbers("with decoders", "tf.data", nan, None, {0: 5.0, 1: 3.0}), by_class)


def test_class_weights_end_with_the_fit_and_count_on_one_batch():
    tf.config.run_functions_eagerly(False)
    try:
        one, other = MODELS["`Distiller`"](), MODELS["`Distiller`"]()
        for model in (one, other):  # one is traced, which costs seconds
            eagerly = model is other
            model.compile(keras.optimizers.SGD(0.1), zoo.SoftmaxCrossEntropy(), run_eagerly=eagerly)
        for weights in (OF_CLASSES, {1: 0.5}, None):
            found = one.train_on_batch(IMAGES, LABELS, class_weight=weights)
            each = [(weights or {}).get(label, 1.0) for label in LABELS.tolist()]
            expected = other.train_on_batch(IMAGES, LABELS, sample_weight=np.float32(each))
            np.testing.assert_allclose(found, expected, rtol=1e-5)
    finally:
        tf.config.run_functions_eagerly(True)


@pytest.mark.parametrize("how", ["fit", "evaluate"])
@pytest.mark.parametrize(
    ("column", "part"),
    [
        ("plain net", "labels"),  # images are refused by the first layer, which is one of Keras
        *((column, part) for column in list(MODELS)[1:4] for part in ("examples", "labels")),
    ],
)
def test_a_generator_of_unknown_shapes_is_told_what_is_missing(column, part, how):
    tf.config.run_functions_eagerly(False)
    images, labels = tf.TensorSpec((None, 4, 4, 1)), tf.TensorSpec((None,), "int64")
    if part == "examples":
        images = tf.TensorSpec(None)
    else:
        labels = tf.TensorSpec(None, "int64")
    data = tf.data.Dataset.from_generator(
        lambda: batches((IMAGES, LABELS)), output_signature=(images, labels)
    )
    model = MODELS[column]()
    model.compile("sgd", zoo.SoftmaxCrossEntropy())
    try:
        with pytest.raises(ValueError, match=f"The {part} come without a shape.*output_signature"):
            getattr(model, how)(data, verbose=0)
    finally:
        tf.config.run_functions_eagerly(True)
