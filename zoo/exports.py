"""The layout of an export, and where exports are found. It needs no TensorFlow.

saved_models/NAME/{README.md, card.json, VERSION/}
VERSION/{saved_model.pb, variables/, fingerprint.pb, assets.extra/, SHA256SUMS}
assets.extra/{card.json, labels.txt, examples/, model.keras, tf_serving_warmup_requests}

README.md and card.json describe the newest version. The card in the version has the facts of the
model; the one beside it also has what was measured at the export.
"""

import json
from pathlib import Path

from zoo import files
from zoo.errors import ZooError

PROGRAM = "saved_model.pb"
MODEL = "assets.extra/model.keras"
CARD = "assets.extra/card.json"
LABELS = "assets.extra/labels.txt"
EXAMPLES = "assets.extra/examples"
# The trained weights, and the files that describe them.
WEIGHT_FILES = (MODEL, CARD, LABELS)


class ExportError(ZooError, ValueError):
    """A model that cannot be served, or an export that is not what was exported."""

    exit_code = 2


def labels(version: Path) -> list[str]:
    """Return the label names of a version, in the order of the classes."""
    return (version / LABELS).read_text(encoding="utf-8").splitlines()


def card(version: Path) -> dict:
    """Return the card of a version, which `zoo.serving.card` makes."""
    return json.loads((version / CARD).read_text(encoding="utf-8"))


def versions(base: Path) -> dict[int, Path]:
    """Return the versions in `base`, as TF Serving finds them: {number: path}."""
    paths = base.iterdir() if base.is_dir() else []
    return {int(path.name): path for path in paths if path.name.isdecimal()}


def find_version(directory: Path | str) -> Path:
    """Return the newest version in `directory`, or `directory` if it is a version.

    Raises:
        FileNotFoundError: if there is no version.
    """
    directory = Path(directory).resolve()
    if (directory / PROGRAM).is_file():
        return directory
    numbered = versions(directory)
    if not numbered:
        raise FileNotFoundError(
            f"{directory} is neither an export nor a folder of numbered exports; "
            "export_savedmodel writes them."
        )
    return numbered[max(numbered)]


def newest(folder: Path, holding: tuple[str, ...] = (MODEL,)) -> Path | None:
    """Return the newest version in `folder` that has one of these files.

    It is `folder` itself if no version has one and `folder` does; None if there is none.
    """
    numbered = versions(folder)
    for candidate in [*(numbered[number] for number in sorted(numbered, reverse=True)), folder]:
        if any((candidate / file).is_file() for file in holding):
            return candidate
    return None


def names() -> dict[str, Path]:
    """Return {name: folder} of all exports with trained weights; of a name, the nearest folder."""
    exports: dict[str, Path] = {}
    for folder in files.folders("saved_models"):
        for file in sorted(folder.glob(f"*/*/{MODEL}")):
            exports.setdefault(file.parents[2].name, file.parents[2])
    return exports


def located(path: Path) -> Path:
    """Return `path`; if saved_models/NAME does not exist, the export of that name elsewhere."""
    missing = path.parent.name == "saved_models" and not path.exists()
    return names().get(path.name, path) if missing else path


def checksums(version: Path) -> dict[str, str]:
    """Return {path below `version`: SHA-256} of all files but SHA256SUMS."""
    return {
        path.relative_to(version).as_posix(): files.sha256(path)
        for path in sorted(version.rglob("*"))
        if path.is_file() and path != version / files.CHECKSUMS
    }


def write_checksums(version: Path) -> None:
    """Write SHA256SUMS, which `sha256sum -c` reads."""
    lines = (f"{digest}  {name}\n" for name, digest in checksums(version).items())
    (version / files.CHECKSUMS).write_text("".join(lines), encoding="utf-8")


def verify_checksums(version: Path) -> int:
    """Compare all files with SHA256SUMS, and return their number.

    Raises:
        ExportError: if a file was changed, removed or added since the export.
    """
    if not (version / files.CHECKSUMS).is_file():
        raise ExportError(f"{version} has no {files.CHECKSUMS}; export_savedmodel writes one.")
    listed, present = files.listed_checksums(version), checksums(version)
    wrong = sorted(name for name in listed | present if listed.get(name) != present.get(name))
    if wrong:
        raise ExportError(
            f"Changed, missing or added in {version} since its export: {', '.join(wrong)}. "
            "Nothing was loaded; copy or export it again."
        )
    return len(present)


def verify_weights(version: Path) -> None:
    """Compare the files of `WEIGHT_FILES` with SHA256SUMS. Call this before one is read.

    Raises:
        ExportError: if one was changed.
    """
    listed = files.listed_checksums(version)
    wrong = [name for name in WEIGHT_FILES if listed.get(name) != files.sha256(version / name)]
    if wrong:
        raise ExportError(
            f"Changed in {version} since its export: {', '.join(wrong)}. Nothing was loaded; fetch "
            "it again."
        )
