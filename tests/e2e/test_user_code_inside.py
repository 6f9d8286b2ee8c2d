"""The user's code between any two of zray's bytecodes: finalizers that the collector runs, and signal handlers.

Every public call is made while such code runs at random moments. It calls zray itself, or raises. No call may hang,
nothing may be lost, and an exception of a handler arrives unchanged.
"""

from __future__ import annotations

import signal
import textwrap

import pytest

from .helpers import driver

CALLS = """
    import gc, random, signal, threading

    @ray.remote
    def add(a, b=0):
        return a + b

    @ray.remote(num_returns=2)
    def two():
        return 1, 2

    @ray.remote(num_cpus=0)
    class Counter:
        def __init__(self):
            self.value = 0
        def add(self):
            self.value += 1
            return self.value
        def get(self):
            return self.value

    def every_call(counter, number):
        ref = add.remote(number, b=1)
        assert ray.get(ref) == number + 1
        assert ray.get(add.remote(ref, ray.put(1))) == number + 2
        assert ray.get(two.remote()) == [1, 2]
        counter.add.remote()
        small, large = ray.put([number]), ray.put(bytes(200_000))
        ready, rest = ray.wait([small, large, add.remote(1)], num_returns=2, timeout=10)
        assert len(ready) == 2
        assert ray.get([small, large]) == [[number], bytes(200_000)]
        assert ray.get(add.remote(b"a" * 150_000, b=b"b")) == b"a" * 150_000 + b"b"
        assert ref.future().result(10) == number + 1
        ray.cancel(add.remote(2))
        if number % 10 == 0:
            other = Counter.remote()
            assert ray.get(other.add.remote()) == 1
            ray.kill(other)
            ray.get_runtime_context().get_job_id()
            ray.cluster_resources()

    def afterwards(counter):
        "Everything is usable, and nothing was lost."
        before = ray.get(counter.get.remote())
        assert ray.get([counter.add.remote() for _ in range(100)])[-1] == before + 100
        assert ray.get([add.remote(n) for n in range(500)], timeout=60) == list(range(500))
        assert not ray._session_lock().holds()
"""
SESSION_LOCK = """
    import zray.client.session
    ray._session_lock = lambda: zray.client.session.current().shell.lock
"""

COLLECTED = (
    SESSION_LOCK
    + CALLS
    + """
    class Ring:
        "Only the collector frees it: anywhere."
        made = ended = 0
        def __init__(self, counter):
            self.me, self.counter = self, counter
            Ring.made += 1
        def __del__(self):
            Ring.ended += 1
            self.counter.add.remote()
            if Ring.ended % 10 == 0:
                assert ray.get(add.remote(1)) == 1
                assert ray.get(ray.put(bytes(150_000))) == bytes(150_000)

    unseen = []
    sys.unraisablehook = lambda what: unseen.append(repr(what.exc_value))
    ray.init(num_cpus=2)
    counter, finalizers = Counter.remote(), Counter.remote()
    before = gc.get_threshold()
    gc.set_threshold(1)
    for number in range(60):
        for _ in range(5):
            Ring(finalizers)
        every_call(counter, number)
    gc.set_threshold(*before)
    gc.collect()
    afterwards(counter)
    assert not unseen, unseen
    assert ray.get(finalizers.get.remote()) == Ring.made == Ring.ended == 300, (Ring.made, Ring.ended)
    assert gc.get_threshold() == before
    print("fine")
"""
)

STRUCK = (
    SESSION_LOCK
    + CALLS
    + """
    class Struck(Exception):
        pass

    seed = random.randrange(1 << 32)
    print("seed", seed)
    moments = random.Random(seed)

    def handler(number, frame):
        {handler}

    def strike():
        signal.setitimer(signal.ITIMER_REAL, moments.uniform(0.00005, 0.004))

    ray.init(num_cpus=2)
    counter, handlers = Counter.remote(), Counter.remote()
    ray.get([counter.get.remote(), handlers.get.remote()])
    signal.signal(signal.SIGALRM, handler)
    struck, handled = 0, []
    deadline = time.monotonic() + 6
    number = 0
    while time.monotonic() < deadline:
        number += 1
        try:
            strike()
            every_call(counter, number)
            signal.setitimer(signal.ITIMER_REAL, 0)  # from here on nothing strikes outside of this block
        except Struck:
            struck += 1
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, lambda *_: None)
    {check}
    afterwards(counter)
    print("fine")
"""
)
RAISES = ("raise Struck", "assert struck > 50, struck")
CALLS_ZRAY = (
    # One may run while another runs: the count is right in the end.
    "handled.append(number); assert ray.get(handlers.add.remote()) > 0; ray.put(bytes(150_000)); strike()",
    "assert len(handled) > 50, handled; assert ray.get(handlers.get.remote()) == len(handled)",
)


def test_finalizers_call_zray_wherever_the_collector_runs_them(sandbox):
    with driver(COLLECTED) as process:
        process.expect("fine", 100)
        process.succeed()


@pytest.mark.parametrize("handler", [RAISES, CALLS_ZRAY], ids=["raises", "calls zray"])
def test_signal_handlers_run_at_any_moment(sandbox, handler):
    source = STRUCK.replace("{handler}", handler[0]).replace("{check}", handler[1])
    with driver(source) as process:
        process.expect("fine", 100)
        process.succeed()


IN_A_TASK = """
    ray.init(num_cpus=2)

    @ray.remote(num_cpus=1)
    def outer(source):
        import os, sys, time
        import zray as ray
        scope = {"ray": ray, "os": os, "sys": sys, "time": time, "__name__": "__main__", "print": lambda *_: None}
        exec(source, scope)
        return "fine"

    print(ray.get(outer.remote(SOURCE), timeout=90))
"""


@pytest.mark.parametrize("source", ["collected", "raises", "calls zray"])
def test_the_same_in_a_worker(sandbox, source):
    program = COLLECTED
    if source != "collected":
        handler = RAISES if source == "raises" else CALLS_ZRAY
        program = STRUCK.replace("{handler}", handler[0]).replace("{check}", handler[1])
    inner = textwrap.dedent(program).replace("ray.init(num_cpus=2)\n", "")
    with driver(f"    SOURCE = {inner!r}\n" + IN_A_TASK) as process:
        process.expect("fine", 100)
        process.succeed()


def test_a_handler_that_exits_ends_the_driver_in_order(sandbox):
    """As with process managers: SIGTERM, and a handler that calls ``sys.exit``."""
    source = """
    import signal
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
    ray.init(num_cpus=1)
    f = ray.remote(lambda n: n)
    print("going")
    while True:
        ray.get([f.remote(n) for n in range(20)])
        ray.put(bytes(200_000))
    """
    with driver(source) as process:
        process.expect("going")
        process.signal(signal.SIGTERM)
        assert process.wait(10) == 7, process.err
    sandbox.assert_clean()


def test_what_a_handler_raises_while_a_value_is_pickled_arrives_as_itself(sandbox):
    source = """
    import signal

    class Slow:
        def __reduce__(self):
            while True:
                pass

    def late(number, frame):
        raise TimeoutError("too slow")

    ray.init(num_cpus=1)
    f = ray.remote(lambda n: n)
    signal.signal(signal.SIGALRM, late)
    for call in (lambda: ray.put(Slow()), lambda: f.remote([Slow()]), lambda: ray.put({"a": [Slow()]})):
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        try:
            call()
        except TimeoutError as error:
            assert str(error) == "too slow"
        else:
            raise AssertionError("not raised")
    assert ray.get(f.remote(1)) == 1
    print("fine")
    """
    with driver(source) as process:
        process.expect("fine", 20)
        process.succeed()


def test_callbacks_of_futures_run_beside_a_get_that_is_interrupted(sandbox):
    """A future is completed whatever interrupts the main thread, in which its object became ready."""
    source = """
    import random, signal

    class Struck(Exception):
        pass

    def handler(number, frame):
        raise Struck

    ray.init(num_cpus=2)
    f = ray.remote(lambda n: n)
    signal.signal(signal.SIGALRM, handler)
    futures, called = [], []
    for number in range(300):
        future = f.remote(number).future()
        future.add_done_callback(lambda done: called.append(done.result()))
        futures.append(future)
        try:
            signal.setitimer(signal.ITIMER_REAL, random.uniform(0.0001, 0.002))
            ray.get(f.remote(0))
            signal.setitimer(signal.ITIMER_REAL, 0)
        except Struck:
            pass
    signal.setitimer(signal.ITIMER_REAL, 0)
    assert [future.result(20) for future in futures] == list(range(300))
    while len(called) < 300:
        time.sleep(0.01)
    assert sorted(called) == list(range(300))
    print("fine")
    """
    with driver(source) as process:
        process.expect("fine", 60)
        process.succeed()
