"""Train on one device, several devices or several machines, under `tf.distribute`.

`make_strategy` finds the devices. `fit` trains on them and gives the same numbers as one device.
"""

from zoo.training.agreement import (
    Ballot,
    WorkerLost,
    check_same_everywhere,
    wait_for_all,
    workers_watched,
)
from zoo.training.loops.replicas import evaluate, fit
from zoo.training.replica_checks import check, check_gives_one_loss_an_example
from zoo.training.replica_state import Counted, decorrelate
from zoo.training.strategy import (
    KINDS,
    StrategyError,
    described,
    is_chief,
    make_strategy,
    scope,
    shard,
)

__all__ = [
    "KINDS",
    "Ballot",
    "Counted",
    "StrategyError",
    "WorkerLost",
    "check",
    "check_gives_one_loss_an_example",
    "check_same_everywhere",
    "decorrelate",
    "described",
    "evaluate",
    "fit",
    "is_chief",
    "make_strategy",
    "scope",
    "shard",
    "wait_for_all",
    "workers_watched",
]
