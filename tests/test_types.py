"""The public functions that mypy checks have types; `make lint` runs mypy itself."""

import ast
import configparser
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def checked_modules():
    """The modules that setup.cfg gives to mypy."""
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg", encoding="utf-8")
    places = [ROOT / place.strip() for place in settings["mypy"]["files"].split(",")]
    return sorted(
        module
        for place in places
        for module in ([place] if place.is_file() else place.rglob("*.py"))
    )


def untyped_public_functions(body, prefix=""):
    """The names of the public functions and methods that lack a type."""
    for node in body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from untyped_public_functions(node.body, f"{node.name}.")
        elif isinstance(node, ast.FunctionDef) and (node.name[0] != "_" or node.name == "__init__"):
            arguments = node.args
            named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
            if prefix and named and named[0].arg in ("self", "cls"):
                del named[0]
            named += filter(None, (arguments.vararg, arguments.kwarg))
            if node.returns is None or any(argument.annotation is None for argument in named):
                yield prefix + node.name


@pytest.mark.parametrize("module", checked_modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_public_functions_have_types(module):
    tree = ast.parse(module.read_text(encoding="utf-8"))
    assert not list(untyped_public_functions(tree.body))


@pytest.mark.parametrize(
    ("code", "untyped"),
    [
        ("def f(a: int) -> int: ...", []),
        ("def f(a): ...", ["f"]),
        ("def f(*, a) -> int: ...", ["f"]),
        ("def f(**others) -> int: ...", ["f"]),
        ("def _f(a): ...", []),
        ("class A:\n    def f(self) -> int: ...\n    def g(self): ...", ["A.g"]),
        ("class _A:\n    def f(self): ...", []),
    ],
)
def test_a_missing_type_is_found(code, untyped):
    assert list(untyped_public_functions(ast.parse(code).body)) == untyped
