"""The zygote itself, and its children up to where they are workers."""

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
"""Runs a worker: gets the payload and the descriptors past stdout and stderr that came with the request."""

LOOK_EVERY_S = 1.0
"""Strays of workers are looked for this often at most, in seconds: each look reads something of all processes."""
_TO_LEAVE = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals by which a process is asked to leave."""


class Zygote:
    """State: ``workers`` maps the PID of each child at work and not yet reaped to its worker ID, ``spares`` the PID of
    each that waits for work to the socket by which it will get it. ``disabled``: optimizations that are not used."""

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
        self._ended: list[int] = []  # workers whose strays have not been looked for
        self._look_at = 0.0
        self._may_fork_ahead = True  # not after a spare could not be forked, or was killed, until a worker has ended

    def live(self, host_pid: int, cleanup: Callable[[], None]) -> None:
        """Serves the host until the control socket reaches its end, then kills every descendant and cleans up."""
        os.setsid()
        processes.set_title(f"zray-zygote of {host_pid}")
        for sig in _TO_LEAVE:
            signal.signal(sig, signal.SIG_IGN)
        try:
            self._serve()
        finally:  # also after a fault of its own: a guardian that fails must not leave its wards behind
            self._control.close()
            processes.kill_descendants(self._pid)
            _reap_the_killed()
            cleanup()

    def _serve(self) -> None:
        self._prepare()
        poll = select.poll()  # unlike epoll it is no kernel object that children would share
        poll.register(self._control, select.POLLIN)
        poll.register(self._wake_read, select.POLLIN)
        while True:
            ready = poll.poll(self._patience_ms())
            if not ready:
                self._do_what_can_wait()
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
        signal.signal(signal.SIGCHLD, lambda *_: None)  # a handler of Python's is what makes it write to the pipe
        processes.set_child_subreaper()
        self._control.setblocking(True)
        make_standard_streams()
        show_fatal_errors()  # for all workers: to set it up in each would cost each of them a page
        gc.disable()
        if FREEZE_HEAP not in self._disabled:
            freeze_heap()
        if FILL_HOLES not in self._disabled:
            self._fillers = fill_holes()  # else each child's new objects would lie on its parent's pages

    # ------------------------------------------------------------------ children

    def _serve_request(self) -> bool:
        """One request; False when the socket is at its end."""
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
        """The PID of the child that serves the request. Raises OSError if there is none."""
        while self._spares:
            pid, spare = self._spares.popitem()
            with spare, contextlib.suppress(ConnectionError):  # it was killed while it waited, and will be reaped
                send_request(spare, request)
                return pid
        pid = self._forking.fork()
        if pid == 0:
            self._be_a_worker(request)
        return pid

    def _wants_spare(self) -> bool:
        return self._may_fork_ahead and len(self._workers) + len(self._spares) < self._pool_size

    def _patience_ms(self) -> float | None:
        """How long the loop may wait for the host and for its children."""
        if self._wants_spare():
            return 0
        return max(0.0, self._look_at - time.monotonic()) * 1000 if self._ended else None

    def _do_what_can_wait(self) -> None:
        if self._ended and time.monotonic() >= self._look_at:
            ended, self._ended = self._ended, []
            processes.kill_orphans([pid for pid in ended if pid not in self._workers and pid not in self._spares])
            self._look_at = time.monotonic() + LOOK_EVERY_S
        elif self._wants_spare():
            self._fork_ahead()

    def _fork_ahead(self) -> None:
        try:
            self._fork_spare()
        except OSError:  # no process or descriptor is to be had now; who asks for a worker is told why
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
                self._be_a_spare(theirs)

    def _reap(self) -> None:
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in self._workers:
                processes.kill_group(pid)  # first: who hears of its death may count on what its children had
                self._ended.append(pid)
                self._report(ChildExited(self._workers.pop(pid), pid, status, usage.ru_maxrss * 1024))
                self._may_fork_ahead = True
            elif pid in self._spares:
                self._spares.pop(pid).close()
                self._may_fork_ahead = False
            # else an adopted orphan, of which nobody asked

    def _report(self, event: WireEvent) -> None:
        with contextlib.suppress(OSError):  # the host is gone: the next read says so
            self._control.send(pack_event(event))

    # ------------------------------------------------------------------ in the child

    def _be_a_spare(self, work: socket.socket) -> NoReturn:
        """A child that waits for its request, and until then touches as little memory as it can."""
        code = 1  # also when the zygote ends instead of asking
        try:
            self._belong_to_the_zygote()
            with work:
                request = receive_request(work)
            code = self._live(request)
        finally:
            os._exit(code)

    def _be_a_worker(self, request: Request) -> NoReturn:
        """A child that was forked for a request."""
        code = 1
        try:
            self._belong_to_the_zygote()
            code = self._live(request)
        finally:
            os._exit(code)

    def _belong_to_the_zygote(self) -> None:
        processes.set_parent_death_signal(signal.SIGKILL, self._pid)
        os.setpgid(0, 0)  # by its group is found what it leaves behind
        processes.set_title("zray::IDLE")

    def _live(self, request: Request) -> int:
        """Serves a request, and gives the exit code."""
        self._forking.wake_up()
        self._drop_inherited()
        os.environ[processes.WORKER_VARIABLE] = str(os.getpid())
        code = self._become_worker(request)
        flush_output()
        return code

    def _become_worker(self, request: Request) -> int:
        """Runs a worker and gives the exit code that the interpreter would give."""
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
        """Leaves behind what belongs to the zygote."""
        signal.set_wakeup_fd(-1)
        for sig in (signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP):
            signal.signal(sig, signal.SIG_DFL)
        self._control.close()
        for end in self._spares.values():
            end.close()
        close_all([self._wake_read, self._wake_write, *self._close_in_child])


def _reap_the_killed() -> None:
    """Waits for what has been killed: under a first process that does not reap, as in containers, they would stay."""
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)
