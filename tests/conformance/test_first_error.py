"""``get`` of several references raises as soon as one has failed, even if others are pending."""

from __future__ import annotations

import asyncio
import os
import threading

import pytest

from .helpers import eventually, make_gate

TIMEOUT_S = 20
"""A timeout, in seconds, far above what any test needs. A ``get`` that waits for all ends with GetTimeoutError."""


def fail(text="x"):
    raise ValueError(text)


def fail_when_open(ray, gate, text="late"):
    ray.get(gate.wait.remote())
    raise ValueError(text)


def failed(ray, *texts):
    """Returns references of tasks that have failed."""
    refs = [ray.remote(max_retries=0)(fail).remote(text) for text in texts]
    assert ray.wait(refs, num_returns=len(refs), timeout=TIMEOUT_S)[1] == []
    return refs


@pytest.mark.parametrize("timeout", [None, 0, TIMEOUT_S])
@pytest.mark.parametrize("order", [1, -1], ids=["behind", "before"])
def test_an_error_that_is_there(ray, gate, order, timeout):
    refs = [ray.put(1), gate.wait.remote(), *failed(ray, "x")][::order]
    with pytest.raises(ValueError, match="x"):
        ray.get(refs, timeout=timeout)


@pytest.mark.parametrize("timeout", [None, TIMEOUT_S])
def test_an_error_that_comes_while_it_is_waited_for(ray, gate, timeout):
    other = make_gate(ray)
    refs = [gate.wait.remote(), ray.remote(fail_when_open).remote(ray, other), ray.put(1)]
    eventually(lambda: ray.get(other.arrived.remote()))
    threading.Timer(0.05, other.open.remote).start()
    with pytest.raises(ValueError, match="late"):
        ray.get(refs, timeout=timeout)


def test_of_several_errors_the_first_in_the_list(ray, gate):
    one, two = failed(ray, "one", "two")
    for refs, text in [([two, one], "two"), ([one, two], "one"), ([gate.wait.remote(), two, one], "two")]:
        with pytest.raises(ValueError, match=text):
            ray.get(refs, timeout=TIMEOUT_S)


def test_one_error_twice(ray, gate):
    (ref,) = failed(ray, "x")
    pending = gate.wait.remote()
    with pytest.raises(ValueError, match="x"):
        ray.get([pending, ref, pending, ref], timeout=TIMEOUT_S)


def test_the_pending_can_be_got_afterwards(ray, gate):
    pending = gate.wait.remote()
    (ref,) = failed(ray, "x")
    for _ in range(2):
        with pytest.raises(ValueError, match="x"):
            ray.get([pending, ref], timeout=TIMEOUT_S)
    gate.open.remote()
    assert ray.get([pending, pending], timeout=TIMEOUT_S) == ["open", "open"]


def test_one_of_two_ranks_dies(ray, gate):
    other = make_gate(ray)

    @ray.remote(num_cpus=0)
    class Rank:
        def work(self, gate, die):
            ray.get(gate.wait.remote())
            if die:
                os._exit(1)

    ranks = [Rank.remote() for _ in range(2)]
    refs = [ranks[0].work.remote(gate, False), ranks[1].work.remote(other, True)]
    eventually(lambda: ray.get(gate.arrived.remote()) and ray.get(other.arrived.remote()))
    other.open.remote()
    with pytest.raises(ray.exceptions.ActorDiedError):
        ray.get(refs, timeout=TIMEOUT_S)


def test_one_of_two_is_cancelled(ray, gate):
    refs = [gate.wait.remote(), gate.wait.remote()]
    eventually(lambda: ray.get(gate.arrived.remote()) == 2)
    threading.Timer(0.05, ray.cancel, refs[1:]).start()
    with pytest.raises(ray.exceptions.TaskCancelledError):
        ray.get(refs, timeout=TIMEOUT_S)


def test_references_of_another_process(ray, gate):
    @ray.remote
    def get(refs):
        try:
            return ray.get(refs, timeout=TIMEOUT_S)
        except Exception as error:
            return type(error).__mro__

    refs = [gate.wait.remote(), *failed(ray, "x")]
    assert ValueError in ray.get(get.remote(refs))


def test_an_error_in_one_thread_ends_only_its_own_wait(ray, gate):
    pending = gate.wait.remote()
    values = []
    thread = threading.Thread(target=lambda: values.extend(ray.get([pending], timeout=TIMEOUT_S)))
    thread.start()
    (ref,) = failed(ray, "x")
    with pytest.raises(ValueError):
        ray.get([pending, ref], timeout=TIMEOUT_S)
    gate.open.remote()
    thread.join()
    assert values == ["open"]


def test_without_an_error_the_timeout_ends_the_wait(ray, gate):
    with pytest.raises(ray.exceptions.GetTimeoutError):
        ray.get([ray.put(1), gate.wait.remote(), gate.wait.remote()], timeout=0.05)


def test_wait_counts_an_error_and_goes_on_waiting(ray, gate):
    pending = gate.wait.remote()
    refs = [pending, *failed(ray, "x")]
    assert ray.wait(refs, timeout=TIMEOUT_S) == (refs[1:], [pending])
    assert ray.wait(refs, num_returns=2, timeout=0.05) == (refs[1:], [pending])
    threading.Timer(0.05, gate.open.remote).start()
    assert ray.wait(refs, num_returns=2, timeout=TIMEOUT_S) == (refs, [])


def test_futures_and_gather_end_one_by_one(ray, gate):
    pending = gate.wait.remote()
    (ref,) = failed(ray, "x")
    with pytest.raises(ValueError):
        ref.future().result(TIMEOUT_S)

    async def main():
        both = await asyncio.gather(ref, asyncio.wait_for(asyncio.shield(pending), 0.05), return_exceptions=True)
        gate.open.remote()
        return [*both, await pending]

    error, late, value = asyncio.run(main())
    assert isinstance(error, ValueError)
    assert isinstance(late, asyncio.TimeoutError)
    assert value == "open"
