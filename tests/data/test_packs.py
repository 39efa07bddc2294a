"""Images on disk give what images in memory give, and are there whole or not at all."""

import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import zoo.data
import zoo.recipe
import zoo.training
from zoo.data import Augmentation, DataError, folders, load, stacking
from zoo.data import packs as streaming

CHANGES = Augmentation(shift=1, flip=True)
ROWS = [(np.full((3, 2, 1), index, np.uint8), index % 2) for index in range(50)]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path):
    """Twelve photographs of three classes."""
    rng = np.random.default_rng(0)
    for index in range(12):
        file = tmp_path / "photographs" / "abc"[index % 3] / f"{index:02d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (6, 5, 3), "uint8")).save(file)
    return tmp_path / "photographs"


def both(folder, **arguments):
    """The training images, in memory and on disk."""
    return [load(folder, stream=stream, **arguments) for stream in (False, True)]


def assert_same(some, others):
    for one, other in zip(some, others, strict=True):
        for part, twin in zip(one, other, strict=True):
            np.testing.assert_array_equal(part, twin)


@pytest.mark.parametrize(
    "change",
    [lambda data: data.holdout(0.3)[0], lambda data: data.subset(6, seed=1).without([1])],
    ids=["holdout", "subset"],
)
def test_images_on_disk_give_the_batches_of_those_in_memory(folder, change):
    memory, disk = (change(data) for data in both(folder))
    assert type(disk.images) is streaming.PackedImages
    assert type(memory.images) is np.ndarray
    assert (disk.examples, disk.image_shape) == (memory.examples, memory.image_shape)
    assert disk.images.size == memory.images.size
    np.testing.assert_array_equal(disk.labels, memory.labels)
    np.testing.assert_array_equal(disk.images, memory.images)
    np.testing.assert_array_equal(disk.images[1], memory.images[1])
    np.testing.assert_array_equal(disk.images[[2, 0, 2]], memory.images[[2, 0, 2]])
    assert_same(disk.batches(4), memory.batches(4))
    for arguments in ({"start_step": 3}, {"views": 2}):
        streams = [
            data.training_batches(4, seed=5, augmentation=CHANGES, **arguments).take(7)
            for data in (disk, memory)
        ]
        assert streams[0].element_spec == streams[1].element_spec
        assert_same(*streams)
    views = [data.views(2, 4, seed=5, augmentation=CHANGES) for data in (disk, memory)]
    assert_same(*([[images] for images in each] for each in views))


@pytest.mark.parametrize("views", [None, 2])
def test_the_shards_of_a_batch_make_up_the_batch(folder, views):
    data = load(folder, stream=True)
    logits = np.arange(2 * data.examples * 3).reshape(2, data.examples, 3)
    arguments = {"seed": 5, "augmentation": CHANGES, "views": views, "start_step": 1}
    if views:
        arguments["teacher_logits"] = logits.astype("float32")

    def batches(shard):
        stream = data.training_batches(4, shard=shard, **arguments).take(5)
        return [
            (images, *(y.values() if views else [y])) for images, y in stream.as_numpy_iterator()
        ]

    for count in (1, 2, 4):
        shards = [batches((index, count)) for index in range(count)]
        joined = [
            [np.concatenate(parts) for parts in zip(*pieces, strict=True)]
            for pieces in zip(*shards, strict=True)
        ]
        assert_same(joined, batches((0, 1)))
        assert len(shards[0][0][0]) == 4 // count


@pytest.mark.parametrize("shard", [(0, 3), (2, 2), (-1, 2), (0, 0)])
def test_shards_that_cannot_be_are_refused(folder, shard):
    with pytest.raises(DataError, match="shard"):
        load(folder).training_batches(4, seed=0, shard=shard)


def test_size_decides_where_images_are(folder, monkeypatch):
    size = 12 * 6 * 5 * 3
    for limit, kind in ((size, np.ndarray), (size - 1, streaming.PackedImages)):
        monkeypatch.setattr(stacking, "STREAM_BYTES", limit)
        assert type(load(folder).images) is kind
    assert type(load(folder, stream=False).images) is np.ndarray


def test_a_pack_is_made_once_and_anew_for_other_contents(folder, cache, monkeypatch):
    decoded = []
    decode = folders.decode
    monkeypatch.setattr(folders, "decode", lambda file: decoded.append(file) or decode(file))
    first = load(folder, stream=True)
    load(folder, "test", stream=True)
    assert len(decoded) == 12 + 1  # the first image says how large they all are
    load(folder, stream=True, image_size=(3, 3))
    changed = folder / "a" / "00.png"
    Image.new("RGB", (5, 6)).save(changed)
    assert not np.array_equal(load(folder, stream=True).images, first.images)
    assert len([path for path in cache.iterdir() if path.is_dir()]) == 3


def packed(rows=ROWS, skipped=()):
    return streaming.pack("rows", "here", iter(rows), len(ROWS), (3, 2, 1), list(skipped))


def assert_whole(found, rows=ROWS):
    images, labels, _ = found
    np.testing.assert_array_equal(images, np.stack([image for image, _ in rows]))
    np.testing.assert_array_equal(labels, [label for _, label in rows])


def test_a_pack_that_fails_on_the_way_leaves_nothing(cache):
    def failing():
        yield from ROWS[:20]
        raise DataError("the twentieth")

    with pytest.raises(DataError, match="the twentieth"):
        packed(failing())
    assert [path.name for path in cache.iterdir() if path.is_dir()] == []
    assert_whole(packed())


def test_a_pack_whose_writer_is_killed_is_made_anew(cache):
    program = """if True:
        import time
        import numpy as np
        from zoo import streaming
        def rows():
            for index in range(50):
                yield np.full((3, 2, 1), 7, np.uint8), 0
                time.sleep(10 * (index == 20))
        streaming.pack("rows", "here", rows(), 50, (3, 2, 1), [])
    """
    process = subprocess.Popen([sys.executable, "-c", program], cwd=Path(__file__).parents[2])
    while not list(cache.glob("*.partial/images.bin")):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list(cache.glob("*.partial"))
    assert_whole(packed())
    assert not list(cache.glob("*.partial"))


def test_of_two_that_start_together_one_writes(monkeypatch):
    begun, go_on, found = threading.Event(), threading.Event(), []

    def slow():
        yield ROWS[0]
        begun.set()
        assert go_on.wait(30)
        yield from ROWS[1:]

    def second():
        found.append(packed(iter([])))

    threads = [threading.Thread(target=lambda: found.append(packed(slow())))]
    threads[0].start()
    assert begun.wait(30)
    threads.append(threading.Thread(target=second))
    threads[1].start()
    go_on.set()
    for thread in threads:
        thread.join(30)
    for each in found:
        assert_whole(each)
    assert len(found) == 2


def damage(file, at):
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)


def test_a_damaged_row_is_named_when_it_is_read_and_the_others_can_be(cache):
    packed()
    damage(next(cache.glob("rows-*/images.bin")), 6 * 31 + 2)
    images, _, _ = packed()
    np.testing.assert_array_equal(images[:31], np.stack([image for image, _ in ROWS[:31]]))
    with pytest.raises(streaming.PackError, match=r"Image 31 of .*images.bin is damaged"):
        images[30:33]


@pytest.mark.parametrize("file", ["labels.npy", "checksums.npy", "meta.json", "images.bin"])
def test_a_pack_that_is_not_whole_is_made_anew(cache, file):
    packed()
    path = next(cache.glob(f"rows-*/{file}"))
    if file == "images.bin":
        path.write_bytes(path.read_bytes()[:-1])
    elif file == "meta.json":
        path.write_text(path.read_text()[:-9])
    else:
        damage(path, -1)
    others = [(255 - image, 1 - label) for image, label in ROWS]
    assert_whole(packed(others), others)


def test_a_disk_without_room_is_told_before_anything_is_written(cache, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Disk)
    with pytest.raises(streaming.PackError, match=r"the disk has 0.00 GiB: set ZOO_CACHE"):
        packed()
    assert not [path for path in cache.iterdir() if path.is_dir()]


class Disk:
    free = 899  # of 50 images of 6 bytes, with 12 bytes more for label and checksum


# Images that are none


@pytest.fixture
def broken(folder):
    """Three of its fifteen files are no images."""
    for name in ("a/50.png", "b/51.png", "c/52.jpg"):
        (folder / name).write_bytes(b"no image")
    return folder


@pytest.mark.parametrize("stream", [False, True])
def test_images_that_are_none_are_left_out_up_to_a_share_and_named(broken, stream):
    sound = load(broken, stream=stream, skip_corrupt=0.2)
    test = load(broken, "test", stream=stream, skip_corrupt=0.2)
    assert sound.examples + test.examples == 12
    assert [Path(each.split(" is not")[0]).name for each in sound.skipped] == [
        *("50.png", "51.png", "52.jpg")
    ]
    assert test.skipped == sound.skipped == sound.subset(5).skipped
    for share, message in (
        (0.19, r"More than 2 of 15 files are not images.*52.jpg"),
        (0, r"50.png is not an image.*--skip-corrupt SHARE"),
    ):
        with pytest.raises(DataError, match=message):  # whether there is a pack or not
            load(broken, stream=stream, skip_corrupt=share)


def test_a_class_without_an_image_left_is_refused(broken):
    for file in (broken / "b").iterdir():
        file.write_bytes(b"no image")
    with pytest.raises(DataError, match="b: none of its images could be read"):
        load(broken, skip_corrupt=0.9)


@pytest.mark.parametrize("share", [-0.1, 1, float("nan")])
def test_shares_that_are_none_are_refused(folder, share):
    with pytest.raises(DataError, match="skip_corrupt is a share"):
        load(folder, skip_corrupt=share)
    with pytest.raises(zoo.recipe.RecipeError, match="--skip-corrupt is a"):
        zoo.recipe.Recipe(skip_corrupt=share).check()


def test_a_run_on_images_on_disk_is_that_on_images_in_memory(broken, tmp_path, monkeypatch):
    """The whole runner: never all images at once, and the log names what was left out."""
    counts, read = [], streaming.PackedImages.__getitem__

    def counted(self, index):
        images = read(self, index)
        counts.append(len(images) if images.ndim == 4 else 1)
        return images

    monkeypatch.setattr(streaming.PackedImages, "__getitem__", counted)
    monkeypatch.setattr(streaming.PackedImages, "__array__", None)
    file = zoo.recipe.find("nin_dsn")
    recipe = zoo.recipe.load(file)
    fields = {"data": str(broken), "epochs": 1, "batch_size": 3, "width": 0.05, "pad_and_crop": 1}
    fields |= {"precision": "float32", "skip_corrupt": 0.2}
    runs = {
        stream: zoo.training.train(
            recipe(stream=stream, **fields),
            file,
            runs=tmp_path,
            name=str(stream),
            deterministic=False,
            page=stream,
        )
        for stream in (True, False)
    }
    assert 0 < max(counts) <= 3
    states = [np.load(max(run.glob("checkpoints/*/state.npz"))) for run in runs.values()]
    assert set(states[0]) == set(states[1])
    for name in states[0]:
        np.testing.assert_array_equal(states[0][name], states[1][name])
    for run in runs.values():
        (warning,) = json.loads((run / "results.json").read_text())["warnings"]
        assert warning.startswith("3 files of photographs were left out, see skipped.txt: ")
        assert "50.png" in warning
        assert "52.jpg" in (run / "skipped.txt").read_text().splitlines()[2]
