"""The warm-up of a worker runs its tasks and leaves nothing behind."""

import subprocess
import sys

import pytest

from zray.worker.process import warm_up

PROGRAM = """
import os, signal, sys
from zray.client import session
from zray.worker.process import warm_up
from zray.worker.process.worker import Worker

ran = []
call = Worker._call
Worker._call = lambda self, task, options: (ran.append(task.task_id), call(self, task, options))[1]

def state():
    return (
        sorted(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task")), dict(os.environ), os.getcwd(),
        list(sys.path), signal.getsignal(signal.SIGINT), session.current(),
    )

before = state()
warm_up.warm_up()
assert state() == before, (before, state())
assert len(set(ran)) == len(ran) == warm_up.WORKERS * warm_up.TASKS, len(ran)
"""


def test_it_runs_every_task_and_leaves_the_process_as_it_was():
    """In a process of its own: the zygote has one thread, and a test runner may have others."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


FAILS = """
import logging, os, sys
logging.basicConfig(level=logging.DEBUG, stream=sys.stdout, format="%(levelname)s %(name)s: %(message)s")
from zray.worker.process import warm_up

def serve(self):
    raise LookupError("a fault")

warm_up.Worker.serve = serve
before = sorted(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))
warm_up.warm_up()
assert (sorted(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))) == before
"""


def test_a_failure_is_logged_at_level_debug_and_leaves_nothing_behind():
    done = subprocess.run([sys.executable, "-c", FAILS], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    told = "DEBUG zray.optimizations: warm-up is left out: it has failed: LookupError('a fault')"
    assert told in done.stdout.splitlines() and "Traceback" in done.stdout


@pytest.mark.parametrize("name", ["_clear_internal_caches", "_clear_type_cache", ""])
def test_the_interpreters_cache_is_cleared_where_it_can_be(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cleared: list[str] = []
    for each in ("_clear_internal_caches", "_clear_type_cache"):
        monkeypatch.delattr(sys, each, raising=False)
    if name:
        monkeypatch.setattr(sys, name, lambda: cleared.append(name), raising=False)
    warm_up._clear_caches_of_types()
    assert cleared == ([name] if name else [])
