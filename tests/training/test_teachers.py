import dataclasses
import json
import os

import keras
import numpy as np
import pytest
from oracles import exact_probabilities, softmax

import zoo
from zoo.data import Augmentation, DataError, ImageData
from zoo.objectives import ensemble_logits
from zoo.serving import exporting
from zoo.training import soft_target_cache
from zoo.training.teachers import TeacherError, cache, load, open_cache

pytestmark = pytest.mark.eager

MOVED = Augmentation(shift=1, flip=True, jitter=0.1)


def images(count=11, seed=0):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (count, 6, 5, 1), "uint8")
    return ImageData("made", "train", pixels, np.arange(count) % 3, tuple("abc"))


def teacher(seed=0):
    """Return a model whose logits differ for any two views: it weights every pixel."""
    keras.utils.set_random_seed(seed)
    return zoo.mlp((6, 5, 1), 4, hidden=(7,))


class Counted(keras.Model):
    """A model that counts the batches that it is called on."""

    def __init__(self, model):
        super().__init__()
        self.model, self.calls = model, 0
        self.built = True

    def call(self, inputs, training=None):
        assert training is False
        self.calls += 1
        return self.model(inputs, training=training)


@pytest.mark.parametrize("batch_size", [4, 11, 16])
@pytest.mark.parametrize(("views", "augmentation"), [(1, Augmentation()), (1, MOVED), (2, MOVED)])
def test_cached_targets_are_those_of_the_view_shown(batch_size, views, augmentation, tmp_path):
    model, data, keys = teacher(), images(), {"seed": 5, "augmentation": augmentation}
    kept = cache(model, data, tmp_path / "c.npz", keep="float32", views=views, batch_size=3, **keys)
    assert kept.logits.shape == (views, 11, 4)
    plain = data.training_batches(batch_size, seed=5, augmentation=augmentation, views=views)
    for (x, y), (shown, labels), _ in zip(
        kept.batches(data, batch_size, **keys), plain, range(12), strict=False
    ):
        np.testing.assert_array_equal(x, shown)
        np.testing.assert_array_equal(y["labels"], labels)
        np.testing.assert_allclose(y["teacher_logits"], model(x), atol=1e-6)


def test_a_stream_of_targets_resumes(tmp_path):
    data, keys = images(), {"seed": 5, "augmentation": MOVED}
    kept = cache(teacher(), data, tmp_path / "c.npz", views=3, **keys)
    whole = list(kept.batches(data, 4, **keys).take(9))
    resumed = list(kept.batches(data, 4, start_step=5, **keys).take(4))
    for (x, y), (again, answers) in zip(whole[5:], resumed, strict=True):
        np.testing.assert_array_equal(x, again)
        np.testing.assert_array_equal(y["teacher_logits"], answers["teacher_logits"])


def test_training_from_the_cache_is_training_with_the_teacher(tmp_path):
    data, model, keys = images(24), teacher(), {"seed": 1, "augmentation": MOVED}
    kept = cache(model, data, tmp_path / "c.npz", keep="float32", views=2, **keys)
    live = data.training_batches(8, views=2, **keys)
    trained = []
    for batches, given in ((live, model), (kept.batches(data, 8, **keys), None)):
        keras.utils.set_random_seed(2)
        student = zoo.mlp((6, 5, 1), 4, hidden=(3,))
        distiller = zoo.Distiller(student=student, teacher=given, temperature=3.0)
        distiller.compile(keras.optimizers.Adam(0.01), zoo.SoftmaxCrossEntropy())
        history = distiller.fit(batches, steps_per_epoch=10, verbose=0).history
        trained.append((student.get_weights(), history))
    for one, other in zip(trained[0][0], trained[1][0], strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    for key, (value,) in trained[0][1].items():
        np.testing.assert_allclose(trained[1][1][key], value, rtol=1e-5)


def test_the_teacher_runs_once(tmp_path):
    data, model = images(), Counted(teacher())
    first = cache(model, data, tmp_path / "c.npz")
    calls = model.calls
    assert calls >= 1
    again = cache(model, data, tmp_path / "c.npz")
    assert model.calls == calls
    np.testing.assert_array_equal(again.logits, first.logits)


def test_half_precision_keeps_each_logit_to_a_two_thousandth(tmp_path):
    data, model = images(), teacher()
    exact = cache(model, data, tmp_path / "a.npz", keep="float32")
    half = cache(model, data, tmp_path / "b.npz")
    np.testing.assert_allclose(half.logits, exact.logits, rtol=2**-11, atol=1e-7)
    assert np.abs(half.logits - exact.logits).max() > 0


@pytest.mark.parametrize("count", [1, 2, 3, 9])
def test_the_largest_are_exact_and_the_rest_is_shared_out(count, tmp_path):
    data, model = images(), teacher()
    kept = cache(model, data, tmp_path / "c.npz", keep=count, temperature=2.0)
    expected = softmax(model.predict(data.images, verbose=0).astype("float64") / 2)
    probabilities = softmax(kept.logits[0].astype("float64") / 2)
    np.testing.assert_allclose(probabilities.sum(-1), 1, rtol=1e-6)
    order = np.argsort(-expected, axis=-1)
    for row, classes in enumerate(order):
        large, small = classes[:count], classes[count:]
        np.testing.assert_allclose(probabilities[row, large], expected[row, large], rtol=1e-5)
        np.testing.assert_allclose(
            probabilities[row, small], expected[row, small].sum() / max(len(small), 1), rtol=1e-4
        )


def test_an_ensemble_is_the_mean_of_the_probabilities_at_the_temperature(tmp_path):
    data, members = images(), [teacher(seed) for seed in range(3)]
    kept = cache(members, data, tmp_path / "c.npz", temperature=3.0, keep="float32")
    logits = [model.predict(data.images, verbose=0).astype("float64") for model in members]
    mean = np.mean([softmax(scores / 3) for scores in logits], axis=0)
    np.testing.assert_allclose(softmax(kept.logits[0] / 3.0), mean, rtol=1e-5)
    np.testing.assert_allclose(np.asarray(ensemble_logits(logits, 3.0)), kept.logits[0], rtol=1e-5)
    assert kept.temperature == 3


def test_the_members_of_an_ensemble_have_weights(tmp_path):
    data, members = images(), [teacher(0), teacher(1)]
    given = {"temperature": 3.0, "keep": "float32"}
    kept = cache(members, data, tmp_path, weights=[3, 1], **given)
    first, second = (cache(one, data, tmp_path, keep="float32").logits[0] for one in members)
    expected = 0.75 * softmax(first / 3) + 0.25 * softmax(second / 3)
    np.testing.assert_allclose(softmax(kept.logits[0] / 3), expected, rtol=1e-5)
    assert cache(members, data, tmp_path, weights=[0.75, 0.25], **given).file == kept.file
    assert cache(members, data, tmp_path, **given).file != kept.file
    with pytest.raises(TeacherError, match="holds other soft targets"):
        cache(members, data, kept.file, **given)
    for wrong in ([1], [1, -1], [0, 0], [1, float("nan")]):
        with pytest.raises(TeacherError, match="An ensemble of 2 has 2 weights"):
            cache(members, data, tmp_path, weights=wrong, **given)


@pytest.mark.parametrize("temperature", [1e-2, 4.0, 1e8])
def test_an_ensemble_keeps_its_digits_at_every_temperature(temperature):
    """At 1e8, T log p is a multiple of 8 or more, for logits of 2."""
    members = np.random.default_rng(0).normal(30, 2, (3, 4, 5)).astype("float32")
    found = np.asarray(ensemble_logits(list(members), temperature))
    for row, logits in enumerate(found):
        softened = [exact_probabilities(member[row], temperature) for member in members]
        means = [sum(column) / 3 for column in zip(*softened, strict=True)]
        exact = [temperature * float((mean / max(means)).ln()) for mean in means]
        np.testing.assert_allclose(logits, exact, rtol=1e-5, atol=1e-5)


def with_another_pixel(data):
    pixels = data.images.copy()
    pixels[3, 1, 1, 0] ^= 1
    return dataclasses.replace(data, images=pixels)


CHANGES = {
    "images": ("images", {"data": images(seed=1)}),
    "one pixel": ("images", {"data": with_another_pixel(images())}),
    "fewer images": ("examples", {"data": images(10)}),
    "teacher": ("teachers", {"teacher": teacher(1)}),
    "seed": ("seed: 5, requested 6", {"seed": 6}),
    "augmentation": ("augmentation", {"augmentation": Augmentation(shift=1)}),
    "views": ("views: 2, requested 3", {"views": 3}),
    "precision": ("keep: float16, requested float32", {"keep": "float32"}),
    "temperature": ("temperature: None, requested 2.0", {"temperature": 2.0}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_other_targets_than_those_kept_are_refused(change, tmp_path):
    asked = {"teacher": teacher(), "data": images(), "file": tmp_path / "c.npz"}
    asked |= {"views": 2, "seed": 5, "augmentation": MOVED}
    kept = cache(**asked)
    message, changed = CHANGES[change]
    with pytest.raises(TeacherError, match=message):
        cache(**{**asked, **changed})
    if set(changed) <= {"data", "seed", "augmentation"}:  # the arguments of training
        given = {key: {**asked, **changed}[key] for key in ("data", "seed", "augmentation")}
        with pytest.raises(TeacherError, match=message):
            kept.batches(batch_size=4, **given)


def test_in_a_folder_each_set_of_soft_targets_has_a_file(tmp_path):
    asked = {"data": images(), "file": tmp_path / "folder", "views": 2, "augmentation": MOVED}
    first = cache(teacher(), **asked)
    assert cache(teacher(), **asked).file == first.file
    assert first.file.parent == tmp_path / "folder"
    others = [{"seed": 6}, {"views": 3}, {"data": images(seed=1)}, {"keep": "float32"}]
    files = {cache(teacher(), **{**asked, **changed}).file for changed in others}
    files.add(cache(teacher(1), **asked).file)
    assert len(files | {first.file}) == 6
    np.testing.assert_array_equal(cache(teacher(), **asked).logits, first.logits)


def test_images_as_they_are_have_one_view_whatever_the_seed(tmp_path):
    data, model = images(), teacher()
    cache(model, data, tmp_path / "c.npz", seed=1)
    kept = cache(model, data, tmp_path / "c.npz", seed=2)
    x, y = next(iter(kept.batches(data, 8, seed=3)))
    np.testing.assert_allclose(y["teacher_logits"], model(x), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("damage", ["a byte", "the end", "text"])
def test_a_damaged_file_is_refused(damage, tmp_path):
    file = tmp_path / "c.npz"
    cache(teacher(), images(), file)
    whole = bytearray(file.read_bytes())
    if damage == "a byte":
        place = whole.index(b"logits.npy") + 200
        whole[place] ^= 1
    file.write_bytes({"a byte": whole, "the end": whole[:-40], "text": b"nothing"}[damage])
    with pytest.raises(TeacherError, match="remove it"):
        open_cache(file)


def test_changed_keys_are_noticed(tmp_path):
    file = tmp_path / "c.npz"
    cache(teacher(), images(), file)
    with np.load(file) as arrays:
        contents = dict(arrays)
    keys = json.loads(contents["header"].tobytes())
    contents["header"] = np.frombuffer(json.dumps({**keys, "seed": 9}).encode(), "uint8")
    np.savez(file, **contents)
    with pytest.raises(TeacherError, match="checksum"):
        open_cache(file)


@pytest.mark.parametrize(
    "header",
    [
        *([], None, 7, {}, {"format": 1}, {"format": 1, "augmentation": 3}),
        *({"views": 3}, {"views": "2"}, {"examples": None}, {"augmentation": None}),
    ],
)
def test_a_file_with_an_odd_header_is_refused_in_one_line(header, tmp_path):
    file = tmp_path / "c.npz"
    kept = cache(teacher(), images(), file)
    changed = isinstance(header, dict) and header and "format" not in header
    odd = {**kept.keys, **header} if changed else header
    soft_target_cache.write(file, odd, {"logits": kept.logits})  # its checksum is right
    with pytest.raises(
        TeacherError, match=r"^[^\n]*c.npz holds no soft targets[^\n]*remove it[^\n]*$"
    ):
        open_cache(file)


def test_a_file_that_is_empty_or_none_and_odd_arrays_are_refused_in_one_line(tmp_path):
    file = tmp_path / "c.npz"
    kept = cache(teacher(), images(), file)
    for arrays in ({}, {"logits": kept.logits[0]}, {"other": kept.logits}, {"which": kept.logits}):
        soft_target_cache.write(file, kept.keys, arrays)
        with pytest.raises(TeacherError, match="remove it"):
            open_cache(file)
    file.write_bytes(b"")
    with pytest.raises(TeacherError, match="remove it"):
        cache(teacher(), images(), file)
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(DataError, match="is a FIFO, not a file"):
        open_cache(file)


def test_a_cache_from_before_augmentation_got_a_field_is_still_right(tmp_path):
    file = tmp_path / "c.npz"
    cache(teacher(), images(), file)
    with np.load(file) as arrays:
        contents = {name: arrays[name] for name in arrays.files if name not in ("header", "sha256")}
        keys = json.loads(arrays["header"].tobytes())
    del keys["augmentation"]["cutout"]
    soft_target_cache.write(file, keys, contents)
    cache(teacher(), images(), file)  # not refused
    with pytest.raises(TeacherError, match="holds other soft targets"):
        cache(teacher(), images(), file, augmentation=Augmentation(cutout=2))


def test_targets_of_one_temperature_are_refused_at_another(tmp_path):
    data = images()
    kept = cache([teacher(), teacher(1)], data, tmp_path / "c.npz", temperature=4.0)
    with pytest.raises(TeacherError, match=r"of temperature 4.0; received temperature=None"):
        kept.batches(data, 4, seed=0)
    kept.batches(data, 4, seed=0, temperature=4)


def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def full(*arguments, **keywords):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="No space"):
        cache(teacher(), images(), tmp_path / "c.npz")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"keep": "float64"}, "received 'float64'"),
        ({"keep": 0}, "received 0"),
        ({"keep": True}, "received True"),
        ({"keep": 2}, "at one temperature"),
        ({"teacher": [teacher(), teacher(1)]}, "at one temperature"),
        ({"views": 0}, "views"),
    ],
)
def test_arguments_that_no_cache_can_have_are_refused(arguments, message, tmp_path):
    asked = {"teacher": teacher(), "data": images(), "file": tmp_path / "c.npz", **arguments}
    with pytest.raises(TeacherError, match=message):
        cache(**asked)
    assert list(tmp_path.iterdir()) == []


def test_teachers_come_from_files_runs_and_exports(tmp_path):
    model = teacher()
    pixels = images().images.astype("float32")
    expected = softmax(model.predict(pixels, verbose=0))
    run = tmp_path / "runs" / "made" / "default"
    run.mkdir(parents=True)
    model.save(run / "model.keras")
    exporting.export_savedmodel(model, list("abcd"), tmp_path / "exported")
    version = tmp_path / "exported" / "1"
    for path in (run / "model.keras", run, tmp_path / "exported", version, str(run)):
        loaded = load(path)
        logits = loaded.predict(pixels, verbose=0)
        np.testing.assert_allclose(softmax(logits), expected, rtol=1e-5, err_msg=str(path))
        student = zoo.mlp((6, 5, 1), 4, hidden=(3,))
        zoo.Distiller(student=student, teacher=loaded)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("runs/mnist_mlp/default", r"does not exist. Train it with: zoo train mnist_mlp$"),
        ("runs/mnist_mlp/seed=1", r"zoo train mnist_mlp --seed 1$"),
        ("runs/mnist_mlp/batch_size=3,seed=1", r"mnist_mlp --batch-size 3 --seed 1$"),
        ("runs/mnist_mlp/mine", r"zoo train mnist_mlp --name mine$"),
        ("saved_models/none", "There is no teacher at"),
        ("none.keras", "There is no teacher at"),
    ],
)
def test_a_teacher_that_is_not_there_says_how_to_make_it(path, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TeacherError, match=message):
        load(path)


def test_a_teacher_is_found_by_its_name_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load("digits_nin_dsn").output_shape == (None, 10)


def test_a_teacher_whose_training_was_stopped_says_how_to_go_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/mnist_mlp/default").mkdir(parents=True)
    with pytest.raises(TeacherError, match=r"not finished.*resumes.*zoo train mnist_mlp"):
        load("runs/mnist_mlp/default")


def test_a_cache_leaves_the_teacher_as_it_was(tmp_path):
    model = teacher()
    before = [w.copy() for w in model.get_weights()]
    cache(model, images(), tmp_path / "c.npz")
    assert model.trainable
    assert model.predict_function is None
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert soft_target_cache.FORMAT == 1


def test_a_teacher_trained_in_16_bits_calculates_in_32_where_the_student_does(tmp_path):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = teacher()
        model.save(tmp_path / "teacher.keras")
        same = load(tmp_path / "teacher.keras")
    finally:
        keras.config.set_dtype_policy("float32")
    in_32 = teacher(seed=1)
    in_32.set_weights(model.get_weights())
    x = images().images.astype("float32")
    np.testing.assert_array_equal(same(x), model(x))
    np.testing.assert_allclose(load(tmp_path / "teacher.keras")(x), in_32(x), atol=1e-6)
    assert np.abs(model(x) - in_32(x)).max() > 1e-5  # 16 bits round
