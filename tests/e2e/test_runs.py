"""Runs of tests themselves: in the background, and ended from outside."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from .helpers import Process, Sandbox

HERE = Path(__file__).parent


def run_of(*options: str, before: str = "") -> Process:
    command = f"{before} exec {sys.executable} -m pytest -p no:cacheprovider -q -s {' '.join(options)}"
    return Process(["sh", "-c", command], cwd=HERE.parent.parent, env={**os.environ, "PYTHONUNBUFFERED": "1"})


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_ended_leaves_nothing(number):
    with run_of(str(HERE / "waiting.py"), before="trap '' INT;") as run:
        line = run.expect("ready in ")
        assert "default_int_handler" in line  # though it was ignored when the run was started
        left = Sandbox(Path(line.split()[2]))
        assert left.processes("zray")
        run.signal(number)
        assert run.wait() == pytest.ExitCode.INTERRUPTED, run.report()
        left.assert_clean()
        assert not left.directory.exists()


def test_a_run_in_the_background_can_be_interrupted_within():
    with run_of(str(HERE / "test_interruption.py"), before="trap '' INT;") as run:
        run.succeed(120)
