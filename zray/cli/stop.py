"""``zray stop``: ends the processes of this user's clusters on this machine, and nothing else.

It finds them by the sessions in the user's own directory: a session whose lock is held is alive. It does not trust a
file that names a process. It signals the process that has this very lock open, belongs to this user, and has the
session in its title. It checks this again while a pidfd holds the process. (A process that sweeps a dead session holds
its lock too, but has no such title.) psutil gives titles, users and start times. The files that a process has open are
read from ``/proc``, as psutil leaves out directories and removed files.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import select
import signal
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import click
import psutil

from zray.cli.screen import waiting
from zray.config import Config
from zray.config.reading import from_environment
from zray.exceptions import ConfigError
from zray.named_tuples import NamedTuple
from zray.sessions.directories import (
    SessionPaths,
    runtime_root,
    session_is_alive,
    session_paths,
    sweep_dead_sessions,
)
from zray.system.processes import kill_session

GRACE_S = 5.0
"""How long hosts, and then brokers, may take to end in order."""
KILL_S = 5.0
CLEANUP_S = 5.0
"""How long a session may stay locked after its guardian has ended, while its files are removed."""
LOOK_AGAIN_S = 1.0
"""A new session is locked for a moment before its guardian can be recognized."""
_PAUSE_S = 0.02
_TITLE = re.compile(r"zray: (host|broker) ([0-9a-f]{8})\b")


class Running(NamedTuple):
    """A living session. ``guardian``: the process that guards it; None if it is not visible from here."""

    paths: SessionPaths
    role: str
    guardian: psutil.Process | None = None

    @property
    def pid(self) -> int:
        """The guardian's PID; 0 if there is none."""
        return self.guardian.pid if self.guardian is not None else 0

    def __str__(self) -> str:
        return f"{self.role} {self.paths.name} (pid {self.pid or 'unknown'})"


@click.command()
@click.argument("sessions", nargs=-1, metavar="[SESSION]...")
@click.option("-f", "--force", is_flag=True, help="Kill the processes at once instead of asking them to end.")
@click.option(
    "-g", "--grace-period", "grace_s", type=click.FloatRange(min=0), default=2 * GRACE_S, show_default=True,
    metavar="SECONDS", help="How long they may take to end, hosts and brokers half of it each.",
)  # fmt: skip
def stop(sessions: tuple[str, ...], force: bool, grace_s: float) -> None:
    """End your brokers, hosts and local clusters on this machine.

    All of them, or only the named SESSIONs. Each is asked to end and has ten seconds for it; a local cluster ends
    under the program that called zray.init(). Clusters of other users and on other machines stay.
    """
    roots = own_roots(from_environment())
    found = _found(roots)
    if missing := set(sessions) - {each.paths.name for each in found}:
        there = ", ".join(map(str, found)) or "nothing"
        raise click.ClickException(f"no session {', '.join(sorted(missing))} of yours runs here; there is: {there}")
    chosen = [each for each in found if not sessions or each.paths.name in sessions]
    if not chosen:
        click.echo("nothing of yours runs here")
    with waiting("waiting until all have ended"):
        left = end(chosen, force, grace_s / 2)
    for each in chosen:
        if each not in left:
            click.echo(f"{'killed' if force else 'ended'} the {each}")
    for root in roots:
        sweep_dead_sessions(root)
    for each in left:
        click.echo(f"the {each} {_why_left(each, force, grace_s)}", err=True)
    raise SystemExit(1 if left else 0)


def _why_left(each: Running, force: bool, grace_s: float) -> str:
    if not each.pid:
        return f"is alive, but cannot be seen from here: does it run in a container? Its files are in {each.paths.root}"
    if force:
        return "could not be killed: it hangs in the kernel"
    return f"has not ended within {grace_s:g} s: `zray stop --force {each.paths.name}` kills it"


def own_roots(config: Config) -> list[str]:
    """Returns the directories of this user's sessions.

    They include those made without a login's directory, as by ``zray up``.
    """
    roots = [runtime_root(config.tmpdir)]
    if not config.tmpdir:
        without_login = {name: value for name, value in os.environ.items() if name != "XDG_RUNTIME_DIR"}
        with contextlib.suppress(ConfigError):  # an unusable directory has no sessions
            roots.append(runtime_root("", without_login))
    return list(dict.fromkeys(roots))


# ---- what runs


def running(roots: Iterable[str]) -> list[Running]:
    """Returns the living sessions below these directories."""
    alive = [paths for root in roots for paths in _sessions(root) if session_is_alive(paths)]
    guardians = {paths: (role, process) for paths, role, process in _guardians(alive)} if alive else {}
    found = []
    for paths in alive:
        role, process = guardians.get(paths, ("session", None))
        if role == "host" and os.path.exists(paths.broker_socket):
            role = "local cluster"
        found.append(Running(paths, role, process))
    return found


def _found(roots: Iterable[str]) -> list[Running]:
    """Like ``running``, but looks again while a session's guardian is not visible."""
    deadline = time.monotonic() + LOOK_AGAIN_S
    found = running(roots)
    while not all(each.pid for each in found) and time.monotonic() < deadline:
        time.sleep(_PAUSE_S)
        found = running(roots)
    return found


def _sessions(root: str) -> Iterator[SessionPaths]:
    for name in sorted(os.listdir(root)):
        with contextlib.suppress(ConfigError):  # "logs", "current": not the name of a session
            yield session_paths(root, name)


def _guardians(sessions: Iterable[SessionPaths]) -> Iterator[tuple[SessionPaths, str, psutil.Process]]:
    by_name = {paths.name: paths for paths in sessions}
    for process in psutil.process_iter(["cmdline", "uids"]):
        seen = process.info  # None if it cannot be read
        match = _TITLE.match(" ".join(seen["cmdline"] or ()))
        if match is None or seen["uids"] is None or seen["uids"].effective != os.geteuid():
            continue
        paths = by_name.get(match[2])
        if paths is not None and any(_has_open(process.pid, held) for held in (paths.lock, paths.directory)):
            yield paths, match[1], process


def _has_open(pid: int, file: str) -> bool:
    wanted = os.stat(file) if os.path.exists(file) else None
    with contextlib.suppress(OSError):  # gone, or of another user
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                if wanted is not None and os.path.samestat(fd.stat(), wanted):
                    return True
    return False


# ---- how it ends


def end(sessions: list[Running], force: bool = False, grace_s: float = GRACE_S) -> list[Running]:
    """Ends sessions, hosts before brokers, and waits; returns those that are still alive.

    ``grace_s``: how long the hosts, and then the brokers, may take to end in order, in seconds.
    """
    if force:
        _signal(sessions, signal.SIGKILL, KILL_S)
        for each in sessions:
            if each.pid:
                kill_session(each.paths.name)
    else:
        _signal([each for each in sessions if each.role != "broker"], signal.SIGTERM, grace_s)
        _signal([each for each in sessions if each.role == "broker"], signal.SIGTERM, grace_s)
    return _await_locks(sessions, CLEANUP_S)


def _signal(sessions: list[Running], number: signal.Signals, timeout_s: float) -> None:
    """Signals each session's guardian, and waits until all are dead or the time is over."""
    ending = select.poll()
    with contextlib.ExitStack() as stack:
        alive = 0
        for each in sessions:
            if each.guardian is None:
                continue
            with contextlib.suppress(ProcessLookupError):
                pidfd = os.pidfd_open(each.guardian.pid)
                stack.callback(os.close, pidfd)
                # The pidfd holds the PID from here on. Check that it was not reused just before.
                if each.guardian.is_running():
                    signal.pidfd_send_signal(pidfd, number)
                    ending.register(pidfd, select.POLLIN)
                    alive += 1
        deadline = time.monotonic() + timeout_s
        while alive and (remaining_s := deadline - time.monotonic()) > 0:
            for fd, _ in ending.poll(math.ceil(remaining_s * 1000)):
                ending.unregister(fd)
                alive -= 1


def _await_locks(sessions: list[Running], timeout_s: float) -> list[Running]:
    """Waits until all of these have ended, or ``timeout_s`` seconds are over; returns those that are still alive."""
    deadline = time.monotonic() + timeout_s
    while (left := [each for each in sessions if session_is_alive(each.paths)]) and time.monotonic() < deadline:
        time.sleep(_PAUSE_S)  # tries the locks without holding them: a held lock would make a session look alive
    return left
