"""What teachers say of a data set: computed once, kept, never mistaken.

A cached soft target is right for the very view of the image that the student sees, and for nothing
else. So a cache has keys: the images, how they are augmented, the teacher, the temperature. The
images' digest covers their resizing, and the teacher's fingerprint its preprocessing, which is a
layer of our models. What does not match is refused. As in FKD (arXiv:2112.01528), each image may
have several views.
"""

import hashlib
import json
import zipfile
from dataclasses import asdict, dataclass, field
from pathlib import Path

import keras
import numpy as np
from keras import ops

from zoo import files
from zoo.data import AS_THEY_ARE
from zoo.errors import ZooError
from zoo.fingerprint import fingerprint
from zoo.measures import softmax
from zoo.objectives import ensemble_logits

FORMAT = 1


class TeacherError(ZooError, ValueError):
    """A teacher that is not there, or soft targets that are not those asked for."""

    exit_code = 2


@dataclass(frozen=True, eq=False)
class Cached:
    """What a teacher said of every view of every image: `logits` (views, examples, classes).

    `softmax(logits / temperature)` are the soft targets; with `temperature` None, at any.
    """

    file: Path
    keys: dict = field(repr=False)
    logits: np.ndarray = field(repr=False)

    @property
    def temperature(self):
        """The only one that the soft targets are right at; None for all."""
        return self.keys["temperature"]

    def batches(
        self,
        data,
        batch_size,
        *,
        seed,
        start_step=0,
        augmentation=AS_THEY_ARE,
        temperature=None,
    ):
        """`data.training_batches` with {"labels": ..., "teacher_logits": ...} for a `Distiller`.

        Arguments:
            temperature: that of the `Distiller`, where the soft targets are right at one alone.

        Raises:
            TeacherError: for other images, another augmentation, or another seed of one; for
                another temperature, or none where it matters.
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
    teacher,
    data,
    file,
    *,
    temperature=None,
    keep="float16",
    views=1,
    seed=0,
    augmentation=AS_THEY_ARE,
    batch_size=256,
):
    """Ask the teacher once about every view of every image, and keep the answers in `file`.

    Returns a `Cached`. A file that holds the very answers is read, and the teacher not asked.

    Arguments:
        teacher: a Keras model, raw pixels -> logits, or a list of such: an ensemble, whose
            probabilities are averaged at the temperature.
        data: a `zoo.data.ImageData`. file: an .npz file, made with the folders to it.
        temperature: needed for an ensemble and to keep the largest; else any is right.
        keep: "float32", "float16" (2 bytes a class; each logit within 0.05 % of itself), or a whole
            number: so many largest probabilities at the temperature, the rest shared out evenly.
        views: how many ways the augmentation shows each image in all; see
            `ImageData.training_batches`. seed: of these.

    Raises:
        TeacherError: if the file holds other answers or is damaged, if `keep` is neither, or a
            temperature is missing.
        OSError: if it cannot be written; no half of it is left.
    """
    models = list(teacher) if isinstance(teacher, (list, tuple)) else [teacher]
    _check_keep(keep, temperature, len(models))
    keys = {
        "format": FORMAT,
        "teachers": [fingerprint(model) for model in models],
        "temperature": temperature,
        "keep": keep,
        **_data_keys(data, views, seed, augmentation),
    }
    file = Path(file)
    if file.exists():
        cached = open_cache(file)
        _compare(file, cached.keys, keys)
        return cached
    answers = [_ask(model, data, views, seed, augmentation, batch_size) for model in models]
    if len(answers) > 1:
        logits = np.asarray(ensemble_logits(answers, temperature))
    else:
        (logits,) = answers
    logits = logits.reshape(views, data.examples, -1)
    arrays = (
        _largest(logits, keep, temperature)
        if isinstance(keep, int)
        else {"logits": logits.astype(keep)}
    )
    write(file, keys, arrays)
    return open_cache(file)


def open_cache(file):
    """The `Cached` of a file; raises TeacherError if it is damaged or none."""
    file = Path(file)
    try:
        with np.load(file, allow_pickle=False) as arrays:
            contents = {name: arrays[name] for name in arrays.files}
        header = contents.pop("header").tobytes()
        if contents.pop("sha256").tobytes() != _sha256(header, contents):
            raise ValueError("its checksum is wrong")
        keys = json.loads(header)
        # What `Augmentation` could not yet do when they were computed, it did not do.
        keys["augmentation"] = {**asdict(AS_THEY_ARE), **keys["augmentation"]}
        if keys["format"] != FORMAT:
            raise ValueError(f"its format is {keys['format']}, not {FORMAT}")
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise TeacherError(
            f"{file} holds no soft targets that can be used ({error}); remove it to have them "
            "computed again."
        ) from error
    if "logits" in contents:
        logits = contents["logits"].astype("float32")
    else:
        logits = _from_largest(**contents, temperature=keys["temperature"])
    return Cached(file, keys, logits)


def _check_keep(keep, temperature, teachers):
    largest = isinstance(keep, int) and not isinstance(keep, bool) and keep >= 1
    if keep not in ("float32", "float16") and not largest:
        raise TeacherError(
            f'keep is "float32", "float16" or a number of classes; received {keep!r}.'
        )
    if temperature is None and (largest or teachers > 1):
        raise TeacherError(
            "The largest probabilities, and the mean of an ensemble's, are those at one "
            "temperature: give it."
        )


def _data_keys(data, views, seed, augmentation):
    moving = augmentation != AS_THEY_ARE
    if views < 1:
        raise TeacherError(f"views is a number of 1 or more; received {views}.")
    digest = hashlib.sha256(str(data.images.shape).encode())
    for start in range(0, data.examples, 4096):  # they may lie on disk
        digest.update(np.ascontiguousarray(data.images[start : start + 4096]))
    return {
        "images": digest.hexdigest(),
        "examples": data.examples,
        "views": views,
        "augmentation": asdict(augmentation),
        # Without augmentation all views of all seeds are the image itself.
        "seed": seed if moving else None,
    }


def _compare(file, held, asked):
    differing = [key for key in asked if held.get(key) != asked[key]]
    if differing:
        told = "; ".join(f"{key}: {held.get(key)}, asked {asked[key]}" for key in differing)
        raise TeacherError(
            f"{file} holds other soft targets ({told}). Name another file, or remove this one."
        )


def _ask(model, data, views, seed, augmentation, batch_size):
    """(views x examples, classes) float32."""
    batches = data.views(views, batch_size, seed=seed, augmentation=augmentation)

    # Not predict(), which leaves its function in the caller's model.
    def ask(images):
        return ops.cast(model(images, training=False), "float32")

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        ask = tf.function(ask)
    return np.concatenate([ops.convert_to_numpy(ask(images)) for images in batches])


def _largest(logits, count, temperature):
    """The largest probabilities at the temperature, and which they are."""
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
    classes, count = int(classes), which.shape[-1]
    rest = np.maximum(1 - probabilities.sum(axis=-1, keepdims=True, dtype="float64"), 1e-30)
    even = np.broadcast_to(rest / max(classes - count, 1), (*which.shape[:-1], classes)).copy()
    np.put_along_axis(even, which.astype("int64"), np.maximum(probabilities, 1e-30), axis=-1)
    return (temperature * np.log(even)).astype("float32")


def write(file, keys, arrays):
    """Write the keys and the soft targets as one file with its checksum."""
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
