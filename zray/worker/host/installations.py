"""The parts of runtime environments that a host has installed or is installing: packages of files, and interpreters.

A part is installed once on each host, by a process of its own, into a directory with a number of its own. All workers
whose environment has the part share the directory. A worker is forked when all parts of its environment are installed.
A part that no worker uses is kept for ``UNUSED_S``, since to install it may take minutes. Then its directory is
removed. A number is never used again, so a removal and a new installation do not meet.

================================  ==========================================================================
dies                              what happens
================================  ==========================================================================
the installing process            its part has failed: the workers that wait for it die with the reason, and the
                                  directory is removed. The next worker tries again
a worker that waits               nothing: the installation goes on for the next one
a directory, by a cleaner         the next worker has its part installed again
the host, the zygote, the broker  the zygote, or the host, kills all processes of the session, and removes the
                                  session's directory with all that is installed
================================  ==========================================================================

Pure: the caller passes the time and performs the effects.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from zray.named_tuples import NamedTuple
from zray.protocol.records import EnvironmentPart, EnvironmentSpec

UNUSED_S = 600.0
"""How long a part is kept that no worker uses, in seconds."""


class Install(NamedTuple):
    """Start the process that installs a part for the environment ``text`` into directory ``number``."""

    number: int
    part: EnvironmentPart
    text: str


class StopInstaller(NamedTuple):
    """SIGKILL the process that installs into directory ``number``."""

    number: int


class Uninstall(NamedTuple):
    """Remove directory ``number``."""

    number: int


InstallEffect = Install | StopInstaller | Uninstall


class Installation:
    """A part. ``users``: workers whose environment has it, forked or waiting. ``overdue``: why it is stopped."""

    __slots__ = ("deadline", "installed", "number", "overdue", "unused_since", "users")

    def __init__(self, number: int, deadline: float) -> None:
        self.number = number
        self.deadline = deadline
        self.installed = False
        self.overdue = ""
        self.users: set[bytes] = set()
        self.unused_since = math.inf


class Installations:
    """All parts on a host. ``perform`` takes effects.

    Invariant: a worker in ``_waiting`` is a user of each of its parts, of which at least one is not installed.
    """

    def __init__(self, perform: Callable[[InstallEffect], None]) -> None:
        self._perform = perform
        self._by_uri: dict[str, Installation] = {}
        self._waiting: dict[bytes, list[str]] = {}  # by worker: the parts of its environment
        self._of_worker: dict[bytes, list[str]] = {}
        self._next = 1

    def wants(self, worker_id: bytes, environment: EnvironmentSpec, now: float) -> bool:
        """A worker is to be started in an environment. Returns whether everything is installed already."""
        if not environment.parts:
            return True
        uris = self._of_worker[worker_id] = [part.uri for part in environment.parts]
        for part in environment.parts:
            found = self._by_uri.get(part.uri)
            if found is None:
                deadline = now + environment.timeout_s if environment.timeout_s else math.inf
                found = self._by_uri[part.uri] = Installation(self._next, deadline)
                self._next += 1
                self._perform(Install(found.number, part, environment.text))
            found.users.add(worker_id)
            found.unused_since = math.inf
        if self._are_installed(uris):
            return True
        self._waiting[worker_id] = uris
        return False

    def numbers(self, environment: EnvironmentSpec) -> list[int]:
        """The directories of an environment's parts, in their order. All of them are installed."""
        return [self._by_uri[part.uri].number for part in environment.parts]

    def forget(self, number: int) -> None:
        """A directory is gone: another program has removed it. The next worker has its part installed again."""
        for uri, found in list(self._by_uri.items()):
            if found.number == number:
                del self._by_uri[uri]

    def is_waiting(self, worker_id: bytes) -> bool:
        """Whether a worker waits for a part."""
        return worker_id in self._waiting

    def leaves(self, worker_id: bytes, now: float) -> None:
        """A worker has ended, or will not be started."""
        self._waiting.pop(worker_id, None)
        for uri in self._of_worker.pop(worker_id, ()):
            found = self._by_uri.get(uri)
            if found is not None:
                found.users.discard(worker_id)
                if not found.users:
                    found.unused_since = now

    def finished(self, number: int, failure: str, now: float) -> tuple[list[bytes], list[bytes], str]:
        """A process that installs has ended; ``failure`` is empty if it has succeeded.

        Returns the workers that can be forked now, those that have to die, and why.
        """
        uri, found = next((uri, found) for uri, found in self._by_uri.items() if found.number == number)
        if not failure and not found.overdue:
            found.installed = True
            if not found.users:
                found.unused_since = now
            ready = [worker_id for worker_id, uris in self._waiting.items() if self._are_installed(uris)]
            for worker_id in ready:
                del self._waiting[worker_id]
            return ready, [], ""
        del self._by_uri[uri]
        self._perform(Uninstall(number))
        return [], [worker_id for worker_id, uris in self._waiting.items() if uri in uris], found.overdue or failure

    def _are_installed(self, uris: list[str]) -> bool:
        return all(uri in self._by_uri and self._by_uri[uri].installed for uri in uris)

    def tick(self, now: float) -> None:
        """Stops installations whose time is over, and removes what has not been used for long."""
        for uri, found in list(self._by_uri.items()):
            if not found.installed and now > found.deadline and not found.overdue:
                found.overdue = "its setup_timeout_seconds are over"
                self._perform(StopInstaller(found.number))
            elif found.installed and now - found.unused_since > UNUSED_S:
                del self._by_uri[uri]
                self._perform(Uninstall(found.number))

    def check(self) -> None:
        """Raises AssertionError if an invariant does not hold; for tests."""
        for uri, found in self._by_uri.items():
            assert all(uri in self._of_worker[user] for user in found.users), "users of a part"
        for worker_id, uris in self._waiting.items():
            assert not self._are_installed(uris), "a worker that waits for nothing"
            assert self._of_worker[worker_id] == uris, "the parts of a worker that waits"
