"""Starts a broker or a host that outlives the command: for ``zray start``, and for the remote half of ``zray up``."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import IO

from zray.exceptions import ZrayError
from zray.system import interpreter

READY = {"zray.cli.broker": "zray broker is ready", "zray.cli.worker": "zray host is ready"}
"""What each program prints when it is ready."""
NAMES = {"zray.cli.broker": "zray-broker", "zray.cli.worker": "zray-worker"}
_PAUSE_S = 0.02


def launch(
    module: str, options: list[str], environ: Mapping[str, str], log: IO[bytes], timeout_s: float
) -> subprocess.Popen[bytes]:
    """Starts a program in a session of its own, and returns its process once it is ready.

    Args:
        module: ``zray.cli.broker`` or ``zray.cli.worker``.
        options: its arguments.
        environ: its environment.
        log: a file open for reading and writing. It takes the program's output, which a pipe would not do after the
            command has ended.
        timeout_s: how long it may take to be ready, in seconds. Then it is ended.

    Raises:
        ZrayError: it ended, or was not ready in time. What it had written is on stderr.
    """
    process = subprocess.Popen(
        interpreter.command(module, *options), env=interpreter.environment(environ),
        stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
    )  # fmt: skip
    try:
        _await_ready(process, module, log, timeout_s)
    except BaseException:  # the command is interrupted, too
        process.terminate()
        raise
    return process


def _await_ready(process: subprocess.Popen[bytes], module: str, log: IO[bytes], timeout_s: float) -> None:
    name, deadline = NAMES[module], time.monotonic() + timeout_s
    while READY[module] not in written(log):
        if process.poll() is not None:
            sys.stderr.write(written(log))
            raise ZrayError(f"{name} ended with exit code {process.returncode}")
        if time.monotonic() >= deadline:
            sys.stderr.write(written(log))
            raise ZrayError(f"{name} was not ready within {timeout_s:g} s (start_timeout_s, join_timeout_s)")
        time.sleep(_PAUSE_S)


def written(log: IO[bytes]) -> str:
    """Returns what a program has written to its log. The position of the file stays where the program writes."""
    return os.pread(log.fileno(), os.fstat(log.fileno()).st_size, 0).decode(errors="replace")
