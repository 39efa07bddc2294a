"""A teacher that nobody here designed: a net of keras.applications learns CIFAR-10, and teaches.

`python benchmarks/applications.py [--net MobileNetV2] [--pixels 32] [--epochs 10]`. The net is as
Keras has it: random weights, a softmax at its end, its preprocessing outside of the model. It
learns as in many tutorials: images mirrored and moved, SGD with momentum, a cosine. A finished file
is not trained again. Then `zoo distill` makes a small student of it, and an int8 file of the better
student. The page in the folder has all numbers. The goals: a student with a tenth of the parameters
or fewer, at most 2 points behind the teacher; int8 within 0.3 points of float32.
"""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import keras
import tensorflow as tf
import tyro

from zoo import data
from zoo.terminal import say

PREPROCESSING = {"ResNet50": "resnet50", "MobileNetV2": "mobilenet_v2"}
BATCH = 128


@dataclass(frozen=True)
class Settings:
    net: str = "MobileNetV2"
    """MobileNetV2 or ResNet50."""
    pixels: int = 32
    """Height and width that the images are resized to. 64 takes four times as long."""
    epochs: int = 10
    """Epochs of the teacher."""
    folder: Path = Path("runs/applications")
    """Folder for the teacher's file and the runs of the students."""
    size: str = "225k"
    """Most parameters of the student."""
    student_epochs: int = 16
    """Epochs of each of the two students."""


def main(settings):
    if settings.net not in PREPROCESSING:
        sys.exit(f"--net is one of {', '.join(PREPROCESSING)}; received {settings.net}.")
    teacher = settings.folder / f"{settings.net}-{settings.pixels}.keras"
    if not teacher.is_file():
        settings.folder.mkdir(parents=True, exist_ok=True)
        trained(settings).save(teacher)
    zoo = Path(sys.executable).with_name("zoo")
    flags = ("--data", "cifar10", "--teacher", teacher)
    flags += ("--teacher-preprocessing", PREPROCESSING[settings.net], "--teacher-resize")
    flags += ("--size", settings.size, "--epochs", settings.student_epochs)
    flags += ("--batch-size", 500, "--views", 4)
    command = (zoo, "distill", *flags, "--runs", settings.folder, "--name", settings.net)
    sys.exit(subprocess.run([str(part) for part in command], check=False).returncode)


def trained(settings):
    """Return the net, trained in float32: Keras normalizes slowly in bfloat16 on a CPU."""
    training, test = data.load("cifar10", "train"), data.load("cifar10", "test")
    module = getattr(keras.applications, PREPROCESSING[settings.net])
    keras.utils.set_random_seed(0)
    make = getattr(keras.applications, settings.net)
    model = make(
        weights=None, input_shape=(settings.pixels, settings.pixels, 3), classes=training.classes
    )
    an_epoch = training.examples // BATCH
    steps = settings.epochs * an_epoch
    warming = {"warmup_target": 0.1, "warmup_steps": steps // 20}
    rate = keras.optimizers.schedules.CosineDecay(0.0, steps - steps // 20, **warming)
    optimizer = keras.optimizers.SGD(rate, momentum=0.9, nesterov=True, weight_decay=5e-4)
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    changes = data.Augmentation(shift=4, flip=True)
    batches = training.training_batches(BATCH, seed=0, augmentation=changes)

    def prepared(images):
        return module.preprocess_input(tf.image.resize(images, (settings.pixels, settings.pixels)))

    batches = batches.map(lambda images, labels: (prepared(images), labels)).prefetch(2)
    model.fit(batches, epochs=settings.epochs, steps_per_epoch=an_epoch, verbose=2)
    images = tf.data.Dataset.from_tensor_slices(test.images[:]).batch(500).map(prepared)
    right = model.predict(images, verbose=0).argmax(axis=1) == test.labels
    say(
        f"{settings.net}: {100 * right.mean():.2f} % of the test images are right, "
        f"{model.count_params():,} parameters"
    )
    return model


if __name__ == "__main__":
    main(tyro.cli(Settings))
