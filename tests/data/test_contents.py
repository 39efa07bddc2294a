"""A run knows its images by their pixels, and what is no file of images is refused at once."""

import io
import os
import shutil
import socket
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from zoo.commands.evaluating import refuse_changed_images
from zoo.data import DataError, ImageData, load, packs, prepared, prepared_file, readers
from zoo.data.decoding import decode
from zoo.errors import UsageError

LABELS = np.arange(60) % 3


def pixels(seed=0):
    return np.random.default_rng(seed).integers(0, 256, (60, 6, 5, 3), "uint8")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Sixty images of three classes, in files of the same size."""
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    for index, image in enumerate(pixels()):
        file = tmp_path / "photographs" / "abc"[index % 3] / f"{index:02d}.bmp"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file)
    return tmp_path / "photographs"


def replace(file, image):
    """Replace an image under the same name, with the same size and the same time."""
    before = file.stat()
    Image.fromarray(image).save(file)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = file.stat()
    assert (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)


def test_a_changed_pixel_is_noticed_in_arrays_and_all_that_is_derived_from_them():
    images = pixels()
    changed = images.copy()
    changed[7, 3, 2, 1] ^= 1
    before, after = (
        ImageData("some", "train", array, LABELS, "abc") for array in (images, changed)
    )
    for derive in (
        lambda data: data,
        lambda data: data.subset(50),
        lambda data: data.without([0]),  # the changed one has the class 1
        lambda data: data.holdout(0.2)[0],
        lambda data: data.holdout(0.2)[1],
    ):
        one, other = derive(before), derive(after)
        changes = f"pixels {one.identity[3]}, now {other.identity[3]}"
        here = not np.array_equal(one.images, other.images)
        assert other.changes_since(one.identity) == (changes if here else "")
        assert derive(before).changes_since(one.identity) == ""
    turned = ImageData("some", "train", images.transpose(0, 2, 1, 3), LABELS, "abc")
    same_bytes = ImageData("some", "train", images.reshape(60, 5, 6, 3), LABELS, "abc")
    assert len({data.identity[3] for data in (before, turned, same_bytes)}) == 3


def test_an_older_record_is_compared_as_far_as_it_goes():
    data = ImageData("some", "train", pixels(), LABELS, "abc")
    other = ImageData("some", "train", pixels(1), LABELS, "abc")
    assert other.changes_since(data.identity[:3]) == ""
    assert other.changes_since(None) == ""
    assert other.subset(50).changes_since(data.identity[:3]).startswith("number 60, now 50; labels")


@pytest.mark.parametrize("suffix", ["npz", "folder"])
def test_a_changed_pixel_is_noticed_in_files_on_both_sides_of_a_division(folder, suffix):
    path, images = folder, pixels()
    if suffix == "npz":
        path = folder.with_suffix(".npz")
        np.savez(path, images=images, labels=LABELS)
    before = [load(path, split).identity for split in ("train", "test")]
    assert [load(path, split).identity for split in ("train", "test")] == before
    images[7, 3, 2, 1] ^= 1
    if suffix == "npz":
        np.savez(path, images=images, labels=LABELS)
    else:
        replace(folder / "b" / "07.bmp", images[7])
    for split, identity in zip(("train", "test"), before, strict=True):
        now = load(path, split)
        assert now.identity[:3] == identity[:3]  # all that an older zoo knew
        assert "pixels before the division" in now.changes_since(identity)


def test_images_on_disk_and_packed_for_elsewhere_have_the_same_identity(folder, monkeypatch):
    parts = [load(folder, split, stream=False) for split in ("train", "test")]
    for part in parts:
        on_disk = load(folder, part.split, stream=True)
        assert type(on_disk.images) is packs.PackedImages
        assert on_disk.identity == part.identity
        assert on_disk.subset(9).identity == part.subset(9).identity
    archive = folder.parent / "archive"
    archive.mkdir()
    (archive / prepared_file(folder)).write_bytes(prepared.prepare(*parts))
    monkeypatch.setenv("ZOO_DATA", str(archive))
    shutil.rmtree(folder)
    for part in parts:
        assert load(folder, part.split).identity == part.identity
    (archive / prepared_file(folder)).write_bytes(b"PK damaged")
    with pytest.raises(DataError, match="no file of prepared images"):
        load(folder)


# `zoo evaluate`


@pytest.mark.parametrize("judged_on", ["test", "validation"])
def test_a_run_is_not_evaluated_on_images_that_changed(judged_on):
    whole = ImageData("some", "train", pixels(), LABELS, "abc")
    changed = ImageData("some", "train", pixels(1), LABELS, "abc")

    def both(data):
        return readers.divide(data, "train"), readers.divide(data, "test")

    training, test = both(whole)
    judging = test
    if judged_on == "validation":
        training, judging = training.holdout(0.25)
    record = {images.split: images.identity for images in (training, judging)}
    run = SimpleNamespace(results={"data": record})
    refuse_changed_images(run, test)
    _, now = both(changed)
    with pytest.raises(UsageError, match=r"some has changed .* test images .*pixels before"):
        refuse_changed_images(run, now)
    older = {split: identity[:3] for split, identity in record.items()}
    _, fewer = both(whole.subset(50))
    with pytest.raises(UsageError, match="divided from"):
        refuse_changed_images(SimpleNamespace(results={"data": older}), fewer)


def test_a_test_split_of_its_own_is_compared_and_an_older_run_does_not_know_its_pixels():
    before, after = (ImageData("some", "test", pixels(seed), LABELS, "abc") for seed in (0, 1))
    for known in (before.identity, before.identity[:3], None):
        run = SimpleNamespace(results={"data": {"test": known}})
        refuse_changed_images(run, before)
        if known == before.identity:
            with pytest.raises(UsageError, match=r"\(pixels .*, now .* give --data"):
                refuse_changed_images(run, after)
        else:
            refuse_changed_images(run, after)
    refuse_changed_images(SimpleNamespace(results={}), after)


# Packs


def test_a_file_that_is_replaced_under_its_size_and_time_makes_its_pack_anew(folder, monkeypatch):
    before = load(folder, stream=True)
    written = []
    write = packs._write
    monkeypatch.setattr(packs, "_write", lambda *all_: written.append(1) or write(*all_))
    for file in folder.glob("*/*.bmp"):  # another ctime, and the same content
        file.chmod(0o600)
    table = next((folder.parent / "cache").glob("*/read_from.npy"))
    ctimes = np.load(table)[:, 0]
    assert load(folder, stream=True).identity == before.identity
    assert (np.load(table)[:, 0] > ctimes).all()  # noted, so that nothing is read at the next start
    monkeypatch.setattr("zoo.files.sha256", guard := Counted(packs.files.sha256))
    load(folder, stream=True)
    assert [Path(path).name for path in guard.paths] == ["labels.npy", "checksums.npy"]
    assert written == []
    replace(folder / "b" / "07.bmp", pixels(1)[7])
    after = load(folder, stream=True)
    assert written == [1]
    assert after.changes_since(before.identity)
    assert after.identity == load(folder, stream=False).identity
    table.unlink()  # a pack of an older zoo is accepted, and gets its table
    load(folder, stream=True)
    assert written == [1]
    table.write_bytes(b"")
    load(folder, stream=True)
    assert written == [1, 1]


class Counted:
    """A function of a path that keeps the paths."""

    def __init__(self, function):
        self.function, self.paths = function, []

    def __call__(self, path):
        self.paths.append(path)
        return self.function(path)


@pytest.mark.parametrize(
    "text",
    [
        *("[]", "null", "{}", "7", '{"sha256": []}', '{"sha256": {}}', "\xff"),
        *('"shape": [5, 6, 3]', '"shape": null', '"skipped": 3'),
    ],
)
def test_a_pack_with_a_wrong_meta_json_is_made_anew(folder, text):
    before = load(folder, stream=True)
    meta = next((folder.parent / "cache").glob("*/meta.json"))
    sound = meta.read_text()
    if text.startswith('"'):
        text = f"{meta.read_text()[:-1]}, {text}}}"  # of two equal keys, the last one counts
    meta.write_text(text, encoding="latin-1")
    assert load(folder, stream=True).identity == before.identity
    assert meta.read_text() == sound


def test_a_damaged_image_in_a_training_is_one_line(folder):
    data = load(folder, stream=True)
    file = next((folder.parent / "cache").glob("*/images.bin"))
    file.write_bytes(bytes(value ^ 1 for value in file.read_bytes()))
    with (
        pytest.raises(packs.PackError, match=r"^Image \d+ of .*images.bin is damaged\. [^\n]*$"),
        packs.damage_told(),
    ):
        list(data.batches(8))
    with pytest.raises(KeyError), packs.damage_told():
        raise KeyError("another error")


# What is no file


def special_file(kind, path):
    if kind == "FIFO":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            os.chdir(path.parent)  # a socket's path is at most 107 bytes long
            server.bind(path.name)
    else:
        path.symlink_to("/dev/zero")


@pytest.mark.parametrize("kind", ["FIFO", "socket", "device"])
def test_what_is_no_file_is_refused_at_once(folder, kind, monkeypatch):
    monkeypatch.chdir(folder)
    special_file(kind, folder / "b" / "99.bmp")
    special_file(kind, folder / "data.npz")
    for stream in (False, True):
        with pytest.raises(DataError, match=rf"99.bmp is a {kind}, not a file"):
            load(folder, stream=stream, skip_corrupt=0.5)
    with pytest.raises(DataError, match=rf"data.npz is a {kind}, not a file"):
        load(folder / "data.npz")
    with pytest.raises(DataError, match=rf"99.bmp is a {kind}, not a file"):
        decode(folder / "b" / "99.bmp")


def test_a_pack_with_a_fifo_in_it_is_made_anew(folder):
    before = load(folder, stream=True)
    for name in ("meta.json", "images.bin", "labels.npy", "read_from.npy"):
        file = next((folder.parent / "cache").glob(f"*/{name}"))
        file.unlink()
        os.mkfifo(file)
        assert load(folder, stream=True).identity == before.identity


# Names


ODD = ["a\nb", "a\r", "a\u2028b", "\x1b[31mred", "a\tb", "caf\udce9", "a\x00", ""]


@pytest.mark.parametrize("name", ODD)
def test_names_of_classes_that_no_export_could_have_are_refused(name, tmp_path):
    with pytest.raises(
        DataError, match=r"^some \(train\): a class has the name '[^\n]*Rename"
    ) as no:
        ImageData("some", "train", pixels(), LABELS, ["x", name, "y"])
    str(no.value).encode()
    if name and "\x00" not in name:
        for label in ("a", name):
            (tmp_path / label).mkdir()
            for index in range(5):
                Image.fromarray(pixels()[index]).save(
                    os.fsencode(tmp_path / label / f"{index}.png")
                )
        with pytest.raises(DataError, match="a class has the name"):
            load(tmp_path)


def test_other_odd_names_of_classes_and_files_are_legal(tmp_path):
    names = ["[bold red]x", "[dim]", "<script>", "|", "\"'`", "été", "$(rm) *", "日本"]
    for label in names:
        (tmp_path / label).mkdir()
        for index in range(5):
            name = b"caf\xe9 %d\n.bmp" % index
            (tmp_path / label / os.fsdecode(name)).write_bytes(bmp(index))
    training, test = load(tmp_path), load(tmp_path, "test")
    assert set(training.label_names) == set(names)
    assert test.examples == len(names)


def bmp(index):
    file = io.BytesIO()
    Image.fromarray(pixels()[index]).save(file, "BMP")
    return file.getvalue()


# No network


def test_a_data_set_without_a_network_is_refused_before_the_downloader_tries(tmp_path, monkeypatch):
    tried = []

    def unreachable(server, timeout):
        tried.append((server, timeout))
        raise OSError("no route")

    monkeypatch.setattr(socket, "create_connection", unreachable)
    monkeypatch.setattr("urllib.request.getproxies", dict)
    urls = ["http://a.example/one.tar", "https://b.example:8443/two.tar"]
    with pytest.raises(OSError, match=r"a\.example and b\.example and storage.* cannot be reached"):
        readers._refuse_without_network(urls, tmp_path)
    assert sorted(tried) == [
        (("a.example", 80), 5),
        (("b.example", 8443), 5),
        (("storage.googleapis.com", 443), 5),
    ]
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads" / "one.INFO").write_text(f'{{"urls": ["{urls[0]}"]}}')
    readers._refuse_without_network(urls[:1], tmp_path)  # it was downloaded before
    with pytest.raises(OSError, match=r"b\.example"):
        readers._refuse_without_network(urls, tmp_path)
    monkeypatch.setattr("urllib.request.getproxies", lambda: {"http": "proxy.example"})
    readers._refuse_without_network(urls, tmp_path)
    monkeypatch.setattr("urllib.request.getproxies", dict)
    monkeypatch.setattr(socket, "create_connection", lambda server, timeout: socket.socket())
    readers._refuse_without_network(urls, tmp_path)
