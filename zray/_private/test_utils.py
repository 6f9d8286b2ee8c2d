"""Where Ray's own tests have their helpers. These few are here because programs' tests use them, too."""

from __future__ import annotations

import subprocess
import sys

from zray._common.test_utils import (
    Semaphore,
    SignalActor,
    async_wait_for_condition,
    run_string_as_driver,
    wait_for_condition,
)
from zray.system.processes import process_start_time

__all__ = [
    "Semaphore",
    "SignalActor",
    "async_wait_for_condition",
    "run_string_as_driver",
    "run_string_as_driver_nonblocking",
    "wait_for_condition",
    "wait_for_pid_to_exit",
]


def run_string_as_driver_nonblocking(driver_script: str, env: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
    """Starts a program in a process of its own, and returns the process. Its output is in pipes."""
    process = subprocess.Popen(
        [sys.executable, "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env
    )
    assert process.stdin is not None
    process.stdin.write(driver_script.encode())
    process.stdin.close()
    return process


def wait_for_pid_to_exit(pid: int, timeout: float = 20) -> None:
    """Waits until there is no process ``pid``. Raises RuntimeError if there still is one after ``timeout`` seconds."""
    wait_for_condition(lambda: process_start_time(pid) is None, timeout=timeout)
