"""The host's end: starts the zygote, asks it for workers, and reads what happened to them."""

from __future__ import annotations

import os
import socket
import traceback
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence

from zray.system.processes import await_end
from zray.worker.host.zygote.process import ChildMain, Zygote
from zray.worker.host.zygote.streams import flush_output, occupy_standard_fds
from zray.worker.host.zygote.wire import (
    MAX_FDS,
    MAX_PACKET_BYTES,
    MAX_PAYLOAD_BYTES,
    ChildExited,
    Event,
    Request,
    ZygoteGone,
    close_all,
    send_request,
    unpack_event,
)

_MAX_UNANSWERED = 8
"""The most requests under way at once.

It keeps the requests, and the descriptors in flight, within the buffers and limits of every system. So sending a
request never blocks the host.
"""


def start_zygote(
    child_main: ChildMain,
    cleanup: Callable[[], None],
    close_in_child: Sequence[int] = (),
    pool_size: int = 0,
    at_start: Callable[[], None] = lambda: None,
    disabled: Collection[str] = (),
) -> ZygoteClient:
    """Forks the zygote from this process, which must have neither threads nor a ZeroMQ context yet.

    ``child_main(payload, fds)`` runs in each worker. ``cleanup()`` runs in the zygote after its last child is killed.
    ``close_in_child``: descriptors that the zygote keeps and workers close, such as the session's lock. ``pool_size``:
    spares are forked while there are fewer children than this, workers included. ``at_start()`` is the first thing that
    the zygote does. ``disabled``: optimizations that are not used. Afterwards the host must not fork other lasting
    processes without exec: they would hold the socket open.
    """
    occupy_standard_fds()
    flush_output()  # or each child would write what is still buffered here
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    host_pid = os.getpid()
    pid = os.fork()
    if pid:
        theirs.close()
        return ZygoteClient(ours, pid)
    ours.close()
    code = 1
    try:
        at_start()
        Zygote(theirs, child_main, close_in_child, pool_size, disabled).run(host_pid, cleanup)
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
        self._waiting: deque[Request] = deque()
        self._unanswered = 0
        self._gone = False

    def fileno(self) -> int:
        return self._control.fileno()

    def request_fork(self, worker_id: bytes, payload: bytes, fds: Sequence[int]) -> None:
        """Asks for a worker. ``fds``: stdout, stderr, then the descriptors for ``child_main``.

        The caller keeps ``fds`` and may close them at once: a request that has to wait is sent from copies. A ForkReply
        or ForkFailed follows, unless ZygoteGone does. Raises ValueError if ``payload`` is too large or the number of
        ``fds`` is wrong, and OSError if there are no descriptors left for the copies.
        """
        if len(payload) > MAX_PAYLOAD_BYTES or not 2 <= len(fds) <= MAX_FDS:
            raise ValueError(f"payload of {len(payload)} bytes with {len(fds)} descriptors cannot be sent")
        if not self._gone:
            self._waiting.append(Request(worker_id, payload, _copies(fds), len(fds)))
            self._send_waiting()

    def read_events(self) -> list[Event]:
        """Returns all events that have arrived, in order; empty when there are none."""
        events: list[Event] = []
        while not self._gone:
            try:
                packet = self._control.recv(MAX_PACKET_BYTES)
                event = unpack_event(packet) if packet else ZygoteGone("the zygote has ended")
            except BlockingIOError:
                break
            except (OSError, ValueError) as error:
                event = ZygoteGone(f"the zygote sent malformed data: {error}")
            if isinstance(event, ZygoteGone):
                self._end()
            elif not isinstance(event, ChildExited):
                self._unanswered -= 1
            events.append(event)
        self._send_waiting()
        return events

    def close(self) -> None:
        """Closes the socket. The zygote then kills all workers, cleans up and ends. May be called twice."""
        self._end()
        self._control.close()

    def wait(self, timeout_s: float) -> bool:
        """Waits for the zygote's end after ``close`` and reaps it. Returns False if it has not ended by then."""
        try:
            ended = await_end(self.pid, timeout_s)
            if ended:
                os.waitpid(self.pid, 0)
        except (ProcessLookupError, ChildProcessError):  # reaped already
            return True
        return ended

    def _send_waiting(self) -> None:
        while self._waiting and not self._gone and self._unanswered < _MAX_UNANSWERED:
            request = self._waiting[0]
            try:
                send_request(self._control, request)
            except BlockingIOError:
                break  # retried with the next event, which must come since requests are unanswered
            except ConnectionError:
                break  # the zygote is gone: the next read reports it
            self._unanswered += 1
            close_all(self._waiting.popleft().fds)

    def _end(self) -> None:
        self._gone = True
        while self._waiting:
            close_all(self._waiting.popleft().fds)


def _copies(fds: Iterable[int]) -> list[int]:
    """Returns duplicates. Raises OSError, with all copies closed, if one cannot be made."""
    copies: list[int] = []
    try:
        for fd in fds:
            copies.append(os.dup(fd))  # noqa: PERF401  (those made so far have to be closed on an error)
    except OSError:
        close_all(copies)
        raise
    return copies
