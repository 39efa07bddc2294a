"""The three loops can be called alike."""

import functools
import inspect

from zoo.training.loops import Loop, one_call_an_epoch, one_device, replicas


def parameters(function):
    """{name: kind} of what is still to be given."""
    return {
        name: parameter.kind
        for name, parameter in inspect.signature(function).parameters.items()
        if name != "self"
    }


def test_the_loops_have_one_signature():
    shared = parameters(Loop.__call__)
    assert parameters(one_device.fit) == parameters(one_call_an_epoch.fit) == shared
    of_replicas = {"strategy": None, "micro_batches": 1, "ballot": None, "sharded": False}
    bound = functools.partial(replicas.fit, **of_replicas)
    assert set(parameters(bound)) == {*shared, *of_replicas}
