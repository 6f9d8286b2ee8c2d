"""What holds for all tests: their names are the same in every process, or pytest-xdist could not share them out; and
signals do what they do at a terminal, however the run was started, and leave nothing behind.
"""

from __future__ import annotations

import re
import signal
import threading
from typing import NoReturn

import pytest

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def pytest_configure() -> None:
    """Undoes what a run in the background (``&``, ``nohup``) inherits, and ends orderly by SIGTERM as by Ctrl-C."""
    if threading.current_thread() is not threading.main_thread():
        return
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def end(number: int, frame: object) -> NoReturn:
        signal.signal(signal.SIGTERM, lambda number, frame: None)  # once: what ends is not to be interrupted
        raise KeyboardInterrupt(f"ended by {signal.Signals(number).name}")

    signal.signal(signal.SIGTERM, end)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for mark in metafunc.definition.iter_markers("parametrize"):
        values = mark.args[1] if len(mark.args) > 1 else mark.kwargs.get("argvalues")
        if isinstance(values, (set, frozenset)):
            raise pytest.UsageError(f"{metafunc.definition.nodeid}: a set has no order, so sort its values")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if changing := [item.nodeid for item in items if _ADDRESS.search(item.nodeid)]:
        raise pytest.UsageError(f"these names change with each run, give them ids: {', '.join(changing)}")
