"""Calls of actors that never existed, or belong to an earlier cluster, fail at once."""

from __future__ import annotations

import pytest

from .helpers import raises_within, run_driver


@pytest.fixture
def failed(ray):
    """A reference to an object that is an error already."""

    @ray.remote
    def fail():
        raise ValueError("original text")

    ref = fail.remote()
    raises_within(ray, ref)
    return ref


def make_class(ray):
    @ray.remote(num_cpus=0)
    class Actor:
        def __init__(self, *args, **kwargs):
            self.args = args

        def ping(self):
            return "pong"

    return Actor


def test_an_argument_of_the_constructor_is_an_error(ray, failed):
    actor = make_class(ray).remote(failed)
    for _ in range(2):
        error = raises_within(ray, actor.ping.remote())
        assert isinstance(error, ray.exceptions.RayError)
        assert "original text" in str(error)


def test_a_keyword_argument_is_an_error_and_another_is_not_there_yet(ray, gate, failed):
    actor = make_class(ray).remote(gate.wait.remote(), other=failed)
    result = actor.ping.remote()
    ray.get(gate.open.remote())
    assert "original text" in str(raises_within(ray, result))


def test_one_with_a_name(ray, impl, failed):
    kind = make_class(ray)
    actor = kind.options(name="stillborn").remote(failed)
    assert "original text" in str(raises_within(ray, actor.ping.remote()))
    if impl == "zray":  # the name is free at once; on Ray, a moment later
        again = kind.options(name="stillborn").remote(1)
        assert ray.get(again.ping.remote()) == "pong"


def test_one_that_is_found_or_created(ray, failed):
    actor = make_class(ray).options(name="stillborn or found", get_if_exists=True).remote(failed)
    assert "original text" in str(raises_within(ray, actor.ping.remote()))


def test_one_that_is_detached(ray, failed):
    actor = make_class(ray).options(name="stillborn and detached", lifetime="detached").remote(failed)
    assert "original text" in str(raises_within(ray, actor.ping.remote()))


def test_in_another_process(ray, failed):
    @ray.remote
    def call(actor):
        return ray.get(actor.ping.remote(), timeout=20)

    error = raises_within(ray, call.remote(make_class(ray).remote(failed)), timeout_s=30)
    assert "original text" in str(error)


HANDLES_OF_ANOTHER_CLUSTER = """
import pickle
@ray.remote(num_cpus=0)
class Actor:
    def ping(self):
        return "pong"

def outcome(call):
    try:
        return f"value {call()}"
    except Exception as error:
        return type(error).__name__

ray.init(**INIT)
counted, detached = Actor.remote(), Actor.options(name="detached", lifetime="detached").remote()
assert ray.get([counted.ping.remote(), detached.ping.remote()]) == ["pong", "pong"]
pickled = pickle.dumps(counted)
ray.shutdown()
ray.init(**INIT)
for handle in (counted, detached):
    print(outcome(lambda: ray.get(handle.ping.remote(), timeout=20)))
ray.shutdown()
"""


def test_a_handle_of_an_earlier_cluster(impl):
    outcomes = run_driver(impl, HANDLES_OF_ANOTHER_CLUSTER).split()[-2:]  # Ray prints other lines before
    assert outcomes == ["ActorDiedError" if impl == "zray" else "Exception"] * 2


THE_SAME_IN_A_TASK = HANDLES_OF_ANOTHER_CLUSTER.replace(
    "for handle in (counted, detached):",
    """
@ray.remote
def call(handle):
    return ray.get(handle.ping.remote(), timeout=20)

@ray.remote
def unpickle_and_call(pickled):
    return ray.get(pickle.loads(pickled).ping.remote(), timeout=20)

for refs in (call.remote(counted), call.remote(detached), unpickle_and_call.remote(pickled)):
    print(outcome(lambda: ray.get(refs, timeout=40)))
for handle in ():
""",
)


def test_such_a_handle_in_a_task(impl):
    if impl == "ray":
        pytest.skip("Ray's driver waits for ever")
    assert run_driver(impl, THE_SAME_IN_A_TASK).split() == ["RayTaskError(ActorDiedError)"] * 3


def test_killing_by_such_a_handle_does_nothing(impl):
    source = HANDLES_OF_ANOTHER_CLUSTER.replace(
        "    print(outcome(lambda: ray.get(handle.ping.remote(), timeout=20)))",
        "    outcome(lambda: ray.kill(handle))\nprint(ray.get(Actor.remote().ping.remote()))",
    )
    assert run_driver(impl, source).split()[-1] == "pong"
