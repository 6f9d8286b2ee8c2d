"""Drivers in processes of their own, and checks of what a cluster leaves behind.

Every test has a directory of its own as ``ZRAY_TMPDIR``. All processes of the test inherit this variable, users'
daemons too, and ``/proc/<pid>/environ`` always shows it. So a test can check that nothing is left without trusting
zray's own reports.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from zray.client import session as sessions
from zray.client.session import Session
from zray.store import Store

SHARED_MEMORY = Path("/dev/shm")


def eventually(predicate: Callable[[], Any], timeout_s: float = 10.0, pause_s: float = 0.02) -> Any:
    """Returns the first true value of ``predicate``; fails when there is none within ``timeout_s``.

    For changes without an event, such as the end of a process that is not a child.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        value = predicate()
        if value:
            return value
        assert time.monotonic() < deadline, f"not true within {timeout_s} s"
        time.sleep(pause_s)


def error_of(ray: Any, ref: Any, timeout_s: float = 8.0) -> Exception:
    """Returns the error that ``get`` raises for ``ref``."""
    try:
        value = ray.get(ref, timeout=timeout_s)
    except Exception as error:
        return error
    raise AssertionError(f"no error but {value!r:.100}")


def current_session() -> Session:
    """Returns the session of this process, which has one."""
    session = sessions.current()
    assert session is not None
    return session


def break_lanes() -> None:
    """Ends the connections of all lanes of this process, as nothing in zray would."""
    from socket import SHUT_RDWR

    session = current_session()
    with session.shell.lock:
        assert session.shell._lanes is not None
        for connection in session.shell._lanes._sockets._by_fd.values():
            connection.socket.shutdown(SHUT_RDWR)


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """A process stands still."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def store_of(session: Session) -> Store:
    """Returns the store of the session's host."""
    store = session.stores.of(session.stores.find_home())
    assert store is not None
    return store


def alive(pid: int) -> bool:
    """Whether a process runs; zombies do not."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] not in ("Z", "X")


class Sandbox:
    """The processes and files of one test on this machine, found by its directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.failed = False
        self._marker = f"ZRAY_TMPDIR={directory}".encode()

    @property
    def root(self) -> Path:
        """The directory of the sessions."""
        return self.directory / f"zray-{os.geteuid()}"

    def processes(self, title: str = "") -> list[int]:
        """Returns the living processes of this test whose command line begins with ``title``, without its drivers."""
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            with contextlib.suppress(OSError):
                marked = self._marker in (entry / "environ").read_bytes().split(b"\0")
                if marked and (entry / "cmdline").read_bytes().startswith(title.encode()) and alive(int(entry.name)):
                    found.append(int(entry.name))
        return sorted(found)

    def one(self, title: str) -> int:
        """Returns the one process with that title."""
        return eventually(lambda: self.processes(title))[0]

    def sessions(self) -> list[Path]:
        """Returns the directories of sessions that have not been removed."""
        if not self.root.exists():
            return []
        return [entry for entry in self.root.iterdir() if entry.is_dir() and entry.name != "logs"]

    def sockets(self) -> list[Path]:
        """Returns the Unix sockets in the file system."""
        # os.walk, since directories are removed meanwhile
        found = (Path(top, name) for top, _, names in os.walk(self.directory) for name in names)
        return [path for path in found if path.is_socket()]

    def segments(self) -> list[Path]:
        """Returns the shared memory of this test's sessions."""
        logs = self.root / "logs"
        names = [entry.name for entry in logs.iterdir()] if logs.exists() else []
        return [path for name in names for path in SHARED_MEMORY.glob(f"*{name}*")]

    def logs(self, pattern: str = "*") -> list[Path]:
        """Returns the log files of all sessions."""
        return sorted((self.root / "logs").glob(f"*/{pattern}"))

    def leftovers(self) -> list[object]:
        """Returns all remaining processes, segments, sockets and sessions."""
        return [*self.processes(), *self.segments(), *self.sockets(), *self.sessions()]

    def assert_clean(self, timeout_s: float = 10.0) -> None:
        """Fails when something is left after ``timeout_s``."""
        deadline = time.monotonic() + timeout_s
        while self.leftovers():
            self.failed = time.monotonic() >= deadline
            assert not self.failed, f"left after {timeout_s} s:\n{self.describe()}"
            time.sleep(0.02)

    def describe(self) -> str:
        """Describes what is left, for an error message."""
        rows = [str(path) for path in (*self.segments(), *self.sockets(), *self.sessions())]
        for pid in self.processes():
            with contextlib.suppress(OSError):
                line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                rows.append(f"pid {pid}: {line:.120}")
        return "\n".join(rows)

    def kill_all(self) -> None:
        """Kills what a failed test has left."""
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


class Process:
    """A program under test, with its output line by line. As a context manager, it kills the program at the end."""

    def __init__(self, argv: list[str], *, stdin: str | None = None, **popen: Any) -> None:
        self.popen = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            **{"start_new_session": True, **popen},
        )
        self._lines: dict[str, list[str]] = {"out": [], "err": []}
        self._changed = threading.Condition()
        assert self.popen.stdin and self.popen.stdout and self.popen.stderr
        if stdin is not None:
            self.popen.stdin.write(stdin.encode())
            self.popen.stdin.close()
        self._readers = [
            threading.Thread(target=self._read, args=(stream, name), daemon=True)
            for stream, name in ((self.popen.stdout, "out"), (self.popen.stderr, "err"))
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, stream: Any, name: str) -> None:
        for line in stream:
            with self._changed:
                self._lines[name].append(line.decode(errors="replace").rstrip("\n"))
                self._changed.notify_all()
        stream.close()

    @property
    def pid(self) -> int:
        return self.popen.pid

    @property
    def out(self) -> str:
        return "\n".join(self._lines["out"])

    @property
    def err(self) -> str:
        return "\n".join(self._lines["err"])

    def expect(self, text: str, timeout_s: float = 15.0, stream: str = "out") -> str:
        """Waits for a line that contains ``text``, and returns it."""
        found: list[str] = []

        def there() -> bool:
            found[:] = [line for line in self._lines[stream] if text in line]
            return bool(found)

        with self._changed:
            assert self._changed.wait_for(there, timeout_s), f"no {text!r} in {self.report()}"
        return found[0]

    def say(self, text: str) -> None:
        """Writes to the program's stdin."""
        assert self.popen.stdin is not None
        self.popen.stdin.write(text.encode())
        self.popen.stdin.flush()

    def signal(self, number: int) -> None:
        self.popen.send_signal(number)

    def stop(self) -> None:
        """Ends the program as its user would: sends SIGTERM, and waits."""
        self.signal(signal.SIGTERM)
        self.wait()

    def wait(self, timeout_s: float = 20.0) -> int:
        """Waits for the end; returns the exit code."""
        try:
            code = self.popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {timeout_s} s: {self.report()}") from None
        for reader in self._readers:
            reader.join(5.0)
        return code

    def succeed(self, timeout_s: float = 20.0) -> str:
        """Waits for an end with exit code 0; returns the output."""
        assert self.wait(timeout_s) == 0, self.report()
        return self.out

    def report(self) -> str:
        return f"exit code {self.popen.poll()}\n--- out\n{self.out[-3000:]}\n--- err\n{self.err[-3000:]}"

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        if self.popen.poll() is None:
            self.popen.kill()
        self.popen.wait()
        for reader in self._readers:
            reader.join(5.0)
        if self.popen.stdin is not None:
            with contextlib.suppress(OSError):
                self.popen.stdin.close()


def program(source: str) -> str:
    """Returns a driver's source, with ``ray`` imported."""
    return "import os, signal, sys, time\nimport zray as ray\n" + textwrap.dedent(source)


def driver(
    source: str, *, arguments: Iterable[str] = (), environ: dict[str, str] | None = None, **popen: Any
) -> Process:
    """Runs ``source`` with ``python -c``; ``arguments`` are its ``sys.argv[1:]``."""
    command = [sys.executable, "-u", "-c", program(source), *arguments]
    return Process(command, env={**os.environ, **(environ or {})}, **popen)


PORTS_FROM, TEST_PROCESSES = 10_000, 16


def free_port() -> int:
    """Returns a TCP port without a listener.

    The kernel gives such a port to no connection, and parallel test processes take different ones.
    """
    import socket

    ephemeral = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    mine = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % TEST_PROCESSES
    while True:
        port = random.randrange(PORTS_FROM, max(ephemeral, 2 * PORTS_FROM), TEST_PROCESSES) + mine
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def cli(name: str, *options: str, timeout_s: float = 10.0) -> subprocess.CompletedProcess[str]:
    """Runs one of the commands to its end: ``cli("broker", "--bind", ...)``."""
    command = [sys.executable, "-m", f"zray.cli.{name}", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s)


@contextlib.contextmanager
def by_hand(
    *broker_options: str, hosts: int = 1, cpus: int = 2, environ: dict[str, str] | None = None
) -> Iterator[Any]:
    """Starts a cluster as a user does; yields (address, broker, hosts)."""
    env = {**os.environ, **(environ or {})}
    insecure = ["--insecure"] if "--insecure" in broker_options else []
    with contextlib.ExitStack() as stack:
        broker = stack.enter_context(Process([sys.executable, "-m", "zray.cli.broker", *broker_options], env=env))
        address = broker.expect("ready at").split()[-1]
        started = []
        for _ in range(hosts):
            host = Process(
                [sys.executable, "-m", "zray.cli.worker", "--num-cpus", str(cpus), "--address", address, *insecure],
                env=env,
            )
            started.append(stack.enter_context(host))
        for host in started:
            host.expect("host is ready")
        try:
            yield address, broker, started
        finally:  # in order, also after a failed test: a killed process leaves files behind
            for process in (*started, broker):
                if process.popen.poll() is None:
                    process.signal(signal.SIGTERM)
            for process in (*started, broker):
                process.wait(10.0)
