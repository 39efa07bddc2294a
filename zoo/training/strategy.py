"""A `tf.distribute` strategy: one device, several GPUs, or several machines."""

import contextlib
import json
import os

import keras

from zoo.errors import ZooError

KINDS = ("auto", "none", "mirrored", "multi")


class StrategyError(ZooError, ValueError):
    """A strategy that cannot be had here, or a training that would not be the same under it."""

    exit_code = 2


def make_strategy(kind="auto", replicas=0):
    """A `tf.distribute.Strategy`; None for the one device that Keras takes by itself.

    Call it before anything else that makes TensorFlow look at its devices.

    Arguments:
        kind: "multi": the workers that the environment's TF_CONFIG names, this process one of them;
            "mirrored": the GPUs of this machine; "none"; "auto": multi where TF_CONFIG has more
            than one worker, else mirrored where there is more than one GPU, else none.
        replicas: how many devices a mirrored strategy takes; 0 for all GPUs. On a machine without
            GPUs it divides the CPU into so many, which shows the numbers and saves no time.

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

    gpus = tf.config.list_physical_devices("GPU")  # physical: logical ones would start the runtime
    if kind == "auto":
        kind = "mirrored" if replicas or len(gpus) > 1 else "none"
        kind = "multi" if len(workers()) > 1 else kind
    if kind == "multi":
        return _multi_worker(tf)
    return _mirrored(tf, gpus, replicas) if kind == "mirrored" else None


def _mirrored(tf, gpus, replicas):
    if not gpus and replicas < 2:
        raise StrategyError(
            "A mirrored strategy is of two devices or more, and this machine has no GPU. "
            "--replicas 2 divides its CPU in two, which trains no faster."
        )
    if gpus:
        if replicas > len(gpus):
            raise StrategyError(f"--replicas is {replicas}; this machine has {len(gpus)} GPUs.")
        return tf.distribute.MirroredStrategy([f"GPU:{i}" for i in range(replicas or len(gpus))])
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
        # Its rings would need a thread for each of the replicas, and abort another process' worth
        # of collectives when two strategies meet.
        cross_device_ops=tf.distribute.ReductionToOneDevice(),
    )


def _multi_worker(tf):
    tasks = workers()
    if len(tasks) < 2:
        raise StrategyError(
            'Several workers are named by TF_CONFIG, {"cluster": {"worker": ["host0:port", '
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


def tf_config():
    text = os.environ.get("TF_CONFIG") or "{}"
    try:
        config = json.loads(text)
        if not isinstance(config, dict):
            raise ValueError("it is no object")
    except ValueError as error:
        raise StrategyError(f"TF_CONFIG is not JSON: {error}; it is {text!r}.") from error
    return config


def workers():
    """(type, index) of the tasks that train, the chief first."""
    cluster = tf_config().get("cluster", {})
    return [
        (kind, index) for kind in ("chief", "worker") for index in range(len(cluster.get(kind, [])))
    ]


def is_chief(strategy):
    """Whether this process writes: of several workers one does."""
    if strategy is None or not several_workers(strategy):
        return True
    task = tf_config()["task"]
    return (task["type"], task["index"]) == workers()[0]


def several_workers(strategy):
    return strategy.cluster_resolver is not None and len(workers()) > 1


def scope(strategy):
    """Where the model, and all that has variables, is made."""
    return contextlib.nullcontext() if strategy is None else strategy.scope()


def described(strategy):
    """For the record: {"kind", "replicas"}."""
    if strategy is None:
        return {"kind": "none", "replicas": 1}
    kind = "multi" if several_workers(strategy) else "mirrored"
    return {"kind": kind, "replicas": strategy.num_replicas_in_sync}
