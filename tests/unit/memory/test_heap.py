"""What is alive is hidden from the collector, where the collector can do that."""

from __future__ import annotations

import gc
import logging
import subprocess
import sys

import pytest

from zray.memory.heap import freeze_heap


def test_what_is_alive_is_frozen() -> None:
    source = "import gc; from zray.memory.heap import freeze_heap; freeze_heap(); print(gc.get_freeze_count() > 1000)"
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("True\n", "")


def test_a_collector_that_cannot_freeze(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.delattr(gc, "freeze")
    with caplog.at_level(logging.DEBUG, "zray.optimizations"):
        freeze_heap()
    assert caplog.messages == ["freeze-heap is left out: this interpreter has no gc.freeze"]
