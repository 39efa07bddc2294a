"""A prepared file gives the images that it was made of, and `load` finds it by its name."""

import io

import numpy as np
import pytest

from zoo.data import load, prepared, prepared_file


@pytest.mark.parametrize("size", [None, (5, 6)])
def test_prepared_images_are_those_that_were_loaded(tmp_path, monkeypatch, size):
    parts = [load("digits", split, image_size=size) for split in ("train", "test")]
    (tmp_path / prepared_file("digits", size)).write_bytes(prepared.prepare(*parts))
    monkeypatch.setenv("ZOO_DATA", str(tmp_path))
    monkeypatch.setattr("sklearn.datasets.load_digits", None)
    for part in parts:
        again = load("digits", part.split, image_size=size)
        np.testing.assert_array_equal(again.images, part.images)
        np.testing.assert_array_equal(again.labels, part.labels)
        assert repr(again) == repr(part)
        assert again.identity == part.identity


def test_the_arrays_of_a_prepared_file_keep_their_names():
    content = prepared.prepare(load("digits"), load("digits", "test"))
    assert np.load(io.BytesIO(content)).files == [
        *("name", "label_names", "x_train", "y_train", "source_train"),
        *("x_test", "y_test", "source_test"),
    ]


@pytest.mark.parametrize(
    ("name", "size", "file"),
    [
        ("digits", None, "digits.npz"),
        ("./my photos/2024", None, "_my_photos_2024.npz"),
        ("mnist", (8, 16), "mnist-8x16.npz"),
    ],
)
def test_the_name_of_a_prepared_file(name, size, file):
    assert prepared_file(name, size) == file
