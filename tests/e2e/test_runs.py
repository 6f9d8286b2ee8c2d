"""Test runs themselves: in the background, and ended from outside."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from .helpers import Process, Sandbox, eventually

HERE = Path(__file__).parent


def run_of(*options: str, **environ: str) -> Process:
    """Starts pytest in a process group of its own, with SIGINT ignored, as a shell does in the background."""
    command = f"trap '' INT; exec {sys.executable} -m pytest -p no:cacheprovider -q -s {' '.join(options)}"
    mine = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return Process(["sh", "-c", command], cwd=HERE.parent.parent, env={**mine, **environ})


@pytest.mark.parametrize("processes", [0, 2])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_ended_leaves_nothing(number, processes, tmp_path):
    tests = processes or 1
    environ = {"WAITING_TESTS": str(tests), "WAITING_DIRECTORY": str(tmp_path)}
    options = ["-n", str(processes)] if processes else []
    with run_of(*options, str(HERE / "waiting.py"), **environ) as run:
        eventually(lambda: len(list(tmp_path.glob("[0-9]"))) == tests or run.popen.poll() is not None, 30.0)
        told = [(tmp_path / str(number)).read_text().splitlines() for number in range(tests)]
        left = [Sandbox(Path(directory)) for directory, _ in told]
        assert len({sandbox.directory for sandbox in left}) == tests
        assert all("default_int_handler" in handler for _, handler in told)
        assert all(sandbox.processes("zray") for sandbox in left)
        if number == signal.SIGINT:
            os.killpg(run.pid, number)  # as a terminal does
        else:
            run.signal(number)
        assert run.wait() == pytest.ExitCode.INTERRUPTED, run.report()
        for sandbox in left:
            sandbox.assert_clean()
            assert not sandbox.directory.exists()


def test_a_run_in_the_background_can_be_interrupted_within():
    with run_of(str(HERE / "test_interruption.py"), "-k 'running_task or of_a_terminal'") as run:
        run.succeed(60)
