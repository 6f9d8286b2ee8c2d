"""Processes as the kernel shows them: how they end, to which session they belong, what they may use.

Every process of a session is exec'd with ``ZRAY_SESSION=<name>`` in its environment, and whatever users start from a
task inherits it.  ``/proc/<pid>/environ`` shows the environment that a process was exec'd with, so the marker stays
on daemons that left their process group, session and parent behind: it is how nothing is left when a session ends.

Reads ``/proc`` itself and not through psutil: the fork server imports this module, and each of its pages counts.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import functools
import itertools
import math
import mmap
import os
import re
import resource
import select
import signal
import time
from collections.abc import Callable, Collection, Iterable, Iterator

SESSION_VARIABLE = "ZRAY_SESSION"
WORKER_VARIABLE = "ZRAY_WORKER_PID"
"""Names the worker to what it starts: a child may leave its process group, and be told by this even so."""
TRACKER_GRACE_S = 5.0
"""How long, in seconds, a resource tracker may take to remove what those that have been killed have left."""

TITLE_PADDING = "-Xzray_title_space=" + "." * 101
"""120 characters of room for ``set_title``, to be passed right after the interpreter's path: ``[sys.executable,
TITLE_PADDING, "-m", ...]``.  Python itself accepts and ignores an unknown ``-X``, so no program has to know of it."""

_PROC = "/proc"
_CGROUP_FS = "/sys/fs/cgroup"
_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36
_NAME_BYTES = 15
"""The longest name that the kernel keeps of a process."""
_UNSAFE_IN_NAME = re.compile(r"[\x00-\x20()\x7f]")
_MAX_PIDFDS = 200
"""Processes killed in one round: below the smallest limit on descriptors that is in use (256)."""

_FOR_LOOKING = 2
"""Descriptors with which processes are looked for: ``/proc`` itself, and a file in it."""
_CHASES = 50
_NEWEST = 16
"""PIDs looked at in a chase: others start processes as well meanwhile."""

_Identity = tuple[int, str]
"""A PID and when that process started: unlike a PID alone, never reused."""

_libc = ctypes.CDLL(None, use_errno=True)

_CAUSES = {
    signal.SIGSEGV: "segmentation fault",
    signal.SIGKILL: "out of memory, or killed by hand",
    signal.SIGABRT: "aborted",
    signal.SIGBUS: "bus error: memory that could not be provided",
    signal.SIGTERM: "terminated",
    signal.SIGXCPU: "CPU time limit exceeded",
}


# ---- parents and children


def set_parent_death_signal(sig: signal.Signals, parent_pid: int) -> None:
    """Has the kernel send ``sig`` to this process when its parent ends.

    Strictly, when the *thread* that forked it ends: fork from a thread that lasts.  ``parent_pid`` is who the parent
    has to be; if it is gone already, the signal that will never come is raised here and now.
    """
    _prctl(_PR_SET_PDEATHSIG, int(sig))
    if os.getppid() != parent_pid:
        os.kill(os.getpid(), sig)


def set_child_subreaper() -> None:
    """Makes this process, in place of init, the parent of descendants whose own parent has ended."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def set_dumpable(dumpable: bool) -> None:
    """Whether others of this user may look into this process, by ``/proc`` or a debugger, and cores are written."""
    _prctl(_PR_SET_DUMPABLE, int(dumpable))


def _prctl(option: int, value: int | bytes) -> None:
    argument = ctypes.c_char_p(value) if isinstance(value, bytes) else ctypes.c_ulong(value)
    if _libc.prctl(option, argument, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}, {value!r}): {os.strerror(number)}")


def descendants(pid: int) -> list[int]:
    """The living processes below ``pid``, parents before their children; zombies are left out."""
    return [other for other, _ in _family(pid)]


def _family(pid: int) -> list[_Identity]:
    children: dict[int, list[_Identity]] = {}
    for other in _pids():
        stat = _stat_fields(other)
        if stat and stat[0] != "Z":
            children.setdefault(int(stat[1]), []).append((other, stat[19]))
    found: list[_Identity] = []
    level = children.get(pid, [])
    while level:
        found += level
        level = [child for parent, _ in level for child in children.get(parent, ())]
    return found


def describe_exit(status: int) -> str:
    """A wait status in words: ``killed by SIGSEGV (segmentation fault)`` or ``exit code 3``."""
    if not os.WIFSIGNALED(status):
        return f"exit code {os.WEXITSTATUS(status)}"
    number = os.WTERMSIG(status)
    try:
        sig = signal.Signals(number)
    except ValueError:  # a real-time signal: it has no name
        return f"killed by signal {number}"
    cause = _CAUSES.get(sig) or (signal.strsignal(number) or "").lower()
    return f"killed by {sig.name} ({cause})"


# ---- the processes of a session


def processes_of_session(session: str, exclude: Collection[int] = ()) -> list[int]:
    """The living processes of this user that carry the session's marker, save those in ``exclude``."""
    return [pid for pid, _ in _members(session, exclude)]


def kill_session(session: str, exclude: Collection[int] = (), grace_s: float = 5.0) -> int:
    """Kills every process of the session but this one and those in ``exclude``; returns how many.

    Works in rounds, since processes may fork while this runs, until none is left or ``grace_s`` seconds are over (a
    process stuck in the kernel cannot be killed by anybody).  Resource trackers come last, see ``_kill_until_none``.
    """
    spared = {*exclude, os.getpid()}
    return _kill_until_none(lambda chase: _members(session, spared, chase), grace_s)


def kill_descendants(pid: int, grace_s: float = 5.0) -> int:
    """Kills every process below ``pid``, in rounds as ``kill_session``; returns how many."""
    return _kill_until_none(lambda chase: _family(pid), grace_s)


def kill_group(group: int, grace_s: float = 1.0) -> int:
    """Kills what an ended leader has left in its process group; returns how many.

    ``group``: the leader's PID, just reaped.  Its number is not given away while the group has members.  Processes that
    have made a session of their own have left the group, and resource trackers stay: they end once nobody is left who
    could use what they look after.
    """
    try:
        os.killpg(group, 0)
    except ProcessLookupError:  # nearly always, and without a look at all processes
        return 0
    return _kill_rounds(lambda chase: _without_trackers(_orphans({group}, ())), grace_s)


def kill_orphans(workers: Collection[int], grace_s: float = 1.0) -> int:
    """Kills what ended workers (PIDs) have started and what has left their process groups, but made no session of its
    own; returns how many.  Looks at all processes.  Resource trackers stay, as in ``kill_group``."""
    marks = [f"\0{WORKER_VARIABLE}={pid}\0".encode() for pid in workers]
    return _kill_rounds(lambda chase: _without_trackers(_orphans((), marks)), grace_s) if marks else 0


def _orphans(groups: Collection[int], marks: Collection[bytes]) -> Iterator[_Identity]:
    """Processes of this process's session that are in one of the groups or carry one of the marks."""
    session = str(os.getsid(0))
    wanted = {str(group) for group in groups}
    for pid in _pids():
        stat = _stat_fields(pid)
        if stat and stat[3] == session and stat[0] != "Z" and pid != os.getpid():
            environ = b"\0" + _environ(pid) + b"\0" if marks else b""
            if stat[2] in wanted or any(mark in environ for mark in marks):
                yield pid, stat[19]


def _without_trackers(found: Iterable[_Identity], trackers: set[_Identity] | None = None) -> Iterator[_Identity]:
    """``found`` save resource trackers, which are put into ``trackers``."""
    for identity in found:
        if not _is_tracker(identity[0]):
            yield identity
        elif trackers is not None:
            trackers.add(identity)


def _is_tracker(pid: int) -> bool:
    """Whether it is a resource tracker: of ``multiprocessing``, or of loky and joblib.

    Such a process reads a pipe to its end, and then removes the shared memory, semaphores and directories that those
    who wrote to it have left.  It ignores SIGTERM; killed, it removes nothing.
    """
    try:
        return b".resource_tracker import main" in _read(pid, "cmdline")
    except OSError:
        return False


def _members(session: str, exclude: Collection[int], chase: bool = False) -> Iterator[_Identity]:
    """One by one, to be killed as they are found. ``chase``: first those of a process that forks on and on."""
    entry = f"\0{SESSION_VARIABLE}={session}\0".encode()
    for pid in itertools.chain(_newest() if chase else (), sorted(_pids(), reverse=True)):
        stat = _stat_fields(pid)
        if stat and pid not in exclude and entry in b"\0" + _environ(pid) + b"\0":
            yield pid, stat[19]


def _newest() -> Iterator[int]:
    """The latest PIDs, looked up again and again: by the time that all processes have been listed, there are others."""
    for _ in range(_CHASES):
        with open(f"{_PROC}/loadavg") as file:
            latest = int(file.read().split()[-1])
        yield from range(latest, max(1, latest - _NEWEST), -1)


def _kill_until_none(find: Callable[[bool], Iterable[_Identity]], grace_s: float) -> int:
    """Kills what ``find`` finds; resource trackers come last, and only those that have not ended by themselves within
    ``TRACKER_GRACE_S`` after all others."""
    trackers: set[_Identity] = set()
    killed = _kill_rounds(lambda chase: _without_trackers(find(chase), trackers), grace_s)
    if trackers:
        _await_ends(trackers, time.monotonic() + TRACKER_GRACE_S)
        killed += _kill_rounds(find, grace_s)
    return killed


def _kill_rounds(find: Callable[[bool], Iterable[_Identity]], grace_s: float) -> int:
    deadline = time.monotonic() + grace_s
    killed = empty_scans = 0
    # Two scans: a process that is in the middle of an exec shows no environment, so one scan can miss it.
    while empty_scans < 2 and (not killed or time.monotonic() < deadline):
        now_killed = _kill_once(find(killed > 0), deadline)
        empty_scans = 0 if now_killed else empty_scans + 1
        killed += now_killed
    return killed


def _kill_once(found: Iterable[_Identity], deadline: float) -> int:
    """Kills each and waits for their ends; returns how many it killed."""
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


def _await_ends(processes: Iterable[_Identity], deadline: float) -> None:
    ending = select.poll()
    with contextlib.ExitStack() as stack:
        held = list(_held(processes, stack))
        for pidfd in held:
            ending.register(pidfd, select.POLLIN)
        _await_all(ending, len(held), deadline)


def _held(processes: Iterable[_Identity], stack: contextlib.ExitStack) -> Iterator[int]:
    """Pidfds of those that still are, one by one and once each, closed with ``stack``: of as many as there are
    descriptors for, the rest is for the next round."""
    seen: set[_Identity] = set()
    for identity in itertools.islice(processes, _MAX_PIDFDS):
        if identity in seen:  # who looks for the newest again and again finds some that are about to end
            continue
        seen.add(identity)
        try:
            pidfd = _hold(identity, stack)
        except OSError:
            return
        if pidfd >= 0:
            yield pidfd


def _hold(identity: _Identity, stack: contextlib.ExitStack) -> int:
    """A pidfd of this very process, closed with ``stack``; -1 when it is gone. Raises OSError without descriptors,
    before the last are taken that whoever looks for further processes needs."""
    pid, started = identity
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return -1
    stack.callback(os.close, pidfd)
    if pidfd >= resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _FOR_LOOKING:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    # Looked at again now that it is held: had the PID been reused meanwhile, it would be a stranger's.
    return pidfd if _stat_fields(pid)[19:20] == [started] else -1


def _await_all(poll: select.poll, count: int, deadline: float) -> None:
    while count and (remaining_s := deadline - time.monotonic()) > 0:
        for fd, _ in poll.poll(math.ceil(remaining_s * 1000)):
            poll.unregister(fd)
            count -= 1


# ---- one process


def await_end(pid: int, timeout_s: float) -> bool:
    """Waits until a process has ended, and is to be reaped if it is a child; False if it has not by then.

    Raises OSError if there is no descriptor for it, ProcessLookupError if there is no such process.
    """
    with os.fdopen(os.pidfd_open(pid), "rb", 0) as pidfd:
        poll = select.poll()  # ``select`` takes no descriptor beyond 1,023
        poll.register(pidfd, select.POLLIN)
        return bool(poll.poll(math.ceil(timeout_s * 1000)))


def rss_bytes(pid: int) -> int:
    """Resident memory of a process in bytes; 0 when it is gone."""
    try:
        return _resident_bytes(str(pid))[0]
    except (OSError, ValueError):
        return 0


def anonymous_bytes() -> int:
    """Resident memory of this process that no file is behind, in bytes."""
    resident, of_files = _resident_bytes("self")
    return resident - of_files


def resident_bytes(pid: int) -> int:
    """Resident memory of a process, in bytes; 0 when it is gone."""
    try:
        return _resident_bytes(str(pid))[0]
    except (OSError, ValueError):
        return 0


def _resident_bytes(process: str) -> tuple[int, int]:
    """Resident memory, and what of it is of files. Raises OSError or ValueError when the process is gone."""
    fd = os.open(f"/proc/{process}/statm", os.O_RDONLY)
    try:
        _, resident, of_files, *_ = os.read(fd, 200).split()
    finally:
        os.close(fd)
    return int(resident) * mmap.PAGESIZE, int(of_files) * mmap.PAGESIZE


def process_start_time(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None when it is gone or a zombie.

    A PID and its start time together name a process for good: a PID alone is reused.
    """
    stat = _stat_fields(pid)
    return int(stat[19]) if stat and stat[0] != "Z" else None


def kill_process(pid: int, started: int | None) -> None:
    """Kills the process of that PID, but not another one that has got the PID since.

    ``started`` is what ``process_start_time`` said of it. For processes that somebody else reaps: one's own child keeps
    its PID until it is waited for. Needs no descriptor: where there is none left to look with, the PID is trusted.
    """
    stat = _stat_fields(pid)
    if stat and started is not None and int(stat[19]) != started:
        return
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def past_standard(fd: int) -> int:
    """Moves a descriptor past 0, 1 and 2: they may be closed here, and are something else in a program that gets it."""
    if fd > 2:
        return fd
    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    finally:
        os.close(fd)


_LIMITS = {
    errno.EFBIG: (resource.RLIMIT_FSIZE, "write files of at most {:,} bytes", "-f"),
    errno.EMFILE: (resource.RLIMIT_NOFILE, "have {:,} files open", "-n"),
    errno.EAGAIN: (resource.RLIMIT_NPROC, "have {:,} processes and threads, with all others of its user", "-u"),
}


def describe_error(error: OSError) -> str:
    """What the system says; where a limit of this process is met, also which one, and what raises it."""
    text = error.strerror or str(error)
    if error.errno not in _LIMITS:
        return text
    limit, may, option = _LIMITS[error.errno]
    soft, _ = resource.getrlimit(limit)
    if soft == resource.RLIM_INFINITY:
        return text
    return f"{text}: this process may {may.format(soft)}; raise that limit (ulimit {option})"


def descriptors_left() -> int:
    """About how many more this process may have; exact when it comes to none."""
    try:
        lowest_free = os.eventfd(0)
    except OSError:
        return 0
    os.close(lowest_free)
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft - lowest_free


def raise_descriptor_limit() -> None:
    """As many descriptors as the system allows: the usual limit of 1,024 is fewer than a broker may have peers."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def accept_signals(spared: Collection[signal.Signals] = ()) -> None:
    """Undoes what a program has inherited of its parent's signals: the mask of the thread that started it, in which all
    may be blocked (threads of uWSGI), and signals that were ignored there. ``spared`` stay ignored, if they are.

    For a program that starts, in its main thread.  SIGPIPE and SIGXFSZ are ignored by Python itself.
    """
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ, *spared}:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def accept_signals_of_a_command() -> None:
    """As ``accept_signals``, for a program that a user starts, perhaps with nohup, which ignores SIGHUP."""
    accept_signals(spared=(signal.SIGHUP,))


def end_orderly_on_sigterm() -> None:
    """Has SIGTERM raise SystemExit(0), so that what ``finally`` tidies up is tidied up; for a program that starts.

    It does so once: batch systems send SIGTERM several times, and a second one must not interrupt the tidying up.
    """

    def end(number: int, frame: object) -> None:
        signal.signal(number, signal.SIG_IGN)
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, end)


def set_title(text: str) -> None:
    """Sets what ``ps`` shows for this process, cut to the room that its arguments had (see ``TITLE_PADDING``).

    setproctitle would by default write on into the environment, and ``/proc/<pid>/environ``, which carries the
    session's marker, would be lost.  ``SPT_NOENV`` forbids that; it has to be set before the module sets itself up,
    hence the import down here, and is inherited, so that titles set by users' programs leave the marker alone too.

    setproctitle also copies the start of the title into the process name (``comm``).  Programs that split
    ``/proc/<pid>/stat`` at blanks, as Slurm's process tracking does, lose a process whose name has a blank or a
    bracket in it.  So such characters are replaced in the name, and stay in the title.
    """
    _title_setter()(text)
    if _UNSAFE_IN_NAME.search(text, 0, _NAME_BYTES):
        _prctl(_PR_SET_NAME, _UNSAFE_IN_NAME.sub("_", text[:_NAME_BYTES]).encode("utf-8", "replace"))


@functools.cache
def _title_setter() -> Callable[[str], None]:
    os.environ["SPT_NOENV"] = "1"
    import setproctitle

    return setproctitle.setproctitle


def _pids() -> Iterator[int]:
    """Processes of this user."""
    uid = os.geteuid()
    with os.scandir(_PROC) as entries:
        for entry in entries:
            if entry.name.isdigit():
                with contextlib.suppress(OSError):  # gone since it was listed
                    if entry.stat().st_uid == uid:
                        yield int(entry.name)


def _read(pid: int, name: str) -> bytes:
    """A file of a process's in ``/proc``."""
    with open(f"/proc/{pid}/{name}", "rb", 0) as file:
        return file.read()


def _environ(pid: int) -> bytes:
    """What the process was exec'd with; empty for zombies, kernel threads, and what may not be read."""
    try:
        return _read(pid, "environ")
    except OSError:
        return b""


def _stat_fields(pid: int) -> list[str]:
    """The fields of ``/proc/<pid>/stat`` from the third (state) on; empty when the process is gone."""
    try:
        text = _read(pid, "stat").decode(errors="replace")
    except OSError:
        return []
    return text.rpartition(")")[2].split()  # the second field, the name, may itself hold blanks and brackets


# ---- what the machine, the batch system or the container grants


def cpu_count(proc: str = _PROC, cgroup_fs: str = _CGROUP_FS) -> int:
    """CPUs that this process may use: its affinity, further limited by the quotas of its control groups."""
    cpus = float(len(os.sched_getaffinity(0)))
    for group in _control_groups("cpu", proc, cgroup_fs):
        # Version 2 has quota and period in one file, version 1 in two; without a limit the quota is "max" or -1.
        figures = _integers(f"{group}/cpu.max")
        figures = figures or _integers(f"{group}/cpu.cfs_quota_us") + _integers(f"{group}/cpu.cfs_period_us")
        if len(figures) == 2 and min(figures) > 0:
            cpus = min(cpus, figures[0] / figures[1])
    return max(1, math.ceil(cpus))


def memory_limit_bytes(proc: str = _PROC, cgroup_fs: str = _CGROUP_FS) -> int:
    """Memory that this process may use, in bytes: the machine's, or less by the limits of its control groups."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for group in _control_groups("memory", proc, cgroup_fs):
        limits += _integers(f"{group}/memory.max") + _integers(f"{group}/memory.limit_in_bytes")
    return min(limits)


def _control_groups(controller: str, proc: str, cgroup_fs: str) -> Iterator[str]:
    """The directories of this process's group and of all groups above it (each of them limits), version 1 or 2.

    Inside a container the path may be the one that the machine sees; the part of it that does not exist here is
    escape_controls, and the root of what is mounted is then the container's own group.
    """
    try:
        with open(f"{proc}/self/cgroup") as file:
            memberships = file.read().splitlines()
    except OSError:
        return
    for membership in memberships:
        _, controllers, path = membership.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        base = f"{cgroup_fs}/{controller}" if controllers else cgroup_fs
        names = [name for name in path.split("/") if name]
        for depth in range(len(names), -1, -1):
            if ".." not in names[:depth]:
                yield "/".join([base, *names[:depth]])


def _integers(path: str) -> list[int]:
    """The whole numbers in a file; empty when it does not exist or says something else, such as ``max``."""
    try:
        with open(path) as file:
            return [int(word) for word in file.read().split()]
    except (OSError, ValueError):
        return []
