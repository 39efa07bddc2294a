"""`weights=` gives what was trained, to nets that it fits, from files that nobody changed."""

import json
import shutil

import keras
import numpy as np
import pytest

import zoo
from zoo import exports as layout
from zoo import files
from zoo.exports import ExportError
from zoo.models import pretrained
from zoo.training import teachers

pytestmark = pytest.mark.eager

LABELS = ["bee", "cat", "cow", "dog"]
SHAPE = (12, 12, 3)


@pytest.fixture(scope="module")
def trained():
    """A `nin_dsn` with numbers of its own everywhere, statistics too."""
    keras.utils.set_random_seed(7)
    model = zoo.nin_dsn(SHAPE, 4, width=0.05)
    for variable in model.variables:
        if variable.dtype == "float32":
            noise = np.random.default_rng(variable.shape.rank).normal(size=variable.shape)
            variable.assign(np.abs(noise) if "variance" in variable.path else noise)
    return model


@pytest.fixture(scope="module")
def saved_models(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("here") / "saved_models"
    trained.save(folder.parent / "with.keras")
    export = {"keras_file": folder.parent / "with.keras"}
    zoo.export_savedmodel(trained, LABELS, folder / "animals_nin_dsn", exits=True, **export)
    trained.trunk.save(folder.parent / "plain.keras")
    export = {"keras_file": folder.parent / "plain.keras"}
    zoo.export_savedmodel(trained, LABELS, folder / "animals_nin", **export)
    return folder


@pytest.fixture(autouse=True)
def here(saved_models, monkeypatch):
    monkeypatch.chdir(saved_models.parent)


def pixels(shape=SHAPE):
    return np.random.default_rng(0).integers(0, 256, (3, *shape)).astype("float32")


def logits(model, images=None):
    return np.asarray(model(pixels() if images is None else images, training=False))


@pytest.mark.parametrize("weights", ["animals", "animals_nin", "saved_models/animals_nin/1"])
def test_a_nin_has_the_weights_and_the_sizes_of_what_was_trained(weights, trained):
    model = zoo.nin(weights=weights)
    assert not hasattr(model, "companions")
    np.testing.assert_array_equal(logits(model), logits(trained))


def test_a_deeply_supervised_one_has_its_companions_too(trained):
    model = zoo.nin_dsn(weights="animals", companion_weight=0.5)
    for depth, scores in trained.exits(pixels()).items():
        np.testing.assert_array_equal(model.exits(pixels())[depth], scores)
    assert model.companion_weight == {"mlpconv1": 0.5, "mlpconv2": 0.5}


def test_with_other_classes_all_but_the_heads(trained):
    model = zoo.nin_dsn(classes=3, weights="animals")
    ours, theirs = pretrained._by_name(model), pretrained._by_name(trained)
    heads = {"class_maps", "mlpconv1_companion", "mlpconv2_companion"}
    assert heads < ours.keys() == theirs.keys()
    for name, layer in ours.items():
        if name in heads:
            kernel, bias = map(np.asarray, layer.weights)
            assert kernel.shape[-1] == 3
            assert kernel.std() > 0
            assert not bias.any()
            continue
        for variable, other in zip(layer.weights, theirs[name].weights, strict=True):
            np.testing.assert_array_equal(variable, other, err_msg=variable.path)
    # Three images more, and the new head learns them.
    model.compile("adam", zoo.SoftmaxCrossEntropy())
    before = model.evaluate(pixels(), np.arange(3), verbose=0, return_dict=True)["loss"]
    model.fit(pixels(), np.arange(3), epochs=5, verbose=0)
    assert model.evaluate(pixels(), np.arange(3), verbose=0, return_dict=True)["loss"] < before


def test_global_average_pooling_takes_images_of_another_size(trained):
    images = pixels((20, 16, 3))
    model = zoo.nin((20, 16, 3), weights="animals")
    first = keras.Model(model.input, model.get_layer("mlpconv1").output)
    expected = trained.trunk.get_layer("mlpconv1")(images / 127.5 - 1)
    np.testing.assert_allclose(first(images), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weights": "animal_nin"}, "Did you mean 'animals_nin'"),
        ({"weights": "imagenet"}, "There are animals_nin, animals_nin_dsn"),
        ({"weights": "animals", "preprocessing": []}, "trained with the preprocessing .*Rescaling"),
        ({"weights": "animals", "width": 0.1}, "layer 'class_maps' .* leave width"),
        (
            {"weights": "animals", "input_shape": (12, 12, 1)},
            r"\(5, 5, 1, 10\); .* \(5, 5, 3, 10\)",
        ),
        ({"weights": "animals", "variant": "plain"}, "layer 'mlpconv1'"),
        ({"weights": "animals", "variant": "vgg"}, "variant is one of"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        zoo.nin(**arguments)


@pytest.mark.parametrize(
    ("trained_with", "missed"),
    [
        ({"head": "dense"}, "'logits' has no such weight"),
        (
            {"final_relu": True},
            "'class_maps' has the activation linear; .* has the activation relu",
        ),
        ({"linear_taps": True}, "'conv1' has no such weight"),
    ],
    ids=str,
)
def test_a_net_that_would_answer_otherwise_is_refused(trained_with, missed, tmp_path):
    model = zoo.nin(SHAPE, 4, width=0.33, **trained_with)
    file = tmp_path / "net.keras"
    model.save(file)
    with pytest.raises(ValueError, match=missed):
        zoo.nin(weights=file)
    again = zoo.nin(weights=file, **trained_with)
    np.testing.assert_array_equal(logits(again), logits(model))
    if "final_relu" in trained_with:  # one is exported: the card does not offer it
        zoo.export_savedmodel(model, LABELS, tmp_path / "net", keras_file=file)
        assert json.loads((tmp_path / "net" / "card.json").read_text())["weights"] == []


@pytest.mark.parametrize("width", [0.002, 0.01, 1 / 7, 0.33, 0.41, 1.0, 1.5])
def test_the_width_is_that_of_the_weights(width, tmp_path):
    model = zoo.nin((6, 6, 1), 2, width=width)
    again = zoo.nin(weights=pretrained.Trained(model, {}, tmp_path))
    assert [weight.shape for weight in again.weights] == [weight.shape for weight in model.weights]


def test_companions_do_not_come_from_nets_without_them():
    with pytest.raises(ValueError, match="trained without companions"):
        zoo.nin_dsn(weights="animals_nin")


@pytest.mark.parametrize("name", ["model.keras", "card.json", "labels.txt"])
def test_a_changed_file_is_refused_before_it_is_read(name, saved_models, tmp_path):
    copy = shutil.copytree(saved_models / "animals_nin", tmp_path / "copy")
    with open(copy / "1" / "assets.extra" / name, "ab") as file:
        file.write(b" ")
    with pytest.raises(ValueError, match=f"Changed in .*{name}. Nothing was loaded"):
        zoo.nin(weights=copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda card: card["labels"].reverse(), "has the labels"),
        (lambda card: card["input"]["shape"].reverse(), "has the image shape"),
        (lambda card: card["input"]["preprocessing"][0].update(offset=0.0), "preprocessing"),
    ],
)
def test_a_card_that_tells_of_another_model_is_refused(change, message, saved_models, tmp_path):
    version = shutil.copytree(saved_models / "animals_nin", tmp_path / "copy") / "1"
    card = json.loads((version / layout.CARD).read_text())
    change(card)
    before = files.sha256(version / layout.CARD)
    (version / layout.CARD).write_text(json.dumps(card))
    sums = version / "SHA256SUMS"
    sums.write_text(sums.read_text().replace(before, files.sha256(version / layout.CARD)))
    with pytest.raises(ValueError, match=message):
        zoo.nin(weights=version)


def test_a_teacher_is_the_keras_model_of_an_export(saved_models, trained, tmp_path):
    teacher = teachers.load(saved_models / "animals_nin_dsn")
    np.testing.assert_array_equal(logits(teacher), logits(trained))
    names = [[layer.name for layer in net.layers] for net in (teacher, trained.trunk)]
    assert names[0] == names[1]
    copy = shutil.copytree(saved_models / "animals_nin", tmp_path / "copy")
    with open(copy / "1" / layout.MODEL, "ab") as file:
        file.write(b" ")
    with pytest.raises(teachers.TeacherError, match="Changed in"):
        teachers.load(copy)


def test_a_teacher_of_the_zoo_has_its_name_wherever_one_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    teacher = teachers.load("saved_models/digits_nin_dsn")
    assert teacher.output_shape == (None, 10)
    # What travels in an archive of `zoo pack`.
    version = layout.find_version(layout.names()["digits_nin_dsn"])
    for name in (*layout.WEIGHT_FILES, files.CHECKSUMS):
        file = tmp_path / "saved_models" / "packed" / "3" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(version / name, file)
    again = teachers.load("saved_models/packed")
    for one, other in zip(again.get_weights(), teacher.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_keras_file_of_another_model_is_not_exported(trained, tmp_path):
    zoo.nin(SHAPE, 4, width=0.05).save(tmp_path / "other.keras")
    with pytest.raises(ExportError, match="does not answer as the model does"):
        zoo.export_savedmodel(
            trained, LABELS, tmp_path / "out", keras_file=tmp_path / "other.keras"
        )
    assert not list(tmp_path.glob("out/*"))


def test_another_net_gives_no_nin(tmp_path):
    model = zoo.mlp((6, 6, 1), 4, hidden=(3,))
    model.save(tmp_path / "mlp.keras")
    zoo.export_savedmodel(model, LABELS, tmp_path / "mlp", keras_file=tmp_path / "mlp.keras")
    assert json.loads((tmp_path / "mlp" / "card.json").read_text())["weights"] == []
    with pytest.raises(ValueError, match="is no nin"):
        zoo.nin(weights=tmp_path / "mlp")


def test_whitening_comes_with_its_statistics(tmp_path):
    whitening = zoo.ZCAWhitening()
    whitening.adapt(pixels((6, 6, 3)))
    model = zoo.nin(
        (6, 6, 3), 4, width=0.05, preprocessing=[zoo.GlobalContrastNormalization(), whitening]
    )
    model.save(tmp_path / "white.keras")
    export = {"keras_file": tmp_path / "white.keras", "tolerance": 1e-4}
    zoo.export_savedmodel(model, LABELS, tmp_path / "white", **export)
    again = zoo.nin(weights=tmp_path / "white")
    images = pixels((6, 6, 3))
    np.testing.assert_array_equal(logits(again, images), logits(model, images))


@pytest.mark.parametrize("frozen", ["mlpconv1", "all"])
def test_a_frozen_layer_is_no_preprocessing(frozen):
    whitening = zoo.ZCAWhitening()
    whitening.adapt(pixels((8, 8, 1)))
    net = zoo.nin((8, 8, 1), 4, width=0.05, preprocessing=[whitening])
    known = pretrained.preprocessing_of(net)
    assert [layer["layer"] for layer in known] == ["ZCAWhitening"]
    part = net if frozen == "all" else net.get_layer(frozen)
    part.trainable = False
    assert pretrained.preprocessing_of(net) == known


def test_a_keras_file_has_the_weights_too(trained, saved_models):
    folder = saved_models.parent
    for weights in (folder / "plain.keras", str(folder / "with.keras"), "./with.keras"):
        np.testing.assert_array_equal(logits(zoo.nin(weights=weights)), logits(trained))
    deeply_supervised = zoo.nin_dsn(weights="./with.keras")
    np.testing.assert_array_equal(logits(deeply_supervised), logits(trained))
    with pytest.raises(ValueError, match=r"plain.keras was trained without companions"):
        zoo.nin_dsn(weights="./plain.keras")
    (folder / "torn.keras").write_text("no model")
    with pytest.raises(ValueError, match=r"torn.keras cannot be loaded"):
        zoo.nin(weights="./torn.keras")


@pytest.mark.parametrize(("variant", "width"), [("fast", 0.05), ("small", 0.2), ("small", 1)])
def test_weights_know_their_variant_and_normalization(variant, width, tmp_path):
    keras.config.set_dtype_policy("mixed_bfloat16")  # as most nets are trained
    whitening = zoo.PatchWhitening()
    whitening.adapt(pixels() / 255)
    net = zoo.nin(
        pixels().shape[1:],
        4,
        variant=variant,
        width=width,
        preprocessing=[keras.layers.Rescaling(1 / 255), whitening, keras.layers.ReLU()],
        normalization=zoo.BatchNormalization(momentum=0.6, scale=False),
    )
    net.save(tmp_path / "net.keras")
    again = zoo.nin(weights=tmp_path / "net.keras")
    np.testing.assert_array_equal(logits(again), logits(net))
    keras.config.set_dtype_policy("float32")
    again = zoo.nin(weights=tmp_path / "net.keras")
    assert {layer.dtype_policy.name for layer in again.layers} == {"float32"}
    assert [w.path for w in again.weights] == [w.path for w in net.weights]
    other = zoo.nin((16, 20, 3), 3, weights=tmp_path / "net.keras")
    np.testing.assert_array_equal(
        other.get_layer("mlpconv6").weights[0], net.get_layer("mlpconv6").weights[0]
    )
    with pytest.raises(ValueError, match="give the variant"):
        zoo.nin(weights=tmp_path / "net.keras", variant="plain")


def test_a_run_has_the_weights_too(trained, saved_models, tmp_path):
    shutil.copy(saved_models.parent / "plain.keras", tmp_path / "model.keras")
    np.testing.assert_array_equal(logits(zoo.nin(weights=tmp_path)), logits(trained))
    with pytest.raises(ValueError, match="trained without companions"):
        zoo.nin_dsn(weights=tmp_path)
    shutil.copy(saved_models.parent / "with.keras", tmp_path / "with_companions.keras")
    exits = zoo.nin_dsn(weights=tmp_path).exits(pixels())
    for depth, scores in trained.exits(pixels()).items():
        np.testing.assert_array_equal(exits[depth], scores)


def test_the_trained_net_for_other_images_and_classes(trained):
    weights = pretrained.load("animals")
    model = weights.fitted((20, 16, 3), 6)
    assert (model.input_shape, model.output_shape) == ((None, 20, 16, 3), (None, 6))
    again = zoo.nin((20, 16, 3), 6, weights=weights)
    for ours, others in zip(model.weights[:-2], again.weights[:-2], strict=True):
        np.testing.assert_array_equal(ours, others)
    same = weights.fitted(SHAPE, 4, keep_head=True)
    np.testing.assert_array_equal(logits(same), logits(trained))
    assert abs(logits(weights.fitted(SHAPE, 4)) - logits(trained)).max() > 0.1
    with pytest.raises(ValueError, match="images with 3 channels; the images have 1"):
        weights.fitted((12, 12, 1), 4)
    mlp = pretrained.Trained(zoo.mlp((6, 6, 1), 4, hidden=(3,)), {}, "mlp.keras")
    with pytest.raises(ValueError, match="has no layers 'class_maps'"):
        mlp.fitted((6, 6, 1), 4)
