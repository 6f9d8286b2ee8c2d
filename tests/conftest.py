"""What holds for all tests.

Their names are the same in every process, or pytest-xdist could not share them out. Signals do what they do at a
terminal, however the run was started, and leave nothing behind. With ``-n``, the process that was started runs no
tests: it is interrupted, and interrupts each of its test processes once.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")

# Directories whose modules have a cluster each, which their tests share: one test process runs a whole module.
_CLUSTER_PER_MODULE = [Path(__file__).parent / name for name in ("conformance", "docs")]

_test_processes: list[int] = []


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Undoes what a run in the background (``&``, ``nohup``) inherits, and ends orderly by SIGTERM as by Ctrl-C."""
    if getattr(config.option, "dist", "no") == "load":
        config.option.dist = "loadgroup"  # as `-n 2` asks for it, but groups stay together
    if _is_test_process(config):  # Ctrl-C at a terminal is for the process that has started it
        os.setpgid(0, 0)
    if threading.current_thread() is not threading.main_thread():
        return
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)

    signal.signal(signal.SIGTERM, _end)
    hold, release = (
        functools.partial(_mask_sigterm, signal.SIG_BLOCK),
        functools.partial(_mask_sigterm, signal.SIG_UNBLOCK),
    )
    os.register_at_fork(before=hold, after_in_parent=release, after_in_child=_default_in_child)


def _end(number: int, frame: object) -> NoReturn:
    signal.signal(signal.SIGTERM, _pass)  # once: what ends is not to be interrupted
    raise KeyboardInterrupt(f"ended by {signal.Signals(number).name}")


def _mask_sigterm(how: int) -> None:
    signal.pthread_sigmask(how, {signal.SIGTERM})


def _default_in_child() -> None:
    """SIGTERM ends children that tests fork: without this it is lost in one whose interpreter is not ready yet.

    Children of a child that ignores SIGTERM, such as a zygote, ignore it, too.
    """
    if signal.getsignal(signal.SIGTERM) in (_end, _pass):
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _mask_sigterm(signal.SIG_UNBLOCK)


def _pass(number: int, frame: object) -> None:
    """A handler and not ``SIG_IGN``, which children would inherit."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_newgateway(gateway: Any) -> None:
    _test_processes.append(gateway._rinfo().pid)


def _is_test_process(config: pytest.Config) -> bool:
    """Whether this is one of the processes that ``-n`` starts."""
    return hasattr(config, "workerinput")


@pytest.hookimpl(tryfirst=True)
def pytest_keyboard_interrupt() -> None:
    """Interrupts the test processes too. xdist would do so after 5 s, and kill them after another 5."""
    for pid in _test_processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """While fixtures are taken down, an interrupted test process is not interrupted again: xdist tries to."""
    if exitstatus == pytest.ExitCode.INTERRUPTED and _is_test_process(session.config):
        signal.signal(signal.SIGINT, _pass)


@pytest.fixture
def hangups() -> Iterator[None]:
    """Programs that the test starts do not ignore SIGHUP, as they would if the tests run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for mark in metafunc.definition.iter_markers("parametrize"):
        values = mark.args[1] if len(mark.args) > 1 else mark.kwargs.get("argvalues")
        if isinstance(values, (set, frozenset)):
            raise pytest.UsageError(f"{metafunc.definition.nodeid}: a set has no order, so sort its values")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent in _CLUSTER_PER_MODULE:
            item.add_marker(pytest.mark.xdist_group(item.path.stem))
    if changing := [item.nodeid for item in items if _ADDRESS.search(item.nodeid)]:
        raise pytest.UsageError(f"these names change with each run, give them ids: {', '.join(changing)}")
