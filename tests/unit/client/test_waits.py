"""When a wait for several objects ends, and that no record refers to it afterwards. The shell is a fake."""

import contextlib
from typing import Any, cast

import pytest

from zray.client.core.references import ReferenceTable
from zray.client.core.states import ERROR, INLINE, PENDING
from zray.client.waits import Waits
from zray.exceptions import ClusterUnavailableError, GetTimeoutError
from zray.ids import make_task_id, return_id
from zray.object_ref import ObjectRef
from zray.protocol.messages import ObjectRequest

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
        self.turns = 0

    def turn(self):
        self.turns += 1

    def settle(self):
        return

    def run(self, action):
        return action()

    def collect(self, now):
        return

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


# ---------------------------------------------------------------------- wait for the next of many

MANY = 500


@pytest.fixture
def refs(shell):
    ids = [return_id(make_task_id(ME, number), 1) for number in range(100, 100 + MANY)]
    shell.own(*ids)
    return [ObjectRef._make(object_id, cast(Any, None)) for object_id in ids]


@pytest.fixture
def registrations(shell, monkeypatch):
    """The objects with which something has registered, and those that it has left again."""
    told = []

    def counting(method):
        def counted(object_id, waiter):
            told.append(object_id)
            return method(object_id, waiter)

        return counted

    for name in ("wait_for", "stop_waiting"):
        monkeypatch.setattr(shell.references, name, counting(getattr(shell.references, name)))
    return told


def is_clean(shell):
    return not shell.waiters() and not shell.references.listeners and not shell.core.awaited


def test_the_next_of_many_is_waited_for_without_registering_with_each(shell, waits, refs, registrations):
    pending, order = refs, []
    for ref in (*refs[7::-1], *refs[8:]):
        shell.acts = [lambda ref=ref: shell.resolve(ref._id)]
        (ready,) = waits.wait(pending, 1, None, True)
        order.append(ready)
        pending = [each for each in pending if each is not ready]
    assert order == [*refs[7::-1], *refs[8:]] and shell.waits == MANY
    assert len(registrations) < 64 * 64 * 2  # for the last few of them
    assert not [object_id for object_id in registrations if object_id == refs[0]._id]
    assert is_clean(shell)


def test_the_result_of_several_that_come_together_has_the_order_of_the_list(shell, waits, refs, registrations):
    shell.acts = [lambda: [shell.resolve(refs[number]._id) for number in (9, 3, 5)]]
    assert waits.wait(refs, 1, None, True) == [refs[3]]
    assert waits.wait(refs, 3, None, True) == [refs[3], refs[5], refs[9]]
    assert shell.waits == 1 and not registrations


def test_the_last_of_those_asked_for_is_one_that_is_not_registered_with(shell, waits, refs, registrations):
    for ref in refs[:10]:
        shell.resolve(ref._id)
    shell.acts = [lambda: shell.fail(refs[400]._id)]
    assert waits.wait(refs, 11, None, True) == [*refs[:10], refs[400]]
    assert shell.waits == 1 and not registrations and is_clean(shell)


def test_another_object_that_becomes_ready_wakes_the_thread_once(shell, waits, refs, registrations):
    def wait(waiter, timeout_s):
        shell.waits += 1
        if shell.waits == 1:
            shell.resolve(A)
        else:
            for other in (B, C):
                shell.resolve(other)
            assert not waiter.is_done()
            shell.resolve(refs[2]._id)
        assert waiter.is_done()

    shell.wait = wait
    assert waits.wait(refs, 1, None, True) == [refs[2]]
    assert shell.waits == 2
    assert len(registrations) <= 2 * MANY and is_clean(shell)


def test_the_owners_of_borrowed_objects_are_asked(shell, waits, refs, registrations, monkeypatch):
    sent = []
    monkeypatch.setattr(shell.references, "_peers", lambda dest, message: sent.append(message))
    monkeypatch.setattr(shell.references, "_watch", sent.append)
    theirs = return_id(make_task_id(b"other".ljust(16, b"\0"), 1), 1)
    shell.references.load(theirs)
    refs = [*refs, ObjectRef._make(theirs, cast(Any, None))]
    shell.acts = [lambda: shell.resolve(theirs)]
    assert waits.wait(refs, 1, None, False) == [refs[-1]]
    assert [message.object_id for message in sent if isinstance(message, ObjectRequest)] == [theirs]
    assert is_clean(shell)


@pytest.mark.parametrize("come", [1, 2])
def test_what_of_many_comes_between_the_first_look_and_the_lock(shell, waits, refs, come, registrations):
    class Lock:
        def __enter__(self):
            for ref in refs[:come]:
                if shell.references.entries[ref._id].status == PENDING:
                    shell.resolve(ref._id)

        def __exit__(self, *_):
            return

    shell.lock = Lock()
    assert waits.wait(refs, 1, None, True) == [refs[0]]
    assert shell.waits == 0 and not registrations and is_clean(shell)


def test_none_of_many_is_ready_in_time(shell, waits, refs, registrations):
    assert waits.wait(refs, 1, 0.01, True) == []
    assert shell.waits == 1 and not registrations and is_clean(shell)


def test_many_are_polled_without_registering_with_each(shell, waits, refs, registrations):
    assert waits.wait(refs, 1, 0, True) == []
    shell.turn = lambda: shell.resolve(refs[1]._id)
    assert waits.wait(refs, 1, 0, True) == [refs[1]]
    assert shell.waits == 0 and shell.turns == 1 and not registrations and is_clean(shell)


def test_the_owners_of_borrowed_objects_are_asked_when_polled(shell, waits, refs, monkeypatch):
    sent = []
    monkeypatch.setattr(shell.references, "_peers", lambda dest, message: sent.append(message))
    monkeypatch.setattr(shell.references, "_watch", sent.append)
    theirs = return_id(make_task_id(b"other".ljust(16, b"\0"), 1), 1)
    shell.references.load(theirs)
    assert waits.wait([refs[0], ObjectRef._make(theirs, cast(Any, None))], 1, 0, True) == []
    assert [message.object_id for message in sent if isinstance(message, ObjectRequest)] == [theirs]
    assert is_clean(shell)


def test_an_interrupt_of_a_wait_for_many_leaves_nothing(shell, waits, refs):
    def interrupt():
        raise KeyboardInterrupt

    shell.acts = [interrupt]
    with pytest.raises(KeyboardInterrupt):
        waits.wait(refs, 1, None, True)
    assert is_clean(shell)


@pytest.mark.parametrize("woken", [False, True])
def test_shutdown_in_another_thread_ends_a_wait_for_many(shell, waits, refs, woken):
    def wait(waiter, timeout_s):
        shell.closed = True
        waiter.woken = woken

    shell.wait = wait
    with pytest.raises(ClusterUnavailableError):
        waits.wait(refs, 1, None, True)
    assert is_clean(shell)


def test_many_that_are_awaited_can_be_inspected(shell, waits, refs):
    seen = []
    shell.acts = [lambda: seen.extend(shell.core.awaited.values()), lambda: shell.resolve(refs[0]._id)]
    waits.wait(refs, 1, None, True)
    assert seen == [[ref._id for ref in refs]]
