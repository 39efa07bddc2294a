"""The layout of an export, and where exports are found. It needs no TensorFlow.

saved_models/NAME/{README.md, card.json, SHA256SUMS, VERSION/}
VERSION/{saved_model.pb, variables/, fingerprint.pb, assets.extra/, SHA256SUMS}
assets.extra/{card.json, labels.txt, examples/, model.keras, tf_serving_warmup_requests}

README.md and card.json describe the newest version. The card in the version has the facts of the
model; the one beside it also has what was measured at the export. Each SHA256SUMS covers the files
of its folder. An older zoo wrote none beside the versions. A link or a device in an export is
refused before anything is read.
"""

import json
import os
import stat
from pathlib import Path

from zoo import files
from zoo.errors import ZooError
from zoo.text import did_you_mean

PROGRAM = "saved_model.pb"
MODEL = "assets.extra/model.keras"
CARD = "assets.extra/card.json"
LABELS = "assets.extra/labels.txt"
EXAMPLES = "assets.extra/examples"
# The trained weights, and the files that describe them.
WEIGHT_FILES = (MODEL, CARD, LABELS)
# The files beside the versions, which describe the newest.
BESIDE = ("README.md", "card.json")


class ExportError(ZooError, ValueError):
    """A model that cannot be served, or an export that is not what was exported."""

    exit_code = 2


def labels(version: Path) -> list[str]:
    """Return the label names of a version, in the order of the classes."""
    return _text(version / LABELS).splitlines()


def card(version: Path) -> dict:
    """Return the card of a version, which `zoo.serving.card` makes."""
    return _json(version / CARD)


def card_beside(base: Path) -> dict:
    """Return the card that lies beside the versions."""
    return _json(base / "card.json")


def title_beside(base: Path) -> str:
    """Return the first line of the README that lies beside the versions."""
    return _text(base / "README.md").partition("\n")[0]


def _json(file: Path) -> dict:
    try:
        content = json.loads(_text(file))
    except json.JSONDecodeError as error:
        raise ExportError(f"{file} is not JSON: {error}. Export the model again.") from None
    if not isinstance(content, dict):
        raise ExportError(f"{file} is not a card, but {type(content).__name__} in JSON.")
    return content


def _text(file: Path) -> str:
    refuse_odd(file)
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ExportError(f"{file} is not text in UTF-8; copy or export it again.") from None


def refuse_odd(path: Path) -> None:
    """Refuse a link, a device, a pipe or a socket; a file, a folder or nothing is right.

    Call this before the path is read. A pipe would hang, and a link leads out of the export.

    Raises:
        ExportError: for any of these.
    """
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        kind = "a link" if stat.S_ISLNK(mode) else "a device, a pipe or a socket"
        raise ExportError(
            f"{path} is {kind}; an export has files and folders alone. Nothing was loaded; copy "
            "it again, with what the link names."
        )


def versions(base: Path) -> dict[int, Path]:
    """Return the versions in `base`, as TF Serving finds them: {number: path}."""
    paths = base.iterdir() if base.is_dir() else []
    return {int(path.name): path for path in paths if path.name.isdecimal()}


def find_version(directory: Path | str) -> Path:
    """Return the newest version in `directory`, or `directory` if it is a version.

    `directory` may be a link, since its user named it. What it holds may not be one.

    Raises:
        FileNotFoundError: if there is no version.
        ExportError: if the newest version is a link.
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
    refuse_odd(numbered[max(numbered)])
    return numbered[max(numbered)]


def newest(folder: Path, holding: tuple[str, ...] = (MODEL,)) -> Path | None:
    """Return the newest version in `folder` that has one of these files.

    It is `folder` itself if no version has one and `folder` does; None if there is none.

    Raises:
        ExportError: if that version is a link.
    """
    numbered = versions(folder)
    for candidate in [*(numbered[number] for number in sorted(numbered, reverse=True)), folder]:
        if any((candidate / file).is_file() for file in holding):
            if candidate != folder:
                refuse_odd(candidate)
            return candidate
    return None


def own_names() -> dict[str, Path]:
    """Return {name: folder} of the trained models that came with the zoo."""
    package = Path(__file__).parent
    return _with_weights(package.parent / "saved_models") | _with_weights(package / "saved_models")


def names() -> dict[str, Path]:
    """Return {name: folder} of all exports with trained weights.

    They are those of saved_models/ here and those of the zoo. A name that both have is the zoo's:
    else a training in the current folder would change what a name means. The other one has a path.
    """
    return _with_weights(Path("saved_models")) | own_names()


def _with_weights(folder: Path) -> dict[str, Path]:
    return {file.parents[2].name: file.parents[2] for file in sorted(folder.glob(f"*/*/{MODEL}"))}


def named(name: str) -> Path | None:
    """Return the export of a name; None if there is none.

    The name of a data set, such as "mnist", is that of mnist_nin_dsn.
    """
    for known in (own_names(), names()):
        if folder := known.get(f"{name}_nin_dsn") or known.get(name):
            return folder
    return None


def located(path: Path) -> Path:
    """Return `path`; if saved_models/NAME does not exist, the export of that name elsewhere."""
    missing = path.parent.name == "saved_models" and not path.exists()
    return names().get(path.name, path) if missing else path


def resolve(model: Path | str) -> Path:
    """Return where a model is that is given by name or by path.

    Arguments:
        model: the name of an export, as `named` takes it; or the path of a run folder, an export, a
            version of one, or a `.keras` file. A name means the export, even if a file or folder
            has the same name. Write "./mnist" or a `pathlib.Path` for the folder.

    Raises:
        ExportError: if there is nothing of this name or at this path; suggests the nearest name.
    """
    is_name = isinstance(model, str) and os.sep not in model
    path = (named(str(model)) if is_name else None) or located(Path(model))
    if not path.exists():
        known = names()
        hint = did_you_mean(model, known, f"There are {', '.join(known) or 'none'}.")
        raise ExportError(
            f"There is no model {str(model)!r}: expected a run folder, an export, a .keras "
            f"file or the name of a trained model. {hint}"
        )
    return path


def checksums(version: Path) -> dict[str, str]:
    """Return {path below `version`: SHA-256} of all files but SHA256SUMS.

    Raises:
        ExportError: if there is a link or a device. Then nothing was read.
    """
    paths = sorted(version.rglob("*"))
    for path in paths:
        refuse_odd(path)
    return {
        path.relative_to(version).as_posix(): files.sha256(path)
        for path in paths
        if path.is_file() and path != version / files.CHECKSUMS
    }


def write_checksums(version: Path) -> None:
    """Write SHA256SUMS, which `sha256sum -c` reads."""
    (version / files.CHECKSUMS).write_text(as_checksums(checksums(version)), encoding="utf-8")


def as_checksums(digests: dict[str, str]) -> str:
    """Return the text of SHA256SUMS for {path: SHA-256}."""
    return "".join(f"{digest}  {name}\n" for name, digest in digests.items())


def _listed(folder: Path) -> dict[str, str]:
    """Return {path below `folder`: SHA-256}, as its SHA256SUMS lists them."""
    refuse_odd(folder / files.CHECKSUMS)
    try:
        return files.listed_checksums(folder)
    except FileNotFoundError:
        raise ExportError(
            f"{folder} has no {files.CHECKSUMS}; export_savedmodel writes one."
        ) from None


def verify_checksums(version: Path) -> int:
    """Compare all files with SHA256SUMS, and return their number.

    Raises:
        ExportError: if a file was changed, removed or added since the export, or if there is a
            link or a device.
    """
    listed = _listed(version)
    present = checksums(version)
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
        ExportError: if one was changed, is missing, or is a link.
    """
    _verify(version, WEIGHT_FILES)


def verify_beside(base: Path) -> bool:
    """Compare the files beside the versions with the SHA256SUMS there.

    Returns:
        False if there is none, since an older zoo wrote none.

    Raises:
        ExportError: if one was changed, is missing, or is a link.
    """
    if not (base / files.CHECKSUMS).is_file():
        for name in BESIDE:
            refuse_odd(base / name)
        return False
    _verify(base, BESIDE)
    return True


def _verify(folder: Path, names: tuple[str, ...]) -> None:
    listed, wrong = _listed(folder), []
    for name in names:
        for path in (*reversed(Path(name).parents[:-1]), Path(name)):
            refuse_odd(folder / path)
        if not (folder / name).is_file() or listed.get(name) != files.sha256(folder / name):
            wrong.append(name)
    if wrong:
        raise ExportError(
            f"Changed in {folder} since its export, or missing: {', '.join(wrong)}. Nothing was "
            "loaded; fetch it again."
        )
