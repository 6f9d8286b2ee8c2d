"""When a wait for several objects ends, and that no record refers to it afterwards. The shell is a fake."""

import contextlib
from typing import Any, cast

import pytest

from zray.client.core.references import ReferenceTable
from zray.client.core.states import ERROR, INLINE, PENDING
from zray.client.waits import Waits
from zray.exceptions import ClusterUnavailableError, GetTimeoutError
from zray.ids import make_task_id, return_id

ME = b"me".ljust(16, b"\0")
A, B, C, D = (return_id(make_task_id(ME, number), 1) for number in range(4))


class Shell:
    """A fake shell. ``acts`` run while a thread waits."""

    def __init__(self):
        self.core = self
        self.references = ReferenceTable(ME, self.never, self.never, self.never)
        self.lock = contextlib.nullcontext()
        self.closed = False
        self.awaited = {}
        self.acts = []
        self.waits = 0

    def never(self, *args):
        raise AssertionError(args)

    def alert(self, waiter):
        return

    def wait(self, waiter, timeout_s):
        self.waits += 1
        for act in self.acts:
            assert not waiter.is_done()
            act()

    def own(self, *object_ids):
        for object_id in object_ids:
            self.references.own(object_id)

    def resolve(self, object_id, status=INLINE):
        self.references.resolve(object_id, status, b"", b"", 0)

    def fail(self, object_id):
        self.resolve(object_id, ERROR)

    def waiters(self):
        return [waiter for entry in self.references.entries.values() for waiter in entry.waiters or ()]


@pytest.fixture
def shell():
    shell = Shell()
    shell.own(A, B, C, D)
    return shell


@pytest.fixture
def waits(shell):
    return Waits(shell, cast(Any, None), contextlib.nullcontext, lambda: None, lambda ids: f"{len(ids)} are late")


def test_all_are_ready(shell, waits):
    for object_id in (A, B):
        shell.resolve(object_id)
    assert waits.first_error([A, B, A], None) == b""
    assert shell.waits == 0


def test_an_error_is_found_without_waiting(shell, waits):
    shell.fail(B)
    shell.fail(C)
    assert waits.first_error([A, C, B], None) == C
    assert shell.waits == 0
    assert shell.waiters() == []


def test_an_error_ends_the_wait(shell, waits):
    shell.acts = [lambda: shell.resolve(A), lambda: shell.resolve(C), lambda: shell.fail(B)]
    assert waits.first_error([A, B, C, D], None) == B
    assert shell.waiters() == []


def test_an_error_that_is_the_last(shell, waits):
    shell.acts = [lambda: shell.resolve(A), lambda: shell.fail(B)]
    assert waits.first_error([B, A], None) == B
    assert shell.waiters() == []


def test_the_last_value_ends_the_wait(shell, waits):
    shell.acts = [lambda: shell.resolve(A), lambda: shell.resolve(B)]
    assert waits.first_error([A, B, B], None) == b""
    assert shell.waiters() == []


@pytest.mark.parametrize("come", [[], [A], [A, B]])
def test_what_comes_between_the_first_look_and_the_lock(shell, waits, come):
    class Lock:
        def __enter__(self):
            for object_id in come:
                if shell.references.entries[object_id].status == PENDING:
                    shell.fail(object_id)

        def __exit__(self, *_):
            return

    shell.lock = Lock()
    shell.acts = [] if come else [lambda: shell.fail(B)]
    assert waits.first_error([A, B, C], None) == (come or [B])[0]
    assert shell.waits == (not come)
    assert shell.waiters() == []


def test_the_time_is_up(shell, waits):
    shell.acts = [lambda: shell.resolve(B)]
    with pytest.raises(GetTimeoutError, match=r"2 of 3 .* 0\.5 s: 2 are late"):
        waits.first_error([A, B, C], 0.5)
    assert shell.waiters() == [] and shell.core.awaited == {}


def test_a_short_timeout_gets_no_explanation(waits):
    with pytest.raises(GetTimeoutError, match=r"within 0\.05 s$"):
        waits.first_error([A], 0.05)


def test_an_interrupt_leaves_no_waiter(shell, waits):
    def interrupt():
        raise KeyboardInterrupt

    shell.acts = [interrupt]
    with pytest.raises(KeyboardInterrupt):
        waits.first_error([A, B], None)
    assert shell.waiters() == []


def test_shutdown_in_another_thread(shell, waits):
    shell.acts = [lambda: setattr(shell, "closed", True)]
    with pytest.raises(ClusterUnavailableError):
        waits.first_error([A, B], None)


def test_a_reference_of_another_cluster(waits):
    with pytest.raises(KeyError):
        waits.first_error([A, return_id(make_task_id(ME, 99), 1)], None)
