"""A test that waits until its run is ended from outside. Run by ``test_runs.py``, and collected by nobody else."""

from __future__ import annotations

import signal
import sys

import zray

from .helpers import by_hand


def test_that_waits(sandbox):
    with by_hand(cpus=1) as (address, _, _):
        zray.init(address)
        print(f"\nready in {sandbox.directory} with SIGINT {signal.getsignal(signal.SIGINT)}", flush=True)
        sys.stdin.readline()
