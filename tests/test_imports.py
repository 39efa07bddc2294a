"""Who may import whom: one table, for every module."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
STUDIES = sorted((ROOT / "zoo" / "studies").glob("*.py"))
SERVING = sorted((ROOT / "zoo" / "serving").glob("*.py"))
MODULES = sorted((ROOT / "zoo").glob("*.py")) + SERVING + STUDIES

# What a module may import of the zoo, and of what is installed. Standard library: always.
NUMERIC = {"keras", "numpy"}
TENSORFLOW = NUMERIC | {"tensorflow"}
ALLOWED = {
    "__init__": (set(), set()),
    "__main__": ({"cli"}, set()),
    "_c_api": (set(), {"numpy"}),
    "arithmetic": (set(), {"keras"}),
    # TensorFlow has the fused kernel; the import stands in the function that needs it.
    "layers": (set(), TENSORFLOW),
    "preprocessing": (set(), NUMERIC),
    "losses": (set(), NUMERIC),
    "optimizers": (set(), NUMERIC),
    # TensorFlow knows the number of replicas; likewise in a function.
    "knowledge": ({"losses"}, NUMERIC),
    "taps": (set(), NUMERIC),
    "objective": ({"losses"}, TENSORFLOW),
    "deep_supervision": ({"objective"}, NUMERIC),
    "distillation": ({"deep_supervision", "fingerprint", "objective", "taps"}, NUMERIC),
    "fingerprint": ({"arithmetic"}, {"numpy"}),
    # TensorFlow in functions: a machine that trains with JAX may lack it.
    "distribute": (set(), TENSORFLOW),
    "specialists": (set(), NUMERIC | {"sklearn"}),
    "teachers": (
        {"arithmetic", "data", "distillation", "files", "fingerprint", "layers", "preprocessing"}
        | {"pretrained"},
        TENSORFLOW,
    ),
    "models": ({"layers", "deep_supervision", "pretrained"}, NUMERIC),
    "pretrained": ({"deep_supervision", "files", "layers", "preprocessing"}, {"keras"}),
    "provenance": ({"distribute"}, {"keras", "tensorflow"}),
    "reproducing": ({"pretrained", "recipe", "training"}, {"scipy"}),
    "gradients": (set(), NUMERIC),
    "presets": ({"losses", "optimizers"}, NUMERIC),
    "streaming": ({"files"}, {"numpy"}),
    "numpy_data": (set(), NUMERIC),
    "data": (
        {"numpy_data", "streaming"},
        NUMERIC | {"tensorflow", "PIL", "sklearn", "tensorflow_datasets"},
    ),
    "files": (set(), set()),
    "measures": (set(), {"numpy"}),
    "checkpoint": ({"files"}, {"numpy"}),
    "recipe": ({"data", "files", "optimizers"}, {"keras"}),
    "students": ({"models", "distillation", "recipe", "teachers"}, set()),
    "papers": ({"data", "models", "optimizers", "preprocessing", "presets", "recipe"}, NUMERIC),
    "packing": ({"data", "files", "pretrained", "recipe"}, {"numpy"}),
    "progress": (set(), {"rich"}),
    "training": (
        {"checkpoint", "deep_supervision", "distribute", "files", "measures", "numpy_data"}
        | {"predicting", "provenance", "progress", "recipe", "report"},
        TENSORFLOW | {"PIL"},
    ),
    # The folder zoo/serving, but for `answers`.
    "signatures": (set(), {"keras", "tensorflow"}),
    "served": ({"answers", "files"}, {"numpy", "tensorflow"}),
    # The standard library alone, for the client; Pillow encodes in the function that exports.
    "examples": (set(), {"PIL"}),
    "warmup": ({"signatures"}, {"numpy", "tensorflow", "tensorflow_serving"}),
    "asked": ({"_c_api", "served", "signatures", "warmup"}, {"google", "numpy", "tensorflow"}),
    "hostile": ({"signatures"}, {"numpy", "tensorflow", "PIL"}),
    "verifying": (
        {"_c_api", "arithmetic", "asked", "examples", "hostile", "served", "signatures", "warmup"},
        TENSORFLOW,
    ),
    "card": (
        {"files", "measures", "pretrained", "provenance", "served", "signatures"},
        {"jinja2", "keras", "tensorflow"},
    ),
    "exporting": (
        {"arithmetic", "asked", "card", "examples", "files", "models", "pretrained", "served"}
        | {"signatures", "verifying", "warmup"},
        TENSORFLOW,
    ),
    "converting": (
        {"asked", "examples", "files", "served"},
        {"ai_edge_litert", "numpy", "onnxruntime", "tensorflow"},
    ),
    "answers": (set(), {"rich"}),
    "client": ({"answers", "examples", "grpc_client"}, set()),
    "grpc_client": (
        {"answers", "asked", "client", "examples"},
        {"grpc", "tensorflow", "tensorflow_serving"},
    ),
    "tuning": (
        {"figures", "files", "recipe", "studies", "training"},
        {"keras", "keras_tuner", "numpy", "rich"},
    ),
    "figures": ({"measures"}, {"numpy", "matplotlib"}),
    "report": ({"figures", "files", "measures"}, {"keras", "numpy", "jinja2"}),
    "predicting": (
        {"answers", "data", "deep_supervision", "distillation", "layers", "preprocessing"}
        | {"measures", "served"},
        {"keras", "numpy", "rich"},
    ),
    "cli": (
        {"card", "client", "converting", "data", "packing", "predicting", "pretrained", "recipe"}
        | {
            "report",
            "reproducing",
            "exporting",
            "served",
            "studies",
            "training",
            "tuning",
            "verifying",
        },
        {"keras", "rich", "tensorflow", "tyro"},
    ),
    # One rule for the folder.
    "studies": (
        {"data", "figures", "layers", "predicting", "recipe", "report", "specialists", "studies"}
        | {"training"},
        {"keras", "matplotlib", "numpy", "sklearn", "threadpoolctl"},
    ),
}
# In these, keras and TensorFlow may be imported by functions alone: they must load at once.
LIGHT = {"__init__", "__main__", "cli", "recipe", "progress", "checkpoint", "_c_api", "figures"}
LIGHT |= {"answers", "client", "examples", "files"}


def rule(path):
    """The name of its row in the table."""
    return "studies" if path in STUDIES else path.stem


def name(path):
    return str(path.relative_to(ROOT).with_suffix(""))


def imports(path, top_level_only=False):
    """The dotted names that a file imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative import"
            if node.module in ("zoo", "zoo.serving"):
                yield from (f"{node.module}.{alias.name}" for alias in node.names)
            else:
                yield node.module


def test_every_module_has_a_rule():
    assert {rule(path) for path in MODULES} == set(ALLOWED)


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_a_module_imports_what_its_rule_allows(path):
    siblings, packages = ALLOWED[rule(path)]
    for found in imports(path):
        top, *rest = found.split(".")
        if top == "zoo":
            sibling = next((each for each in rest if each != "serving"), None)
            assert sibling is None or sibling in siblings, found
        elif top not in sys.stdlib_module_names:
            assert top in packages, found


@pytest.mark.parametrize("path", [*sorted(ROOT.glob("*/*.py")), *SERVING, *STUDIES], ids=name)
def test_only_public_names_of_keras_and_tensorflow_are_used(path):
    for found in imports(path):
        assert not found.startswith(("keras.src", "tensorflow.python", "tensorflow.keras")), found
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert (node.value.id, node.attr) != ("tf", "keras")


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_nothing_unsafe_is_called(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            called = getattr(node.func, "id", getattr(node.func, "attr", None))
            assert called not in {"eval", "exec", "compile_command", "Lambda"}, called
            for keyword in node.keywords:
                value = getattr(keyword.value, "value", None)
                assert (keyword.arg, value) not in {("safe_mode", False), ("allow_pickle", True)}
    assert not {"pickle", "joblib", "dill", "marshal"} & set(imports(path))


@pytest.mark.parametrize("path", [p for p in MODULES if p.stem in LIGHT], ids=name)
def test_what_must_load_at_once_imports_no_keras_at_its_top(path):
    found = {i.split(".")[0] for i in imports(path, top_level_only=True)}
    assert not found & {"keras", "tensorflow", "tensorflow_datasets", "sklearn"}


@pytest.mark.parametrize(
    "path", sorted((ROOT / "recipes").glob("*.py")), ids=lambda path: path.stem
)
def test_recipes_import_the_zoo_and_not_one_another(path):
    for name in imports(path):
        top = name.split(".")[0]
        assert top in {"zoo", "keras", "numpy"} or top in sys.stdlib_module_names, name


def modules_after(code):
    program = f"import sys\n{code}\nprint(*sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return set(run.stdout.split())


def test_import_zoo_loads_keras_and_its_backend_and_nothing_more():
    keras_loads = modules_after("import keras; keras.layers.Dense")  # scikit-learn, if installed
    loaded = modules_after("import keras, zoo; zoo.nin_dsn") - keras_loads
    assert "zoo.deep_supervision" in loaded
    heavy = {"tensorflow_datasets", "keras_tuner", "sklearn", "matplotlib", "tyro", "jinja2"}
    assert not loaded & (heavy | {"zoo.data", "zoo.training", "zoo.cli"})


def test_the_command_starts_without_tensorflow():
    assert not modules_after("import zoo.cli") & {"keras", "tensorflow", "numpy"}


def test_importing_zoo_after_keras_is_enough_to_load_a_model(tmp_path):
    save = f"import zoo; zoo.nin((8, 8, 1), width=0.1).save({str(tmp_path / 'm.keras')!r})"
    load = f"import keras, zoo; keras.models.load_model({str(tmp_path / 'm.keras')!r})"
    for code in (save, load):
        modules_after(code)


def test_unknown_names_are_refused_as_python_refuses_them():
    import zoo

    with pytest.raises(AttributeError, match="no attribute 'nni'"):
        zoo.nni  # noqa: B018
    assert {"nin", "nin_dsn", "DeeplySupervised"} <= set(dir(zoo))
