"""The zygote process, and its children until they are workers."""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Collection, Sequence
from typing import NoReturn

from zray.config import BARE_FORK, FILL_HOLES, FREEZE_HEAP
from zray.memory.heap import freeze_heap
from zray.memory.pymalloc import fill_holes
from zray.system import processes
from zray.system.streams import show_fatal_errors
from zray.worker.host.zygote.forking import choose_forking
from zray.worker.host.zygote.streams import adopt_standard_fds, flush_output, make_standard_streams
from zray.worker.host.zygote.wire import (
    ChildExited,
    ForkFailed,
    ForkReply,
    Request,
    WireEvent,
    close_all,
    pack_event,
    receive_request,
    send_request,
)

ChildMain = Callable[[bytes, list[int]], None]
"""Runs a worker: gets the payload and the descriptors after stdout and stderr that came with the request."""

LOOK_EVERY_S = 1.0
"""The shortest time between two searches for orphans of workers, in seconds: a search reads files of all processes."""
_END_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that ask a process to end."""


class Zygote:
    """The zygote. ``disabled``: optimizations that are not used.

    State: ``workers`` maps the PID of each unreaped worker to its worker ID. ``spares`` maps the PID of each spare to
    the socket by which it will get its request. ``ended``: workers whose orphans have not been searched for.
    """

    def __init__(
        self,
        control: socket.socket,
        child_main: ChildMain,
        close_in_child: Sequence[int],
        pool_size: int,
        disabled: Collection[str] = (),
    ) -> None:
        self._pid = os.getpid()
        self._control = control
        self._child_main = child_main
        self._close_in_child = close_in_child
        self._pool_size = pool_size
        self._disabled = disabled
        self._forking = choose_forking(bare=BARE_FORK not in disabled)
        self._wake_read, self._wake_write = os.pipe()
        self._workers: dict[int, bytes] = {}
        self._spares: dict[int, socket.socket] = {}
        self._ended: list[int] = []  # workers whose orphans have not been searched for
        self._look_at = 0.0
        self._may_fork_ahead = True  # False after a spare failed or was killed, until a worker ends

    def run(self, host_pid: int, cleanup: Callable[[], None]) -> None:
        """Serves the host until the control socket reaches its end, then kills every descendant and cleans up."""
        os.setsid()
        processes.set_title(f"zray-zygote of {host_pid}")
        for sig in _END_SIGNALS:
            signal.signal(sig, signal.SIG_IGN)
        try:
            self._serve()
        finally:  # also after an error of the zygote itself: its descendants must not outlive it
            self._control.close()
            processes.kill_descendants(self._pid)
            _reap_killed()
            cleanup()

    def _serve(self) -> None:
        self._prepare()
        poll = select.poll()  # unlike epoll, poll is no kernel object that children would share
        poll.register(self._control, select.POLLIN)
        poll.register(self._wake_read, select.POLLIN)
        while True:
            ready = poll.poll(self._timeout_ms())
            if not ready:
                self._do_idle_work()
            for fd, _ in ready:
                if fd == self._wake_read:
                    os.read(self._wake_read, 4096)
                    self._reap()
                elif not self._serve_request():
                    return

    def _prepare(self) -> None:
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # only with a Python handler does a signal write to the pipe
        processes.set_child_subreaper()
        self._control.setblocking(True)
        make_standard_streams()
        show_fatal_errors()  # for all workers: to set it up in each one would cost each one a page
        gc.disable()
        if FREEZE_HEAP not in self._disabled:
            freeze_heap()
        if FILL_HOLES not in self._disabled:
            self._fillers = fill_holes()  # else each child's new objects would lie on its parent's pages

    # ------------------------------------------------------------------ children

    def _serve_request(self) -> bool:
        """Serves one request. Returns False when the socket is at its end."""
        try:
            request = receive_request(self._control)
        except (OSError, ValueError):
            return False
        try:
            request.check_complete()
            pid = self._hand_over(request)
        except OSError as error:
            self._report(ForkFailed(request.worker_id, str(error)))
        else:
            self._workers[pid] = request.worker_id
            self._report(ForkReply(request.worker_id, pid))
        finally:
            close_all(request.fds)
        return True

    def _hand_over(self, request: Request) -> int:
        """Returns the PID of the child that serves the request. Raises OSError if there is none."""
        while self._spares:
            pid, spare = self._spares.popitem()
            with spare, contextlib.suppress(ConnectionError):  # it was killed while it waited, and will be reaped
                send_request(spare, request)
                return pid
        pid = self._forking.fork()
        if pid == 0:
            self._run_worker(request)
        return pid

    def _wants_spare(self) -> bool:
        return self._may_fork_ahead and len(self._workers) + len(self._spares) < self._pool_size

    def _timeout_ms(self) -> float | None:
        """Returns how long the loop may wait for the host and for its children; None without limit."""
        if self._wants_spare():
            return 0
        return max(0.0, self._look_at - time.monotonic()) * 1000 if self._ended else None

    def _do_idle_work(self) -> None:
        if self._ended and time.monotonic() >= self._look_at:
            ended, self._ended = self._ended, []
            if self._has_orphans():
                processes.kill_orphans([pid for pid in ended if pid not in self._workers and pid not in self._spares])
                self._look_at = time.monotonic() + LOOK_EVERY_S
        elif self._wants_spare():
            self._fork_ahead()

    def _has_orphans(self) -> bool:
        """Whether ended workers may have left processes: at a worker's end the zygote becomes their parent.

        To search for them takes much more: it reads files of all processes, and copies half a megabyte of pages.
        """
        children = processes.children_of_this()
        return children is None or not children <= self._workers.keys() | self._spares.keys()

    def _fork_ahead(self) -> None:
        try:
            self._fork_spare()
        except OSError:  # no process or descriptor is available; a request for a worker reports it
            self._may_fork_ahead = False

    def _fork_spare(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                pid = self._forking.fork()
            except OSError:
                ours.close()
                raise
            self._spares[pid] = ours
            if pid == 0:
                self._run_spare(theirs)

    def _reap(self) -> None:
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in self._workers:
                processes.kill_group(pid)  # first: the host, told of the death, may rely on the group's end
                self._ended.append(pid)
                self._report(ChildExited(self._workers.pop(pid), pid, status, usage.ru_maxrss * 1024))
                self._may_fork_ahead = True
            elif pid in self._spares:
                self._spares.pop(pid).close()
                self._may_fork_ahead = False
            # else an adopted orphan, which the host does not know

    def _report(self, event: WireEvent) -> None:
        with contextlib.suppress(OSError):  # the host is gone: the next read reports it
            self._control.send(pack_event(event))

    # ------------------------------------------------------------------ in the child

    def _run_spare(self, work: socket.socket) -> NoReturn:
        """Runs a spare: a child that waits for its request, and until then touches as little memory as possible."""
        code = 1  # also when the zygote ends before it sends a request
        try:
            self._bind_to_zygote()
            with work:
                request = receive_request(work)
            code = self._run_request(request)
        finally:
            os._exit(code)

    def _run_worker(self, request: Request) -> NoReturn:
        """Runs a worker: a child that was forked for a request."""
        code = 1
        try:
            self._bind_to_zygote()
            code = self._run_request(request)
        finally:
            os._exit(code)

    def _bind_to_zygote(self) -> None:
        processes.set_parent_death_signal(signal.SIGKILL, self._pid)
        os.setpgid(0, 0)  # its group is how its children are found later
        processes.set_title("zray::IDLE")
        processes.prefer_in_oom()

    def _run_request(self, request: Request) -> int:
        """Serves a request and returns the exit code."""
        self._forking.wake_up()
        self._drop_inherited()
        os.environ[processes.WORKER_VARIABLE] = str(os.getpid())
        code = self._become_worker(request)
        flush_output()
        return code

    def _become_worker(self, request: Request) -> int:
        """Runs a worker and returns the exit code that the interpreter would return."""
        try:
            request.check_complete()
            extra_fds = adopt_standard_fds(request.fds)
            gc.enable()  # what the zygote froze stays frozen: a collection would copy its pages
            self._child_main(request.payload, extra_fds)
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

    def _drop_inherited(self) -> None:
        """Releases what belongs to the zygote: handlers, sockets and descriptors."""
        signal.set_wakeup_fd(-1)
        for sig in (signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP):
            signal.signal(sig, signal.SIG_DFL)
        self._control.close()
        for end in self._spares.values():
            end.close()
        close_all([self._wake_read, self._wake_write, *self._close_in_child])


def _reap_killed() -> None:
    """Reaps killed processes: in a container, a first process that does not reap would leave them as zombies."""
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)
