import hashlib

import pytest

from zoo import files


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
