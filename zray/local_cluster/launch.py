"""The local cluster that ``init`` starts: one subprocess, which forks the others (see ``process``)."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import time
from collections.abc import Mapping
from typing import IO, Any

from zray.config import Config
from zray.exceptions import SystemFailure
from zray.local_cluster.settings import Settings
from zray.sessions.directories import SessionPaths
from zray.sessions.lock import SessionLock
from zray.system import interpreter
from zray.system.processes import await_end, past_standard

END_TIMEOUT_S = 10.0


class LocalCluster:
    """The subprocess. It ends when its stdin closes, so also when this process ends.

    It starts isolated, see ``zray.system.interpreter``, and gets its settings through a descriptor.

    ``lock``: the session's; from now on the subprocess holds it too. ``resources`` in ten-thousandths. ``store_bytes``:
    capacity of the store; 0: from ``config``. ``broker``: the address of a broker that the host joins; empty: one is
    started. ``environ``: the environment; None: this process's.
    """

    def __init__(
        self,
        paths: SessionPaths,
        lock: SessionLock,
        resources: dict[str, int],
        store_bytes: int,
        config: Config,
        broker: str = "",
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.host_id = b""
        """The identifier of its host, when it is ready."""
        report_read, report_write = map(past_standard, os.pipe())
        settings = Settings(
            paths.name, paths.root, lock.filenos(), report_write, resources, store_bytes, config, broker
        )
        environ = os.environ if environ is None else environ
        stderr = _stderr_for_children()
        with open(report_write, "wb"), _settings_file(settings) as given:
            self._report = os.fdopen(report_read, "rb", buffering=0)
            try:
                self._process = subprocess.Popen(
                    interpreter.command("zray.local_cluster.process", str(given.fileno())),
                    stdin=subprocess.PIPE,
                    stdout=stderr,  # nothing is written there on purpose, but a sitecustomize may print
                    stderr=stderr,
                    env=interpreter.environment(environ, ZRAY_SESSION=paths.name, SPT_NOENV="1"),
                    cwd="/",  # the present directory may be removed, and only workers need it
                    start_new_session=True,
                    pass_fds=[*lock.filenos(), report_write, given.fileno()],
                )
            except BaseException:
                self._report.close()
                raise

    @property
    def lifeline(self) -> int:
        """A descriptor that reaches its end when all processes of the cluster have ended."""
        return self._report.fileno()

    def wait_until_ready(self, timeout_s: float) -> str:
        """Returns the address of its broker. Raises SystemFailure when it does not start in time."""
        report = self._read_report(timeout_s)
        if "error" in report:
            raise SystemFailure(f"the local cluster could not start: {report['error']}")
        self.host_id = bytes.fromhex(report["host_id"])
        return str(report["address"])

    @property
    def pid(self) -> int:
        """The identifier of the process."""
        return self._process.pid

    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def _read_report(self, timeout_s: float) -> dict[str, Any]:
        """Returns the first line that the local cluster writes."""
        deadline = time.monotonic() + timeout_s
        line = b""
        poll = select.poll()  # unlike select() it takes descriptors from 1,024 on
        poll.register(self.lifeline, select.POLLIN)
        while not line.endswith(b"\n"):
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
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
        """Ends the cluster, waits for its end, and returns its exit code."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        patience_s = END_TIMEOUT_S
        with contextlib.suppress(OSError):  # it was reaped already, or there is no descriptor
            await_end(self._process.pid, END_TIMEOUT_S)  # ``Popen.wait`` would look only every 50 ms
            patience_s = 0.1
        try:
            self._process.wait(patience_s)
        except subprocess.TimeoutExpired:
            self._process.kill()  # its zygote cleans up
            self._process.wait()
        self._report.close()
        return self._process.returncode

    def kill(self) -> None:
        """Kills the cluster."""
        self._process.kill()
        self._process.communicate()
        self._report.close()


def _settings_file(settings: Settings) -> IO[bytes]:
    """Returns an unnamed file: settings may not fit into an argument or a pipe, and no other process may read them."""
    file = os.fdopen(past_standard(os.memfd_create("zray-settings", os.MFD_CLOEXEC)), "w+b")
    file.write(settings.to_json())
    file.flush()
    file.seek(0)
    return file


def _stderr_for_children() -> int:
    """Returns the driver's stderr, unless it is closed."""
    try:
        os.fstat(2)
    except OSError:
        return subprocess.DEVNULL
    return 2
