"""Measures what hosts on a network cost: tasks over TCP with CURVE beside ipc, the chatter of an idle host, objects.

Tasks: two clusters, each a broker, a worker with two CPUs and this process as their driver, take turns with batches of
small tasks in one run; the best rate of each counts, since noise only ever makes things slower, and the figure is
their ratio. Chatter: the broker's loop runs in this process on a socket that counts ZeroMQ messages, those it receives
and those it sends, of one host that has nothing to do. The pings by which libzmq itself looks after a TCP connection
(one each way in a third of the time that counts as silence) are no messages to it, and not counted.

Objects: see ``transfer.py``; they need network namespaces, and so root.

    python -m benchmarks.hosts                       # some five minutes; the table also goes into README.md
    python -m benchmarks.hosts --quick --json out    # shorter, and the figures as JSON; README.md stays as it is
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest.mock
from collections.abc import Iterator
from pathlib import Path

import zray
from benchmarks import transfer
from benchmarks.host_figures import Figure, circumstances, record, table
from tests.hosts.network import obstacle
from zray.broker import shell
from zray.broker.membership import Arrival
from zray.config.reading import from_environment
from zray.transport.broker_socket import BrokerSocket
from zray.transport.security.keys import KeyDirectory

BEGIN, END = "<!-- hosts: written by hosts.py -->", "<!-- end of hosts -->"
LEAST_RATIO = 0.6
MOST_MESSAGES = 100
BATCH = 5_000
START_TIMEOUT_S = 30.0
SETTLE_S = 4.0
"""After joining, until a host counts as idle: its workers start, and are told of."""


@contextlib.contextmanager
def process(*argv: str) -> Iterator[subprocess.Popen[str]]:
    """A program of the cluster's; it is stopped at the end."""
    running = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        yield running
    finally:
        running.send_signal(signal.SIGTERM)
        try:
            running.wait(10.0)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()
        if running.stdout is not None:
            running.stdout.close()


def line_with(text: str, running: subprocess.Popen[str]) -> str:
    """The first line a program prints that holds ``text``."""
    stream = running.stdout
    assert stream is not None
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        while selector.select(START_TIMEOUT_S):
            line = stream.readline()
            if text in line or not line:
                return line
    raise TimeoutError(f"no {text!r} from {running.args!r}")


def free_address() -> str:
    """An address on the loopback interface that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{probe.getsockname()[1]}"


@contextlib.contextmanager
def cluster(*options: str) -> Iterator[str]:
    """A broker and a host with two CPUs; yields the address."""
    with process(sys.executable, "-m", "zray.cli.broker", *options) as broker:
        address = line_with("ready at", broker).split()[-1]
        with process(*worker_command(address)) as host:
            line_with("host is ready", host)
            yield address


def worker_command(address: str) -> list[str]:
    return [sys.executable, "-m", "zray.cli.worker", "--address", address, "--num-cpus", "2"]


def small() -> bytes:
    return b"ok"


def rate(address: str, seconds: float) -> float:
    """Small tasks per second, all of a batch started together; the best batch."""
    zray.init(address)
    try:
        task = zray.remote(small)
        zray.get([task.remote() for _ in range(BATCH // 5)])
        best, end = 0.0, time.perf_counter() + seconds
        while time.perf_counter() < end:
            began = time.perf_counter()
            zray.get([task.remote() for _ in range(BATCH)])
            best = max(best, BATCH / (time.perf_counter() - began))
        return best
    finally:
        zray.shutdown()


def tasks_together(rounds: int, seconds: float) -> list[Figure]:
    """Rates by ipc and by TCP with CURVE, which take turns, and their ratio."""
    best = {"ipc": 0.0, "tcp": 0.0}
    with cluster() as ipc, cluster("--bind", free_address()) as tcp:
        for _ in range(rounds):
            for name, address in (("ipc", ipc), ("tcp", tcp)):
                best[name] = max(best[name], rate(address, seconds))
    ratio = best["tcp"] / best["ipc"]
    return [
        Figure("tasks together, ipc", f"{best['ipc']:,.0f} /s", "", None, best["ipc"]),
        Figure("tasks together, TCP with CURVE", f"{best['tcp']:,.0f} /s", "", None, best["tcp"]),
        Figure("... as a part of ipc", f"{ratio:.2f}", f">= {LEAST_RATIO}", ratio >= LEAST_RATIO, ratio),
    ]


class CountingSocket(BrokerSocket):
    """Counts the messages that pass."""

    received = 0
    sent = 0

    def receive(self) -> Arrival | None:
        arrival = super().receive()
        CountingSocket.received += arrival is not None
        return arrival

    def send(self, through: bytes, process_id: bytes, data: bytes) -> bool:
        CountingSocket.sent += 1
        return super().send(through, process_id, data)


def idle_chatter(seconds: float) -> list[Figure]:
    """Messages per minute between a broker and one idle host on TCP with CURVE."""
    with unittest.mock.patch.object(shell, "BrokerSocket", CountingSocket):
        broker = shell.BrokerShell(free_address(), from_environment(), KeyDirectory())
    with process(*worker_command(broker.address)) as host:

        def serve(duration_s: float) -> None:
            end = time.monotonic() + duration_s
            while time.monotonic() < end:
                broker.one_turn()

        end = time.monotonic() + START_TIMEOUT_S
        while CountingSocket.received < 3:  # at first it says hello and what it has
            if time.monotonic() > end or host.poll() is not None:
                raise TimeoutError("the host has not joined")
            broker.one_turn()
        serve(SETTLE_S)
        CountingSocket.received = CountingSocket.sent = 0
        serve(seconds)
        received, sent = (count * 60 / seconds for count in (CountingSocket.received, CountingSocket.sent))
    broker.stop()
    broker.serve(lambda: None)
    total = received + sent
    return [
        Figure("idle host: messages to the broker", f"{received:.0f} /min", "", None, received),
        Figure("idle host: messages from the broker", f"{sent:.0f} /min", "", None, sent),
        Figure("... together", f"{total:.0f} /min", f"< {MOST_MESSAGES} /min", total < MOST_MESSAGES, total),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="shorter, less exact")
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write the figures there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="zray-bench-") as directory:
        os.environ.update(ZRAY_TMPDIR=directory, XDG_CONFIG_HOME=f"{directory}/config", ZRAY_LOG_TO_DRIVER="0")
        os.environ.pop("ZRAY_ADDRESS", None)
        figures = tasks_together(*((1, 1.0) if options.quick else (3, 2.0)))
        figures += idle_chatter(10.0 if options.quick else 30.0)
        if reason := obstacle():
            print(f"objects between hosts are not measured: {reason}", file=sys.stderr)
        else:
            rounds, size = (2, 256 << 20) if options.quick else (5, 1 << 30)
            figures += transfer.one_transfer(rounds, size)
            figures += transfer.broadcast(size, 8, 1 if options.quick else 2)
    print(table(figures))
    if not options.quick and not reason:
        record(BEGIN, END, f"{circumstances()}.", table(figures))
    if options.json:
        options.json.write_text(json.dumps({f.name.removeprefix("... "): f.number for f in figures}, indent=1) + "\n")
    return int(any(figure.met is False for figure in figures))


if __name__ == "__main__":
    sys.exit(main())
