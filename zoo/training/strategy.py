"""Make a `tf.distribute` strategy: for one device, several GPUs, or several machines."""

import contextlib
import json
import os
from typing import TYPE_CHECKING, Any

import keras

from zoo.errors import ZooError

if TYPE_CHECKING:
    import tensorflow as tf

KINDS = ("auto", "none", "mirrored", "multi")


class StrategyError(ZooError, ValueError):
    """A strategy is not available here, or a training would change under it."""

    exit_code = 2


def make_strategy(kind: str = "auto", replicas: int = 0) -> "tf.distribute.Strategy | None":
    """Make a `tf.distribute.Strategy`; None stands for the one device that Keras uses by default.

    Call it before anything else makes TensorFlow look at its devices.

    Arguments:
        kind: "multi" uses the workers in the environment's TF_CONFIG, one of which is this process.
            "mirrored" uses the GPUs of this machine. "none" uses one device. "auto" is multi if
            TF_CONFIG names more than one worker, mirrored if there is more than one GPU, and none
            otherwise.
        replicas: number of devices of a mirrored strategy; 0 for all GPUs. On a machine without
            GPUs the CPU is divided into this many devices: this tests the numbers and saves no
            time.

    Raises:
        StrategyError: if there are no such devices, or TF_CONFIG cannot be used.
    """
    if kind not in KINDS:
        raise StrategyError(f"A strategy is one of {', '.join(KINDS)}; received {kind!r}.")
    if replicas and kind in ("none", "multi"):
        raise StrategyError(f"replicas are those of a mirrored strategy; received {kind!r}.")
    if keras.backend.backend() != "tensorflow":
        if kind not in ("auto", "none") or replicas:
            raise StrategyError(
                f"The strategy {kind!r} is TensorFlow's, and the Keras backend is "
                f"{keras.backend.backend()}: run it with KERAS_BACKEND=tensorflow."
            )
        return None
    import tensorflow as tf

    if replicas < 0:
        raise StrategyError(f"--replicas is a number of devices, 0 or more; received {replicas}.")
    gpus = tf.config.list_physical_devices("GPU")  # listing logical ones would start the runtime
    if kind == "auto":
        kind = "mirrored" if replicas or len(gpus) > 1 else "none"
        kind = "multi" if len(workers()) > 1 else kind
    if kind == "multi":
        return _multi_worker(tf)
    return _mirrored(tf, gpus, replicas) if kind == "mirrored" else None


def _mirrored(tf, gpus, replicas):
    if not gpus and replicas < 2:
        raise StrategyError(
            "A mirrored strategy needs two devices or more, and this machine has no GPU. "
            "--replicas 2 divides its CPU in two, which trains no faster."
        )
    if gpus:
        if replicas > len(gpus):
            raise StrategyError(f"--replicas is {replicas}; this machine has {len(gpus)} GPUs.")
        return tf.distribute.MirroredStrategy([f"GPU:{i}" for i in range(replicas or len(gpus))])
    most = max(8, 2 * (os.cpu_count() or 1))
    if replicas > most:
        raise StrategyError(
            f"--replicas is {replicas}; the CPU of this machine is divided into {most} at most."
        )
    (cpu,) = tf.config.list_physical_devices("CPU")
    try:
        parts = [tf.config.LogicalDeviceConfiguration()] * replicas
        tf.config.set_logical_device_configuration(cpu, parts)
    except RuntimeError as error:
        if len(tf.config.list_logical_devices("CPU")) < replicas:
            raise StrategyError(
                f"TensorFlow has started, and can no longer divide the CPU in {replicas}: make the "
                f"strategy first ({error})."
            ) from error
    return tf.distribute.MirroredStrategy(
        [f"CPU:{i}" for i in range(replicas)],
        # The default rings need a thread for each replica, and abort collectives when two
        # strategies meet.
        cross_device_ops=tf.distribute.ReductionToOneDevice(),
    )


def _multi_worker(tf):
    tasks = workers()
    if len(tasks) < 2:
        raise StrategyError(
            'TF_CONFIG must name several workers: {"cluster": {"worker": ["host0:port", '
            '"host1:port"]}, "task": {"type": "worker", "index": 0}}; it is '
            f"{os.environ.get('TF_CONFIG', 'not set')!s}."
        )
    task = tf_config().get("task", {})
    if [task.get("type"), task.get("index")] not in [[kind, index] for kind, index in tasks]:
        raise StrategyError(
            f"TF_CONFIG says that this process is {task}; it is one of "
            f"{', '.join(f'{kind} {index}' for kind, index in tasks)}."
        )
    try:
        return tf.distribute.MultiWorkerMirroredStrategy()
    except RuntimeError as error:
        raise StrategyError(
            "Several workers must find each other before TensorFlow is used for anything else: "
            f"import nothing in the recipe's file that computes ({error})."
        ) from error


def tf_config() -> dict[str, Any]:
    """Return the environment's TF_CONFIG; {} if it is not set.

    Raises:
        StrategyError: if it is not a JSON object.
    """
    text = os.environ.get("TF_CONFIG") or "{}"
    try:
        config = json.loads(text)
        if not isinstance(config, dict):
            raise ValueError("it is no object")
    except ValueError as error:
        raise StrategyError(f"TF_CONFIG is not JSON: {error}; it is {text!r}.") from error
    return config


def workers() -> list[tuple[str, int]]:
    """Return (type, index) of the tasks in TF_CONFIG that train, the chief first."""
    cluster = tf_config().get("cluster", {})
    return [
        (kind, index) for kind in ("chief", "worker") for index in range(len(cluster.get(kind, [])))
    ]


def is_chief(strategy: "tf.distribute.Strategy | None") -> bool:
    """Return True if this process writes the files. One of several workers does."""
    if strategy is None or not several_workers(strategy):
        return True
    task = tf_config()["task"]
    return (task["type"], task["index"]) == workers()[0]


def shard(strategy: "tf.distribute.Strategy | None", batch_size: int) -> tuple[int, int]:
    """Return (index, count) of the part of each batch that this process needs.

    (0, 1), all of it, in one process, and if the workers cannot have parts of equal sizes.
    """
    if strategy is None or not several_workers(strategy) or batch_size % len(workers()):
        return 0, 1
    task = tf_config()["task"]
    return workers().index((task["type"], task["index"])), len(workers())


def several_workers(strategy: "tf.distribute.Strategy") -> bool:
    """Return True if the strategy spans several processes."""
    return strategy.cluster_resolver is not None and len(workers()) > 1


def scope(strategy: "tf.distribute.Strategy | None") -> contextlib.AbstractContextManager:
    """Return the scope in which to make the model and everything else that has variables."""
    return contextlib.nullcontext() if strategy is None else strategy.scope()


def described(strategy: "tf.distribute.Strategy | None") -> dict[str, Any]:
    """Return the strategy's {"kind", "replicas"} for the record of a run."""
    if strategy is None:
        return {"kind": "none", "replicas": 1}
    kind = "multi" if several_workers(strategy) else "mirrored"
    return {"kind": kind, "replicas": strategy.num_replicas_in_sync}
