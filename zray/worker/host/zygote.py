"""The zygote: a process that has imported what workers need and forks one on demand, in about a millisecond.

It has one thread and no ZeroMQ context, both of which a fork would break, and talks to its host over a Unix socket
of kind SEQPACKET: one packet, one message, descriptors attached.  Three things hang on it:

*Memory.* Workers share its pages until they write to them.  So it collects once, moves everything out of the sight
of the garbage collector (``gc.freeze``; a collection would write to every object) and never collects again.

*Fate.* Workers die with it (parent death signal), and it is the guardian of the session: when the socket reaches its
end, since the host closed it or was killed, the zygote kills all that is below it, calls ``cleanup`` and ends.
It has a session (``setsid``) of its own, so that Ctrl-C at a terminal reaches neither it nor the workers, and it
ignores the signals that ask it to leave: it leaves with its host.  As subreaper it adopts the orphans of workers,
also those that daemonised, so that it can find them.

*Exits.* It reaps its children as SIGCHLD tells and reports how each ended.

Messages are msgpack arrays.  Host to zygote: ``[worker_id, payload, count of descriptors]``.  Zygote to host: the
fields of one of the events below, after its index in ``_EVENTS``.  Whatever else arrives means that the other side
is not to be trusted any more and counts as the end of the stream.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import errno
import gc
import io
import os
import select
import signal
import socket
import sys
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, NoReturn

import msgpack

from zray.util import processes

MAX_PAYLOAD_BYTES = 16 * 1024
MAX_FDS = 8
_MAX_PACKET_BYTES = MAX_PAYLOAD_BYTES + 1024
_MAX_UNANSWERED = 8
"""Requests under way at once. Keeps them, and the descriptors in flight, within the buffers and limits that every
system grants, so that sending a request never blocks the host."""

_TO_LEAVE = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals by which a process is asked to leave."""
_IOLBF = 1
_libc = ctypes.CDLL(None)

ChildMain = Callable[[bytes, list[int]], None]
"""Runs a worker: gets the payload and the descriptors past stdout and stderr that came with the request."""


class ForkReply(NamedTuple):
    """The worker runs."""

    worker_id: bytes
    pid: int


class ForkFailed(NamedTuple):
    """The worker could not be forked; ``reason`` is the system's."""

    worker_id: bytes
    reason: str


class ChildExited(NamedTuple):
    """The worker has ended: its wait status (see ``processes.describe_exit``) and the most memory it ever had."""

    worker_id: bytes
    pid: int
    status: int
    maxrss_bytes: int


class ZygoteGone(NamedTuple):
    """The zygote has ended or talks nonsense; no event follows this one."""

    reason: str


_WireEvent = ForkReply | ForkFailed | ChildExited
Event = _WireEvent | ZygoteGone

_EVENTS: tuple[tuple[type[_WireEvent], tuple[type, ...]], ...] = (
    (ForkReply, (bytes, int)),
    (ForkFailed, (bytes, str)),
    (ChildExited, (bytes, int, int, int)),
)
"""Each event that travels, with the types of its fields."""
_EVENT_INDEX = {kind: index for index, (kind, _) in enumerate(_EVENTS)}


class _Request(NamedTuple):
    worker_id: bytes
    payload: bytes
    fds: list[int]


# ---- the host's side


def start_zygote(
    child_main: ChildMain,
    cleanup: Callable[[], None],
    close_in_child: Sequence[int] = (),
    warm_up: Callable[[], None] = lambda: None,
) -> ZygoteClient:
    """Forks the zygote from this process, which must have neither threads nor a ZeroMQ context yet.

    ``child_main(payload, fds)`` runs in each worker.  ``cleanup()`` runs in the zygote after its last child is
    killed.  ``close_in_child``: descriptors that the zygote is to keep and workers are not, such as the session's
    lock.  ``warm_up()`` runs in the zygote first: what it leaves in memory, all workers share.  The host must not
    fork other lasting processes afterwards without exec: they would hold the socket open.
    """
    _occupy_standard_fds()
    _flush_output()  # or each child would write what is still buffered here
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    host_pid = os.getpid()
    pid = os.fork()
    if pid:
        theirs.close()
        return ZygoteClient(ours, pid)
    ours.close()
    code = 1
    try:
        os.setsid()
        processes.set_title(f"zray-zygote of {host_pid}")
        for sig in _TO_LEAVE:
            signal.signal(sig, signal.SIG_IGN)
        try:
            warm_up()
        except Exception:  # workers weigh more then, and that is all
            traceback.print_exc()
        zygote_main(theirs, child_main, cleanup, close_in_child)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


class ZygoteClient:
    """The host's end. Never blocks: poll ``fileno()`` for reading, then call ``read_events()``.

    Attributes: pid, of the zygote.
    """

    def __init__(self, control: socket.socket, pid: int) -> None:
        control.setblocking(False)
        self.pid = pid
        self._control = control
        self._waiting: deque[_Request] = deque()
        self._unanswered = 0
        self._gone = False

    def fileno(self) -> int:
        return self._control.fileno()

    def request_fork(self, worker_id: bytes, payload: bytes, fds: Sequence[int]) -> None:
        """Asks for a worker. ``fds``: stdout, stderr, then what ``child_main`` gets.

        ``fds`` stay the caller's, who may close them at once: what has to wait is sent from copies.  A ForkReply or
        ForkFailed follows, unless ZygoteGone does.  Raises ValueError if there are too many or too large things to
        send, and OSError if there are no descriptors left for the copies.
        """
        if len(payload) > MAX_PAYLOAD_BYTES or not 2 <= len(fds) <= MAX_FDS:
            raise ValueError(f"payload of {len(payload)} bytes with {len(fds)} descriptors cannot be sent")
        if not self._gone:
            self._waiting.append(_Request(worker_id, payload, _copies(fds)))
            self._send_waiting()

    def read_events(self) -> list[Event]:
        """All events that have arrived, in order; empty when there are none."""
        events: list[Event] = []
        while not self._gone:
            try:
                packet = self._control.recv(_MAX_PACKET_BYTES)
                event = _decode_event(packet) if packet else ZygoteGone("the zygote has ended")
            except BlockingIOError:
                break
            except (OSError, ValueError) as error:
                event = ZygoteGone(f"the zygote cannot be understood: {error}")
            if isinstance(event, ZygoteGone):
                self._end()
            elif not isinstance(event, ChildExited):
                self._unanswered -= 1
            events.append(event)
        self._send_waiting()
        return events

    def close(self) -> None:
        """Closes the socket, upon which the zygote kills all workers, cleans up and ends. May be called twice."""
        self._end()
        self._control.close()

    def wait(self, timeout_s: float) -> bool:
        """Waits for the zygote's end after ``close`` and reaps it; False if it has not ended by then."""
        try:
            with os.fdopen(os.pidfd_open(self.pid), "rb") as pidfd:
                ready, _, _ = select.select([pidfd], [], [], timeout_s)
            if ready:
                os.waitpid(self.pid, 0)
        except (ProcessLookupError, ChildProcessError):  # reaped already
            return True
        return bool(ready)

    def _send_waiting(self) -> None:
        while self._waiting and not self._gone and self._unanswered < _MAX_UNANSWERED:
            request = self._waiting[0]
            packet = msgpack.packb([request.worker_id, request.payload, len(request.fds)], use_bin_type=True)
            try:
                rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", request.fds))
                self._control.sendmsg([packet], [rights])
            except BlockingIOError:
                break  # retried with the next event, of which there is one since the queue is not empty
            except ConnectionError:
                break  # the zygote is gone: reading says so
            self._unanswered += 1
            _close_all(self._waiting.popleft().fds)

    def _end(self) -> None:
        self._gone = True
        while self._waiting:
            _close_all(self._waiting.popleft().fds)


def _decode_event(packet: bytes) -> Event:
    """Raises ValueError when the packet is no event."""
    index, *fields = _unpack_row(packet)
    if type(index) is not int or not 0 <= index < len(_EVENTS):
        raise ValueError("unknown event")
    kind, types = _EVENTS[index]
    if tuple(type(field) for field in fields) != types:
        raise ValueError(f"malformed {kind.__name__}")
    return kind(*fields)


# ---- the zygote


def zygote_main(
    control: socket.socket, child_main: ChildMain, cleanup: Callable[[], None], close_in_child: Sequence[int] = ()
) -> None:
    """Serves the host until the control socket reaches its end, then kills every descendant and calls ``cleanup``."""
    zygote = _Zygote(control, child_main, close_in_child)
    try:
        zygote.serve()
    finally:  # also after a fault of its own: a guardian that fails must not leave its wards behind
        control.close()
        processes.kill_descendants(os.getpid())
        _reap_the_killed()
        cleanup()


def _reap_the_killed() -> None:
    """Waits for what has been killed: under a first process that does not reap, as in containers, they would stay."""
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)


class _Zygote:
    """State: ``workers`` maps the PID of each child not yet reaped to its worker ID."""

    def __init__(self, control: socket.socket, child_main: ChildMain, close_in_child: Sequence[int]) -> None:
        self._pid = os.getpid()
        self._control = control
        self._child_main = child_main
        self._close_in_child = close_in_child
        self._wake_read, self._wake_write = os.pipe()
        self._workers: dict[int, bytes] = {}

    def serve(self) -> None:
        self._prepare()
        poll = select.poll()  # unlike epoll it is no kernel object that children would share
        poll.register(self._control, select.POLLIN)
        poll.register(self._wake_read, select.POLLIN)
        while True:
            for fd, _ in poll.poll():
                if fd == self._wake_read:
                    os.read(self._wake_read, 4096)
                    self._reap()
                elif not self._serve_request():
                    return

    def _prepare(self) -> None:
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # a handler of Python's is what makes it write to the pipe
        processes.set_child_subreaper()
        self._control.setblocking(True)
        _make_standard_streams()
        gc.disable()
        gc.collect()
        gc.freeze()

    def _serve_request(self) -> bool:
        """One request; False when the socket is at its end."""
        try:
            request, fds_sent = _receive_request(self._control)
        except (OSError, ValueError):
            return False
        try:
            if len(request.fds) < fds_sent:  # the kernel drops what there is no room for in the table
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            pid = os.fork()
        except OSError as error:
            self._report(ForkFailed(request.worker_id, str(error)))
        else:
            if pid == 0:
                self._become_worker(request)
            self._workers[pid] = request.worker_id
            self._report(ForkReply(request.worker_id, pid))
        finally:
            _close_all(request.fds)
        return True

    def _reap(self) -> None:
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            worker_id = self._workers.pop(pid, None)
            if worker_id is not None:  # else an adopted orphan, of which nobody asked
                self._report(ChildExited(worker_id, pid, status, usage.ru_maxrss * 1024))

    def _report(self, event: _WireEvent) -> None:
        packet = msgpack.packb([_EVENT_INDEX[type(event)], *event], use_bin_type=True)
        with contextlib.suppress(OSError):  # the host is gone: the next read says so
            self._control.send(packet)

    def _become_worker(self, request: _Request) -> NoReturn:
        """The child's life from fork to exit."""
        code = 1
        try:
            processes.set_parent_death_signal(signal.SIGKILL, self._pid)
            self._shed()
            extra_fds = _adopt_standard_fds(request.fds)
            processes.set_title("zray::IDLE")
            gc.enable()  # what the zygote froze stays frozen: a collection would copy its pages
            code = _exit_code(self._child_main, request.payload, extra_fds)
            _flush_output()
        finally:
            os._exit(code)

    def _shed(self) -> None:
        """Leaves behind what belongs to the zygote."""
        signal.set_wakeup_fd(-1)
        for sig in (signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP):
            signal.signal(sig, signal.SIG_DFL)
        self._control.close()
        _close_all([self._wake_read, self._wake_write, *self._close_in_child])


def _receive_request(control: socket.socket) -> tuple[_Request, int]:
    """A request, and how many descriptors were sent with it. Raises ValueError at the end as for garbage."""
    room = socket.CMSG_SPACE(MAX_FDS * array.array("i").itemsize)
    packet, ancillary, _, _ = control.recvmsg(_MAX_PACKET_BYTES, room, socket.MSG_CMSG_CLOEXEC)
    fds = array.array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    try:
        worker_id, payload, fds_sent = _unpack_row(packet)
        if type(worker_id) is not bytes or type(payload) is not bytes or type(fds_sent) is not int:
            raise ValueError("malformed request")
        if not max(2, len(fds)) <= fds_sent <= MAX_FDS:
            raise ValueError("wrong number of descriptors")
    except ValueError:
        _close_all(fds)
        raise
    return _Request(worker_id, payload, list(fds)), fds_sent


# ---- small things


def _unpack_row(packet: bytes) -> list[Any]:
    """Raises ValueError when the packet is no array."""
    try:
        row = msgpack.unpackb(packet, raw=False)
    except msgpack.exceptions.UnpackException as error:
        raise ValueError(str(error)) from None
    if type(row) is not list or not row:
        raise ValueError("not an array")
    return row


def _exit_code(child_main: ChildMain, payload: bytes, fds: list[int]) -> int:
    """Runs a worker and gives the exit code that the interpreter would give."""
    try:
        child_main(payload, fds)
    except SystemExit as error:
        if isinstance(error.code, int):
            return error.code & 0xFF
        if error.code is None:
            return 0
        print(error.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _make_standard_streams() -> None:
    """Streams for the workers, made once: a stream knows the number of its descriptor, not what is behind it.

    Made anew since the launcher's may have been closed, and by lines, as a terminal's, since what a task prints is
    to be seen when it prints it; the same for C's.
    """
    sys.stdin = sys.__stdin__ = open(0, closefd=False)  # type: ignore[misc]  # noqa: SIM115
    sys.stdout = sys.__stdout__ = _line_writer(1)  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = _line_writer(2)  # type: ignore[misc]
    _libc.setvbuf(ctypes.c_void_p.in_dll(_libc, "stdout"), None, _IOLBF, ctypes.c_size_t(0))


def _adopt_standard_fds(fds: list[int]) -> list[int]:
    """Puts stdin, stdout and stderr in place; returns the descriptors that are left."""
    stdin = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((stdin, 0), (fds[0], 1), (fds[1], 2)):
        os.dup2(source, target)
        os.close(source)
    return fds[2:]


def _line_writer(fd: int) -> io.TextIOWrapper:
    return open(fd, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)


def _flush_output() -> None:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # the launcher's may be closed
            with contextlib.suppress(OSError, ValueError):  # nobody reads any more
                stream.flush()
    _libc.fflush(None)


def _occupy_standard_fds() -> None:
    """Sees to it that 0, 1 and 2 are taken: a socket or pipe that got one of them would be printed to."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(fd, True)
    os.close(fd)


def _copies(fds: Iterable[int]) -> list[int]:
    """Raises OSError, with none of the copies left open, if one cannot be made."""
    copies: list[int] = []
    try:
        for fd in fds:
            copies.append(os.dup(fd))  # noqa: PERF401  (those made so far have to be closed on an error)
    except OSError:
        _close_all(copies)
        raise
    return copies


def _close_all(fds: Iterable[int]) -> None:
    for fd in fds:
        os.close(fd)
