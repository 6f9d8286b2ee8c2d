"""Tests that wait until their run is ended from outside. ``test_runs.py`` runs them, and nothing else collects them."""

from __future__ import annotations

import os
import select
import signal
from pathlib import Path

import pytest

import zray

from .helpers import by_hand


@pytest.mark.parametrize("number", range(int(os.environ["WAITING_TESTS"])))
def test_that_waits(sandbox, number):
    signalled, write = os.pipe2(os.O_NONBLOCK)
    signal.set_wakeup_fd(write)
    with by_hand(cpus=1) as (address, _, _):
        zray.init(address)
        told = Path(os.environ["WAITING_DIRECTORY"], str(number))
        told.with_suffix(".new").write_text(f"{sandbox.directory}\n{signal.getsignal(signal.SIGINT)}")
        told.with_suffix(".new").rename(told)
        select.select([signalled], [], [])  # ``signal.pause`` would miss a signal that comes just before it
        raise AssertionError("the signal's handler has not raised")
