"""Threads of zray leave signals to the main thread: see ``zray.system.threads``."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import Future
from pathlib import Path

import pytest

import zray

from .helpers import driver

FOR_MAIN = {signal.SIGINT, signal.SIGTERM, signal.SIGALRM, signal.SIGHUP, signal.SIGUSR1}


def blocked(thread: int | str = "self", process: int | str = "self") -> set[int]:
    """The signals that a thread blocks, by its identifier in the kernel."""
    for line in Path(f"/proc/{process}/task/{thread}/status").read_text().splitlines():
        if line.startswith("SigBlk:"):
            mask = int(line.split()[1], 16)
            return {number for number in range(1, 65) if mask >> (number - 1) & 1}
    raise AssertionError("the kernel does not say which signals a thread blocks")


def takers() -> list[str]:
    """The threads of this process, other than the main one, that a signal to the process may go to."""
    threads = [name for name in os.listdir("/proc/self/task") if int(name) != os.getpid()]
    assert threads
    return [name for name in threads if not blocked(name) >= FOR_MAIN]


@pytest.fixture
def cluster(sandbox):
    zray.init(num_cpus=2)
    yield zray
    zray.shutdown()


SOURCE = """
    import io, threading
    from tests.e2e.test_signals_of_threads import blocked, takers

    class Screen(io.StringIO):
        seen = threading.Event()
        def write(self, text):
            self.seen.set()  # by the thread that shows what workers print

    ray.init(num_cpus=2)
    screen, sys.stdout = sys.stdout, Screen()
    @ray.remote
    def say():
        print("a line", flush=True)
        return takers(), blocked(os.getpid())
    of_worker = ray.get(say.remote())
    Screen.seen.wait()
    print(takers(), blocked(os.getpid()), *of_worker, file=screen)
"""


def test_no_thread_of_zray_takes_a_signal_for_the_process(sandbox):
    with driver(SOURCE) as process:
        assert process.succeed().splitlines()[-1] == "[] set() [] set()"


def test_programs_that_a_callback_starts_block_no_signals(cluster):
    found: list[str] = []
    over = threading.Event()

    def call_back(future: Future[int]) -> None:
        code = "print(next(line for line in open('/proc/self/status') if line.startswith('SigBlk')))"
        found.append(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout)
        over.set()

    zray.remote(lambda: 1).remote().future().add_done_callback(call_back)
    assert over.wait(60)
    assert [int(text.split()[1], 16) for text in found] == [0]


def test_an_alarm_wakes_a_task(cluster):
    @zray.remote
    def limited() -> str:
        def late(number, frame):
            raise TimeoutError

        signal.signal(signal.SIGALRM, late)
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        try:
            signal.pause()
        except TimeoutError:
            return "in time"
        return "woken by something else"

    assert zray.get(limited.remote()) == "in time"
