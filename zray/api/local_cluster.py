"""The local cluster that ``init`` starts: one subprocess, which forks the others (see ``zray.worker.host.local``)."""

from __future__ import annotations

import dataclasses
import json
import os
import select
import subprocess
import sys
import time
from typing import IO, Any

from zray.config import Config
from zray.exceptions import SystemFailure
from zray.util.processes import TITLE_PADDING
from zray.util.session_lock import SessionLock
from zray.util.sessions import SessionPaths

END_TIMEOUT_S = 10.0

_LAUNCH = "import sys, json; a = json.loads(sys.argv[1]); sys.path[:] = a['sys_path']; " \
          "from zray.worker.host.local import main; sys.exit(main(sys.argv[1]))"  # fmt: skip


class LocalCluster:
    """The subprocess. It ends when its stdin closes, which the end of this process does too.

    ``lock``: the session's; the subprocess holds it as well from now on. ``resources`` in ten-thousandths;
    ``store_bytes``: capacity of the store, 0: by ``config``; ``search_path``: the ``sys.path`` of its processes.
    """

    def __init__(
        self,
        paths: SessionPaths,
        lock: SessionLock,
        resources: dict[str, int],
        store_bytes: int,
        config: Config,
        search_path: list[str],
    ) -> None:
        arguments = {
            "session": paths.name,
            "root": str(paths.root),
            "lock": lock.filenos(),
            "resources": resources,
            "store_bytes": store_bytes,
            "config": dataclasses.asdict(config),
            "sys_path": search_path,
        }
        self._process = subprocess.Popen(
            [sys.executable, TITLE_PADDING, "-c", _LAUNCH, json.dumps(arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=_stderr_for_children(),
            env={**os.environ, "ZRAY_SESSION": paths.name, "SPT_NOENV": "1"},
            start_new_session=True,
            pass_fds=lock.filenos(),
        )

    @property
    def _stdout(self) -> IO[bytes]:
        assert self._process.stdout is not None
        return self._process.stdout

    @property
    def lifeline(self) -> int:
        """A descriptor that is at its end when all processes of the cluster are gone."""
        return self._stdout.fileno()

    def wait_until_ready(self, timeout_s: float) -> str:
        """The address of its broker. Raises SystemFailure when it does not start in time."""
        report = self._read_report(timeout_s)
        if "error" in report:
            raise SystemFailure(f"the local cluster could not start: {report['error']}")
        return str(report["address"])

    def _read_report(self, timeout_s: float) -> dict[str, Any]:
        """The first line that the local cluster writes."""
        deadline = time.monotonic() + timeout_s
        line = b""
        while not line.endswith(b"\n"):
            if not select.select([self.lifeline], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise SystemFailure(f"the local cluster did not start within {timeout_s:g} s (ZRAY_START_TIMEOUT_S)")
            chunk = os.read(self.lifeline, 4096)
            if not chunk:
                raise SystemFailure(
                    f"the local cluster ended while starting (exit code {self._process.wait()}); see its output above"
                )
            line += chunk
        report: dict[str, Any] = json.loads(line)
        return report

    def end(self) -> int:
        """Ends it and waits until it has; its exit code."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()  # its zygote cleans up
            self._process.wait()
        self._stdout.close()
        return self._process.returncode

    def kill(self) -> None:
        """Ends it at once."""
        self._process.kill()
        self._process.communicate()


def _stderr_for_children() -> int | None:
    """The driver's stderr, unless it is closed."""
    try:
        os.fstat(2)
    except OSError:
        return subprocess.DEVNULL
    return None
