"""The run folder's page and its figures, against scikit-learn, SciPy and NumPy."""

import csv
import html.parser
import itertools
import json
import re
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.datasets import load_digits
from sklearn.metrics import accuracy_score, confusion_matrix, precision_score, recall_score

from zoo.report import confidence_maps, figures
from zoo.report import page as report
from zoo.runs import Run

EPOCHS = 4


def _model(maps="class_maps", dtype="float64"):
    to = {"dtype": dtype}
    images = keras.Input((8, 8, 1))
    x = keras.layers.Rescaling(1 / 255, **to)(images)
    x = keras.layers.Conv2D(16, 3, strides=2, padding="same", activation="relu", **to)(x)
    x = keras.layers.Conv2D(10, 1, name=maps, **to)(x)
    return keras.Model(images, keras.layers.GlobalAveragePooling2D(**to)(x))


def _data(images, labels, names="0123456789"):
    return SimpleNamespace(
        name="digits", split="test", images=images, labels=labels, label_names=tuple(names)
    )


@pytest.fixture(scope="module")
def digits():
    bunch = load_digits()
    return _data((bunch.images[..., None] * (255 / 16)).astype("uint8"), bunch.target)


@pytest.fixture(scope="module")
def model(digits):
    """Good enough that every class has hits, and bad enough that it has misses."""
    keras.utils.set_random_seed(0)
    trained = _model(dtype="float32")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    trained.compile(keras.optimizers.Adam(0.02), loss)
    trained.fit(digits.images.astype("float32"), digits.labels, 64, epochs=8, verbose=0)
    # In float32 the page and a test, in batches of other sizes, round otherwise, and where two
    # classes are nearly tied they name different ones.
    model = _model()
    model.set_weights(trained.get_weights())
    return model


@pytest.fixture(scope="module")
def without_maps(model):
    same = _model(maps="other")
    same.set_weights(model.get_weights())
    return same


def _predictions(model, data):
    return model.predict(data.images.astype("float32"), verbose=0).argmax(axis=1)


def _history(heads=()):
    rows = []
    for epoch in range(1, EPOCHS + 1):
        row = {"epoch": epoch, "step": 10 * epoch, "seconds": 1.5 * epoch, "learning_rate": 0.1}
        row |= {"accuracy": 1 - 0.5 / epoch, "loss": 2 / epoch}
        row |= {f"{head}_loss": 1 / epoch for head in heads}
        row |= {"val_accuracy": "" if epoch % 2 else 0.5, "val_loss": "" if epoch % 2 else 1.0}
        row |= {f"val_{head}_loss": "" if epoch % 2 else 3.0 for head in heads}
        rows.append(row)
    return rows


def _run_folder(folder, model, data, *, rows, results=(), versions=(), title="A title."):
    folder.mkdir(exist_ok=True)
    accuracy = float(accuracy_score(data.labels, _predictions(model, data)))
    records = {
        "recipe": {
            "recipe": "digits_nin",
            "title": title,
            "fields": {"epochs": 4, "learning_rate": 0.1, "filters": [8, 10], "note": "a < b"},
        },
        "versions": {
            "python": "3.11.7",
            "packages": {"keras": "3.15.1"},
            "commit": "abc123",
            "dirty": True,
            "command": "zoo train digits_nin --epochs 4",
            "hardware": {"cpu": "A CPU", "cores": 2, "memory_gib": 23.4, "gpus": []},
            "seed": 7,
            **dict(versions),
        },
        "results": {
            "evaluated_on": "test",
            "accuracy": accuracy,
            "error_percent": 100 * (1 - accuracy),
            "loss": 0.5,
            "examples": len(data.labels),
            "train_examples": 1234,
            "epochs": 4,
            "seconds": 3725.0,
            "parameters": model.count_params(),
            "label_names": list(data.label_names),
            "warnings": [],
            "resumed": 0,
            **dict(results),
        },
    }
    for name, record in records.items():
        (folder / f"{name}.json").write_text(json.dumps(record), encoding="utf-8")
    with open(folder / "metrics.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows if rows[0]["epoch"] else [])
    return folder


class _Page(html.parser.HTMLParser):
    """The contents of a page as a browser finds them: tags, references, table rows and text."""

    def __init__(self, file):
        super().__init__()
        self.tags, self.references, self.images, self.rows, self.words = [], [], [], [], []
        self.styles, self.ids, self.in_cell = [], [], False
        self.feed(Path(file).read_text(encoding="utf-8"))
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        attrs = dict(attrs)
        loads = ("src", "href", "xlink:href", "srcset", "data", "action", "poster")
        self.references += [attrs[name] for name in loads if name in attrs]
        self.styles += [attrs["style"]] if "style" in attrs else []
        self.ids += [attrs["id"]] if "id" in attrs else []
        if attrs.get("role") == "img":
            self.images.append(attrs)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.in_cell = True

    def handle_data(self, data):
        if self.tags and self.tags[-1] == "style":
            self.styles.append(data)
            return
        self.words.append(data)
        if self.in_cell:
            self.rows[-1][-1] += data.replace("\N{NO-BREAK SPACE}", " ")

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.in_cell = False


@pytest.fixture(scope="module")
def run(tmp_path_factory, model, digits):
    """A run with everything: companion losses, empty cells, mistakes, class maps, warnings."""
    folder = _run_folder(
        tmp_path_factory.mktemp("runs") / "a run",
        model,
        digits,
        rows=_history(["output", "mlpconv10", "mlpconv2"]),
        results={"warnings": ["Mind the <gap>."], "resumed": 2},
    )
    assert report.write(Run(folder), model, digits) == folder / "report.html"
    return folder


@pytest.fixture(scope="module")
def page(run):
    return _Page(run / "report.html")


def test_the_headline_is_the_error_with_its_wilson_interval(page, model, digits):
    wrong = int((_predictions(model, digits) != digits.labels).sum())
    interval = binomtest(wrong, len(digits.labels)).proportion_ci(method="wilson")
    low, high = 100 * interval.low, 100 * interval.high
    error = 100 * wrong / len(digits.labels)
    assert f"{error:.2f} % error on 1,797 test images" in page.text
    assert f"95 % interval: {low:.2f} % to {high:.2f} %" in page.text
    assert f"Accuracy {100 - error:.2f} %" in page.text


def test_the_table_has_scikit_learns_recall_and_precision_of_each_class(page, model, digits):
    predictions = _predictions(model, digits)
    recall = recall_score(digits.labels, predictions, average=None)
    precision = precision_score(digits.labels, predictions, average=None)
    assert 0 < recall.min() < recall.max() < 1
    expected = [
        [
            name,
            f"{100 * recall[i]:.1f} %",
            f"{100 * precision[i]:.1f} %",
            str(np.sum(digits.labels == i)),
        ]
        for i, name in enumerate(digits.label_names)
    ]
    header = page.rows.index(["Class", "Recall", "Precision", "Images"])
    assert page.rows[header + 1 : header + 11] == expected


def test_the_page_names_the_commonest_confusion(page, model, digits):
    matrix = confusion_matrix(digits.labels, _predictions(model, digits))
    np.fill_diagonal(matrix, 0)
    true, predicted = np.unravel_index(matrix.argmax(), matrix.shape)
    assert (
        f"most often confuses these classes: {true} taken for {predicted} ({matrix.max()})"
        in page.text
    )


def test_the_page_says_how_to_get_the_run_again_and_how_to_use_it(page, run):
    for row in (["epochs", "4"], ["filters", "[8, 10]"], ["note", "a < b"], ["keras", "3.15.1"]):
        assert row in page.rows
    for words in (
        "zoo train digits_nin --epochs 4",
        "The commit is abc123 , with uncommitted changes",
        "The seed is 7. The training took 1 h 2 min on A CPU with 2 cores, "
        "23.4 GiB of memory and no GPU.",
        "Resumed 2 times",
        "Mind the <gap>.",
        f"zoo predict '{run}' IMAGE",
        f"zoo export '{run}'",
        f'load_model("{run / "model.keras"}")',
    ):
        assert words in page.text


def test_all_five_figures_are_in_the_page_and_in_the_folder(page, run):
    drawn = {file.read_bytes() for file in (run / "figures").glob("*.png")}
    assert len(page.images) == len(drawn) == page.tags.count("svg") == 5
    assert all(png.startswith(b"\x89PNG\r\n") for png in drawn)
    assert all(len(image["aria-label"]) > 20 for image in page.images)


def test_the_figures_of_the_page_follow_its_colours(page):
    """They have no ground of their own, and the page has rules for their ink."""
    rules = page.styles[0]
    drawn = "".join(page.styles[1:])
    for colour in ("fill: #222222", "stroke: #eeeeee", "stroke: #bbbbbb"):
        assert colour in rules
        assert colour in drawn
    assert "#ffffff" not in drawn
    assert len(page.ids) == len(set(page.ids))


def test_the_page_refers_to_nothing_outside_itself(page):
    assert page.references
    assert all(reference.startswith(("data:", "#")) for reference in page.references)
    assert not {"link", "iframe", "object", "base"} & set(page.tags)
    assert page.tags.count("script") == 1  # of the copy buttons; `references` has no source of it
    assert not re.search(r"url\(|@import", "".join(page.styles))


def test_a_label_or_title_with_markup_is_shown_as_text(tmp_path, model, digits):
    label, title = "<script>alert(1)</script>", 'Beats <b>all</b> & "everyone" $x_{$.'
    names = [label, "a$b", "$x_{$", *"3456789"]
    data = _data(digits.images[:100], digits.labels[:100], names)
    folder = _run_folder(tmp_path / "<img src=x>", model, data, rows=_history(), title=title)
    page = _Page(report.write(Run(folder), model, data))
    assert "b" not in page.tags
    assert page.tags.count("script") == 1
    assert len(page.images) == 4
    assert title in page.text
    assert label in page.text


def test_without_mistakes_maps_companions_or_epochs_the_page_says_so(
    tmp_path, without_maps, digits
):
    predictions = _predictions(without_maps, digits)
    some = np.flatnonzero(predictions != 3)[:50]
    data = _data(digits.images[some], predictions[some])
    folder = tmp_path / "run"
    (folder / "figures").mkdir(parents=True)
    for stale in ("confidence_maps", "head_losses"):
        (folder / "figures" / f"{stale}.png").touch()
    rows = [dict.fromkeys(_history()[0], "")]
    versions = {"commit": None, "dirty": False}
    _run_folder(folder, without_maps, data, rows=rows, versions=versions)
    page = _Page(report.write(Run(folder), without_maps, data))
    assert [file.name for file in (folder / "figures").iterdir()] == ["confusion_matrix.png"]
    assert len(page.images) == 1
    assert ["3", "—", "—", "0"] in page.rows
    for words in ("0.00 % error", "made no mistakes", "no epoch to draw", "commit is not known"):
        assert words in page.text
    for words in ("Confidence maps", "companion", "most often", "Resumed", "uncommitted"):
        assert words not in page.text


def test_a_model_that_disagrees_with_the_recorded_results_is_told(tmp_path, without_maps, digits):
    data = _data(digits.images[:50], _predictions(without_maps, digits)[:50])
    results = {"accuracy": 0.9}
    folder = _run_folder(tmp_path, without_maps, data, rows=_history(), results=results)
    page = _Page(report.write(Run(folder), without_maps, data))
    assert "records 5 mistakes in 50 images" in page.text
    assert "made 0 in 50" in page.text


def test_a_model_of_other_classes_is_refused(tmp_path, model, digits):
    data = _data(digits.images[:20], digits.labels[:20])
    folder = _run_folder(tmp_path / "run", model, data, rows=_history())
    data.label_names = tuple("abcdefghijk")
    with pytest.raises(ValueError, match=r"\(20, 10\).*11 label names.*\(20, 11\)"):
        report.write(Run(folder), model, data)


def test_a_write_cut_short_leaves_the_old_page(tmp_path, without_maps, digits, monkeypatch):
    data = _data(digits.images[:50], _predictions(without_maps, digits)[:50])
    folder = _run_folder(tmp_path, without_maps, data, rows=_history())
    (folder / "report.html").write_text("the old page")
    whole = Path.write_bytes

    def disk_full(file, content):
        if file.suffix == ".html":
            whole(file, content[:100])
            raise OSError("No space left on device")
        return whole(file, content)

    monkeypatch.setattr(Path, "write_bytes", disk_full)
    with pytest.raises(OSError, match="No space"):
        report.write(Run(folder), without_maps, data)
    assert (folder / "report.html").read_text() == "the old page"


def test_probabilities_survive_logits_that_overflow_exp():
    identity = keras.Sequential([keras.Input((2,)), keras.layers.Identity()])
    logits = np.array([[1000.0, 999.0], [-1000.0, -998.0]])
    expected = [[1 / (1 + np.exp(-1)), 1 / (1 + np.exp(1))]]
    expected.append([1 / (1 + np.exp(2)), 1 / (1 + np.exp(-2))])
    np.testing.assert_allclose(
        report.probabilities_of(identity, logits, "ab"), expected, rtol=1e-12
    )


# The figures


def test_the_confusion_matrix_is_scikit_learns():
    random = np.random.default_rng(0)
    labels, predictions = random.integers(0, 7, (2, 500))
    labels[labels == 3] = 2  # a class without images
    expected = confusion_matrix(labels, predictions, labels=range(7))
    (axes,) = figures.confusion_matrix(labels, predictions, list("abcdefg")).axes
    drawn = np.zeros((7, 7), int)
    for text in axes.texts:
        column, row = text.get_position()
        drawn[row, column] = text.get_text()
    np.testing.assert_array_equal(drawn, expected)
    assert len(axes.texts) == np.count_nonzero(expected)
    colours = axes.images[0].get_array()
    np.testing.assert_array_equal(colours[..., 3] == 0, expected == 0)


@pytest.mark.parametrize("classes", [2, 25, 30, 60, 100])
def test_the_names_beside_a_confusion_matrix_do_not_overlap(classes):
    labels = np.arange(classes)
    names = [f"a rather long name {label}" for label in labels]
    figure = figures.confusion_matrix(labels, labels, names)
    figure.draw_without_rendering()
    boxes = [label.get_window_extent() for label in figure.axes[0].get_yticklabels()]
    assert len(boxes) >= min(classes, 6)
    assert all(above.y0 >= below.y1 - 1 for above, below in pairwise(boxes))
    assert {label.get_text()[-2:].strip() for label in figure.axes[0].get_yticklabels()} <= {
        name[-2:].strip() for name in names
    }


def test_mistakes_come_surest_first_and_show_the_image_as_it_is():
    probabilities = np.array([[0.6, 0.4], [0.9, 0.1], [0.2, 0.8], [0.0001, 0.9999]])
    labels = np.array([1, 1, 1, 0])
    images = np.random.default_rng(0).integers(0, 256, (4, 5, 6, 3), dtype="uint8")
    figure = figures.confident_mistakes(images, labels, probabilities, ["cat", "dog"])
    shown = [axes for axes in figure.axes if axes.images]
    assert [axes.get_title() for axes in shown] == [
        "true: cat\nmodel: dog\n> 99.9 %",
        "true: dog\nmodel: cat\n90.0 %",
        "true: dog\nmodel: cat\n60.0 %",
    ]
    np.testing.assert_allclose(shown[1].images[0].get_array(), images[1] / 255)
    grey = figures.confident_mistakes(images[..., :1], labels, probabilities, ["cat", "dog"])
    np.testing.assert_allclose(
        grey.axes[0].images[0].get_array(), np.tile(images[3, ..., :1], 3) / 255
    )
    assert figures.confident_mistakes(images, probabilities.argmax(1), probabilities, "ab") is None


def test_the_top_tenth_of_a_map_are_its_largest_values():
    class_map = np.random.default_rng(0).normal(size=(10, 20))
    expected = np.zeros(200, bool)
    expected[np.argsort(class_map.ravel())[-20:]] = True
    np.testing.assert_array_equal(confidence_maps.top_activations(class_map).ravel(), expected)
    assert not confidence_maps.top_activations(np.zeros((4, 4))).any()


def test_upsampling_is_keras_bilinear_resizing():
    small = np.random.default_rng(0).normal(size=(3, 5)).astype("float32")
    expected = keras.ops.image.resize(small[..., None], (12, 11), "bilinear")
    np.testing.assert_allclose(
        confidence_maps.upsample(small, (12, 11)), np.asarray(expected)[..., 0], atol=1e-5
    )


def test_confidence_maps_colour_the_top_tenth_and_box_the_true_class():
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (1, 20, 20, 3), dtype="uint8")
    maps = random.normal(size=(1, 20, 20, 4)) + 10
    figure = confidence_maps.draw(images, maps, np.array([2]), np.array([1]), list("abcd"))
    assert figure.axes[0].get_title() == "true: c\nmodel: b"
    np.testing.assert_allclose(figure.axes[0].images[0].get_array(), images[0] / 255)
    for index, axes in enumerate(figure.axes[1:]):
        assert axes.get_title() == "abcd"[index]
        assert axes.spines["left"].get_visible() == (index == 2)
        alpha = axes.images[1].get_array()[..., 3]
        cut = np.sort(maps[0, :, :, index], axis=None)[-40]
        np.testing.assert_array_equal(alpha > 0, maps[0, :, :, index] >= cut)
        # Stronger is more opaque: linear between the median and the maximum of all four maps.
        median, peak = np.median(maps), maps.max()
        expected = (maps[0, :, :, index] - median) / (peak - median)
        np.testing.assert_allclose(alpha[alpha > 0], expected[alpha > 0])


def test_of_many_classes_the_true_one_and_the_nine_of_highest_mean_are_shown():
    maps = np.tile(np.arange(15.0), (1, 4, 4, 1))
    images = np.zeros((1, 8, 8, 1), "uint8")
    names = [str(index) for index in range(15)]
    for true, expected in ((2, [*names[:5:-1], "2"]), (14, names[:4:-1])):
        figure = confidence_maps.draw(images, maps, [true], [14], names)
        assert [axes.get_title() for axes in figure.axes[1:]] == expected


def _as_arrays(rows):
    return {key: np.array([float(row[key] or "nan") for row in rows]) for key in rows[0]}


def test_curves_join_the_epochs_that_have_a_value():
    figure = figures.learning_curves(_as_arrays(_history()), "validation")
    loss, error = figure.axes
    training, validation = error.lines
    np.testing.assert_allclose(training.get_xydata(), [[e, 50 / e] for e in range(1, EPOCHS + 1)])
    np.testing.assert_allclose(validation.get_xydata(), [[2, 50], [4, 50]])
    np.testing.assert_allclose(loss.lines[1].get_xydata(), [[2, 1], [4, 1]])
    assert [text.get_text() for text in figure.legends[0].texts] == ["training", "validation"]
    assert (loss.get_ylabel(), error.get_ylabel()) == ("Loss", "Error (% of images)")
    assert error.get_xlabel() == "Epoch"
    assert (loss.get_yscale(), error.get_yscale()) == ("linear", "linear")


def test_an_error_that_falls_by_more_than_a_decade_gets_a_logarithmic_axis_with_room_for_zero():
    history = {"epoch": np.arange(1, 5.0), "accuracy": np.array([0.1, 0.9, 0.99, 1.0])}
    (axes,) = figures.learning_curves(history, "test").axes
    assert axes.get_yscale() == "symlog"
    places = axes.transData.transform(np.column_stack([np.zeros(4), [100, 10, 1, 0]]))[:, 1]
    assert places[0] - places[1] == pytest.approx(places[1] - places[2])
    assert axes.get_ylim()[0] == 0
    assert axes.get_ylim()[1] > 90


@pytest.mark.parametrize("errors", [[80, 9, 0.0668, 0], [50, 0.0668, 0.28], [60, 2, 0], [1e3, 1]])
def test_the_labels_of_a_logarithmic_axis_do_not_lie_on_one_another(errors):
    history = {"epoch": np.arange(1.0, len(errors) + 1), "accuracy": 1 - np.array(errors) / 100}
    figure = figures.learning_curves(history, "test")
    figure.draw_without_rendering()
    (axes,) = figure.axes
    low, high = axes.get_ylim()
    shown = [t for t in axes.yaxis.get_ticklabels() if low <= t.get_position()[1] <= high]
    assert len(shown) >= 3
    boxes = sorted((t.get_window_extent() for t in shown), key=lambda box: box.y0)
    for below, above in itertools.pairwise(boxes):
        assert below.y1 <= above.y0


def test_the_classifiers_of_all_depths_are_drawn_from_the_lowest_up():
    exits = {"mlpconv1": 0.75, "mlpconv2": 0.9, "output": 0.95}
    (axes,) = figures.exit_errors(exits, "test").axes
    assert [label.get_text() for label in axes.get_yticklabels()] == [*exits]
    np.testing.assert_allclose([bar.get_width() for bar in axes.patches], [25, 10, 5])
    assert axes.yaxis_inverted()
    assert figures.exit_errors({"output": 0.9}, "test") is None
    assert figures.exit_errors(None, "test") is None


def test_each_head_has_a_line_in_the_order_of_the_layers_on_one_scale():
    rows = _history(["mlpconv10", "mlpconv2", "output"])
    training, held_out = figures.head_losses(_as_arrays(rows), "test").axes
    for axes in (training, held_out):
        labels = [line.get_label() for line in axes.lines]
        assert labels == ["mlpconv2", "mlpconv10", "output"]
    np.testing.assert_allclose(training.lines[0].get_ydata(), [1, 1 / 2, 1 / 3, 1 / 4])
    np.testing.assert_allclose(held_out.lines[2].get_ydata(), [3, 3])
    assert held_out.get_ylabel() == "Loss, test images"
    assert training.get_ylim() == held_out.get_ylim()
    assert held_out.get_ylim()[1] > 3
    assert figures.head_losses(_as_arrays(_history()), "test") is None
