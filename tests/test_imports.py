"""Who may import whom: one table, for every module."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted((ROOT / "zoo").rglob("*.py"))

# The floors of the house, the lowest first. A floor imports floors below it and its own modules,
# and of what is installed the packages that are named. The standard library is always allowed.
ROOT_FILES = {"errors", "text", "files", "measures", "tables", "precision", "fingerprint"}
ROOT_FILES |= {"provenance", "exports", "freezing", "pixel_range", "markup", "terminal"}
ROOT_FILES |= {"memory", "programs", "records"}
NUMERIC = {"keras", "numpy"}
TENSORFLOW = NUMERIC | {"tensorflow"}
FLOORS = {
    # floor: (floors below that it may import, packages)
    "root": (set(), TENSORFLOW | {"google", "jinja2", "rich"}),
    "layers": ({"root"}, TENSORFLOW),
    "losses": ({"root"}, TENSORFLOW),
    "optimizers": ({"root"}, NUMERIC),
    "objectives": ({"root", "losses"}, NUMERIC | {"sklearn"}),
    "data": ({"root"}, TENSORFLOW | {"PIL", "sklearn", "tensorflow_datasets"}),
    "recipe": ({"root", "optimizers", "data"}, {"keras"}),
    "runs": ({"root", "recipe"}, {"numpy"}),
    "saving": ({"root", "objectives", "recipe", "runs"}, {"keras"}),
    "models": (
        {"root", "layers", "losses", "optimizers", "objectives", "runs", "saving"},
        NUMERIC,
    ),
    "report": ({"root", "runs"}, NUMERIC | {"markupsafe", "matplotlib"}),
    "training": (
        {"root", "layers", "losses", "optimizers", "objectives", "data", "recipe", "runs"}
        | {"saving", "models", "report"},
        TENSORFLOW | {"PIL", "rich"},
    ),
    "serving": (
        {"root", "runs", "saving", "models"},
        TENSORFLOW
        | {"ai_edge_litert", "google", "grpc", "onnx", "onnxruntime", "PIL"}
        | {"tensorflow_serving"},
    ),
    "experiments": (
        {"root", "layers", "losses", "optimizers", "objectives", "data", "recipe", "runs"}
        | {"saving", "models", "report", "training"},
        NUMERIC | {"keras_tuner", "matplotlib", "rich", "scipy", "sklearn", "threadpoolctl"},
    ),
    "commands": (
        {"root", "data", "recipe", "runs", "saving", "models", "report", "training", "serving"}
        | {"experiments"},
        TENSORFLOW | {"rich", "tyro"} | {"fastapi", "gradio", "PIL", "uvicorn"},
    ),
}
# Here keras and TensorFlow may be imported by functions alone. The command must start at once.
LIGHT = {"zoo", "zoo.__main__", "zoo.recipe", "zoo.runs", "zoo.exports", "zoo.files", "zoo.text"}
LIGHT |= {"zoo.errors", "zoo.tables", "zoo.commands", "zoo.commands.main", "zoo.commands.parsing"}
LIGHT |= {"zoo.commands.recipes", "zoo.commands.runs", "zoo.commands.exports"}
LIGHT |= {"zoo.commands.sending", "zoo.markup", "zoo.terminal", "zoo.records"}
LIGHT |= {"zoo.commands.studies", "zoo.commands.tensorflow", "zoo.commands.exportable"}
LIGHT |= {"zoo.commands.demo", "zoo.commands.models"}
LIGHT |= {"zoo.commands.output", "zoo.commands.pictures"}
LIGHT |= {
    "zoo.serving",
    "zoo.serving.client",
    "zoo.serving.rest_client",
    "zoo.serving.servers",
    "zoo.serving.example_requests",
    "zoo.serving._c_api",
}
# Importing Keras registers these floors, zoo/__init__.py says how; so what they import must not
# itself be the first to import Keras.
REGISTERING = ("layers", "losses", "optimizers", "objectives")


def module(path):
    """The dotted name of a file: zoo/data/packs.py is zoo.data.packs."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def floor(dotted):
    """The floor of a module; None for the package itself."""
    first = dotted.split(".")[1:2]
    if not first:
        return None
    return "root" if first[0] in ROOT_FILES else first[0]


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
            if node.module.split(".")[0] == "zoo":
                yield from (f"{node.module}.{alias.name}" for alias in node.names)
            else:
                yield node.module


def test_every_module_stands_on_a_floor_and_a_floor_on_those_below():
    assert {floor(module(path)) for path in MODULES} - {None, "__main__"} == set(FLOORS)
    assert len(FLOORS) <= 15
    order = list(FLOORS)
    for name, (below, _) in FLOORS.items():
        assert {order.index(each) for each in below} <= set(range(order.index(name))), name


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_a_module_imports_what_its_floor_allows(path):
    own = floor(module(path))
    below, packages = {None: (set(), {"wrapt"}), "__main__": ({"commands"}, set())}.get(
        own
    ) or FLOORS[own]
    for imported in imports(path):
        top = imported.split(".")[0]
        if top == "zoo":
            assert floor(imported) in {own, None, *below}, imported
        elif top not in sys.stdlib_module_names:
            assert top in packages, imported


def test_no_two_modules_import_each_other():
    """Within a floor, too: Python would give one of them half of the other."""
    known = {module(path): path for path in MODULES}

    def at_the_top(dotted):
        found = imports(known[dotted], top_level_only=True)
        homes = (each if each in known else each.rpartition(".")[0] for each in found)
        # The door of a folder hands on what its modules define.
        return {each for each in homes if each in known and known[each].name != "__init__.py"}

    edges = {dotted: at_the_top(dotted) for dotted in known}
    while leaves := [dotted for dotted, below in edges.items() if not below & edges.keys()]:
        for dotted in leaves:
            del edges[dotted]
    assert not edges


@pytest.mark.parametrize("folder", REGISTERING)
def test_a_folder_whose_classes_keras_must_know_imports_keras_first(folder):
    tree = ast.parse((ROOT / "zoo" / folder / "__init__.py").read_text(encoding="utf-8"))
    first = next(node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom)))
    assert ast.unparse(first) == "import keras"
    for file in ("fingerprint", "precision", "text", "errors", "freezing", "pixel_range"):
        top = imports(ROOT / "zoo" / f"{file}.py", top_level_only=True)
        assert "keras" not in top, file


@pytest.mark.parametrize("path", [*MODULES, *sorted(ROOT.glob("recipes/*.py"))], ids=name)
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


@pytest.mark.parametrize("path", [p for p in MODULES if module(p) in LIGHT], ids=name)
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
    assert "zoo.objectives.deep_supervision" in loaded
    heavy = {"tensorflow_datasets", "keras_tuner", "sklearn", "matplotlib", "tyro", "jinja2"}
    assert not loaded & (heavy | {"zoo.data", "zoo.training", "zoo.commands.main"})


def test_the_command_starts_without_tensorflow():
    assert not modules_after("import zoo.commands.main") & {"keras", "tensorflow", "numpy"}


@pytest.mark.parametrize(
    "first",
    [
        "import zoo, keras",
        "import zoo.layers, keras",
        "import zoo.saving",
        "import zoo.fingerprint, keras",
    ],
)
def test_a_model_loads_in_whatever_order_keras_and_zoo_are_imported(first):
    file = ROOT / "tests" / "fixtures" / "before_floors" / "distiller.keras"
    modules_after(f"{first}\nimport keras\nkeras.models.load_model({str(file)!r})")


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("knowledge", "Hint"),
        ("teachers", "cache"),
        ("specialists", "Dustbin"),
        ("distribute", "make_strategy"),
        ("papers", "PaperRecipe"),
        ("students", "StudentRecipe"),
        ("deep_supervision", "DeeplySupervised"),
        ("distillation", "Distiller"),
        ("preprocessing", "ZCAWhitening"),
        ("presets", "preset"),
        ("pretrained", "load"),
        ("gradients", "MeteredSGD"),
        ("objective", "SoftTargets"),
        ("streaming", "PackedImages"),
        ("numpy_data", "TrainingBatches"),
        ("cli", "main"),
        ("tuning", "tune"),
        ("studies", "carry_out"),
    ],
)
def test_a_public_module_keeps_its_name(alias, name):
    import zoo

    module = importlib.import_module(f"zoo.{alias}")
    assert getattr(zoo, alias) is module
    assert module.__name__ != f"zoo.{alias}"  # the module itself, and no copy
    assert importlib.import_module(module.__name__) is module
    assert hasattr(module, name)


def test_a_module_within_an_alias_is_the_same_module():
    import zoo.studies.dropout

    import zoo.experiments.studies.dropout

    assert zoo.studies.dropout is zoo.experiments.studies.dropout


def test_unknown_names_are_refused_as_python_refuses_them():
    import zoo

    with pytest.raises(AttributeError, match="no attribute 'nni'"):
        zoo.nni  # noqa: B018
    assert {"nin", "nin_dsn", "DeeplySupervised"} <= set(dir(zoo))
