import subprocess

import pytest

from zoo import provenance
from zoo.recipe import Recipe


@pytest.mark.parametrize(
    ("flags", "expected"),
    [("avx2 fma", "float32"), ("avx512_bf16", "mixed_bfloat16"), ("amx_bf16", "mixed_bfloat16")],
)
def test_bfloat16_is_for_processors_that_have_it(flags, expected, tmp_path):
    (tmp_path / "cpuinfo").write_text(f"processor : 0\nflags\t\t: fpu {flags} sse\n")
    assert provenance.dtype_policy("auto", tmp_path / "cpuinfo") == expected
    assert provenance.dtype_policy("mixed_float16", tmp_path / "cpuinfo") == "mixed_float16"
    assert provenance.dtype_policy("auto", tmp_path / "no such file") == "float32"


@pytest.mark.parametrize(
    ("flags", "expected"),
    [("avx2", "A, 2nd: B"), ("avx512_bf16 amx_bf16", "A, 2nd: B (amx_bf16, avx512_bf16)")],
)
def test_a_processor_is_named_with_what_its_speed_depends_on(flags, expected, tmp_path):
    core = f"processor : 0\nmodel name\t: A, 2nd: B\nflags\t\t: fpu {flags} sse\n"
    (tmp_path / "cpuinfo").write_text(core + core)
    assert provenance.processor(tmp_path / "cpuinfo") == expected
    assert provenance.processor(tmp_path / "no such file")


@pytest.mark.parametrize(
    ("program", "expected"),
    [("/venv/bin/zoo", "zoo"), ("/site/zoo/__main__.py", "python -m zoo")],
)
def test_the_command_is_one_that_can_be_typed(program, expected):
    typed = provenance.command([program, "train", "my recipe.py", "--seed", "1"])
    assert typed == f"{expected} train 'my recipe.py' --seed 1"


def test_the_commit_is_that_of_the_zoo_and_not_of_a_repository_around_it(tmp_path, monkeypatch):
    module = tmp_path / "site-packages" / "zoo" / "provenance.py"
    module.parent.mkdir(parents=True)
    module.touch()
    git = ["git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "theirs"], check=True)
    monkeypatch.setattr(provenance, "__file__", str(module))
    found = provenance.versions(Recipe(precision="float32"), True, None)
    assert (found["commit"], found["dirty"]) == (None, False)
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "ours"], check=True)
    assert provenance.versions(Recipe(precision="float32"), True, None)["commit"]
