"""One process at a time runs a workflow, and a lock ends with its process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from zray.workflow.lock import WorkflowLock, holder, is_locked

HOLDER = """
import sys
from zray.workflow.lock import WorkflowLock
lock = WorkflowLock.take(sys.argv[1])
print("held" if lock else "refused", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "lock")


@pytest.fixture
def other(path: str):
    """A process that holds the lock."""
    command = [sys.executable, "-c", HOLDER, path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_lock_is_taken_once_in_a_process(path: str) -> None:
    lock = WorkflowLock.take(path)
    assert lock is not None
    assert WorkflowLock.take(path) is None
    found = []
    thread = threading.Thread(target=lambda: found.append(WorkflowLock.take(path)))
    thread.start()
    thread.join()
    assert found == [None]
    assert is_locked(path)
    assert holder(path) == "this process"
    lock.release()
    lock.release()
    assert not is_locked(path)
    again = WorkflowLock.take(path)
    assert again is not None
    again.release()


def test_questions_do_not_release_the_lock(path: str) -> None:
    """POSIX releases a lock when its process closes any descriptor of the file."""
    lock = WorkflowLock.take(path)
    assert lock is not None
    assert is_locked(path)
    holder(path)
    WorkflowLock.take(path)
    done = subprocess.run(
        [sys.executable, "-c", HOLDER, path], stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    assert done.stdout == "refused\n"
    lock.release()


def test_another_process_is_named(path: str, other: subprocess.Popen) -> None:
    assert WorkflowLock.take(path) is None
    assert is_locked(path)
    assert holder(path).startswith(f"process {other.pid} (-c) on ")


def test_the_lock_of_a_killed_process_is_taken_over(path: str, other: subprocess.Popen) -> None:
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert not is_locked(path)
    lock = WorkflowLock.take(path)
    assert lock is not None
    lock.release()


FORKS = """
import os, signal, sys
from zray.workflow.lock import WorkflowLock, is_locked
path = sys.argv[1]
lock = WorkflowLock.take(path)
pid = os.fork()
if pid == 0:  # releasing what it inherited, and asking, change nothing for the parent
    lock.release(remove=True)
    os._exit(0 if WorkflowLock.take(path) is None and is_locked(path) else 1)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), os.path.exists(path))
pid = os.fork()
if pid == 0:
    signal.pause()
lock.release()
print(WorkflowLock.take(path) is not None)  # although the child lives
os.kill(pid, signal.SIGKILL)
os.waitpid(pid, 0)
"""


def test_a_forked_child_does_not_hold_the_lock(path: str) -> None:
    done = subprocess.run([sys.executable, "-c", FORKS, path], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("0 True\nTrue\n", "")


def test_a_file_that_its_holder_has_removed_is_made_again(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The holder removes the file between the opening and the locking of another one."""
    opened = []
    real = os.open

    def open_and_remove(*args):
        fd = real(*args)
        opened.append(fd)
        if len(opened) == 1:
            os.unlink(path)
        return fd

    monkeypatch.setattr(os, "open", open_and_remove)
    lock = WorkflowLock.take(path)
    assert lock is not None
    assert len(opened) == 2
    assert os.path.samestat(os.fstat(lock._fd), os.stat(path))
    lock.release(remove=True)
    assert not os.path.exists(path)


def test_a_lock_file_without_a_holder_is_described(path: str) -> None:
    assert not is_locked(path)
    assert holder(path) == "another process"
    Path(path).write_text("torn {")
    assert holder(path) == "another process"
