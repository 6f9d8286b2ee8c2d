from __future__ import annotations

import contextlib
import errno
import gc
import os
import secrets
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest

from zray.config import OPTIMIZATIONS
from zray.system import processes
from zray.worker.host.zygote import (
    ChildExited,
    Event,
    ForkFailed,
    ForkReply,
    ZygoteClient,
    ZygoteGone,
    start_zygote,
)
from zray.worker.host.zygote.forking import BareFork, PlainFork

TIMEOUT_S = 10.0


class Harness:
    """A minimal host: a zygote, and pipes from its workers' output."""

    def __init__(
        self, child_main: Callable[[bytes, list[int]], None], pool_size: int = 0, disabled: tuple[str, ...] = ()
    ) -> None:
        self.cleaned_read, cleaned_write = os.pipe()
        self.client = start_zygote(
            child_main, lambda: self._cleanup(cleaned_write), pool_size=pool_size, disabled=disabled
        )
        os.close(cleaned_write)
        self.outputs: dict[bytes, int] = {}
        self.disabled = disabled

    @staticmethod
    def _cleanup(fd: int) -> None:
        os.write(fd, b"cleaned %d" % len(processes.descendants(os.getpid())))

    def fork(self, worker_id: bytes, payload: bytes = b"", extra_fds: tuple[int, ...] = ()) -> None:
        out_read, out_write = os.pipe()
        self.outputs[worker_id] = out_read
        self.client.request_fork(worker_id, payload, [out_write, out_write, *extra_fds])
        os.close(out_write)

    def events(self, count: int) -> list[Event]:
        found: list[Event] = []
        while len(found) < count:
            assert select.select([self.client], [], [], TIMEOUT_S)[0], f"only {found}"
            found += self.client.read_events()
        return found

    def output(self, worker_id: bytes) -> bytes:
        """Returns all that a worker printed, until it and its children have ended."""
        with os.fdopen(self.outputs.pop(worker_id), "rb") as pipe:
            return pipe.read()

    def spares(self, count: int) -> list[int]:
        """Returns the zygote's children, once there are ``count``."""
        deadline = time.monotonic() + TIMEOUT_S
        while len(found := processes.descendants(self.client.pid)) != count:
            assert time.monotonic() < deadline, f"{found}, not {count}"
            time.sleep(0.002)
        return found

    def cleaned(self) -> bytes:
        assert select.select([self.cleaned_read], [], [], TIMEOUT_S)[0]
        return os.read(self.cleaned_read, 100)

    def close(self) -> None:
        self.client.close()
        assert self.client.wait(TIMEOUT_S)
        for fd in (self.cleaned_read, *self.outputs.values()):
            os.close(fd)


Start = Callable[..., Harness]


@pytest.fixture(params=[(), OPTIMIZATIONS], ids=["optimized", "plain"])
def start(request: pytest.FixtureRequest) -> Iterator[Start]:
    """Starts a zygote, once with all of the optimizations and once with none of them."""
    gc.unfreeze()  # another test may have called code that freezes what is there, as mypy does
    with contextlib.ExitStack() as stack:

        def begin(child_main: Callable[[bytes, list[int]], None], pool_size: int = 0) -> Harness:
            harness = Harness(child_main, pool_size, request.param)
            stack.callback(harness.close)
            return harness

        yield begin


def run_python(payload: bytes, fds: list[int]) -> None:
    """The worker of most tests: runs the code that it is sent."""
    exec(payload.decode(), {"fds": fds})


PAUSE = b"import signal; print('up'); signal.pause()"


def await_line(harness: Harness, worker_id: bytes) -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        assert select.select([harness.outputs[worker_id]], [], [], TIMEOUT_S)[0]
        line += os.read(harness.outputs[worker_id], 1)
    return line


def open_files() -> set[str]:
    return {os.path.basename(os.path.realpath(f"/proc/self/fd/{fd}")) for fd in os.listdir("/proc/self/fd")}


class TestWorkers:
    def test_forks_and_reports_the_end(self, start: Start) -> None:
        harness = start(run_python)
        harness.fork(b"w1", b"print('hello'); raise SystemExit(3)")
        forked, ended = harness.events(2)
        assert isinstance(forked, ForkReply)
        assert isinstance(ended, ChildExited)
        assert (forked.worker_id, ended.worker_id, ended.pid) == (b"w1", b"w1", forked.pid)
        assert processes.describe_exit(ended.status) == "exit code 3"
        assert ended.maxrss_bytes > 1_000_000
        assert harness.output(b"w1") == b"hello\n"

    @pytest.mark.parametrize(
        ("code", "how"),
        [
            (b"", "exit code 0"),
            (b"raise SystemExit", "exit code 0"),
            (b"raise SystemExit('why')", "exit code 1"),
            (b"raise ValueError('why')", "exit code 1"),
            (b"import os; os._exit(9)", "exit code 9"),
            (b"import os, signal; os.kill(os.getpid(), signal.SIGTERM)", "killed by SIGTERM (terminated)"),
            (
                b"import ctypes, faulthandler; faulthandler.disable(); ctypes.string_at(0)",
                "killed by SIGSEGV (segmentation fault)",
            ),
        ],
    )
    def test_ways_to_end(self, start: Start, code: bytes, how: str) -> None:
        harness = start(run_python)
        harness.fork(b"w", code)
        ended = harness.events(2)[1]
        assert isinstance(ended, ChildExited)
        assert processes.describe_exit(ended.status) == how
        assert (b"why" in harness.output(b"w")) == (b"why" in code)

    def test_surroundings_of_a_worker(self, start: Start) -> None:
        """Its title is tested in tests/e2e/test_output.py: it needs the room that the launchers make for it."""
        harness = start(run_python)
        code = b"""
import gc, os, signal, sys
print(repr(sys.stdin.read()), gc.isenabled(), gc.get_freeze_count() > 1000)
print([signal.getsignal(s).name for s in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)])
print(os.getsid(0) == os.getppid(), sorted(map(int, os.listdir('/proc/self/fd')))[:3])
print(chr(0xe9), chr(0xd800))
"""
        harness.fork(b"w", code)
        harness.events(2)
        assert harness.output(b"w").decode().splitlines() == [
            f"'' True {'freeze-heap' not in harness.disabled}",
            "['SIG_IGN', 'SIG_DFL', 'SIG_DFL']",
            "True [0, 1, 2]",
            "\xe9 \\ud800",
        ]

    def test_output_of_c_is_seen_line_by_line(self, start: Start) -> None:
        harness = start(run_python)
        harness.fork(b"w", b"import ctypes, signal; ctypes.CDLL(None).puts(b'from C'); signal.pause()")
        assert await_line(harness, b"w") == b"from C\n"

    @pytest.mark.parametrize("pool_size", [0, 4])
    def test_inherits_no_descriptors_but_its_own(self, start: Start, pool_size: int) -> None:
        before = open_files()
        harness = start(run_python, pool_size)
        harness.spares(pool_size)
        memory = os.memfd_create("recorder")
        show = b"import os; base = '/proc/self/fd/'\n"
        show += b"print(*(os.path.basename(os.path.realpath(base + fd)) for fd in os.listdir(base)))\n"
        harness.fork(b"w1", PAUSE)
        harness.fork(b"w2", show + b"os.write(fds[0], b'black box')", (memory,))
        own = os.readlink(f"/proc/self/fd/{harness.outputs[b'w2']}")
        harness.events(3)
        shown = {name for name in harness.output(b"w2").decode().split() if name.startswith(("pipe:", "socket:"))}
        # The harness's pipe of ``cleaned`` was open when the zygote was forked.
        assert shown - before == {own, os.readlink(f"/proc/self/fd/{harness.cleaned_read}")}
        assert os.pread(memory, 100, 0) == b"black box"
        os.close(memory)

    def test_many_at_once(self, start: Start) -> None:
        harness = start(run_python)
        ids = [b"w%d" % number for number in range(60)]
        for worker_id in ids:
            harness.fork(worker_id, b"print('x')")
        events = harness.events(120)
        for kind in (ForkReply, ChildExited):
            assert sorted(event.worker_id for event in events if isinstance(event, kind)) == sorted(ids)

    def test_orphans_of_workers_are_reaped_silently(self, start: Start) -> None:
        harness = start(run_python)
        harness.fork(
            b"w", b"import os\nif os.fork() == 0:\n    os.setsid(); print(os.getpid()); os.fork(); os._exit(0)"
        )
        assert [type(event) for event in harness.events(2)] == [ForkReply, ChildExited]
        harness.output(b"w")
        harness.fork(b"next")
        assert all(event.worker_id == b"next" for event in harness.events(2) if not isinstance(event, ZygoteGone))

    def test_rejects_what_cannot_be_sent(self, start: Start) -> None:
        harness = start(run_python)
        with pytest.raises(ValueError, match="cannot be sent"):
            harness.client.request_fork(b"w", b"x" * 100_000, [1, 2])
        with pytest.raises(ValueError, match="cannot be sent"):
            harness.client.request_fork(b"w", b"", [1])
        before = open_files()
        with pytest.raises(OSError, match="Bad file descriptor"):
            harness.client.request_fork(b"w", b"", [1, 2, 1 << 20])
        assert open_files() == before


class TestFailures:
    def test_failed_fork_is_reported_and_survived(self, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
        forks = []

        def failing_at_first(fork: Callable[[Any], int]) -> Callable[[Any], int]:
            def first_fork_fails(forking: Any) -> int:
                forks.append(1)
                if len(forks) == 1:
                    raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
                return fork(forking)

            return first_fork_fails

        for kind in (BareFork, PlainFork):
            monkeypatch.setattr(kind, "fork", failing_at_first(kind.fork))
        harness = start(run_python)
        harness.fork(b"w1")
        assert harness.events(1) == [ForkFailed(b"w1", "[Errno 11] Resource temporarily unavailable")]
        harness.fork(b"w2")
        assert isinstance(harness.events(2)[1], ChildExited)

    def test_no_descriptors_left(self, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        harness = start(run_python)
        harness.fork(b"up", PAUSE)
        harness.events(1)
        resource.prlimit(harness.client.pid, resource.RLIMIT_NOFILE, (3, hard))
        harness.fork(b"w1")
        assert harness.events(1) == [ForkFailed(b"w1", "[Errno 24] Too many open files")]
        resource.prlimit(harness.client.pid, resource.RLIMIT_NOFILE, (soft, hard))
        harness.fork(b"w2")
        assert isinstance(harness.events(2)[1], ChildExited)

    @pytest.mark.parametrize(
        "packet", [b"\xc1", b"garbage", b"\x93\x01\x02\x03", msgpack.packb([b"w", b"", 2]), b"\x90"]
    )
    def test_garbage_counts_as_the_end(self, start: Start, packet: bytes) -> None:
        harness = start(run_python)
        harness.fork(b"w", PAUSE)
        harness.events(1)
        harness.client._control.send(packet)
        if packet == msgpack.packb([b"w", b"", 2]):  # well-formed, but its descriptors are missing
            assert isinstance(harness.events(1)[0], ForkFailed)
        else:
            assert isinstance(harness.events(1)[-1], ZygoteGone)
            assert harness.cleaned() == b"cleaned 0"

    @pytest.mark.parametrize("packet", [b"\xc1", msgpack.packb([7]), msgpack.packb([0, "w", 1]), msgpack.packb({})])
    def test_garbage_from_the_zygote(self, packet: bytes) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        client = ZygoteClient(ours, pid=0)
        theirs.send(packet)
        (event,) = client.read_events()
        assert isinstance(event, ZygoteGone)
        assert client.read_events() == []
        client.close()
        theirs.close()


class TestSpares:
    def test_there_are_as_many_as_workers_are_missing(self, start: Start) -> None:
        harness = start(run_python, pool_size=3)
        waiting = harness.spares(3)
        harness.fork(b"w1", PAUSE)
        harness.fork(b"w2", PAUSE)
        pids = [event.pid for event in harness.events(2) if isinstance(event, ForkReply)]
        assert set(pids) < set(waiting)
        assert sorted(harness.spares(3)) == sorted(waiting)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        assert [type(event) for event in harness.events(2)] == [ChildExited, ChildExited]
        assert not set(harness.spares(3)) & set(pids)

    def test_more_are_forked_than_there_are_spares(self, start: Start) -> None:
        harness = start(run_python, pool_size=2)
        harness.spares(2)
        for number in range(5):
            harness.fork(b"w%d" % number, PAUSE)
        assert len({event.pid for event in harness.events(5) if isinstance(event, ForkReply)}) == 5
        assert len(harness.spares(5)) == 5

    def test_what_os_fork_makes_ready_is_ready(self, start: Start) -> None:
        """Threads, locks, imports, hooks: a hook seeds ``random`` again."""
        harness = start(run_python, pool_size=2)
        harness.spares(2)
        code = b"""
import logging, random, threading, decimal
seen = []
thread = threading.Thread(target=lambda: seen.append(threading.get_ident()))
thread.start(); thread.join()
assert len(seen) == 1 and threading.active_count() == 1 and threading.current_thread() is threading.main_thread()
logging.getLogger().info("not locked")
print(random.random())
"""
        for worker_id in (b"w1", b"w2", b"w3"):
            harness.fork(worker_id, code)
        ends = [event for event in harness.events(6) if isinstance(event, ChildExited)]
        outputs = [harness.output(worker_id) for worker_id in (b"w1", b"w2", b"w3")]
        assert [end.status for end in ends] == [0, 0, 0], outputs
        assert len(set(outputs)) == 3

    def test_a_killed_spare_becomes_no_worker(self, start: Start) -> None:
        """No other is forked in its place before a worker has ended: a process that kills spares may go on."""
        harness = start(run_python, pool_size=2)
        for pid in harness.spares(2):
            os.kill(pid, signal.SIGKILL)
        harness.spares(0)
        harness.fork(b"w", b"print('served')")
        assert [type(event) for event in harness.events(2)] == [ForkReply, ChildExited]
        assert harness.output(b"w") == b"served\n"
        harness.spares(2)

    def test_one_that_is_killed_while_it_is_asked(self, start: Start) -> None:
        harness = start(run_python, pool_size=1)
        for number in range(30):
            (pid,) = harness.spares(1)
            os.kill(pid, signal.SIGKILL)
            worker_id = b"w%d" % number
            harness.fork(worker_id, b"print('served')")
            reply, end = harness.events(2)
            assert isinstance(reply, ForkReply)
            assert isinstance(end, ChildExited)
            if reply.pid == pid:  # it had the request when it died: a worker like any other
                assert processes.describe_exit(end.status).startswith("killed by SIGKILL")
            else:
                assert harness.output(worker_id) == b"served\n"

    def test_they_ignore_signals_that_ask_to_end(self, start: Start) -> None:
        harness = start(run_python, pool_size=1)
        (pid,) = harness.spares(1)
        for sig in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(pid, sig)
        harness.fork(b"w", b"print('served')")
        assert [event.pid for event in harness.events(2) if isinstance(event, (ForkReply, ChildExited))] == [pid, pid]

    @pytest.mark.parametrize("how", ["closed", "killed"])
    def test_they_end_with_the_zygote(self, start: Start, how: str) -> None:
        harness = start(run_python, pool_size=3)
        pids = harness.spares(3)
        if how == "closed":
            harness.client.close()
            assert harness.cleaned() == b"cleaned 0"
        else:
            os.kill(harness.client.pid, signal.SIGKILL)
            assert isinstance(harness.events(1)[0], ZygoteGone)
        deadline = time.monotonic() + TIMEOUT_S
        while any(processes.process_start_time(pid) for pid in pids):
            assert time.monotonic() < deadline
            time.sleep(0.002)


LEFT_BEHIND = b"""
import os, signal, subprocess, sys
def start(**options):
    code = "import os, signal; os.write(1, b'%d\\\\n' % os.getpid()); signal.pause()"
    child = subprocess.Popen([sys.executable, "-c", code], **options)
    return child
"""
"""Workers' code: ``start`` starts a program that prints its PID."""


class TestWhatWorkersLeave:
    """A pipe ends when no process can write to it any more: so a test knows that all have ended."""

    @pytest.mark.parametrize("end", [b"", b"os._exit(3)", b"os.kill(os.getpid(), signal.SIGKILL)", b"1 / 0"])
    @pytest.mark.parametrize(
        "child",
        [
            b"start()",
            b"start(process_group=0)" if sys.version_info >= (3, 11) else b"start(preexec_fn=os.setpgrp)",
            b"os.fork() or signal.pause()",
            b"(os.fork() == 0 and (os.fork() and os._exit(0) or signal.pause())) or os.wait()",
            b"subprocess.run(['sh', '-c', 'sleep 1000 & sleep 1000 &'])",
        ],
        ids=["program", "of another group", "fork", "orphan", "of a shell"],
    )
    def test_ends_with_the_worker(self, start: Start, child: bytes, end: bytes) -> None:
        harness = start(run_python)
        harness.fork(b"w", LEFT_BEHIND + child + b"\n" + end)
        harness.events(2)
        harness.output(b"w")
        harness.spares(0)  # the kernel closes a pipe a little before its process is gone

    def test_ends_before_the_death_is_reported(self, start: Start) -> None:
        harness = start(run_python)
        harness.fork(b"w", LEFT_BEHIND + b"start()")
        assert isinstance(harness.events(2)[1], ChildExited)
        assert processes.descendants(harness.client.pid) == []
        harness.output(b"w")

    def test_a_search_takes_place_only_if_there_are_orphans(
        self, start: Start, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        searches_read, searches_write = os.pipe()
        with os.fdopen(searches_read, "rb") as searches:
            search = processes.kill_orphans

            def counted(workers: list[int]) -> int:
                os.write(searches_write, b"search\n")
                return search(workers)

            monkeypatch.setattr(processes, "kill_orphans", counted)
            harness = start(run_python, pool_size=1)
            for name in (b"one", b"two", b"three"):
                harness.fork(name, b"print('nothing is left')")
                harness.events(2)
                harness.spares(1)  # forked when nothing else is to be done
            harness.fork(b"w", LEFT_BEHIND + b"start(preexec_fn=os.setpgrp)" + b"\nprint('left', flush=True)")
            harness.events(2)
            harness.output(b"w")
            harness.spares(1)
            harness.client.close()
            assert harness.client.wait(TIMEOUT_S)
            os.close(searches_write)
            assert searches.read() == b"search\n"

    def test_a_search_takes_place_where_the_kernel_lists_no_children(
        self, start: Start, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(processes, "children_of_this", lambda: None)
        harness = start(run_python)
        harness.fork(b"w", LEFT_BEHIND + b"start(preexec_fn=os.setpgrp)")
        harness.events(2)
        harness.output(b"w")

    def test_stays_with_a_session_of_its_own(self, start: Start) -> None:
        harness = start(run_python)
        harness.fork(b"w", LEFT_BEHIND + b"start(start_new_session=True); subprocess.Popen(['sleep', '1000'])")
        harness.fork(b"other", LEFT_BEHIND + b"start()\n" + PAUSE)
        events = harness.events(3)
        (other,) = [event.pid for event in events if isinstance(event, ForkReply) and event.worker_id == b"other"]
        pid = int(await_line(harness, b"w"))
        await_line(harness, b"other"), await_line(harness, b"other")
        harness.fork(b"next")
        harness.events(2)
        left = processes.descendants(harness.client.pid)
        assert pid in left and other in left and len(left) == 3
        harness.client.close()
        assert harness.cleaned() == b"cleaned 0"

    def test_resource_trackers_end_when_they_have_cleaned_up(self, start: Start) -> None:
        """The tracker, and a child that keeps its pipe open, are in the group of a worker that is killed."""
        harness = start(run_python)
        code = b"""
import os, signal
from multiprocessing import shared_memory
memory = shared_memory.SharedMemory(create=True, size=100)
print(memory.name)
if os.fork() == 0:
    signal.pause()
os.kill(os.getpid(), signal.SIGKILL)
"""
        harness.fork(b"w", code)
        harness.events(2)
        name = harness.output(b"w").split()[0].decode()  # to its end, and so to the tracker's
        assert not Path("/dev/shm", name).exists()


class TestGuardian:
    def test_end_of_the_host_kills_all_below(self, start: Start) -> None:
        harness = start(run_python)
        daemon = b"import os, signal\nif os.fork() == 0:\n    os.setsid()\nos.write(1, b'up\\n')\nsignal.pause()"
        harness.fork(b"w", daemon)
        harness.fork(b"stubborn", b"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + PAUSE)
        harness.events(2)
        await_line(harness, b"w")
        await_line(harness, b"w")
        await_line(harness, b"stubborn")
        harness.client.close()
        assert harness.cleaned() == b"cleaned 0"
        assert harness.client.wait(TIMEOUT_S)
        assert harness.output(b"w") == harness.output(b"stubborn") == b""  # the ends of their pipes are closed

    def test_killed_host(self) -> None:
        """The zygote outlives a killed host just long enough to clean up."""
        cleaned_read, cleaned_write = os.pipe()
        ready_read, ready_write = os.pipe()
        host = os.fork()
        if host == 0:
            client = start_zygote(run_python, lambda: Harness._cleanup(cleaned_write))
            client.request_fork(b"w", PAUSE, [ready_write, ready_write])
            signal.pause()
        os.close(cleaned_write)
        os.close(ready_write)
        assert os.read(ready_read, 100) == b"up\n"
        os.kill(host, signal.SIGKILL)
        os.waitpid(host, 0)
        assert os.read(cleaned_read, 100) == b"cleaned 0"
        assert os.read(cleaned_read, 100) == b""
        assert os.read(ready_read, 100) == b""
        os.close(cleaned_read)
        os.close(ready_read)

    def test_workers_die_with_a_killed_zygote(self, start: Start) -> None:
        harness = start(run_python)
        harness.fork(b"w", PAUSE)
        harness.events(1)
        await_line(harness, b"w")
        os.kill(harness.client.pid, signal.SIGKILL)
        assert isinstance(harness.events(1)[0], ZygoteGone)
        assert harness.output(b"w") == b""
        harness.fork(b"late")  # has no effect, and does not raise
        assert harness.client.read_events() == []
        assert harness.output(b"late") == b""  # its descriptors were closed

    @pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
    def test_ends_only_with_its_host(self, start: Start, sig: signal.Signals) -> None:
        harness = start(run_python)
        harness.fork(b"w")
        harness.events(2)
        os.kill(harness.client.pid, sig)
        harness.fork(b"again")
        assert isinstance(harness.events(2)[1], ChildExited)

    def test_closed_standard_descriptors(self, tmp_path: Path) -> None:
        code = (
            "import os, sys; from zray.worker.host.zygote import start_zygote\n"
            "import select\n"
            f"work = lambda payload, fds: print('printed')\n"
            "client = start_zygote(work, lambda: None); read, write = os.pipe()\n"
            "client.request_fork(b'w', b'', [write, write])\n"
            f"open({str(tmp_path / 'out')!r}, 'wb').write(os.read(read, 100)); client.close(); client.wait(5)\n"
        )
        pid = os.posix_spawn(
            sys.executable,
            [sys.executable, "-c", code],
            os.environ,
            file_actions=[(os.POSIX_SPAWN_CLOSE, fd) for fd in (0, 1, 2)],
        )
        assert os.waitpid(pid, 0)[1] == 0
        assert (tmp_path / "out").read_bytes() == b"printed\n"


def test_worker_ids_are_opaque(start: Start) -> None:
    harness = start(run_python)
    worker_id = secrets.token_bytes(16)
    harness.fork(worker_id)
    assert {event.worker_id for event in harness.events(2) if not isinstance(event, ZygoteGone)} == {worker_id}
