import pytest

from zoo import provenance


@pytest.mark.parametrize(
    ("flags", "expected"),
    [("avx2 fma", "float32"), ("avx512_bf16", "mixed_bfloat16"), ("amx_bf16", "mixed_bfloat16")],
)
def test_bfloat16_is_for_processors_that_have_it(flags, expected, tmp_path, monkeypatch):
    (tmp_path / "cpuinfo").write_text(f"processor : 0\nflags\t\t: fpu {flags} sse\n")
    has = provenance._cpu_has_bfloat16
    monkeypatch.setattr(provenance, "_cpu_has_bfloat16", lambda: has(tmp_path / "cpuinfo"))
    assert provenance.dtype_policy("auto") == expected
    assert provenance.dtype_policy("mixed_float16") == "mixed_float16"
    assert not has(tmp_path / "no such file")


@pytest.mark.parametrize(
    ("program", "expected"),
    [("/venv/bin/zoo", "zoo"), ("/site/zoo/__main__.py", "python -m zoo")],
)
def test_the_command_is_one_that_can_be_typed(program, expected):
    command = provenance._command([program, "train", "my recipe.py", "--seed", "1"])
    assert command == f"{expected} train 'my recipe.py' --seed 1"
