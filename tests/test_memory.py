"""What the machine has left, and what is refused because it needs more."""

import dataclasses
import sys

import pytest

import zoo
import zoo.data
from zoo import memory, recipe, training
from zoo.training import plan

GIB = 2**30


@pytest.fixture
def gib_left(monkeypatch):
    """A function that says how many GiB this machine has left from now on."""

    def left(gib):
        monkeypatch.setattr(memory, "available", lambda: gib * GIB)

    left(15)
    return left


def machine(root, meminfo, groups, files):
    """Write files of /proc and /sys below `root`."""
    texts = {"proc/meminfo": meminfo, "proc/self/cgroup": groups, **files}
    for name, text in texts.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


MEMINFO = "MemTotal:  16777216 kB\nMemAvailable:   8388608 kB\nSwapFree: 0 kB\n"
NO_PAGES = "anon 5\ninactive_file 0\nactive_file 0\n"


@pytest.mark.parametrize(
    ("groups", "files", "gib"),
    [
        ("0::/\n", {}, 8),
        ("0::/a/b\n", {"memory.max": "max\n", "memory.current": "1\n"}, 8),
        ("0::/a/b\n", {"memory.max": f"{4 * GIB}\n", "memory.current": f"{3 * GIB}\n"}, 1),
        # The group around it has less.
        (
            "0::/a/b\n",
            {"memory.max": f"{4 * GIB}", "memory.current": "0", "../memory.max": f"{2 * GIB}"}
            | {"../memory.current": "0", "../memory.stat": NO_PAGES},
            2,
        ),
        # The system takes the pages of files back.
        (
            "0::/a/b\n",
            {"memory.max": f"{4 * GIB}\n", "memory.current": f"{4 * GIB}\n"}
            | {"memory.stat": f"inactive_file {GIB}\nactive_file {GIB}\n"},
            2,
        ),
        ("0::/a/b\n", {"memory.max": "5\n", "memory.current": "9\n"}, 0),
    ],
)
def test_a_container_has_what_its_control_groups_leave(groups, files, gib, tmp_path):
    inside = {f"sys/fs/cgroup/a/b/{name}": text for name, text in files.items()}
    inside.setdefault("sys/fs/cgroup/a/b/memory.stat", NO_PAGES)
    assert memory.available(machine(tmp_path, MEMINFO, groups, inside)) == gib * GIB


def test_control_groups_of_version_1(tmp_path):
    # In a container, the path is that of the machine outside.
    groups = "5:cpu:/x\n4:cpuset,memory:/docker/0123\n"
    stat = f"inactive_file 7\nactive_file 7\ntotal_inactive_file {GIB}\ntotal_active_file 0\n"
    folder = "sys/fs/cgroup/memory"
    files = {f"{folder}/memory.limit_in_bytes": f"{6 * GIB}\n", f"{folder}/memory.stat": stat}
    files[f"{folder}/memory.usage_in_bytes"] = f"{4 * GIB}\n"
    assert memory.available(machine(tmp_path, MEMINFO, groups, files)) == 3 * GIB


def test_memory_that_nobody_tells_refuses_nothing(tmp_path, monkeypatch):
    assert memory.available(tmp_path) is None
    monkeypatch.setattr(memory, "available", lambda: None)
    memory.require(2**80, "Everything", "give less")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_this_machine_tells():
    assert memory.available() > 0


def test_what_needs_more_is_refused_by_its_number_unless_forced(gib_left):
    memory.require(15 * GIB, "A net", "give less")
    with pytest.raises(memory.TooLarge, match=r"A net would take 1\.0e\+06 GiB .*has 15\.0 GiB"):
        memory.require(10**6 * GIB, "A net", "give less")
    with memory.forced():
        memory.require(10**6 * GIB, "A net", "give less")
        with memory.forced(False), pytest.raises(memory.TooLarge, match="GiB left: give less"):
            memory.require(16 * GIB, "A net", "give less")
    with pytest.raises(memory.TooLarge, match=r"try it with --force\.$"):
        memory.require(16 * GIB, "A net", "give less")


@pytest.mark.parametrize(
    ("build", "numbers"),
    [
        (lambda: zoo.nin(width=1e6), "949,248,016,320,000,000 weights of a net with width 1e\\+06"),
        (lambda: zoo.nin(classes=10**8), "100000000 classes"),
        (lambda: zoo.nin_dsn(width=1e6), "3.5e\\+09 GiB"),
        (lambda: zoo.nin((512, 512, 3), 1000, width=0.01, head="dense"), "16,384,000 values"),
        (lambda: zoo.mlp(hidden=(10**6, 10**6)), "1,000,794,000,000 weights.*1000000, 1000000"),
    ],
)
def test_a_net_that_is_too_large_is_refused_before_it_is_built(build, numbers, gib_left):
    with pytest.raises(memory.TooLarge, match=numbers):
        build()


def test_the_weights_are_those_of_the_kernels(gib_left, monkeypatch):
    needed = []
    monkeypatch.setattr(memory, "require", lambda size, *_: needed.append(size))
    net = zoo.nin((8, 8, 1), 3, variant="plain", width=0.1, head="dense")
    kernels = [weight for weight in net.weights if len(weight.shape) > 1]
    assert sum(needed) == 4 * sum(weight.numpy().size for weight in kernels)
    needed.clear()
    net = zoo.mlp((8, 8, 1), 3, hidden=(4, 5))
    assert sum(needed) == 4 * sum(w.numpy().size for w in net.weights if len(w.shape) > 1)


@pytest.mark.parametrize("width", [float("nan"), float("inf"), 1e308, 1e8, 0, -1])
def test_a_width_that_is_absurd_is_refused(width):
    with memory.forced(), pytest.raises(ValueError, match="width is a positive factor"):
        zoo.nin(width=width)


def test_images_that_are_too_large_are_refused_before_they_are_read(gib_left, monkeypatch):
    with pytest.raises(memory.TooLarge, match=r"image_size of \(100000, 100000\)"):
        zoo.data.load("digits", image_size=(100000, 100000))
    with pytest.raises(memory.TooLarge, match=r"1438 images of \(4000, 4000\)"):
        zoo.data.load("digits", image_size=(4000, 4000))
    large = recipe.Recipe(image_size=(4000, 4000))
    with pytest.raises(memory.TooLarge, match=r"Batches of 128 images of \(4000, 4000\)"):
        plan.checked_data(large)
    assert zoo.data.load("digits", image_size=(9, 10)).images.shape == (1438, 9, 10, 1)


@dataclasses.dataclass(frozen=True)
class Small(recipe.Recipe):
    precision: recipe.Precision = "float32"

    def model(self, data, steps):
        return zoo.nin(data.image_shape, data.classes, width=0.1)


def test_a_step_that_is_too_large_is_refused_before_the_first(gib_left, tmp_path):
    file = tmp_path / "small.py"
    file.write_text('"""Small."""\n')
    options = {"runs": tmp_path / "runs", "deterministic": False}
    gib_left(0.03)
    with pytest.raises(memory.TooLarge, match=r"A step with 1,400 images of \(8, 8, 1\)"):
        training.train(Small(batch_size=1400), file, **options)
    assert not (tmp_path / "runs").exists()
    data = zoo.data.load("digits")
    plan.compiled_plan(Small(batch_size=1400, micro_batches=100), data, 10, None)
    gib_left(0)
    with memory.forced():
        plan.compiled_plan(Small(batch_size=1400), data, 10, None)


def test_the_values_of_a_step_are_those_of_all_convolutions():
    net = zoo.nin((8, 8, 1), 3, width=0.1)
    values = 64 * (1 + 19 + 16 + 10) + 16 * (10 + 3 * 19) + 4 * (19 + 2 * 19)
    total = sum(map(plan._bytes_an_image, net.layers)) / 4
    assert values <= total <= 1.3 * values  # the other layers: scale, dropout, class maps, logits
