import fcntl
import hashlib
import os

import pytest

from zoo import files
from zoo.errors import UsageError


def test_a_file_has_its_name_when_it_is_whole_and_not_before(tmp_path):
    path = tmp_path / "model.keras"
    path.write_text("old")
    with files.whole(path) as partial:
        assert partial.suffix == ".keras"  # Keras refuses another
        partial.write_text("half of the new")
        assert path.read_text() == "old"
    assert path.read_text() == "half of the new"
    assert [each.name for each in tmp_path.iterdir()] == ["model.keras"]


@pytest.mark.parametrize("error", [OSError("the disk is full"), KeyboardInterrupt()], ids=repr)
def test_after_an_error_the_old_file_is_there_and_no_other(error, tmp_path):
    path = tmp_path / "results.json"
    path.write_text("old")

    def write():
        with files.whole(path) as partial:
            partial.write_text("half")
            raise error

    with pytest.raises(type(error)):
        write()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_text_and_bytes_are_written_alike(tmp_path):
    files.write(tmp_path / "text", "größer\n")
    files.write(tmp_path / "bytes", "größer\n".encode())
    for name in ("text", "bytes"):
        assert (tmp_path / name).read_bytes() == b"gr\xc3\xb6\xc3\x9fer\n"


def test_a_checksum_is_that_of_hashlib(tmp_path):
    (tmp_path / "bytes").write_bytes(bytes(range(256)) * 999)
    expected = hashlib.sha256(bytes(range(256)) * 999).hexdigest()
    assert files.sha256(tmp_path / "bytes") == expected


@pytest.mark.parametrize("kind", ["link", "broken link", "pipe", "folder"])
def test_only_a_regular_file_is_replaced(kind, tmp_path):
    """A device is of this kind, too: as root, a rename would replace /dev/null."""
    path, other = tmp_path / "path", tmp_path / "other"
    if kind == "link":
        other.write_text("mine")
    {
        "link": lambda: path.symlink_to(other),
        "broken link": lambda: path.symlink_to(other),
        "pipe": lambda: os.mkfifo(path),
        "folder": path.mkdir,
    }[kind]()
    before = path.lstat()
    with pytest.raises(UsageError, match="no regular file"):
        files.write(path, "new")
    assert os.path.samestat(before, path.lstat())
    assert {entry.name for entry in tmp_path.iterdir()} <= {"path", "other"}
    assert not other.exists() or other.read_text() == "mine"


def test_the_next_write_removes_what_a_killed_one_left_and_not_what_a_living_one_writes(tmp_path):
    path = tmp_path / "a[1].json"
    dead, alive = (tmp_path / f".a[1].{pid}.partial.json" for pid in (1, 2))
    other = tmp_path / ".a1.3.partial.json"
    for partial in (dead, alive, other):
        partial.touch()
    with open(alive) as writing:
        fcntl.flock(writing, fcntl.LOCK_EX)
        files.write(path, "{}")
    assert {entry.name for entry in tmp_path.iterdir()} == {path.name, alive.name, other.name}
    with files.whole(path) as partial:
        files.remove_partials(tmp_path)
        assert list(tmp_path.glob(".*")) == [partial]
        partial.write_text("new")
    assert path.read_text() == "new"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe  a\n", "not UTF-8"),
        (b"a" * 64 + b"  a\n" + b"a" * 63 + b"  b\n", "line 2 is not"),
        (b"a" * 64 + b"  \n", "line 1 is not"),
        (b"a" * 64 + b" a\n", "line 1 is not"),
    ],
)
def test_damaged_checksums_are_one_line_that_names_the_file(content, message, tmp_path):
    (tmp_path / "SHA256SUMS").write_bytes(content)
    with pytest.raises(UsageError, match=f"SHA256SUMS is damaged: .*{message}"):
        files.listed_checksums(tmp_path)


def test_listed_checksums_are_those_of_the_file(tmp_path):
    (tmp_path / "SHA256SUMS").write_text(f"{'a' * 64}  b c\n{'d' * 64}  e\u2028f\n", "utf-8")
    assert files.listed_checksums(tmp_path) == {"b c": "a" * 64, "e\u2028f": "d" * 64}
