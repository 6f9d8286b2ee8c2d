"""Helpers of several scenarios: bounded polling, a driver in a process of its own, and small actors.

No helper depends on one implementation: the module under test (``ray`` or ``zray``) is always passed in.
"""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from typing import Any


def eventually(predicate: Callable[[], Any], timeout_s: float = 15.0, pause_s: float = 0.02) -> Any:
    """Returns the first true value of ``predicate``; fails if there is none within ``timeout_s``.

    For conditions without an event, such as the death of an actor whose last handle is gone.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        value = predicate()
        if value:
            return value
        assert time.monotonic() < deadline, f"not true within {timeout_s} s"
        time.sleep(pause_s)


def run_driver(impl: str, source: str, address: str | None = None, timeout_s: float = 60.0) -> str:
    """Runs ``source`` as a driver of its own, with ``ray`` imported and the arguments of ``init`` in ``INIT``.

    The arguments start a cluster, or join the one at ``address``. Returns the output of the driver; fails if it does
    not end with exit code 0.
    """
    init: dict[str, Any] = {"num_cpus": 2} if address is None else {"address": address}
    if impl == "ray":
        init |= {"log_to_driver": False, "logging_level": "ERROR"}
        init |= {} if address else {"include_dashboard": False}
    program = f"import {impl} as ray\nINIT = {init!r}\n" + textwrap.dedent(source)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=timeout_s)
    assert done.returncode == 0, done.stderr
    return done.stdout


def raises_within(ray: Any, ref: Any, timeout_s: float = 20.0) -> BaseException:
    """Returns the error that ``get`` raises for ``ref``."""
    try:
        value = ray.get(ref, timeout=timeout_s)
    except Exception as error:
        return error
    raise AssertionError(f"no error but {value!r:.100}")


def make_gate(ray: Any) -> Any:
    """Makes an actor at which tasks wait: ``wait`` blocks until ``open`` is called; ``arrived`` counts the waiting."""

    @ray.remote(num_cpus=0)
    class Gate:
        def __init__(self) -> None:
            import asyncio

            self.count = 0
            self.event = asyncio.Event()

        async def wait(self) -> str:
            self.count += 1
            await self.event.wait()
            return "open"

        async def open(self) -> None:
            self.event.set()

        async def arrive(self) -> int:
            self.count += 1
            return self.count

        async def arrived(self) -> int:
            return self.count

    return Gate.remote()


def make_counter(ray: Any, **options: Any) -> Any:
    """Makes an actor that counts how often code ran, also across the deaths of the processes that run it."""

    @ray.remote(num_cpus=0)
    class Counter:
        def __init__(self, start: int = 0) -> None:
            self.value = start

        def increment(self, by: int = 1) -> int:
            self.value += by
            return self.value

        def read(self) -> int:
            return self.value

    return Counter.options(**options).remote() if options else Counter.remote()


def has_named_actor(ray: Any, name: str, namespace: str | None = None) -> bool:
    """Whether an actor with that name is alive."""
    try:
        ray.get_actor(name, namespace=namespace)
    except ValueError:
        return False
    return True


def make_canary(ray: Any, name: str) -> Any:
    """Makes a named actor and waits until it is ready. It dies with its last handle, so its death shows that the value
    with that handle was freed."""

    @ray.remote(num_cpus=0)
    class Canary:
        def sing(self) -> str:
            return "tweet"

    canary = Canary.options(name=name).remote()
    assert ray.get(canary.sing.remote()) == "tweet"
    return canary
