"""The processes that install parts of runtime environments, for the host's shell.

The zygote forks them, as it forks workers. So no installation outlives the session, and what an installation has
started ends with it. Their output goes to a file beside the logs of workers. They install into numbered directories
below ``<session>/environments``.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from zray.logs.display import escape_controls
from zray.named_tuples import NamedTuple
from zray.protocol.records import EnvironmentPart
from zray.system.processes import describe_exit, kill_process, process_start_time
from zray.worker.host.installations import Install, InstallEffect, Uninstall
from zray.worker.host.zygote import ChildExited, ForkFailed, ForkReply, ZygoteClient
from zray.worker.start import INSTALLER, REMOVAL, InstallOrder

LAST_LINES = 20
MAX_TAIL_BYTES = 8192
_PREFIX = b"zray-env"
"""The beginning of the identifiers of these processes, for the zygote. No worker has such an identifier."""
_REMOVED = EnvironmentPart("", REMOVAL, "", b"", b"", b"", 0)


class Places(NamedTuple):
    """``directory``: of the session's environments; ``logs``: of its logs; others: see ``InstallOrder``."""

    directory: str
    logs: str
    store: str
    fetch: str


NOWHERE = Places("", "", "", "")


class _Installer:
    """A process. ``pid`` is 0 until it is forked. ``stopped``: it is to be killed."""

    __slots__ = ("log", "number", "pid", "removes", "started", "stopped")

    def __init__(self, number: int, log: str, removes: bool) -> None:
        self.number = number
        self.log = log
        self.removes = removes
        self.pid = 0
        self.started: int | None = None
        self.stopped = False

    def kill(self) -> None:
        self.stopped = True
        if self.pid:
            kill_process(self.pid, self.started)


class Installers:
    """``ended(number, failure)`` is called when an installation has ended; ``failure`` is empty if it has succeeded."""

    def __init__(self, zygote: ZygoteClient, places: Places, ended: Callable[[int, str], None]) -> None:
        self._zygote = zygote
        self._places = places
        self._ended = ended
        self._running: dict[bytes, _Installer] = {}
        self._count = 0

    def path(self, number: int) -> str:
        """The directory with a number."""
        return f"{self._places.directory}/{number}"

    def missing(self, numbers: list[int]) -> list[int]:
        """Those of some directories that another program has removed."""
        return [number for number in numbers if not os.path.isdir(self.path(number))]

    def perform(self, effect: InstallEffect) -> None:
        """Performs an effect of ``Installations``."""
        if isinstance(effect, Install):
            self._start(effect.number, effect.part, effect.text)
        elif isinstance(effect, Uninstall):
            self._start(effect.number, _REMOVED, "")
        else:
            for installer in self._running.values():
                if installer.number == effect.number and not installer.removes:
                    installer.kill()

    def _start(self, number: int, part: EnvironmentPart, text: str) -> None:
        self._count += 1
        process_id = _PREFIX + self._count.to_bytes(8, "big")
        log = f"{self._places.logs}/environment-{number}.log"
        self._running[process_id] = _Installer(number, log, part.kind == REMOVAL)
        fds: list[int] = []
        try:
            os.makedirs(self._places.directory, mode=0o700, exist_ok=True)
            fds.append(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600))
            fds.append(InstallOrder(part, text, self.path(number), self._places.store, self._places.fetch).to_file())
            self._zygote.request_fork(process_id, INSTALLER, [fds[0], *fds])
        except OSError as error:
            self._finish(process_id, f"it could not be started: {error}")
        finally:
            for fd in fds:
                os.close(fd)

    def takes(self, event: object) -> bool:
        """Handles an event of the zygote. Returns whether it was about one of these processes."""
        if not isinstance(event, (ForkReply, ForkFailed, ChildExited)) or event.worker_id not in self._running:
            return False
        if isinstance(event, ForkReply):
            installer = self._running[event.worker_id]
            installer.pid, installer.started = event.pid, process_start_time(event.pid)
            if installer.stopped:
                installer.kill()
        elif isinstance(event, ForkFailed):
            self._finish(event.worker_id, f"it could not be started: {event.reason}")
        elif event.status == 0:
            self._finish(event.worker_id, "")
        else:
            tail = _tail_of(self._running[event.worker_id].log)
            self._finish(event.worker_id, tail or f"its installation was {describe_exit(event.status)}")
        return True

    def _finish(self, process_id: bytes, failure: str) -> None:
        installer = self._running.pop(process_id)
        if not installer.removes:  # what a removal leaves is removed with the session
            self._ended(installer.number, failure)


def _tail_of(path: str) -> str:
    """The last lines of a log."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - MAX_TAIL_BYTES))
            text = file.read().decode(errors="backslashreplace")
    except OSError:
        return ""
    return "\n".join(map(escape_controls, text.strip().split("\n")[-LAST_LINES:]))
