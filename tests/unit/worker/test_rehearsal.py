"""The rehearsal of a worker's life leaves nothing behind, and is what it claims to be."""

import subprocess
import sys

PROGRAM = """
import os, signal, sys
from zray.client import session
from zray.worker.process import rehearsal
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
rehearsal.rehearse()
assert state() == before, (before, state())
assert len(set(ran)) == len(ran) == rehearsal.LIVES * rehearsal.TASKS, len(ran)
"""


def test_it_runs_every_task_and_leaves_the_process_as_it_was():
    """In a process of its own: the zygote has one thread, and a test runner may have others."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
