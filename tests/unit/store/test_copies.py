"""Copies of objects that other hosts keep, and objects that come in pieces."""

from __future__ import annotations

import errno
import os
import threading

import pytest

from zray.exceptions import ObjectStoreFullError
from zray.store import SegmentMissing
from zray.store.ledger import segment_bytes
from zray.store.segments import Segments

from .conftest import MIB, check, object_id, put


def copy(store, number: int, data: bytes) -> bytes:
    writing = store.begin(len(data))
    writing.view[:] = data
    writing.publish(object_id(number), copy=True)
    return object_id(number)


def test_a_copy_is_read_like_any_object(store):
    data = os.urandom(3 * MIB)
    assert store.read(copy(store, 1, data)) == data
    assert store.contains(object_id(1))
    assert store.owners() == {b"o" * 16}
    usage = store.usage()
    assert usage.copies >= 3 * MIB and not usage.live
    store.free([object_id(1)])
    assert not store.contains(object_id(1)) and not store.usage().copies
    check(store)


def test_copies_make_room_before_anything_is_spilled(store):
    n_objects = store.capacity_bytes // (5 * MIB)
    kept = [put(store, number, b"k" * MIB) for number in range(2)]
    for number in range(10, 10 + n_objects):
        copy(store, number, b"c" * 4 * MIB)
    while store.usage().copies > 5 * MIB:
        put(store, 100 + store.usage().live // MIB, b"n" * 4 * MIB)
    assert not store.usage().spilled
    assert [store.contains(each) for each in kept] == [True, True]
    check(store)


def test_the_least_recently_used_copy_goes_first_and_one_in_use_stays(store):
    size = store.capacity_bytes // 4
    for number in (1, 2, 3):
        copy(store, number, bytes([number]) * (size - MIB))
    os.utime(store._segments.copy_path(object_id(3)), (1, 1))  # the clock of file systems is too coarse for this
    pinned = store.read(object_id(2))
    for number in (4, 5, 6):
        put(store, number, b"n" * (size - MIB))
    assert store.contains(object_id(2)) and not store.contains(object_id(3))
    assert set(pinned[:10]) == {2}
    assert not store.usage().spilled


def test_a_copy_that_finds_the_store_full_of_copies_looks_at_few(make_store, monkeypatch):
    size = segment_bytes(0)
    store = make_store(100 * size)
    looked_at = [0]
    look, last_uses = Segments.look, Segments.last_uses

    def counting_look(self, path):
        looked_at[0] += 1
        return look(self, path)

    def counting_last_uses(self, place):
        looked_at[0] += len(found := last_uses(self, place))
        return found

    monkeypatch.setattr(Segments, "look", counting_look)
    monkeypatch.setattr(Segments, "last_uses", counting_last_uses)
    for number in range(100):
        copy(store, number, b"c")
    for number in range(100, 300):
        copy(store, number, b"d")
        assert not store.contains(object_id(number - 100))
    assert looked_at[0] <= 5 * 200
    check(store)


def test_a_kept_copy_is_an_ordinary_object(store):
    copy(store, 1, b"x" * MIB)
    store.keep(object_id(1))
    store.keep(object_id(2))  # there is none
    usage = store.usage()
    assert usage.live and not usage.copies
    for number in range(10, 10 + 2 * store.capacity_bytes // MIB):
        copy(store, number, b"y" * MIB)
    assert store.contains(object_id(1))
    check(store)


def test_freeing_a_copy_that_is_in_use(store):
    copy(store, 1, b"x" * MIB)
    view = store.read(object_id(1))
    store.free([object_id(1)])
    with pytest.raises(SegmentMissing):
        store.read(object_id(1))
    assert store.usage().doomed and set(view) == {ord("x")}
    del view
    store.sweep()
    assert not store.usage().doomed
    check(store)


def test_room_that_comes_bit_by_bit(store):
    writing = store.begin(5 * MIB + 17, gradually=True)
    assert writing.prepared == 0
    seen = []
    while writing.prepare(MIB):
        seen.append(writing.prepared)
        start = seen[-2] if len(seen) > 1 else 0
        writing.view[start : seen[-1]] = bytes([len(seen)]) * (seen[-1] - start)
    assert seen[:2] == [MIB, 2 * MIB] and seen[-1] == 5 * MIB + 17
    writing.publish(object_id(1), copy=True)
    assert not writing.prepare(MIB)
    view = store.read(object_id(1))
    assert (view[0], view[MIB], view[-1], len(view)) == (1, 2, 6, 5 * MIB + 17)
    check(store)


def test_pages_that_are_recycled_are_there_at_once(store):
    put(store, 1, b"a" * MIB)
    store.free([object_id(1)])
    writing = store.begin(MIB, gradually=True)
    assert writing.prepared == MIB
    writing.give_up()
    assert store.usage().used == store.usage().recyclable
    check(store)


@pytest.mark.parametrize("prepared", [0, 1, 3])
def test_what_is_given_up_half_way_leaves_nothing(store, prepared):
    writing = store.begin(5 * MIB, gradually=True)
    for _ in range(prepared):
        writing.prepare(MIB)
    writing.give_up()
    writing.give_up()
    assert not writing.prepare(MIB)
    assert store.usage().used == 0
    check(store)


def test_giving_up_while_another_thread_makes_pages(store):
    for _ in range(20):
        writing = store.begin(store.capacity_bytes // 2, gradually=True)

        def prepare(writing=writing) -> None:
            while writing.prepare(64 * 1024):
                pass

        thread = threading.Thread(target=prepare)
        thread.start()
        writing.give_up()
        thread.join(10)
        assert not store.usage().writing
    check(store)


def test_the_room_of_what_comes_bit_by_bit_is_reserved(store):
    first = store.begin(store.capacity_bytes * 2 // 3, gradually=True)
    second = store.begin(store.capacity_bytes // 2, gradually=True)
    assert second._draft.on_disk
    second.give_up()
    first.give_up()
    third = store.begin(store.capacity_bytes // 2, gradually=True)
    assert not third._draft.on_disk
    third.give_up()


def test_memory_that_others_have_taken_is_made_by_dropping_copies(store, monkeypatch):
    """The ledger says that there is room, and the file system has none."""
    copy(store, 1, b"c" * MIB)
    failures = [OSError(errno.ENOSPC, "full")]
    allocate = os.posix_fallocate

    def full(*args: int) -> None:
        if failures:
            raise failures.pop()
        allocate(*args)

    writing = store.begin(MIB, gradually=True)
    monkeypatch.setattr(os, "posix_fallocate", full)
    assert writing.prepare(MIB)
    assert not store.contains(object_id(1))
    writing.give_up()
    check(store)


def test_memory_that_others_have_taken_for_good(store, monkeypatch):
    def full(*args: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    writing = store.begin(MIB, gradually=True)
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(ObjectStoreFullError):
        writing.prepare(MIB)
    writing.give_up()
    assert store.usage().used == 0
    check(store)
