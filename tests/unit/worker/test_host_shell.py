"""The host's shell in a turn in which every part has a message: none is lost."""

from __future__ import annotations

import os
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from zray.config import Config
from zray.protocol.contract import BROKER
from zray.protocol.messages import FlushLogs, LogsFlushed, StartWorker, Watch, WorkerDied, WorkerLogs
from zray.transfer.core import TransferCore
from zray.worker.host.shell import HostShell
from zray.worker.start import WorkerStart

HOST, WORKER, OWNER, SOURCE = (bytes([letter]) * 16 for letter in b"hwos")


class Connection:
    """A connection with messages that have arrived, and messages that were sent."""

    refused = None
    readable = False
    dropped_frames = 0

    def __init__(self, fd: int) -> None:
        self.arrived: list[Any] = []
        self.sent: list[Any] = []
        self.socket = SimpleNamespace(fileno=lambda: fd)
        self.link = SimpleNamespace(tick=lambda now: True, idle=True)

    def receive(self, most: int) -> list[Any]:
        arrived, self.arrived = self.arrived, []
        return arrived

    def flush(self, messages: list[Any]) -> None:
        self.sent.extend(messages)


class Transfers:
    """A real core: a reader asks it for an object in the first turn."""

    def __init__(self, fd: int) -> None:
        self.core = TransferCore(HOST, is_host=True)
        self.send: Any = None
        self._fd = fd

    def fileno(self) -> int:
        return self._fd

    def turn(self) -> bool:
        if not self.core.pulls:
            self.core.fetch("reader", OWNER + bytes(12), SOURCE, 100, 1.0)
        for dest, messages in self.core.take_output().sends.items():
            for message in messages:
                self.send(dest, message)
        return False

    def tick(self, now: float) -> None:
        return


@pytest.fixture
def pipes() -> Iterator[list[int]]:
    pairs = [os.pipe() for _ in range(3)]
    yield [read for read, _ in pairs]
    for pair in pairs:
        for fd in pair:
            os.close(fd)


def test_messages_of_host_transfers_and_workers_in_one_turn(pipes: list[int], tmp_path: Any) -> None:
    first, second, third = pipes
    connection, transfers = Connection(first), Transfers(third)
    zygote: Any = SimpleNamespace(fileno=lambda: second)
    store: Any = SimpleNamespace(exists=lambda: True, sweep=lambda: None, owners=lambda: {OWNER}, path="")
    start = WorkerStart("", Config(), HOST, "/nowhere")
    shell = HostShell(
        connection, HOST, zygote, store, str(tmp_path / "nowhere"), start, Config(), [], transfers  # type: ignore[arg-type]
    )  # fmt: skip
    transfers.listen_again = lambda: None  # type: ignore[attr-defined]
    shell._outputs._outlet.add(WORKER, "f", 1, "stdout", ["printed"])
    shell.core.receive(BROKER, StartWorker(WORKER), 1.0)
    shell._fork = lambda effect: shell.core.fork_failed(effect.worker_id, "no memory", 1.0)  # type: ignore[method-assign]
    connection.arrived = [FlushLogs(7)]
    shell._turn()
    shell._turn()
    sent = [type(message) for message in connection.sent]
    for kind in (WorkerLogs, LogsFlushed, WorkerDied):
        assert sent.count(kind) == 1, kind
    watched = {message.process_id for message in connection.sent if isinstance(message, Watch)}
    assert {OWNER, SOURCE} <= watched
