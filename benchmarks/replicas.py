"""Measure the steps a second on 1, 2 and 4 replicas, and the share of summing the gradients.

    python benchmarks/replicas.py                     # without GPUs, it divides the CPU
    python benchmarks/replicas.py --replicas 1 2 4 8  # on a machine with eight GPUs

The model is NIN-DSN for 32x32x3, in float32. All runs have the same batch, which the replicas
divide. Each number of replicas runs in a process of its own, one after another. The share is the
time of a step that only sums as many numbers as there are weights, divided by the time of a
training step.
"""

import argparse
import json
import subprocess
import sys
import time


def measure(replicas, batch, steps, width):
    """Return {"steps_per_second", "communication_share"}, from medians over the steps."""
    from zoo.training import distribute

    strategy = distribute.make_strategy("mirrored", replicas) if replicas > 1 else None
    import keras
    import numpy as np
    import tensorflow as tf

    import zoo

    with distribute.scope(strategy):
        model = zoo.nin_dsn((32, 32, 3), 10, width=width)
        model.compile(keras.optimizers.SGD(0.01, momentum=0.9), zoo.SoftmaxCrossEntropy())
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch, 32, 32, 3)).astype("float32")
    data = tf.data.Dataset.from_tensors((images, rng.integers(0, 10, batch))).repeat()
    clock = Clock()
    warm_up = 3
    distribute.fit(
        model, strategy, data, epochs=1, steps_per_epoch=steps + warm_up, callbacks=[clock.callback]
    )
    step = np.median(clock.times[warm_up:])
    share = 0.0
    if strategy is not None:
        share = np.median(time_sums(strategy, model.trainable_variables, steps)) / step
    return {"steps_per_second": 1 / step, "communication_share": share}


class Clock:
    """Measure the seconds of each step."""

    def __init__(self):
        import keras

        self.times, self.began = [], None
        self.callback = keras.callbacks.LambdaCallback(
            on_train_batch_begin=self.start, on_train_batch_end=self.stop
        )

    def start(self, batch, logs=None):
        self.began = time.perf_counter()

    def stop(self, batch, logs=None):
        self.times.append(time.perf_counter() - self.began)


def time_sums(strategy, variables, steps):
    """Return the seconds of each step that sums tensors shaped like the variables.

    Three more steps run first, to warm up.
    """
    import tensorflow as tf

    def replica():
        context = tf.distribute.get_replica_context()
        gradients = [tf.convert_to_tensor(variable) for variable in variables]
        sums = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
        return tf.add_n([tf.reduce_sum(total) for total in sums])

    @tf.function(autograph=False)
    def step():
        return strategy.experimental_local_results(strategy.run(replica))[0]

    times = []
    for _ in range(steps + 3):
        began = time.perf_counter()
        step().numpy()
        times.append(time.perf_counter() - began)
    return times[3:]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--replicas", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one, options.batch, options.steps, options.width)))
        return
    print("replicas  steps/s  communication")
    for replicas in options.replicas:
        command = [sys.executable, __file__, "--one", str(replicas)]
        for name in ("batch", "steps", "width"):
            command += [f"--{name}", str(getattr(options, name))]
        ran = subprocess.run(command, capture_output=True, text=True)
        if ran.returncode:
            sys.exit(ran.stderr[-2000:])
        row = json.loads(ran.stdout.splitlines()[-1])
        print(
            f"{replicas:8d}  {row['steps_per_second']:7.2f}  {row['communication_share']:12.1%}",
            flush=True,
        )


if __name__ == "__main__":
    main()
