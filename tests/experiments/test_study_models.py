import importlib
from types import SimpleNamespace

import keras
import numpy as np
import pytest

import zoo
import zoo.recipe
import zoo.training
from zoo.data import load
from zoo.experiments.studies import (
    early_exits,
    feature_maps,
    hidden,
    nin_confidence_maps,
    pooling_heads,
    probes,
    translations,
)
from zoo.runs import Run
from zoo.saving import load_model

pytestmark = pytest.mark.eager


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A net of the digits, trained for two steps."""
    file = zoo.recipe.find("small_net")
    recipe = zoo.recipe.load(file)(
        data="digits", examples=200, width=0.05, epochs=1, steps_per_epoch=2, precision="float32"
    )
    runs = tmp_path_factory.mktemp("runs")
    # Keras would stay deterministic in the tests after these.
    return Run(zoo.training.train(recipe, file, runs=runs, page=False, deterministic=False))


@pytest.fixture
def images(rng):
    return rng.integers(0, 256, (5, 8, 8, 1), "uint8")


@pytest.fixture
def rng():
    return np.random.default_rng(0)


# `place` is the cell of the table that has the net's own test accuracy or error.
@pytest.mark.parametrize(
    ("name", "axes", "rows", "columns", "place", "own"),
    [
        ("probes", 1, 4, 6, (1, 5), "{accuracy:.1f}"),
        ("feature_maps", 3, 2, 4, None, None),
        ("pooling_heads", 2, 6, 4, (5, 2), "{error:.2f}"),
        ("translations", 2, 6, 6, (5, 2), "{accuracy:.1f}"),
    ],
)
def test_a_study_shows_trained_nets(run, name, axes, rows, columns, place, own):
    study = importlib.import_module(f"zoo.studies.{name}")
    figure, table = study.show({label: [run] for label in study.RUNS})
    assert len(figure.axes) == axes
    assert figure.get_figwidth() == 6.4
    assert len(table.rows) == rows
    assert {len(row) for row in (table.columns, *table.rows)} == {columns}
    assert "nan" not in table.markdown()
    if own:
        accuracy = 100 * run.results["accuracy"]
        expected = own.format(accuracy=accuracy, error=100 - accuracy)
        assert table.rows[place[0]][place[1]] == f"{expected} (1 seed)"
    figure.draw_without_rendering()


def test_a_finished_net_is_read_without_its_loss_and_optimizer(run):
    """`zoo figure` may find all runs finished, and then nothing has imported those two."""
    assert not load_model(run.folder).compiled


def test_maps_in_cells_are_the_means_of_the_quarters(images):
    keras.config.set_dtype_policy("mixed_bfloat16")  # as the studies' nets compute
    model = zoo.nin((8, 8, 1), 3, variant="plain", width=0.05)
    names = ["mlpconv1", "mlpconv2"]
    full, cells = (hidden.outputs(model, images, names, grid) for grid in (0, 2))
    assert [*full] == [*cells] == names
    assert full["mlpconv1"].shape[:3] == (5, 8, 8)
    assert full["mlpconv1"].dtype == np.float32
    for name in names:
        half = full[name].shape[1] // 2
        for row in (0, 1):
            for column in (0, 1):
                quarter = full[name][
                    :, row * half : (row + 1) * half, column * half : (column + 1) * half
                ]
                np.testing.assert_allclose(
                    cells[name][:, row, column], quarter.mean(axis=(1, 2)), rtol=1e-5, atol=1e-6
                )


def test_pixels_in_cells_are_their_means(rng):
    images = rng.integers(0, 256, (2, 8, 4, 3))
    found = probes.cells(images, grid=2).reshape(2, 2, 2, 3)
    for row in (0, 1):
        for column in (0, 1):
            cell = images[:, 4 * row : 4 * row + 4, 2 * column : 2 * column + 2]
            np.testing.assert_allclose(found[:, row, column], cell.mean(axis=(1, 2)))


def test_a_probe_reads_what_is_there_and_guesses_where_nothing_is(rng):
    labels, test_labels = np.arange(600) % 3, np.arange(3000) % 3
    centres = np.eye(3, 5) * [1e3, 1e-3, 1, 1, 1]  # told apart only once standardized
    noise = rng.normal(size=(3600, 5)) * [10, 1e-5, 1, 1, 1]
    seen, unseen = centres[labels] + noise[:600], centres[test_labels] + noise[600:]
    assert probes.probe(seen, labels, unseen, test_labels) == 100
    chance = probes.probe(noise[:600], labels, noise[600:], test_labels)
    assert 28 < chance < 38  # 33.3 %, by six standard deviations of 0.86 %


@pytest.mark.parametrize(("down", "right"), [(0, 0), (1, 0), (-2, 0), (0, 3), (0, -1), (2, -3)])
def test_a_moved_image_has_zeros_in_the_gap(images, down, right):
    expected = np.zeros_like(images)
    for row in range(8):
        for column in range(8):
            if 0 <= row - down < 8 and 0 <= column - right < 8:
                expected[:, row, column] = images[:, row - down, column - right]
    np.testing.assert_array_equal(translations.moved(images, down, right), expected)
    assert not translations.moved(images, 8, 0).any()


def test_accuracy_is_averaged_over_the_four_directions():
    def predict(images):  # class 1 where the pixel (4, 4) is lit
        lit = images[:, 4, 4, 0] > 0
        return np.stack([~lit, lit], axis=1)

    images = np.zeros((2, 9, 9, 1), "uint8")
    images[0, 4, 5] = images[1, 6, 4] = 255
    labels = np.array([1, 1])
    found = translations.accuracies(SimpleNamespace(predict_on_batch=predict), images, labels)
    # The first image is lit when moved left by 1, the second when moved up by 2.
    np.testing.assert_allclose(found, [0, 12.5, 12.5, 0, 0, 0, 0, 0, 0])


def test_the_likeness_of_a_class():
    a, b, c = [1, 2], [0, 5], [3, 1]  # a map of two places: correlations of 1 and -1
    a2, b2, c2 = [1, 2], [7, 7], [2, 4]  # another; constant on b
    maps = np.moveaxis(np.array([[a, a2], [b, b2], [c, c2]], "float32"), 1, 2)[:, None]
    same, other = feature_maps.likeness(maps, np.array([0, 0, 1]))
    # ab: (1 + 0) / 2; ac: (-1 + 1) / 2; bc: (-1 + 0) / 2
    assert (same, other) == (pytest.approx(0.5), pytest.approx(-0.25))


def test_the_likeness_is_the_mean_of_all_pairs_correlations(rng):
    maps, labels = rng.normal(size=(9, 4, 3, 2)), np.array([0, 0, 0, 1, 1, 1, 1, 2, 2])
    pairs = {True: [], False: []}
    for i in range(9):
        for j in range(i):
            of_maps = [np.corrcoef(*maps[[i, j], ..., k].reshape(2, -1))[0, 1] for k in (0, 1)]
            pairs[labels[i] == labels[j]].append(np.mean(of_maps))
    expected = np.mean(pairs[True]), np.mean(pairs[False])
    np.testing.assert_allclose(feature_maps.likeness(maps, labels), expected)


def test_the_top_of_a_map_is_in_colour(rng):
    maps = rng.uniform(size=(2, 10, 10, 3))
    maps[0, :, :, 0] = 0  # a map that is dead on an image
    tiles = feature_maps.heat(maps)
    assert tiles.shape == (2, 3, 10, 10, 3)
    coloured = tiles.any(axis=-1)
    assert not coloured[0, 0].any()
    np.testing.assert_array_equal(
        coloured[1, 2], maps[1, :, :, 2] > np.quantile(maps[1, :, :, 2], 0.7)
    )


def test_a_mosaic_is_its_tiles_with_white_between(rng):
    tiles = rng.uniform(size=(2, 3, 4, 5, 3))
    picture = hidden.mosaic(tiles, gap=1)
    assert picture.shape == (2 * 6, 3 * 7, 3)
    np.testing.assert_array_equal(picture[7:11, 15:20], tiles[1, 2])
    assert (picture[[0, 5, 6, 11]] == 1).all()
    assert (picture[:, [0, 6, 7, 13, 14, 20]] == 1).all()


def test_the_largest_value_and_the_largest_mean_are_of_different_maps():
    maps = np.zeros((1, 2, 2, 3))
    maps[0, :, :, 1], maps[0, 1, 0, 2] = 2, 5
    assert nin_confidence_maps.predicted(maps) == [1]
    assert nin_confidence_maps.strongest(maps) == [2]


def test_confidence_maps_of_a_trained_model(run, monkeypatch):
    net, test = load_model(run.folder), load("digits", "test")
    asked = []
    monkeypatch.setattr(nin_confidence_maps, "load", lambda *name: asked.append(name) or test)
    trained = SimpleNamespace(trunk=net)
    monkeypatch.setattr(nin_confidence_maps.pretrained, "load", {"cifar10_nin_dsn": trained}.get)
    figure, table = nin_confidence_maps.show({})
    assert asked == [("cifar10", "test")]
    assert table.rows[0][1] == f"{100 * run.results['accuracy']:.2f}"
    figure.draw_without_rendering()


def test_an_image_leaves_at_the_first_head_that_is_sure_enough():
    """By hand: two classes, two exits and the output; logits of +-2 are 0.98 sure."""
    first, second, last = np.array([[2.0, -2], [0, 0.1], [2, -2]]), np.zeros((3, 2)), np.eye(3, 2)
    logits = {"a": first, "b": second, "output": last}
    labels = np.array([0, 1, 1])
    costs = [10, 20, 60]
    # The second image leaves at the output, which is right; the third is wrong at the first exit.
    assert early_exits.leaving(logits, costs, labels, 0.9) == pytest.approx((200 / 3, 80 / 3))
    assert early_exits.leaving(logits, costs, labels, 0.5)[1] == 10
    assert early_exits.leaving(logits, costs, labels, 0.99)[1] == 60
    found = early_exits.at_each(logits, costs, labels)
    assert found == [
        ("a", pytest.approx(200 / 3), 10),
        ("b", pytest.approx(100 / 3), 20),
        ("output", pytest.approx(200 / 3), 60),
    ]


def test_early_exits_of_trained_models(monkeypatch):
    test = load("digits", "test").subset(60)
    model = zoo.nin_dsn((8, 8, 1), 10, width=0.05)
    small = zoo.nin((8, 8, 1), 10, width=0.02)
    names, asked = set(), set()

    def trained(weights, **_):
        names.add(weights)
        return SimpleNamespace(model=small if "student" in weights else model)

    monkeypatch.setattr(early_exits, "load", lambda *name: asked.add(name) or test)
    monkeypatch.setattr(early_exits.pretrained, "load", trained)
    figure, table = early_exits.show({})
    assert asked == {(name, "test") for name in ("cifar10", "fashion_mnist", "mnist")}
    assert names == {f"{name}_{end}" for name, _ in asked for end in ("nin_dsn", "student")}
    figure.draw_without_rendering()
    rows = table.rows[: len(table.rows) // 3]
    assert [row[1] for row in rows[:3]] == ["mlpconv1", "mlpconv2", "output"]
    answers = model.predict(test.images.astype("float32"), verbose=0).argmax(axis=1)
    assert rows[2][2:] == (f"{100 * (answers == test.labels).mean():.2f}", "100.0")
    alone = early_exits.costs_of(model, together=False)
    passing = early_exits.costs_of(model, together=True)
    assert alone[0] == passing[0] < passing[1] < passing[2]
    assert alone[1] < passing[1]  # by the companion of mlpconv1
    assert alone[2] < passing[2]  # by both companions
    shares = [float(row[3]) for row in rows[3:-1]]
    assert shares == sorted(shares)


def test_a_row_shows_the_image_and_each_map_where_it_is_largest(rng):
    image = rng.integers(0, 256, (8, 8, 3))
    maps = np.zeros((8, 8, 2))
    maps[2, 3, 1] = 1
    row = nin_confidence_maps.tiles_of(image, maps)
    grey = 0.45 * np.repeat(image.mean(axis=-1, keepdims=True), 3, axis=-1) / 255
    np.testing.assert_allclose(row[0], image / 255)
    np.testing.assert_allclose(row[1], grey)
    np.testing.assert_allclose(row[2, 2, 3], [1, 1, 0])  # yellow
    assert (np.abs(row[2] - grey).max(axis=-1) > 1e-9).sum() == 1


def test_the_papers_errors_stand_beside_the_right_heads():
    assert pooling_heads.PAPER == {
        "NIN, pooling": 10.41,
        "NIN, fully connected": 11.59,
        "NIN, fully connected, dropout": 10.88,
        "CNN, pooling": 16.46,
        "CNN, fully connected": 17.56,
        "CNN, fully connected, dropout": 15.99,
    }
