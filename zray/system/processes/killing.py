"""Finds and kills the processes of a session, of a worker, or below a process.

Every process of a session is exec'd with ``ZRAY_SESSION=<name>`` in its environment. Programs that a task starts
inherit it. ``/proc/<pid>/environ`` shows the environment that a process was exec'd with. So the marker stays even on a
daemon that has left its process group, session and parent. By the marker, all processes of a session are found at its
end.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import math
import os
import resource
import select
import signal
import time
from collections.abc import Callable, Collection, Iterable, Iterator

from zray.system.processes.proc import PROC, Identity, environ_of, family, pids, read, stat_fields

SESSION_VARIABLE = "ZRAY_SESSION"
WORKER_VARIABLE = "ZRAY_WORKER_PID"
"""The variable that names the worker in what it starts. A child that leaves its process group is found by it."""
TRACKER_GRACE_S = 5.0
"""How long a resource tracker may take to remove what killed processes have left, in seconds."""

_MAX_PIDFDS = 200
"""Processes killed in one round: below the smallest limit on descriptors that is in use (256)."""
_FOR_LOOKING = 2
"""Descriptors needed to look for processes: ``/proc`` itself, and a file in it."""
_CHASES = 50
_NEWEST = 16
"""The number of PIDs looked at in one chase: other programs start processes meanwhile too."""


def processes_of_session(session: str, exclude: Collection[int] = ()) -> list[int]:
    """Returns the living processes of this user that carry the session's marker, except those in ``exclude``."""
    return [pid for pid, _ in _members(session, exclude)]


def kill_session(session: str, exclude: Collection[int] = (), grace_s: float = 5.0) -> int:
    """Kills every process of the session except this one and those in ``exclude``; returns how many.

    Works in rounds, since processes may fork meanwhile, until none is left or ``grace_s`` seconds are over (a process
    stuck in the kernel cannot be killed). Resource trackers come last, see ``_kill_until_none``.
    """
    spared = {*exclude, os.getpid()}
    return _kill_until_none(lambda chase: _members(session, spared, chase), grace_s)


def kill_descendants(pid: int, grace_s: float = 5.0) -> int:
    """Kills every process below ``pid``, in rounds like ``kill_session``; returns how many."""
    return _kill_until_none(lambda chase: family(pid), grace_s)


def kill_group(group: int, grace_s: float = 1.0) -> int:
    """Kills what an ended leader has left in its process group; returns how many.

    ``group``: the leader's PID, just reaped. The kernel does not reuse it while the group has members. Processes that
    have made a session of their own have left the group. Resource trackers stay: they end once no process is left that
    could use what they look after.
    """
    try:
        os.killpg(group, 0)
    except ProcessLookupError:  # nearly always, and found without looking at all processes
        return 0
    return _kill_rounds(lambda chase: _without_trackers(_orphans({group}, ())), grace_s)


def kill_orphans(workers: Collection[int], grace_s: float = 1.0) -> int:
    """Kills processes that ended workers have started; returns how many.

    ``workers``: PIDs. The processes have left their process groups, but have not made a session of their own. It looks
    at all processes. Resource trackers stay, as in ``kill_group``.
    """
    marks = [f"\0{WORKER_VARIABLE}={pid}\0".encode() for pid in workers]
    return _kill_rounds(lambda chase: _without_trackers(_orphans((), marks)), grace_s) if marks else 0


def _orphans(groups: Collection[int], marks: Collection[bytes]) -> Iterator[Identity]:
    """Yields the processes of this process's session that are in one of the groups or carry one of the marks."""
    session = str(os.getsid(0))
    wanted = {str(group) for group in groups}
    for pid in pids():
        stat = stat_fields(pid)
        if stat and stat[3] == session and stat[0] != "Z" and pid != os.getpid():
            environ = b"\0" + environ_of(pid) + b"\0" if marks else b""
            if stat[2] in wanted or any(mark in environ for mark in marks):
                yield pid, stat[19]


def _without_trackers(found: Iterable[Identity], trackers: set[Identity] | None = None) -> Iterator[Identity]:
    """Yields ``found`` except resource trackers, which are added to ``trackers``."""
    for identity in found:
        if not _is_tracker(identity[0]):
            yield identity
        elif trackers is not None:
            trackers.add(identity)


def _is_tracker(pid: int) -> bool:
    """Whether a process is a resource tracker: of ``multiprocessing``, or of loky and joblib.

    Such a process reads a pipe to its end. Then it removes the shared memory, semaphores and directories that the
    writers have left. It ignores SIGTERM. When it is killed, it removes nothing.
    """
    try:
        return b".resource_tracker import main" in read(pid, "cmdline")
    except OSError:
        return False


def _members(session: str, exclude: Collection[int], chase: bool = False) -> Iterator[Identity]:
    """Yields a session's processes one by one, to be killed as they are found.

    ``chase``: first those of a process that forks again and again.
    """
    entry = f"\0{SESSION_VARIABLE}={session}\0".encode()
    for pid in itertools.chain(_newest() if chase else (), sorted(pids(), reverse=True)):
        stat = stat_fields(pid)
        if stat and pid not in exclude and entry in b"\0" + environ_of(pid) + b"\0":
            yield pid, stat[19]


def _newest() -> Iterator[int]:
    """Yields the latest PIDs, looked up repeatedly: while all processes are being listed, new ones start."""
    for _ in range(_CHASES):
        with open(f"{PROC}/loadavg") as file:
            latest = int(file.read().split()[-1])
        yield from range(latest, max(1, latest - _NEWEST), -1)


def _kill_until_none(find: Callable[[bool], Iterable[Identity]], grace_s: float) -> int:
    """Kills what ``find`` finds.

    Resource trackers come last, and only those that have not ended within ``TRACKER_GRACE_S`` after all others.
    """
    trackers: set[Identity] = set()
    killed = _kill_rounds(lambda chase: _without_trackers(find(chase), trackers), grace_s)
    if trackers:
        _await_ends(trackers, time.monotonic() + TRACKER_GRACE_S)
        killed += _kill_rounds(find, grace_s)
    return killed


def _kill_rounds(find: Callable[[bool], Iterable[Identity]], grace_s: float) -> int:
    deadline = time.monotonic() + grace_s
    killed = empty_scans = 0
    # Two scans: a process in the middle of an exec shows no environment, so one scan can miss it.
    while empty_scans < 2 and (not killed or time.monotonic() < deadline):
        now_killed = _kill_once(find(killed > 0), deadline)
        empty_scans = 0 if now_killed else empty_scans + 1
        killed += now_killed
    return killed


def _kill_once(found: Iterable[Identity], deadline: float) -> int:
    """Kills the processes and waits for their ends; returns how many it killed."""
    killed = 0
    ending = select.poll()
    with contextlib.ExitStack() as stack:
        for pidfd in _held(found, stack):
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                ending.register(pidfd, select.POLLIN)
                killed += 1
        _await_all(ending, killed, deadline)
    return killed


def _await_ends(processes: Iterable[Identity], deadline: float) -> None:
    ending = select.poll()
    with contextlib.ExitStack() as stack:
        held = list(_held(processes, stack))
        for pidfd in held:
            ending.register(pidfd, select.POLLIN)
        _await_all(ending, len(held), deadline)


def _held(processes: Iterable[Identity], stack: contextlib.ExitStack) -> Iterator[int]:
    """Yields a pidfd for each process that still exists, closed with ``stack``.

    It stops when descriptors run out; the next round gets the rest.
    """
    seen: set[Identity] = set()
    for identity in itertools.islice(processes, _MAX_PIDFDS):
        if identity in seen:  # a repeated lookup of the newest also finds processes that are about to end
            continue
        seen.add(identity)
        try:
            pidfd = _hold(identity, stack)
        except OSError:
            return
        if pidfd >= 0:
            yield pidfd


def _hold(identity: Identity, stack: contextlib.ExitStack) -> int:
    """Returns a pidfd of this exact process, closed with ``stack``; -1 when it is gone.

    Raises OSError if there are no descriptors left except those needed to look for more processes.
    """
    pid, started = identity
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return -1
    stack.callback(os.close, pidfd)
    if pidfd >= resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _FOR_LOOKING:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    # Check again with the pidfd open: the PID may have been reused by another process meanwhile.
    return pidfd if stat_fields(pid)[19:20] == [started] else -1


def _await_all(poll: select.poll, count: int, deadline: float) -> None:
    while count and (remaining_s := deadline - time.monotonic()) > 0:
        for fd, _ in poll.poll(math.ceil(remaining_s * 1000)):
            poll.unregister(fd)
            count -= 1


def kill_process(pid: int, started: int | None) -> None:
    """Kills a process, but not another one that has got its PID since.

    ``started`` is the result of ``process_start_time`` for it. For processes that another process reaps: a child of
    this one keeps its PID until it is waited for. It needs no descriptor: if ``/proc`` cannot be read, the PID is
    trusted.
    """
    stat = stat_fields(pid)
    if stat and started is not None and int(stat[19]) != started:
        return
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
