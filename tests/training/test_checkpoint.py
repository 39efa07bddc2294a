import hashlib
import json
import os
import resource

import keras
import numpy as np
import pytest

from zoo import files
from zoo.training import checkpoint


def variables(seed, shapes=((3, 2), (4,), ())):
    rng = np.random.default_rng(seed)
    return [
        keras.Variable(rng.normal(size=shape), dtype="float32", name=f"v{index}")
        for index, shape in enumerate(shapes)
    ]


def values(variables):
    return [np.array(v) for v in variables]


def assert_same(one, other):
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_was_saved_comes_back_with_its_bits(tmp_path):
    state = [
        *variables(0),
        keras.Variable([1, 2**31 - 1], dtype="int32", name="count"),
        keras.Variable([7, 4294967295], dtype="uint32", name="seed"),
        keras.Variable([1.5, 3.140625], dtype="bfloat16", name="half"),
    ]
    checkpoint.save(tmp_path, 12, state, {"epoch": 3, "rate": 0.1})
    saved = values(state)
    for variable in state:
        variable.assign(variable * 0)
    meta, damaged = checkpoint.restore(tmp_path, state)
    assert (meta, damaged) == ({"epoch": 3, "rate": 0.1}, [])
    assert_same(values(state), saved)
    assert checkpoint.latest_step(tmp_path) == 12


def test_the_newest_is_restored_and_only_two_are_kept(tmp_path):
    for step in (5, 900, 10_000):
        checkpoint.save(tmp_path, step, variables(step), {"step": step})
    assert sorted(os.listdir(tmp_path)) == ["step-0000000900", "step-0000010000"]
    state = variables(1)
    assert checkpoint.restore(tmp_path, state)[0] == {"step": 10_000}
    assert_same(values(state), values(variables(10_000)))


def test_an_empty_folder_restores_nothing(tmp_path):
    state = variables(1)
    assert checkpoint.restore(tmp_path / "none", state) == (None, [])
    assert_same(values(state), values(variables(1)))
    assert checkpoint.latest_step(tmp_path) is None


@pytest.mark.parametrize("name", ["state.npz", "meta.json"])
def test_no_damage_is_ever_restored(tmp_path, name):
    """Every truncation and every flipped bit is noticed, and the commit before it is taken."""
    checkpoint.save(tmp_path, 1, variables(1), {"step": 1})
    commit = checkpoint.save(tmp_path, 2, variables(2), {"step": 2})
    whole = (commit / name).read_bytes()
    rng = np.random.default_rng(0)
    damages = [whole[: rng.integers(len(whole))] for _ in range(20)] + [b"", b"garbage"]
    for position in rng.integers(len(whole), size=40):
        flipped = bytearray(whole)
        flipped[position] ^= 1 << rng.integers(8)
        damages.append(bytes(flipped))
    for damage in damages:
        (commit / name).write_bytes(damage)
        state = variables(0)
        meta, damaged = checkpoint.restore(tmp_path, state)
        assert meta == {"step": 1}, damage
        assert damaged == [commit.name]
        assert_same(values(state), values(variables(1)))
    (commit / name).write_bytes(whole)
    assert checkpoint.restore(tmp_path, variables(0))[0] == {"step": 2}


def test_if_all_are_damaged_it_says_so(tmp_path):
    (checkpoint.save(tmp_path, 1, variables(1), {}) / "state.npz").write_bytes(b"")
    with pytest.raises(checkpoint.CheckpointError, match="step-0000000001"):
        checkpoint.restore(tmp_path, variables(1))


@pytest.mark.parametrize(
    ("shapes", "message"),
    [(((3, 2), (5,), ()), r"v1.*\[4\].*v1.*\[5\]"), (((3, 2), (4,)), "3 variables.*2")],
)
def test_the_state_of_another_model_is_refused(tmp_path, shapes, message):
    checkpoint.save(tmp_path, 1, variables(1), {})
    state = variables(0, shapes)
    with pytest.raises(checkpoint.CheckpointError, match=message):
        checkpoint.restore(tmp_path, state)
    assert_same(values(state), values(variables(0, shapes)))


def test_a_failed_write_costs_nothing_but_itself(tmp_path):
    """A limit on the size of files acts like a full disk. Stock Keras loses the old file here."""
    checkpoint.save(tmp_path, 1, variables(1), {"step": 1})
    big = [keras.Variable(np.zeros(200_000), dtype="float32", name="big")]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OSError):
            checkpoint.save(tmp_path, 2, big, {"step": 2})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert os.listdir(tmp_path) == ["step-0000000001"]
    assert checkpoint.restore(tmp_path, variables(0))[0] == {"step": 1}


def test_what_a_kill_left_unfinished_is_never_read_and_goes_with_the_next_commit(tmp_path):
    checkpoint.save(tmp_path, 1, variables(1), {"step": 1})
    torn = tmp_path / "step-0000000002.tmp"
    torn.mkdir()
    (torn / "state.npz").write_bytes(b"half")
    assert checkpoint.restore(tmp_path, variables(0))[0] == {"step": 1}
    checkpoint.save(tmp_path, 3, variables(3), {"step": 3})
    assert sorted(os.listdir(tmp_path)) == ["step-0000000001", "step-0000000003"]


def test_no_pickle_is_read(tmp_path):
    commit = checkpoint.save(tmp_path, 1, variables(1, [(2,)]), {})
    with open(commit / "state.npz", "wb") as file:
        np.savez(file, v0=np.array([{"a": 1}], dtype=object))
    record = json.loads((commit / "meta.json").read_text().splitlines()[1])
    record["sha256"] = files.sha256(commit / "state.npz")
    text = json.dumps(record)
    checksum = hashlib.sha256(text.encode()).hexdigest()
    (commit / "meta.json").write_text(f"{checksum}\n{text}\n")
    with pytest.raises(ValueError, match="allow_pickle"):
        checkpoint.restore(tmp_path, variables(1, [(2,)]))


def test_damaged_commits_are_not_among_those_kept(tmp_path):
    for step in (1, 2):
        checkpoint.save(tmp_path, step, variables(step), {"step": step})
    (tmp_path / "step-0000000002" / "state.npz").write_bytes(b"torn")
    (tmp_path / "step-0000000009").mkdir()  # damaged, and newer than what is saved next
    checkpoint.save(tmp_path, 3, variables(3), {"step": 3})
    assert sorted(os.listdir(tmp_path)) == ["step-0000000001", "step-0000000003"]
    (tmp_path / "step-0000000003" / "meta.json").write_bytes(b"torn")
    assert checkpoint.restore(tmp_path, variables(0)) == ({"step": 1}, ["step-0000000003"])


def test_a_check_comes_before_any_variable_changes(tmp_path):
    def refuse(commit, meta):
        raise ValueError(f"{commit.name} {meta}")

    checkpoint.save(tmp_path, 1, variables(1), {"a": 2})
    state = variables(0)
    with pytest.raises(ValueError, match=r"step-0000000001 \{'a': 2\}"):
        checkpoint.restore(tmp_path, state, refuse)
    assert_same(values(state), values(variables(0)))


def test_only_unfinished_commits_are_removed(tmp_path):
    for name in ("step-0000000001.tmp", "step-1.tmp", "mine.tmp", "step-0000000002"):
        (tmp_path / name).mkdir()
    checkpoint.remove_unfinished(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["mine.tmp", "step-0000000002", "step-1.tmp"]
