"""Folders as people have them: grey files, other files, odd shapes, groups, lists."""

import numpy as np
import pytest
from PIL import Image

import zoo.recipe
from zoo.data import DataError, ImageData, dividing, load, read_image
from zoo.data.decoding import resize

CLASSES = ("cat", "dog")


def noise(height=9, width=7, channels=3, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)
    return Image.fromarray(pixels if channels == 3 else pixels[..., 0])


@pytest.fixture
def folder(tmp_path):
    """Twelve photographs of two classes, in series of three: pets/cat/a_0.png."""
    folder = tmp_path / "pets"
    for number, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for index in range(6):
            file = folder / name / f"{'ab'[index // 3]}_{index}.png"
            noise(seed=10 * number + index).save(file)
    return folder


@pytest.mark.parametrize("stream", [False, True])
def test_grey_photographs_among_colours_become_rgb_and_are_counted(folder, stream, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(folder.parent / "cache"))
    noise(channels=1).save(folder / "cat" / "grey.jpg", quality=95)
    data = load(folder, "test", stream=stream, whole=True)
    assert data.image_shape == (9, 7, 3)
    assert data.notes == [f"1 of 13 images in {folder} are grey, and became RGB."]
    grey = data.images[data.files.index("cat/grey.jpg")]
    np.testing.assert_array_equal(grey, np.repeat(grey[..., :1], 3, axis=-1))
    np.testing.assert_array_equal(grey, read_image(folder / "cat/grey.jpg", (9, 7, 3)))


def test_channels_can_be_chosen_and_a_grey_folder_stays_grey(folder):
    forced = load(folder, channels=1)
    assert forced.image_shape == (9, 7, 1)
    assert forced.notes == [f"12 of 12 images in {folder} have colours, and became grey."]
    for file in folder.glob("*/*.png"):
        Image.open(file).convert("L").save(file)
    assert load(folder).image_shape == (9, 7, 1)
    assert load(folder).notes == []
    np.testing.assert_array_equal(load(folder).images, forced.images)
    assert load(folder, channels=3).image_shape == (9, 7, 3)
    with pytest.raises(DataError, match="channels is 1 for grey or 3 for RGB; received 2"):
        load(folder, channels=2)


def test_other_data_take_channels_and_one_number_as_size():
    assert load("digits", channels=3, image_size=6).image_shape == (6, 6, 3)
    assert zoo.recipe.Recipe(image_size=64).image_size == (64, 64)


def test_what_is_no_image_by_its_name_is_left_out_and_named(folder):
    before = load(folder)
    (folder / "cat" / "notes.txt").write_text("rex is shy", "utf-8")
    (folder / "dog" / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
    (folder / "emu").mkdir()
    (folder / "emu" / "README").write_text("to do", "utf-8")
    noise().save(folder / "loose.png")
    (folder / "list.csv").write_text("", "utf-8")
    data = load(folder)
    assert data.notes == [
        f"Files in {folder} that are no images, and left out: 3 (cat/notes.txt, dog/Thumbs.db, "
        "emu/README).",
        f"Images in {folder} that lie in no class folder, and left out: 1 (loose.png).",
        f"Folders in {folder} without images, which are no classes: 1 (emu).",
    ]
    assert (data.label_names, data.identity) == (CLASSES, before.identity)
    (folder / "cat" / "IMG_1.HEIC").write_bytes(b"another format")
    with pytest.raises(DataError, match=r"IMG_1.HEIC is not an image .*--skip-corrupt"):
        load(folder)


def test_an_image_of_another_name_is_an_image(folder):
    (folder / "cat" / "a_0.png").rename(folder / "cat" / "a_0.dat")
    (folder / "cat" / "a_1.png").rename(folder / "cat" / "a_1")
    assert load(folder, "test", whole=True).examples == 12


def test_an_empty_class_of_the_test_images_is_no_other_class(folder):
    folder.rename(folder.parent / "train")
    for name in (*CLASSES, "emu"):
        (folder.parent / "test" / name).mkdir(parents=True)
    for index, name in enumerate(CLASSES):
        noise(seed=index).save(folder.parent / "test" / name / "0.png")
    assert load(folder.parent, "test").label_names == CLASSES
    noise().save(folder.parent / "test" / "emu" / "0.png")
    with pytest.raises(DataError, match=r"differ in the class folders \['emu'\]"):
        load(folder.parent)


def test_a_folder_of_test_images_is_taken_whole(folder):
    whole = load(folder, "test", whole=True)
    assert (whole.examples, whole.split, whole.source) == (12, "test", "")
    assert whole.files[:2] == ("cat/a_0.png", "cat/a_1.png")
    parts = [load(folder, split) for split in ("train", "test")]
    assert sorted([*parts[0].files, *parts[1].files]) == sorted(whole.files)


# Another aspect ratio


def test_cropping_keeps_the_centre_and_padding_adds_black():
    image = np.zeros((4, 12, 1), np.uint8)
    image[:, 4:8] = 255  # the middle square
    np.testing.assert_array_equal(resize(image, (4, 4), "crop"), np.full((4, 4, 1), 255))
    padded = resize(np.full((4, 12, 1), 255, np.uint8), (6, 6), "pad")
    assert padded[..., 0].mean(axis=1).tolist() == [0, 0, 255, 255, 0, 0]
    tall = resize(np.full((12, 4, 3), 255, np.uint8), (6, 6), "pad")
    assert tall[..., 0].mean(axis=0).tolist() == [0, 0, 255, 255, 0, 0]


@pytest.mark.parametrize("resizing", ["squash", "crop", "pad"])
def test_every_way_gives_the_size_mirrors_with_its_image_and_leaves_the_same_aspect(resizing):
    for height, width in ((9, 7), (1, 40), (40, 1), (13, 8), (8, 8)):
        image = np.asarray(noise(height, width))
        for size in ((8, 8), (7, 5), (1, 9)):
            resized = resize(image, size, resizing)
            assert resized.shape == (*size, 3)
            mirrored = resize(image[::-1, ::-1], size, resizing)[::-1, ::-1]
            assert np.abs(mirrored.astype(int) - resized).max() <= 1
    same = resize(np.asarray(noise(16, 16)), (8, 8), resizing)
    np.testing.assert_array_equal(same, resize(np.asarray(noise(16, 16)), (8, 8)))


def test_a_folder_and_a_file_are_resized_alike(folder):
    noise(9, 20).save(folder / "cat" / "wide.png")
    for resizing in ("crop", "pad"):
        data = load(folder, "test", image_size=6, resizing=resizing, whole=True)
        file = read_image(folder / "cat" / "wide.png", (6, 6, 3), resizing)
        np.testing.assert_array_equal(data.images[data.files.index("cat/wide.png")], file)
    with pytest.raises(DataError, match="resizing is"):
        load(folder, resizing="stretch")


# Validation images


def test_no_group_of_images_is_on_both_sides(folder):
    whole = load(folder, "test", whole=True)
    for pattern in (r"[^/]+/._", r"^([^/]+/.)_"):  # cat/a_, and cat/a
        parts = dividing.hold_out_groups(whole, 0.5, pattern)
        groups = [{path[:5] for path in part.files} for part in parts]
        assert not groups[0] & groups[1]
        assert [part.examples for part in parts] == [6, 6]
        assert [part.split for part in parts] == ["test", "validation"]
        assert [np.unique(part.labels).tolist() for part in parts] == [[0, 1]] * 2


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(", r"'\(' is no regular expression"),
        ("x", "matches nothing in 'cat/a_0.png'"),
        ("cat|dog", "holds out 0 of 12 images"),  # a class cannot be held out
    ],
)
def test_groups_that_cannot_be_are_refused(folder, pattern, message):
    with pytest.raises(DataError, match=message):
        dividing.hold_out_groups(load(folder, "test", whole=True), 0.5, pattern)


def test_a_list_says_which_training_images_are_held_out(folder):
    training, test = load(folder), load(folder, "test")
    wanted = [min(path for path in training.files if name in path) for name in CLASSES]
    listed = folder.parent / "list.txt"
    listed.write_text("\n".join([f"./{wanted[0]}", "", *wanted, test.files[0]]), "utf-8")
    recipe = zoo.recipe.Recipe(data=str(folder), validation_list=str(listed))
    recipe.check()
    assert recipe.judged_on == "validation"
    rest, validation = recipe.datasets()
    assert (validation.split, [*validation.files]) == ("validation", wanted)
    assert sorted([*rest.files, *wanted]) == sorted(training.files)
    assert rest.notes == [f"1 of 3 images in {listed} are no training images."]

    listed.write_text("cat/none.png\n", "utf-8")
    with pytest.raises(DataError, match=r"names 'cat/none.png', which is not in .*such as cat/"):
        recipe.datasets()
    listed.write_text(wanted[0], "utf-8")
    with pytest.raises(DataError, match="a part with fewer than two classes"):
        recipe.datasets()
    with pytest.raises(DataError, match="needs a folder of images; digits has no names"):
        dividing.hold_out_listed(load("digits"), "digits", listed)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"validation_group": "a"}, "--validation-group is for a --validation SHARE; received a"),
        ({"validation_list": "a", "validation": 0.1}, "--validation-list is given without"),
    ],
)
def test_fields_of_validation_that_contradict_are_refused(fields, message):
    with pytest.raises(zoo.recipe.RecipeError, match=message):
        zoo.recipe.Recipe(**fields).check()


# Unequal classes


def test_balanced_weights_make_every_class_count_the_same():
    labels = np.array([0] * 6 + [2] * 2)  # class 1 has no images
    images = np.arange(8, dtype=np.uint8).reshape(8, 1, 1, 1)
    data = ImageData("few", "train", images, labels, "abc")
    batches = data.training_batches(8, seed=0)
    ((_, seen, weights),) = data.balanced(batches).take(1).as_numpy_iterator()
    np.testing.assert_allclose(weights, np.where(seen == 0, 8 / 12, 2.0), rtol=1e-6)
    taught = data.training_batches(
        8, seed=0, views=1, teacher_logits=np.zeros((1, 8, 3), np.float32)
    )
    ((_, targets, same),) = data.balanced(taught).take(1).as_numpy_iterator()
    np.testing.assert_array_equal(same, weights)
    assert set(targets) == {"labels", "teacher_logits"}


def test_numpy_makes_the_same_weights():
    from zoo.data import numpy_batches

    table = np.array([0.5, 2.0], np.float32)
    data = ImageData(
        "few", "train", np.arange(4, dtype=np.uint8).reshape(4, 1, 1), [0, 0, 1, 1], "ab"
    )
    plain = numpy_batches.Batches(data, 3)
    weighted = numpy_batches.Weighted(plain, table)
    assert weighted.num_batches == 2
    _, labels, weights = weighted[1]
    assert (labels.tolist(), weights.tolist()) == ([1], [2.0])
