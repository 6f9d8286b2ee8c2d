"""Processes as the kernel shows them: how they end, to which session they belong, what they may use.

Every process of a session is exec'd with ``ZRAY_SESSION=<name>`` in its environment. Programs that a task starts
inherit it. ``/proc/<pid>/environ`` shows the environment that a process was exec'd with. So the marker stays even on a
daemon that has left its process group, session and parent. By the marker, all processes of a session are found at its
end.

This module reads ``/proc`` itself instead of using psutil: the zygote imports it, and each of its pages counts.
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
"""The variable that names the worker in what it starts. A child that leaves its process group is found by it."""
TRACKER_GRACE_S = 5.0
"""How long a resource tracker may take to remove what killed processes have left, in seconds."""

TITLE_PADDING = "-Xzray_title_space=" + "." * 101
"""120 characters of room for ``set_title``.

Pass it right after the interpreter's path: ``[sys.executable, TITLE_PADDING, "-m", ...]``. Python accepts and ignores
an unknown ``-X``, so programs need not know of it.
"""

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
"""Descriptors needed to look for processes: ``/proc`` itself, and a file in it."""
_CHASES = 50
_NEWEST = 16
"""The number of PIDs looked at in one chase: other programs start processes meanwhile too."""

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

    More exactly, when the *thread* that forked it ends: fork from a thread that lasts. If the parent is no longer
    ``parent_pid``, it has already ended, and this sends the signal at once.
    """
    _prctl(_PR_SET_PDEATHSIG, int(sig))
    if os.getppid() != parent_pid:
        os.kill(os.getpid(), sig)


def set_child_subreaper() -> None:
    """Makes this process, instead of init, the parent of descendants whose own parent has ended."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def set_dumpable(dumpable: bool) -> None:
    """Sets whether this user's other processes may look into this one (``/proc``, debugger).

    This also sets whether it dumps core.
    """
    _prctl(_PR_SET_DUMPABLE, int(dumpable))


def _prctl(option: int, value: int | bytes) -> None:
    argument = ctypes.c_char_p(value) if isinstance(value, bytes) else ctypes.c_ulong(value)
    if _libc.prctl(option, argument, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}, {value!r}): {os.strerror(number)}")


def descendants(pid: int) -> list[int]:
    """Returns the living processes below ``pid``, parents before their children; zombies are left out."""
    return [other for other, _ in _family(pid)]


def descendants_of_each(pids: Collection[int]) -> dict[int, list[int]]:
    """Returns the living processes below each of ``pids``, from one look at all processes."""
    children = _children()
    return {pid: [other for other, _ in _family(pid, children)] for pid in pids}


def _children() -> dict[int, list[_Identity]]:
    """The living processes of this user by their parent; zombies are left out."""
    children: dict[int, list[_Identity]] = {}
    for other in _pids():
        stat = _stat_fields(other)
        if stat and stat[0] != "Z":
            children.setdefault(int(stat[1]), []).append((other, stat[19]))
    return children


def _family(pid: int, children: dict[int, list[_Identity]] | None = None) -> list[_Identity]:
    children = _children() if children is None else children
    found: list[_Identity] = []
    level = children.get(pid, [])
    while level:
        found += level
        level = [child for parent, _ in level for child in children.get(parent, ())]
    return found


def commands_of_ancestors() -> Iterator[list[str]]:
    """Yields the command lines of this process's parent, of that one's parent, and so on.

    Left out are processes without one, and what cannot be read: the user may not look, or the process has just ended.
    """
    pid = os.getppid()
    while pid > 0:
        stat = _stat_fields(pid)
        try:
            with open(f"{_PROC}/{pid}/cmdline", "rb") as file:
                words = file.read().split(b"\0")[:-1]
        except OSError:
            words = []
        if words:
            yield [os.fsdecode(word) for word in words]
        pid = int(stat[1]) if stat else 0


def describe_exit(status: int) -> str:
    """Describes a wait status: ``killed by SIGSEGV (segmentation fault)`` or ``exit code 3``."""
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
    return _kill_until_none(lambda chase: _family(pid), grace_s)


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


def _orphans(groups: Collection[int], marks: Collection[bytes]) -> Iterator[_Identity]:
    """Yields the processes of this process's session that are in one of the groups or carry one of the marks."""
    session = str(os.getsid(0))
    wanted = {str(group) for group in groups}
    for pid in _pids():
        stat = _stat_fields(pid)
        if stat and stat[3] == session and stat[0] != "Z" and pid != os.getpid():
            environ = b"\0" + _environ(pid) + b"\0" if marks else b""
            if stat[2] in wanted or any(mark in environ for mark in marks):
                yield pid, stat[19]


def _without_trackers(found: Iterable[_Identity], trackers: set[_Identity] | None = None) -> Iterator[_Identity]:
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
        return b".resource_tracker import main" in _read(pid, "cmdline")
    except OSError:
        return False


def _members(session: str, exclude: Collection[int], chase: bool = False) -> Iterator[_Identity]:
    """Yields a session's processes one by one, to be killed as they are found.

    ``chase``: first those of a process that forks again and again.
    """
    entry = f"\0{SESSION_VARIABLE}={session}\0".encode()
    for pid in itertools.chain(_newest() if chase else (), sorted(_pids(), reverse=True)):
        stat = _stat_fields(pid)
        if stat and pid not in exclude and entry in b"\0" + _environ(pid) + b"\0":
            yield pid, stat[19]


def _newest() -> Iterator[int]:
    """Yields the latest PIDs, looked up repeatedly: while all processes are being listed, new ones start."""
    for _ in range(_CHASES):
        with open(f"{_PROC}/loadavg") as file:
            latest = int(file.read().split()[-1])
        yield from range(latest, max(1, latest - _NEWEST), -1)


def _kill_until_none(find: Callable[[bool], Iterable[_Identity]], grace_s: float) -> int:
    """Kills what ``find`` finds.

    Resource trackers come last, and only those that have not ended within ``TRACKER_GRACE_S`` after all others.
    """
    trackers: set[_Identity] = set()
    killed = _kill_rounds(lambda chase: _without_trackers(find(chase), trackers), grace_s)
    if trackers:
        _await_ends(trackers, time.monotonic() + TRACKER_GRACE_S)
        killed += _kill_rounds(find, grace_s)
    return killed


def _kill_rounds(find: Callable[[bool], Iterable[_Identity]], grace_s: float) -> int:
    deadline = time.monotonic() + grace_s
    killed = empty_scans = 0
    # Two scans: a process in the middle of an exec shows no environment, so one scan can miss it.
    while empty_scans < 2 and (not killed or time.monotonic() < deadline):
        now_killed = _kill_once(find(killed > 0), deadline)
        empty_scans = 0 if now_killed else empty_scans + 1
        killed += now_killed
    return killed


def _kill_once(found: Iterable[_Identity], deadline: float) -> int:
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


def _await_ends(processes: Iterable[_Identity], deadline: float) -> None:
    ending = select.poll()
    with contextlib.ExitStack() as stack:
        held = list(_held(processes, stack))
        for pidfd in held:
            ending.register(pidfd, select.POLLIN)
        _await_all(ending, len(held), deadline)


def _held(processes: Iterable[_Identity], stack: contextlib.ExitStack) -> Iterator[int]:
    """Yields a pidfd for each process that still exists, closed with ``stack``.

    It stops when descriptors run out; the next round gets the rest.
    """
    seen: set[_Identity] = set()
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


def _hold(identity: _Identity, stack: contextlib.ExitStack) -> int:
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
    return pidfd if _stat_fields(pid)[19:20] == [started] else -1


def _await_all(poll: select.poll, count: int, deadline: float) -> None:
    while count and (remaining_s := deadline - time.monotonic()) > 0:
        for fd, _ in poll.poll(math.ceil(remaining_s * 1000)):
            poll.unregister(fd)
            count -= 1


# ---- one process


def await_end(pid: int, timeout_s: float) -> bool:
    """Waits until a process has ended; it is then to be reaped if it is a child. Returns False after ``timeout_s``.

    Raises OSError if there is no descriptor for it, ProcessLookupError if there is no such process.
    """
    with os.fdopen(os.pidfd_open(pid), "rb", 0) as pidfd:
        poll = select.poll()  # ``select`` takes no descriptor beyond 1,023
        poll.register(pidfd, select.POLLIN)
        return bool(poll.poll(math.ceil(timeout_s * 1000)))


def anonymous_bytes() -> int:
    """Returns this process's resident memory that is not backed by files, in bytes."""
    resident, of_files = memory_of("self")
    return resident - of_files


def resident_bytes(pid: int) -> int:
    """Returns the resident memory of a process in bytes; 0 when it is gone."""
    try:
        return memory_of(str(pid))[0]
    except (OSError, ValueError):
        return 0


def memory_of(process: str) -> tuple[int, int]:
    """Returns the resident memory of a process in bytes, and its part that is backed by files or shared memory.

    ``process``: a PID, or "self". Raises OSError or ValueError when it is gone.
    """
    fd = os.open(f"/proc/{process}/statm", os.O_RDONLY)
    try:
        _, resident, of_files, *_ = os.read(fd, 200).split()
    finally:
        os.close(fd)
    return int(resident) * mmap.PAGESIZE, int(of_files) * mmap.PAGESIZE


def process_start_time(pid: int) -> int | None:
    """Returns when a process started, in clock ticks since boot; None when it is gone or a zombie.

    A PID together with its start time identifies a process for ever: a PID alone is reused.
    """
    stat = _stat_fields(pid)
    return int(stat[19]) if stat and stat[0] != "Z" else None


def kill_process(pid: int, started: int | None) -> None:
    """Kills a process, but not another one that has got its PID since.

    ``started`` is the result of ``process_start_time`` for it. For processes that another process reaps: a child of
    this one keeps its PID until it is waited for. It needs no descriptor: if ``/proc`` cannot be read, the PID is
    trusted.
    """
    stat = _stat_fields(pid)
    if stat and started is not None and int(stat[19]) != started:
        return
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def past_standard(fd: int) -> int:
    """Moves a descriptor past 0, 1 and 2, which may be closed here and have a meaning in a program that gets it."""
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
    """Returns the system's error text. If a limit of this process is reached, names it and how to raise it."""
    text = error.strerror or str(error)
    if error.errno not in _LIMITS:
        return text
    limit, may, option = _LIMITS[error.errno]
    soft, _ = resource.getrlimit(limit)
    if soft == resource.RLIM_INFINITY:
        return text
    return f"{text}: this process may {may.format(soft)}; raise that limit (ulimit {option})"


def descriptors_left() -> int:
    """Returns about how many more descriptors this process may have; exact when it is 0."""
    try:
        lowest_free = os.eventfd(0)
    except OSError:
        return 0
    os.close(lowest_free)
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft - lowest_free


def raise_descriptor_limit() -> None:
    """Raises the limit on descriptors to the system's: a broker may have more peers than the usual 1,024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def prefer_in_oom() -> None:
    """Makes the kernel choose this process and its children first when memory runs out.

    Else it may choose a program that holds more: the driver, the broker, or another user's.
    """
    with contextlib.suppress(OSError), open(f"{_PROC}/self/oom_score_adj", "w") as file:  # a sandbox forbids it
        file.write("1000")


def accept_signals(spared: Collection[signal.Signals] = ()) -> None:
    """Undoes what a program has inherited of its parent's signals.

    These are the mask of the thread that started it, which may block all signals (threads of uWSGI), and ignored
    signals. ``spared`` stay ignored, if they are. Call it in the main thread of a program that starts. Python itself
    ignores SIGPIPE and SIGXFSZ.
    """
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ, *spared}:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def accept_signals_of_a_command() -> None:
    """Like ``accept_signals``, for a program that a user may start with nohup, which ignores SIGHUP."""
    accept_signals(spared=(signal.SIGHUP,))


def end_signals() -> list[signal.Signals]:
    """Returns the signals that ask a command to end: SIGTERM, and SIGHUP when its terminal is gone, unless nohup has
    that ignored. Ctrl-C, which is SIGINT, is not among them."""
    is_ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [signal.SIGTERM] if is_ignored else [signal.SIGTERM, signal.SIGHUP]


def end_orderly() -> None:
    """Makes ``end_signals`` raise SystemExit(0), so that ``finally`` blocks run; for a program that starts.

    Only the first one does so: batch systems send SIGTERM several times, and a second one must not interrupt the
    cleanup.
    """
    numbers = end_signals()

    def end(number: int, frame: object) -> None:
        for each in numbers:
            signal.signal(each, signal.SIG_IGN)
        raise SystemExit(0)

    for each in numbers:
        signal.signal(each, end)


def set_title(text: str) -> None:
    """Sets what ``ps`` shows for this process, cut to the room that its arguments had (see ``TITLE_PADDING``).

    By default setproctitle would continue into the environment. Then ``/proc/<pid>/environ``, which carries the
    session's marker, would be lost. ``SPT_NOENV`` forbids that. It has to be set before the module is imported, so the
    import is in a function. It is inherited, so titles set by users' programs do not touch the marker either.

    setproctitle also copies the start of the title into the process name (``comm``). Programs that split
    ``/proc/<pid>/stat`` at blanks, as Slurm's process tracking does, lose a process whose name has a blank or a bracket
    in it. So such characters are replaced in the name, and stay in the title.
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
    """Yields the processes of this user."""
    uid = os.geteuid()
    with os.scandir(_PROC) as entries:
        for entry in entries:
            if entry.name.isdigit():
                with contextlib.suppress(OSError):  # gone since it was listed
                    if entry.stat().st_uid == uid:
                        yield int(entry.name)


def _read(pid: int, name: str) -> bytes:
    """Returns a file of a process in ``/proc``."""
    with open(f"/proc/{pid}/{name}", "rb", 0) as file:
        return file.read()


def _environ(pid: int) -> bytes:
    """Returns the environment a process was exec'd with; empty for zombies, kernel threads, and unreadable ones."""
    try:
        return _read(pid, "environ")
    except OSError:
        return b""


def _stat_fields(pid: int) -> list[str]:
    """Returns the fields of ``/proc/<pid>/stat`` from the third (state) on; empty when the process is gone."""
    try:
        text = _read(pid, "stat").decode(errors="replace")
    except OSError:
        return []
    return text.rpartition(")")[2].split()  # the second field, the name, may contain blanks and brackets


# ---- what the machine, the batch system or the container grants


def cpu_count(proc: str = _PROC, cgroup_fs: str = _CGROUP_FS) -> int:
    """Returns the CPUs that this process may use.

    This is its affinity, limited further by the quotas of its control groups and by what Slurm has granted its job on
    this node: Slurm can be set up without either.
    """
    cpus = float(len(os.sched_getaffinity(0)))
    granted = os.environ.get("SLURM_CPUS_ON_NODE", "")
    if "SLURM_JOB_ID" in os.environ and granted.isdecimal():
        cpus = min(cpus, int(granted))
    for group in control_groups("cpu", proc, cgroup_fs):
        # Version 2 has quota and period in one file, version 1 in two. Without a limit the quota is "max" or -1.
        figures = integers(f"{group}/cpu.max")
        figures = figures or integers(f"{group}/cpu.cfs_quota_us") + integers(f"{group}/cpu.cfs_period_us")
        if len(figures) == 2 and min(figures) > 0:
            cpus = min(cpus, figures[0] / figures[1])
    return max(1, math.ceil(cpus))


def memory_limit_bytes(proc: str = _PROC, cgroup_fs: str = _CGROUP_FS) -> int:
    """Returns the memory that this process may use, in bytes: the machine's, or the limit of a control group."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for group in control_groups("memory", proc, cgroup_fs):
        limits += integers(f"{group}/memory.max") + integers(f"{group}/memory.limit_in_bytes")
    return min(limits)


def control_groups(controller: str, proc: str, cgroup_fs: str) -> Iterator[str]:
    """Yields the directories of this process's group and of all groups above it (each of them limits), version 1 or 2.

    Inside a container the path may be the one that the machine sees. A part of it that does not exist here does no
    harm: the root of the mounted hierarchy is then the container's own group.
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


def integers(path: str) -> list[int]:
    """Returns the whole numbers in a file; empty when it does not exist or has other content, such as ``max``."""
    try:
        with open(path) as file:
            return [int(word) for word in file.read().split()]
    except (OSError, ValueError):
        return []
