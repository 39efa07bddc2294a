"""What is installed, under which name and version, and the files around the code."""

import ast
import configparser
import fnmatch
import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import zoo

ROOT = Path(__file__).parent.parent
DISTRIBUTION = "keras-nin-zoo"
FOLDERS_BESIDE = {"recipes", "saved_models"}


@pytest.fixture(scope="module")
def settings():
    """setup.cfg."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def listed(text):
    """The lines of a value in setup.cfg."""
    return [line for line in map(str.strip, text.splitlines()) if line and line[0] != "#"]


def folders_of_the_package():
    """{dotted name of a package: its folder}, for every folder in zoo/ that has modules."""
    folders = {path.parent for path in (ROOT / "zoo").rglob("*.py")}
    return {".".join(folder.relative_to(ROOT).parts): folder for folder in folders}


def test_every_folder_with_modules_is_installed(settings):
    beside = {f"zoo.{name}" for name in FOLDERS_BESIDE}
    packages = listed(settings["options"]["packages"])
    assert len(packages) == len(set(packages))
    assert set(packages) == {*folders_of_the_package(), *beside}
    places = dict(re.split(r"\s*=\s*", line) for line in listed(settings["options"]["package_dir"]))
    assert places == {f"zoo.{name}": name for name in FOLDERS_BESIDE}
    assert all((ROOT / name).is_dir() for name in FOLDERS_BESIDE)


def test_every_folder_with_modules_is_a_package():
    for folder in folders_of_the_package().values():
        assert (folder / "__init__.py").is_file(), folder


def test_every_file_that_is_no_module_is_installed(settings):
    patterns = {name: listed(text) for name, text in settings["options.package_data"].items()}
    for name, folder in folders_of_the_package().items():
        others = {
            path.name
            for path in folder.iterdir()
            if path.is_file() and path.suffix not in {".py", ".pyc"}
        }
        expected = {
            file
            for file in others
            for pattern in patterns.get(name, ())
            if fnmatch.fnmatch(file, pattern)
        }
        assert others == expected, folder
        assert len(others) == len(patterns.get(name, ())), f"a pattern of {name} matches no file"


def test_the_version_has_one_source(settings):
    assert settings["metadata"]["version"] == "attr: zoo.__version__"
    # setuptools reads a literal without an import of the package, and so without wrapt.
    tree = ast.parse((ROOT / "zoo" / "__init__.py").read_text(encoding="utf-8"))
    values = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and node.targets[0].id == "__version__"
    ]
    assert values == [zoo.__version__]
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+|rc\d+)?", zoo.__version__)


def test_the_command_shows_the_version():
    command = [sys.executable, "-m", "zoo", "--version"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert shown.stdout == f"zoo {zoo.__version__}\n"
    assert not shown.stderr


def test_the_distribution_has_a_name_of_its_own(settings):
    assert settings["metadata"]["name"] == DISTRIBUTION
    try:
        installed = importlib.metadata.version(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("not installed")
    assert installed == zoo.__version__


def test_where_the_zoo_travelled_as_files_the_version_is_known(tmp_path):
    """As in an archive of `zoo pack`: modules, and no metadata."""
    folder = tmp_path / "zoo"
    folder.mkdir()
    (folder / "__init__.py").write_bytes((ROOT / "zoo" / "__init__.py").read_bytes())
    program = (
        "import importlib.metadata as metadata\n"
        "def version(name): raise metadata.PackageNotFoundError(name)\n"
        "metadata.version = version\n"
        "import zoo; print(zoo.__file__, zoo.__version__)"
    )
    command = [sys.executable, "-c", program]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert shown.stdout == f"{folder / '__init__.py'} {zoo.__version__}\n"


def test_the_package_and_its_command_start_without_the_heavy_libraries():
    program = (
        "import sys, zoo; zoo.__version__; dir(zoo); import zoo.commands.main; print(*sys.modules)"
    )
    command = [sys.executable, "-c", program]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert not {"keras", "tensorflow", "numpy", "jax"} & set(shown.stdout.split())


def test_ruff_has_one_version():
    """The hooks run the ruff of .venv, which constraints.txt pins; `make lint` runs the same."""
    assert re.search(r"^ruff==", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    assert {hook["id"] for hook in hooks} == {"ruff-check", "ruff-format"}
    for hook in hooks:
        assert hook["language"] == "system"
        assert hook["entry"].startswith(".venv/bin/ruff ")


def test_the_workflow_calls_the_script_of_a_submission(settings):
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    steps = workflow["jobs"]["check"]["steps"]
    assert [step["run"] for step in steps if "run" in step] == ["bash .ci/run"]
    used = [step for step in steps if "uses" in step]
    assert all(re.fullmatch(r"actions/[a-z-]+@v\d+", step["uses"]) for step in used)
    version = next(step["with"]["python-version"] for step in used if "with" in step)
    assert settings["options"]["python_requires"] == f">={version}"
    assert settings["mypy"]["python_version"] == version


def test_the_forms_for_issues_can_be_read():
    for file in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"):
        form = yaml.safe_load(file.read_text(encoding="utf-8"))
        assert {"name", "description", "body"} <= set(form), file
        identifiers = [part["id"] for part in form["body"] if "id" in part]
        assert len(identifiers) == len(set(identifiers))


def test_the_citation_names_the_three_papers(settings):
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["title"].startswith("The zoo: ")
    assert citation["license"] == settings["metadata"]["license"]
    papers = {paper["identifiers"][0]["value"] for paper in citation["references"]}
    assert papers == {"arXiv:1312.4400", "arXiv:1409.5185", "arXiv:1503.02531"}


def test_the_changelog_has_this_version():
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## (.+)$", changelog, re.MULTILINE)
    assert versions[0] == "Unreleased"
    assert versions[1].split()[0] == zoo.__version__
    kinds = set(re.findall(r"^### (.+)$", changelog, re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
