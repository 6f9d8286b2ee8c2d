"""Both ways to fork, and which of them is used."""

from __future__ import annotations

import ctypes
import logging
import subprocess
import sys

import pytest

from zray.worker.host.zygote import forking
from zray.worker.host.zygote.forking import TRIED, BareFork, PlainFork, choose_forking

LIFE = """
import os, threading
from zray.worker.host.zygote.forking import BareFork, PlainFork

forking = {kind}()
read, write = os.pipe()
pid = forking.fork()
if pid == 0:
    os.write(write, b"asleep ")  # what a child may do before it wakes up: system calls, in its one thread
    forking.wake_up()
    thread = threading.Thread(target=os.write, args=(write, b"awake"))
    thread.start()
    thread.join()
    assert threading.current_thread() is threading.main_thread() and threading.active_count() == 1
    import decimal
    os._exit(7)
os.close(write)
print(os.fdopen(read).read(), os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


def run(source: str) -> str:
    """Runs code in a process of its own, which has one thread."""
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize("kind", ["PlainFork", "BareFork"])
def test_the_child_lives_and_the_parent_learns_its_pid(kind: str) -> None:
    if kind == "BareFork" and not isinstance(choose_forking(bare=True), BareFork):
        pytest.skip("a bare fork does not work on this interpreter")
    assert run(LIFE.format(kind=kind)) == "asleep awake 7\n"


@pytest.mark.parametrize("bare", [True, False])
def test_a_fork_that_the_system_refuses(bare: bool) -> None:
    """The user may have no more processes. Root is not limited, and so gives up its rights first."""
    source = f"""
import os, resource, sys
from zray.worker.host.zygote.forking import choose_forking
forking = choose_forking({bare})
if os.geteuid() == 0:
    os.setuid(54321)
resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
for _ in range(2):  # the interpreter is as ready as before to fork again
    try:
        pid = forking.fork()
    except BlockingIOError:
        print("refused")
    else:
        os._exit(0) if pid == 0 else print("forked")
"""
    assert run(source) == "refused\nrefused\n"


def test_the_plain_fork_is_used_on_request() -> None:
    assert type(choose_forking(bare=False)) is PlainFork


def test_the_bare_fork_is_used_on_tested_versions() -> None:
    tried = sys.version_info[:2] in TRIED and "t" not in sys.abiflags
    assert type(choose_forking(bare=True)) is (BareFork if tried else PlainFork)


def test_an_untested_version_is_logged_at_level_debug(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(forking, "TRIED", ())
    with caplog.at_level(logging.DEBUG, "zray.optimizations"):
        assert type(choose_forking(bare=True)) is PlainFork
    (record,) = caplog.records
    assert record.levelno == logging.DEBUG
    assert record.getMessage().startswith("bare-fork is left out: it has not been tested on cpython 3.")


def test_an_interpreter_that_hides_its_functions(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(forking, "TRIED", (sys.version_info[:2],))
    monkeypatch.setattr(sys, "abiflags", "")
    monkeypatch.setattr(ctypes, "PyDLL", lambda *args, **kwargs: object())
    with caplog.at_level(logging.DEBUG, "zray.optimizations"):
        assert type(choose_forking(bare=True)) is PlainFork
    assert "bare-fork is left out: 'object' object has no attribute" in caplog.text
