"""Soft targets of a data set in a file: computed once, and used only where they are right.

A cached soft target is right only for the very view of the image that the student sees. So a cache
has keys: the images, their augmentation, the teacher, the temperature. The digest of the images
covers their resizing. The teacher's fingerprint covers its preprocessing, which is a layer of our
models. A cache with other keys is refused. As in FKD (arXiv:2112.01528), each image may have
several views.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from zoo import files
from zoo.data import AS_THEY_ARE, Augmentation, ImageData
from zoo.data.checks import refuse_special_file
from zoo.data.packs import damage_told
from zoo.errors import ZooError
from zoo.fingerprint import fingerprint
from zoo.measures import softmax
from zoo.objectives import ensemble_logits
from zoo.objectives.probabilities import (
    UNKNOWN,
    kind_of_values,
    kinds_of,
    logits_from,
    say_what_is_taken,
)
from zoo.objectives.teaching import relative

FORMAT = 1
_KEYS = {
    *("format", "teachers", "temperature", "keep"),
    *("images", "examples", "views", "augmentation", "seed"),
}


class TeacherError(ZooError, ValueError):
    """A teacher does not exist, or a cache holds other soft targets than those requested."""

    exit_code = 2


@dataclass(frozen=True, eq=False)
class Cached:
    """A teacher's `logits` (views, examples, classes) for every view of every image.

    The soft targets are `softmax(logits / temperature)`. If `temperature` is None, they are right
    at every temperature.
    """

    file: Path
    keys: dict[str, Any] = field(repr=False)
    logits: np.ndarray = field(repr=False)

    @property
    def temperature(self) -> float | None:
        """The only temperature at which the soft targets are right; None for all."""
        return self.keys["temperature"]

    def batches(
        self,
        data: ImageData,
        batch_size: int,
        *,
        seed: int,
        start_step: int = 0,
        augmentation: Augmentation = AS_THEY_ARE,
        temperature: float | None = None,
    ) -> Any:
        """Return an endless stream of batches with soft targets, for a `Distiller`.

        It gives (images, {"labels": ..., "teacher_logits": ...}).

        Arguments:
            data: the images that the cache was made of.
            batch_size: number of images in a batch.
            seed: the seed of the cache.
            start_step: number of the step to begin at.
            augmentation: the augmentation of the cache.
            temperature: the temperature of the `Distiller`; required if the cache has one.

        Raises:
            TeacherError: if the images, the augmentation, its seed or the temperature are not
                those of the cache.
        """
        if self.temperature not in (None, temperature):
            raise TeacherError(
                f"{self.file} has the soft targets of temperature {self.temperature}; received "
                f"temperature={temperature}. Give it here, and the same to the Distiller."
            )
        views = self.keys["views"]
        _compare(self.file, self.keys, _data_keys(data, views, seed, augmentation))
        return data.training_batches(
            batch_size,
            seed=seed,
            start_step=start_step,
            augmentation=augmentation,
            views=views,
            teacher_logits=self.logits,
        )


def cache(
    teacher: keras.Model | Sequence[keras.Model],
    data: ImageData,
    file: Path | str,
    *,
    temperature: float | None = None,
    weights: Sequence[float] | None = None,
    keep: str | int = "float16",
    views: int = 1,
    seed: int = 0,
    augmentation: Augmentation = AS_THEY_ARE,
    batch_size: int = 256,
) -> Cached:
    """Compute a teacher's soft targets for every view of every image, and keep them in a file.

    If the file already holds these soft targets, it is read, and the teachers do not run.

    Arguments:
        teacher: a Keras model, raw pixels -> logits, or a list of them. The probabilities of a
            list, an ensemble, are averaged at the temperature. If a model gives probabilities,
            their logits are kept, with a warning.
        data: the images.
        file: an .npz file, or a folder, where the file is named after all that the soft targets
            depend on. Missing folders are made.
        temperature: required for an ensemble, and to keep the largest probabilities. Without it,
            the soft targets are right at every temperature.
        weights: those of an ensemble's members in the mean, relative to one another. None for equal
            ones.
        keep: "float32"; "float16", which takes 2 bytes a class and keeps each logit within 0.05 %;
            or a whole number. A number keeps that many of the largest probabilities at the
            temperature, and distributes the rest evenly.
        views: number of different views of each image under the augmentation; see
            `ImageData.training_batches`.
        seed: seed of the views.
        augmentation: random changes of the images.
        batch_size: number of images that the teacher sees at a time.

    Returns:
        The soft targets.

    Raises:
        TeacherError: if the file holds other soft targets or is damaged, `keep` or the weights are
            not allowed, or a temperature is missing.
        OSError: if the file cannot be written. No partial file is left.
    """
    models = list(teacher) if isinstance(teacher, (list, tuple)) else [teacher]
    _check_keep(keep, temperature, len(models))
    if weights is not None:
        try:
            weights = relative(weights, len(models))
        except ValueError as error:
            raise TeacherError(str(error)) from None
    keys = {
        "format": FORMAT,
        "teachers": [fingerprint(model) for model in models],
        "temperature": temperature,
        "keep": keep,
        "weights": weights,
        **_data_keys(data, views, seed, augmentation),
    }
    file = Path(file)
    if file.suffix != ".npz":
        file /= hashlib.sha256(json.dumps(keys, sort_keys=True).encode()).hexdigest()[:16] + ".npz"
    if file.exists():
        cached = open_cache(file)
        _compare(file, cached.keys, keys)
        return cached
    member_logits = [
        _predict(model, data, views, seed, augmentation, batch_size) for model in models
    ]
    if len(models) > 1:
        logits = np.asarray(ensemble_logits(member_logits, temperature, weights=weights))
    else:
        (logits,) = member_logits
    logits = logits.reshape(views, data.examples, -1)
    arrays = (
        _largest(logits, keep, temperature)
        if isinstance(keep, int)
        else {"logits": logits.astype(keep)}
    )
    write(file, keys, arrays)
    return open_cache(file)


def open_cache(file: Path | str) -> Cached:
    """Read the soft targets that `cache` wrote.

    Raises:
        TeacherError: if the file does not exist, is damaged, or holds no soft targets.
    """
    file = Path(file)
    refuse_special_file(file)
    try:
        with np.load(file, allow_pickle=False) as arrays:
            contents = {name: arrays[name] for name in arrays.files}
        header = contents.pop("header").tobytes()
        if contents.pop("sha256").tobytes() != _sha256(header, contents):
            raise ValueError("its checksum is wrong")
        keys = json.loads(header)
        # A field that `Augmentation` got later had its default when the file was written.
        keys["augmentation"] = {**asdict(AS_THEY_ARE), **keys["augmentation"]}
        if keys["format"] != FORMAT:
            raise ValueError(f"its format is {keys['format']}, not {FORMAT}")
        logits = _logits(contents, keys)
    except Exception as error:  # zipfile, zlib, JSON and NumPy raise many types for a damaged file
        reason = error if isinstance(error, (OSError, ValueError)) else repr(error)
        raise TeacherError(
            f"{file} holds no soft targets that can be used ({reason}); remove it to have them "
            "computed again."
        ) from error
    return Cached(file, keys, logits)


def _logits(arrays, keys):
    """Return the logits of a cache (views, examples, classes) float32, or raise an error."""
    if "logits" in arrays:
        logits = arrays["logits"].astype("float32")
    else:
        logits = _from_largest(**arrays, temperature=keys["temperature"])
    if missing := _KEYS - keys.keys():
        raise ValueError(f"its header lacks {sorted(missing)}")
    if logits.ndim != 3 or list(logits.shape[:2]) != [keys["views"], keys["examples"]]:
        raise ValueError(f"its logits have the shape {logits.shape}")
    return logits


def _check_keep(keep, temperature, teachers):
    largest = isinstance(keep, int) and not isinstance(keep, bool) and keep >= 1
    if keep not in ("float32", "float16") and not largest:
        raise TeacherError(
            f'keep is "float32", "float16" or a number of classes; received {keep!r}.'
        )
    if temperature is None and (largest or teachers > 1):
        raise TeacherError(
            "The largest probabilities, and the mean of an ensemble's, are right at one "
            "temperature: pass it."
        )


def _data_keys(data, views, seed, augmentation):
    augmented = augmentation != AS_THEY_ARE
    if views < 1:
        raise TeacherError(f"views is a number of 1 or more; received {views}.")
    digest = hashlib.sha256(str(data.images.shape).encode())
    for start in range(0, data.examples, 4096):  # in parts: they may be on disk
        digest.update(np.ascontiguousarray(data.images[start : start + 4096]))
    return {
        "images": digest.hexdigest(),
        "examples": data.examples,
        "views": views,
        "augmentation": asdict(augmentation),
        # Without augmentation, every view is the image itself, whatever the seed.
        "seed": seed if augmented else None,
    }


def _compare(file, held, requested):
    differing = [key for key in requested if held.get(key) != requested[key]]
    if differing:
        pairs = "; ".join(
            f"{key}: {held.get(key)}, requested {requested[key]}" for key in differing
        )
        raise TeacherError(
            f"{file} holds other soft targets ({pairs}). Name another file, or remove this one."
        )


def _predict(model, data, views, seed, augmentation, batch_size):
    """Return a model's logits for all views: (views x examples, classes) float32."""
    batches = data.views(views, batch_size, seed=seed, augmentation=augmentation)

    # `model.predict` would leave its compiled function in the caller's model.
    def call(images):
        return model(images, training=False)

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        call = tf.function(call)
    (kind, *_), logits = kinds_of(model), []
    with damage_told():
        for images in batches:
            values = call(images)
            if not logits:
                kind = kind_of_values(values) if kind == UNKNOWN else kind
                say_what_is_taken(f"The teacher {model.name!r}", [kind])
            values = ops.cast(logits_from(kind, values), "float32")
            logits.append(ops.convert_to_numpy(values))
    return np.concatenate(logits)


def _largest(logits, count, temperature):
    """Return the largest probabilities at the temperature, and their classes."""
    logits = logits.astype("float64") / temperature
    probabilities = softmax(logits)
    classes = logits.shape[-1]
    which = np.argsort(-logits, axis=-1, kind="stable")[..., :count]
    return {
        "which": which.astype("uint16" if classes <= 2**16 else "uint32"),
        "probabilities": np.take_along_axis(probabilities, which, axis=-1).astype("float32"),
        "classes": np.array(classes),
    }


def _from_largest(which, probabilities, classes, temperature):
    """Return logits from the arrays of `_largest`; the other classes share the rest evenly."""
    classes, count = int(classes), which.shape[-1]
    rest = np.maximum(1 - probabilities.sum(axis=-1, keepdims=True, dtype="float64"), 1e-30)
    even = np.broadcast_to(rest / max(classes - count, 1), (*which.shape[:-1], classes)).copy()
    np.put_along_axis(even, which.astype("int64"), np.maximum(probabilities, 1e-30), axis=-1)
    return (temperature * np.log(even)).astype("float32")


def write(file: Path, keys: dict[str, Any], arrays: dict[str, Any]) -> None:
    """Write soft targets, their keys and a checksum to one file.

    Arguments:
        file: the .npz file.
        keys: the keys of the cache.
        arrays: {"logits"}, or the arrays of the largest probabilities.

    Raises:
        OSError: if the file cannot be written. No partial file is left.
    """
    header = json.dumps(keys).encode()
    file.parent.mkdir(parents=True, exist_ok=True)
    with files.whole(file) as partial, open(partial, "wb") as out:
        np.savez(
            out,
            header=np.frombuffer(header, "uint8"),
            sha256=np.frombuffer(_sha256(header, arrays), "uint8"),
            **arrays,
        )


def _sha256(header, arrays):
    digest = hashlib.sha256(header)
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
        digest.update(np.ascontiguousarray(arrays[name]))
    return digest.digest()
