"""A store in the test's own directory, and children of the test's process that use it."""

from __future__ import annotations

import os
import pickle
import signal
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from zray.store import Store

MIB = 1 << 20


def object_id(number: int, owner: bytes = b"o") -> bytes:
    return owner * 16 + number.to_bytes(12, "big")


def put(store: Store, number: int, data: bytes) -> bytes:
    """Writes an object; returns its identifier."""

    def fill(view: memoryview) -> None:
        view[:] = data

    store.write(object_id(number), len(data), fill)
    return object_id(number)


class Child:
    """A forked process that runs ``body(say, hear)`` and ends. ``say`` sends bytes here, ``hear`` waits for some."""

    def __init__(self, body: Callable[[Callable[[bytes], None], Callable[[], bytes]], None]) -> None:
        here, there = os.pipe(), os.pipe()
        self._read, self._write = here[0], there[1]
        self.pid = os.fork()
        if self.pid:
            os.close(here[1])
            os.close(there[0])
            return
        code = 1
        try:
            os.close(here[0])
            os.close(there[1])
            body(lambda text: _send(here[1], text), lambda: os.read(there[0], 1 << 16))
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)

    def hear(self) -> bytes:
        """Returns the child's next message; empty if it has ended."""
        return os.read(self._read, 1 << 16)

    def say(self, text: bytes = b"go") -> None:
        _send(self._write, text)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> int:
        """Returns the exit code, negative for a signal."""
        os.close(self._read)
        os.close(self._write)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def _send(fd: int, text: bytes) -> None:
    os.write(fd, text)


def call(body: Callable[[], Any]) -> Any:
    """Returns the result of ``body()`` in a child."""
    child = Child(lambda say, hear: say(pickle.dumps(body())))
    answer = child.hear()
    assert child.wait() == 0
    return pickle.loads(answer)


@pytest.fixture
def make_store(tmp_path: Path) -> Iterator[Callable[..., Store]]:
    """Makes stores that are checked and destroyed in the end. By default of 16 MiB, without waits for room."""
    made: list[Store] = []

    def make(capacity_bytes: int = 16 * MIB, wait_s: float = 0.0) -> Store:
        place = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else tmp_path
        path = place / f"zray-test-{os.getpid()}-{len(made)}"
        made.append(Store.create(str(path), f"{tmp_path}/spill-{len(made)}", capacity_bytes, wait_s))
        return made[-1]

    yield make
    for store in made:
        if not store._locked.unusable:
            check(store)
            store.destroy()
        assert not os.path.exists(store.path)
        assert not os.path.exists(store.spill_dir)


@pytest.fixture
def store(make_store: Callable[..., Store]) -> Store:
    return make_store()


def check(store: Store) -> None:
    """Checks the invariants between the ledger file and the files."""
    with store._changing as ledger:
        assert list(ledger.held) == store._segments.count()
        assert ledger.used <= ledger.capacity
        names = store._segments.ids_with(b"")
        assert all(len(name) == 28 for name in names)
