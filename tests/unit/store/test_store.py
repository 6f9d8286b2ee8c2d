"""The store as one process sees it."""

from __future__ import annotations

import ctypes
import errno
import gc
import os
import pickle
import re
import subprocess
import sys
import threading
import types
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zray.exceptions import OutOfDiskError, SystemFailure
from zray.store import SegmentMissing, Store, segments
from zray.store import maps as maps_module
from zray.store.ledger import Place, segment_bytes
from zray.store.pins import Pins
from zray.store.spill import turn_to_spill
from zray.store.writing import Patience

from .conftest import MIB, Child, check, object_id, put

CLASS_64K = segment_bytes(0)


def inode_of(store, number):
    return os.stat(store._segments.live_path(object_id(number))).st_ino


@pytest.mark.parametrize(
    "size", [0, 1, 63, 64, 4095, 4096, CLASS_64K - 65, CLASS_64K - 64, CLASS_64K - 63, MIB, MIB + 4032, MIB + 4033]
)
def test_what_was_written_is_read(store, size):
    data = os.urandom(size)
    view = store.read(put(store, 1, data))
    assert view == data
    assert (view.nbytes, view.format, view.itemsize, view.ndim, view.readonly) == (size, "B", 1, 1, True)
    if size:
        assert np.frombuffer(view, np.uint8).ctypes.data % 4096 == 0


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 300_000), st.sampled_from("wfr"), st.booleans())))
def test_the_store_behaves_as_a_dictionary_whose_values_never_change(store, steps):
    expected: dict[int, bytes] = {}
    kept: list[tuple[memoryview, bytes]] = []
    for number, size, action, keep in steps:
        if action == "w":
            expected[number] = bytes([size % 251]) * size
            put(store, number, expected[number])
        elif action == "f":
            store.free([object_id(number)])
            expected.pop(number, None)
        assert store.contains(object_id(number)) == (number in expected)
        if number not in expected:
            with pytest.raises(SegmentMissing):
                store.read(object_id(number))
        elif keep and len(kept) < 8:
            kept.append((store.read(object_id(number)), expected[number]))
        check(store)
    assert all(view == data for view, data in kept)
    kept.clear()
    store.free_owned_by(b"o" * 16)
    store.sweep()
    assert store.usage().used == store.usage().recyclable


def test_pages_of_a_freed_object_are_used_again(store):
    put(store, 1, b"a" * MIB)
    inode = inode_of(store, 1)
    store.free([object_id(1)])
    put(store, 2, b"b" * (MIB - 5000))
    assert inode_of(store, 2) == inode
    assert store.usage().recyclable == 0


def test_an_array_outlives_its_object_and_never_changes(store):
    array = np.frombuffer(store.read(put(store, 1, b"a" * MIB)), np.uint8)
    store.free([object_id(1)])
    assert store.usage().doomed == segment_bytes(MIB)
    for number in range(2, 6):
        put(store, number, b"b" * MIB)
    assert (array == ord("a")).all()
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1


@pytest.mark.parametrize("derive", ["slice", "array", "pickle", "cast"])
def test_whatever_is_derived_from_a_view_pins_the_segment(store, derive):
    source = np.arange(50_000)
    buffers: list[pickle.PickleBuffer] = []
    data = pickle.dumps(source, protocol=5, buffer_callback=buffers.append)
    ways = {
        "slice": lambda view: view[8:],
        "array": lambda view: np.frombuffer(view, np.int64)[5:][::2],
        "pickle": lambda view: pickle.loads(data, buffers=[view]),
        "cast": lambda view: view.cast("q"),
    }
    derived = ways[derive](store.read(put(store, 1, buffers[0].raw().tobytes())))
    store.free([object_id(1)])
    store.sweep()
    assert store.usage().doomed
    del derived
    gc.collect()
    assert store.usage().doomed == 0  # without a sweep: the end of the last pin recycles
    assert store.usage().recyclable


def test_two_reads_share_a_pin_and_the_last_one_ends_it(store):
    identifier = put(store, 1, b"x" * MIB)
    first, second = store.read(identifier), store.read(identifier)
    store.free([identifier])
    del first
    assert store.usage().doomed
    assert bytes(second[:3]) == b"xxx"
    del second
    assert store.usage().doomed == 0


def test_many_values_in_use_take_no_descriptors(make_store):
    store = make_store(64 * MIB)
    before = len(os.listdir("/proc/self/fd"))
    views = [store.read(put(store, number, b"v")) for number in range(300)]
    assert len(os.listdir("/proc/self/fd")) < before + 30  # of lock files
    assert all(view == b"v" for view in views)


def test_when_fill_raises_nothing_is_there_and_the_pages_are_recycled(store):
    def fill(view):
        view[:3] = b"abc"
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        store.write(object_id(1), MIB, fill)
    assert not store.contains(object_id(1))
    assert store.usage().recyclable == store.usage().used == segment_bytes(MIB)


@pytest.mark.parametrize("whose", ["this process", "another"])
def test_what_is_being_filled_again_is_neither_taken_nor_dropped(make_store, whose):
    store = make_store(4 * MIB)
    store.free([put(store, 1, b"a" * MIB)])
    writing = store.begin(MIB)
    assert store.usage().recyclable == store.usage().used == segment_bytes(MIB)
    other = store if whose == "this process" else Store.open(store.path)
    put(other, 2, b"b" * MIB)
    assert store.usage().live == segment_bytes(MIB)
    notices: list[str] = []
    other.notices.tell = notices.append
    put(other, 3, bytes(3 * MIB))  # to disk
    assert f"{segment_bytes(MIB):,} in objects being written" in notices[-1]
    writing.view[:] = b"c" * MIB
    writing.publish(object_id(4))
    assert store.read(object_id(4)) == b"c" * MIB
    if other is not store:
        other.close()


def test_closing_a_store_while_a_segment_is_filled_keeps_its_claim(make_store):
    mine = make_store(4 * MIB)
    other = Store.open(mine.path)
    other.free([put(other, 1, b"a" * MIB)])
    writing = mine.begin(MIB)
    mine.close()
    put(other, 2, b"b" * MIB)
    writing.view[:] = b"c" * MIB
    assert other.read(object_id(2)) == b"b" * MIB
    mine._pins._claimed.clear()  # as when its process ends
    mine._pins.close()
    other.destroy()


INTERRUPTED = """
import gc, random, signal, sys, threading, time
from zray.client.lock import ClientLock
from zray.store import Store
from zray.system import signals

MIB = 1 << 20
guard, begun, over, unseen = ClientLock(), threading.Event(), threading.Event(), []
store = Store.open(sys.argv[1], guard)
ids = [bytes(27) + bytes([number]) for number in range(20)]
sys.unraisablehook = unseen.append  # no code of the store runs where an exception would be lost
signals.install(guard)

def storm():
    pauses = random.Random(5)
    begun.wait()
    while not over.wait(pauses.random() * 0.001):
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

thread = threading.Thread(target=storm)
thread.start()
interrupted, number, deadline = 0, 0, time.monotonic() + 3

def fill(view):
    view[:] = bytes([number % 251]) * len(view)

def rage():
    global interrupted, number
    begun.set()
    while time.monotonic() < deadline:
        try:
            number += 1
            store.write(ids[number % 20], MIB // 4, fill)
            view = store.read(ids[number % 20])
            assert view[0] == view[-1] == number % 251
            del view
            store.free([ids[number % 20]])
        except KeyboardInterrupt:
            interrupted += 1
    over.set()

while thread.is_alive():
    try:
        rage()
        thread.join()
    except KeyboardInterrupt:
        pass
gc.collect()  # frames that raised an interrupt may hold it
store.free(ids)
assert not unseen, unseen
assert interrupted > 100, interrupted
assert not store._locked.lock.locked()
assert not store._pins.in_use, vars(store._pins)
"""


def test_interrupts_at_any_moment_leave_neither_lock_nor_claim(make_store):
    """Interrupts of a cancelled task, or of Ctrl-C: a signal's handler raises them between any two bytecodes."""
    store = make_store(64 * MIB)
    subprocess.run([sys.executable, "-c", INTERRUPTED, store.path], check=True, timeout=60)
    store.sweep()  # the lock of the ledger file is free
    assert store.usage().used == store.usage().recyclable


def test_a_recycled_segment_that_was_given_up_can_be_used_again(store):
    store.free([put(store, 1, b"a" * MIB)])
    for _ in range(3):
        store.begin(MIB).give_up()
    put(store, 2, b"b" * MIB)
    assert store.usage().used == segment_bytes(MIB)


def test_segments_that_this_process_freed_are_used_without_a_directory_scan(store, monkeypatch):
    store.free([put(store, 1, b"a" * MIB)])
    with monkeypatch.context() as patch:
        patch.setattr(segments, "_inodes_in", None)
        store.free([put(store, 2, b"b" * MIB)])
        identifier = put(store, 3, b"c" * MIB)
    assert store.read(identifier) == b"c" * MIB
    assert store.usage().used == segment_bytes(MIB)


def test_segments_that_another_process_has_taken_are_skipped(store):
    store.free([put(store, 1, b"a" * MIB)])
    other = Store.open(store.path)
    theirs = put(other, 2, b"b" * MIB)
    mine = put(store, 3, b"c" * MIB)
    assert (store.read(theirs), store.read(mine)) == (b"b" * MIB, b"c" * MIB)
    other.close()


def test_remembered_segments_that_are_gone_cost_few_looks_and_no_claims(store, monkeypatch):
    """Two processes that remember the same segments: what one has taken, the other asks for in vain."""
    n_segments = 40
    identifiers = [put(store, number, b"a" * 1000) for number in range(n_segments)]
    other = Store.open(store.path)
    other.free(identifiers)  # by a process that has no maps, and remembers none
    monkeypatch.setattr(store._segments, "_seen", {})
    first = store.begin(1000)  # it has seen all now
    for number in range(n_segments - 2):
        put(other, 100 + number, b"b" * 1000)
    look, claim = Mock(wraps=store._segments._claim_free), Mock(wraps=store._pins.claim)
    monkeypatch.setattr(store._segments, "_claim_free", look)
    monkeypatch.setattr(store._pins, "claim", claim)
    second = store.begin(1000)
    assert look.call_count <= segments._MAX_MISSES + 2  # one of those that are left is being filled
    assert claim.call_count <= 2
    assert store.usage().used == n_segments * segment_bytes(1000)
    for writing in (first, second):
        writing.give_up()
    other.close()


def test_processes_that_have_seen_the_same_segments_begin_at_different_ones(store):
    store.free([put(store, number, b"a" * 1000) for number in range(8)])
    (class_directory,) = Path(store.path, "free").iterdir()
    taken = set()
    for start in range(8):
        pins = Pins(f"{store.path}/pins")
        at_start = segments.Segments(store.path, store.spill_dir, pins, (), Mock(return_value=start))
        with store._changing as ledger:
            draft = at_start.take_free(ledger, int(class_directory.name))
        assert draft is not None
        taken.add(draft.inode)
        pins.close()
    assert len(taken) == 8


def test_the_number_of_remembered_free_segments_is_bounded(store):
    for _ in range(3):
        store.free([put(store, number, b"a" * 1000) for number in range(2 * segments._MAX_SEEN)])
        (seen,) = store._segments._seen.values()
        assert len(seen) <= segments._MAX_SEEN


def test_a_filler_that_keeps_its_view_gets_an_error_and_cannot_reach_other_objects(store):
    kept = []
    with pytest.raises(BufferError, match="kept a buffer"):
        store.write(object_id(1), MIB, lambda view: kept.append(view[1:]))
    assert store.usage().used == 0
    identifier = put(store, 2, b"a" * MIB)
    kept[0][:] = b"b" * (MIB - 1)
    assert store.read(identifier) == b"a" * MIB


def test_a_second_attempt_replaces_the_object_and_the_readers_of_the_first_keep_it(store):
    first = store.read(put(store, 1, b"first"))
    second = store.read(put(store, 1, b"second, and longer"))
    assert (first, second) == (b"first", b"second, and longer")
    del first, second
    store.free([object_id(1)])
    assert store.usage().recyclable == store.usage().used == 2 * CLASS_64K


def test_freeing_is_idempotent_and_by_owner(store):
    put(store, 1, b"mine")
    store.write(object_id(1, b"p"), 3, lambda view: None)
    store.free([object_id(1), object_id(1), object_id(99)])
    store.free_owned_by(b"p" * 16)
    assert not store.contains(object_id(1, b"p"))
    assert store.usage().live == 0


def test_a_segment_of_another_class_makes_room(make_store):
    store = make_store(4 * MIB)
    put(store, 1, bytes(3 * MIB))
    store.free([object_id(1)])
    put(store, 2, bytes(2 * MIB))
    assert store.usage().recyclable == 0
    assert store.usage().used == segment_bytes(2 * MIB)


def test_a_full_store_spills_the_least_recently_used_and_reads_it_where_it_lies(make_store):
    store = make_store(5 * MIB)
    for number in range(4):
        put(store, number, bytes([number]) * MIB)
    assert store.read(object_id(0))[:1] == b"\0"  # used just now: the next one is the oldest
    put(store, 4, b"\4" * MIB)
    assert [store._segments.live_path(object_id(n)) for n in range(5) if inode_missing(store, n)] == [
        store._segments.live_path(object_id(1))
    ]
    for number in range(5):
        assert store.contains(object_id(number))
        assert store.read(object_id(number)) == bytes([number]) * MIB
    assert store.usage().spilled == segment_bytes(MIB)
    spilled = store.read(object_id(1))
    store.free(object_id(number) for number in range(5))
    assert spilled == b"\1" * MIB
    assert store.usage().spilled == 0
    assert os.listdir(store.spill_dir) == []


def inode_missing(store, number):
    return not os.path.exists(store._segments.live_path(object_id(number)))


@pytest.fixture
def looked_at(monkeypatch):
    """Counts the segments that are looked at to make room."""
    counts = [0]
    look, last_uses = segments.Segments.look, segments.Segments.last_uses

    def counting_look(self, path):
        counts[0] += 1
        return look(self, path)

    def counting_last_uses(self, place):
        found = last_uses(self, place)
        counts[0] += len(found)
        return found

    monkeypatch.setattr(segments.Segments, "look", counting_look)
    monkeypatch.setattr(segments.Segments, "last_uses", counting_last_uses)
    return counts


@pytest.mark.parametrize("n_live", [8, 64, 256])
def test_a_put_into_a_full_store_looks_at_few_objects(make_store, looked_at, n_live):
    store = make_store(n_live * CLASS_64K)
    for number in range(n_live):
        put(store, number, b"x")
    assert looked_at == [0]
    for number in range(n_live, 3 * n_live):
        put(store, number, b"y")
    assert looked_at[0] <= 5 * 2 * n_live
    assert not any(inode_missing(store, number) for number in range(3 * n_live - n_live // 2, 3 * n_live))
    assert all(store.contains(object_id(number)) for number in range(3 * n_live))


def test_a_small_portion_is_spilled_ahead_and_none_of_it_is_in_use(make_store):
    store = make_store(64 * CLASS_64K)
    for number in range(64):
        put(store, number, bytes([number]))
    view = store.read(object_id(1))
    os.utime(store._segments.live_path(object_id(1)), (1, 1))
    put(store, 64, b"x")
    assert [number for number in range(65) if inode_missing(store, number)] == [0, 2, 3, 4]
    assert store.usage().recyclable == 3 * CLASS_64K
    for number in range(65, 68):
        put(store, number, b"x")
    assert store.usage().spilled == 4 * CLASS_64K
    assert view == b"\1"
    assert [store.read(object_id(number)) for number in (0, 2, 3, 4)] == [b"\0", b"\2", b"\3", b"\4"]


def test_a_disk_that_becomes_full_while_objects_are_spilled_ahead(make_store, monkeypatch):
    store = make_store(64 * CLASS_64K)
    for number in range(64):
        put(store, number, bytes([number]))
    real, calls = os.posix_fallocate, []

    def full_at_the_third(fd, offset, size):
        calls.append(size)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(fd, offset, size)

    monkeypatch.setattr(os, "posix_fallocate", full_at_the_third)
    put(store, 64, b"x")
    assert len(calls) == 3
    assert sorted(os.listdir(store.spill_dir)) == [object_id(0).hex(), object_id(1).hex()]
    assert [store.read(object_id(number)) for number in range(64)] == [bytes([number]) for number in range(64)]


def test_two_that_spill_in_turn_keep_to_the_order(make_store):
    store = make_store(8 * CLASS_64K)
    other = Store.open(store.path)
    for number in range(40):
        put((store, other)[number % 2], number, bytes([number]))
        gone = [each for each in range(number + 1) if inode_missing(store, each)]
        assert gone == list(range(max(0, number - 7)))
    assert [other.read(object_id(number)) for number in range(40)] == [bytes([number]) for number in range(40)]
    other.close()


def test_objects_that_vanish_while_all_are_looked_at(make_store, monkeypatch):
    store = make_store(3 * CLASS_64K)
    other = Store.open(store.path)
    for number in range(3):
        put(store, number, bytes([number]))
    real = segments._entries

    def and_free_one(directory):
        found = real(directory)
        if directory.endswith("/live"):
            other.free([object_id(0)])
        return found

    with monkeypatch.context() as patch:
        patch.setattr(segments, "_entries", and_free_one)
        assert [path for _, path in sorted(store._segments.last_uses(Place.LIVE))] == [
            store._segments.live_path(object_id(number)) for number in (1, 2)
        ]
    other.close()


def test_free_segments_that_make_room_are_of_the_class_not_used_for_longest(make_store, looked_at):
    store = make_store(3 * MIB)
    for number in range(20):
        put(store, number, bytes((1 + number % 2) * MIB // 16))
    store.free(object_id(number) for number in range(20))
    sizes = sorted(int(name) for name in os.listdir(f"{store.path}/free"))
    assert len(sizes) == 2
    os.utime(f"{store.path}/free/{sizes[1]}", (1, 1))
    put(store, 20, bytes(MIB * 2))
    left = {size: len(os.listdir(f"{store.path}/free/{size}")) for size in sizes}
    n_dropped = 10 - left[sizes[1]]
    assert left[sizes[0]] == 10 and 0 < n_dropped < 10
    assert looked_at[0] == n_dropped


def test_an_object_may_be_empty_and_spilled(make_store):
    store = make_store(CLASS_64K)
    put(store, 1, b"")
    put(store, 2, b"other")
    assert store.read(object_id(1)) == b""
    assert store.read(object_id(2)) == b"other"


def test_what_finds_no_room_beside_values_in_use_goes_to_disk(make_store):
    store = make_store(4 * MIB)
    notices: list[str] = []
    store.notices.tell = notices.append
    views = [store.read(put(store, number, bytes(MIB))) for number in range(3)]
    store.free([object_id(0)])
    for number in (3, 4):
        assert store.read(put(store, number, bytes([number]) * MIB)) == bytes([number]) * MIB
    assert store.usage().spilled == 2 * segment_bytes(MIB)
    (notice,) = notices
    size = segment_bytes(MIB)
    assert f"{3 * size:,} are in 3 objects whose values are in use ({size:,} in freed ones)" in notice
    assert f"held by this process: {3 * size:,} bytes in 3." in notice
    assert store.spill_dir in notice
    views.pop()
    store.free([object_id(2), object_id(3), object_id(4)])
    assert store.usage().spilled == 0
    put(store, 5, bytes(MIB))
    assert (store.usage().spilled, store._room.wrote_to_disk) == (0, False)


def test_the_notice_says_which_processes_hold_how_much(make_store):
    store = make_store(4 * MIB)
    for number in range(3):
        put(store, number, bytes(MIB))

    def hold(say, hear):
        mine = Store.open(store.path)
        views = [mine.read(object_id(number)) for number in range(2)]
        say(b"held")
        hear()
        views.clear()

    child = Child(hold)
    assert child.hear() == b"held"
    view = store.read(object_id(2))
    notices: list[str] = []
    store.notices.tell = notices.append
    put(store, 3, bytes(MIB))
    size = segment_bytes(MIB)
    assert re.search(
        rf"held by process {child.pid} \(.*\): {2 * size:,} bytes in 2, this process: {size:,} ", notices[0]
    )
    child.say()
    assert child.wait() == 0
    del view


def test_an_object_larger_than_the_store_goes_to_disk_at_once(make_store):
    store = make_store(MIB, wait_s=60)
    notices: list[str] = []
    store.notices.tell = notices.append
    data = os.urandom(3 * MIB)
    view = store.read(put(store, 1, data))
    assert (view, store.usage().used, store.usage().spilled) == (data, 0, segment_bytes(3 * MIB))
    put(store, 1, data[::-1])  # another attempt replaces it, and readers of the first keep what they have
    put(store, 2, data)
    assert (view, store.read(object_id(1))) == (data, data[::-1])
    assert len(notices) == 1
    assert "larger than the object store" in notices[0]
    store.free([object_id(1), object_id(2)])
    assert os.listdir(store.spill_dir) == []
    assert (view, store.usage().spilled) == (data, 0)


def test_what_comes_bit_by_bit_goes_to_disk_too(make_store):
    store = make_store(MIB)
    writing = store.begin(3 * MIB, gradually=True)
    assert writing.prepared < MIB
    while writing.prepare(MIB):
        pass
    writing.view[:] = b"x" * 3 * MIB
    writing.publish(object_id(1), copy=True)
    assert store.read(object_id(1)) == b"x" * 3 * MIB
    store.begin(3 * MIB, gradually=True).give_up()
    store.begin(3 * MIB).give_up()
    assert len(os.listdir(store.spill_dir)) == 1
    with pytest.raises(KeyError):
        store.write(object_id(2), 3 * MIB, lambda view: dict[int, int]()[0])
    assert len(os.listdir(store.spill_dir)) == 1
    store.keep(object_id(1))
    assert store.contains(object_id(1))


def test_files_of_a_dead_writer_on_disk_are_swept(make_store):
    store = make_store(MIB)

    def die(say, hear):
        Store.open(store.path).begin(3 * MIB)
        os._exit(7)

    assert Child(die).wait() == 7
    writing = store.begin(3 * MIB)
    assert len(os.listdir(store.spill_dir)) == 2
    store.sweep()
    assert len(os.listdir(store.spill_dir)) == 1
    writing.publish(object_id(1))
    assert store.contains(object_id(1))


@pytest.mark.parametrize("size", [MIB // 2, 3 * MIB])
@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_a_missing_spill_directory_is_reported(make_store, size, when):
    store = make_store(MIB)
    view = store.read(put(store, 1, bytes(MIB // 2)))

    def fill(place):
        if when == "meanwhile":
            os.rename(store.spill_dir, store.spill_dir + "-gone")

    if when == "before":
        os.rename(store.spill_dir, store.spill_dir + "-gone")
    with pytest.raises(OutOfDiskError, match=f"cannot be written to {store.spill_dir}: .*in 1 objects"):
        store.write(object_id(2), size, fill)
    assert view == bytes(MIB // 2)
    os.rename(store.spill_dir + "-gone", store.spill_dir)
    store.sweep()
    assert os.listdir(store.spill_dir) == []


def test_a_writer_waits_for_room(make_store):
    store = make_store(2 * MIB, wait_s=20)
    views = [store.read(put(store, 1, bytes(MIB)))]
    writer = threading.Thread(target=put, args=(store, 2, b"x" * MIB))
    writer.start()
    store.free([object_id(1)])
    views.clear()
    writer.join(10)
    assert store.read(object_id(2)) == b"x" * MIB


def test_progress_of_a_spill_extends_the_wait():
    now, pauses = [0.0], []

    def sleep(pause_s):
        pauses.append(pause_s)
        now[0] += pause_s

    patience = Patience(1.0, pulse=lambda: min(int(now[0]), 3), clock=lambda: now[0], sleep=sleep)
    while patience.pause():
        pass
    assert now[0] == pytest.approx(4, abs=0.2)  # the pulse stops at 3 s
    assert pauses[:6] == [0.005, 0.01, 0.02, 0.04, 0.08, 0.1]
    assert max(pauses) == 0.1


def test_while_another_process_spills_a_writer_waits_for_a_bounded_time(make_store):
    store = make_store(2 * MIB, wait_s=0.02)
    put(store, 1, bytes(MIB))
    with turn_to_spill(store.path, store.spill_dir):
        put(store, 2, bytes(MIB))
    assert os.path.exists(store._segments.spilled_path(object_id(2)))
    put(store, 3, bytes(MIB))
    assert os.path.exists(store._segments.spilled_path(object_id(1)))


def test_a_full_disk_loses_nothing(make_store, monkeypatch):
    store = make_store(2 * MIB)
    put(store, 1, b"a" * MIB)

    def no_space(fd, offset, size):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", no_space)
        with pytest.raises(OutOfDiskError, match="cannot be spilled"):
            put(store, 2, b"b" * MIB)
    assert store.read(object_id(1)) == b"a" * MIB
    assert os.listdir(store.spill_dir) == []
    put(store, 2, b"b" * MIB)


def test_memory_that_others_have_taken_is_replaced_by_spilling(make_store, monkeypatch):
    store = make_store(16 * MIB)
    put(store, 1, b"a" * MIB)
    real, failures = os.posix_fallocate, [1]

    def no_space_once(fd, offset, size):
        if failures:
            raise OSError(failures.pop() and errno.ENOSPC, "No space left on device")
        real(fd, offset, size)

    monkeypatch.setattr(os, "posix_fallocate", no_space_once)
    put(store, 2, b"b" * (MIB // 2))
    assert store.usage().spilled == segment_bytes(MIB)
    assert store.read(object_id(1)) == b"a" * MIB


def test_an_unfinished_ledger_is_counted_again(store):
    put(store, 1, b"x")
    with pytest.raises(KeyError), store._changing as ledger:
        ledger.leave(Place.LIVE, 0)
        ledger.held[Place.LIVE] = 12345
        raise KeyError
    assert store.usage().live == store.usage().used == CLASS_64K


def test_values_outlive_the_closing_of_the_store(store):
    other = Store.open(store.path)
    view = other.read(put(store, 1, b"x" * MIB))
    other.close()
    other.close()
    with pytest.raises(SystemFailure, match="closed"):
        other.read(object_id(1))
    store.free([object_id(1)])
    put(store, 2, b"y" * MIB)
    assert view == b"x" * MIB
    assert store.usage().doomed
    del view
    store.sweep()
    assert store.usage().doomed == 0


def test_opening_and_closing_leaves_no_descriptor_and_no_map(store):
    def once():
        other = Store.open(store.path)
        put(other, 1, bytes(MIB))
        bytes(other.read(object_id(1)))
        other.close()

    once()
    before = len(os.listdir("/proc/self/fd")), maps()
    for _ in range(20):
        once()
    assert (len(os.listdir("/proc/self/fd")), maps()) == before


def maps():
    with open("/proc/self/maps") as lines:
        return sum("zray-test" in line for line in lines)


def test_a_store_is_its_users_alone_and_made_only_once(store):
    assert os.stat(store.path).st_mode & 0o777 == 0o700
    with pytest.raises(FileExistsError):
        Store.create(store.path, store.spill_dir, MIB)
    with pytest.raises(FileNotFoundError):
        Store.open(f"{store.path}/nothing")


def test_an_identifier_has_28_bytes(store):
    for use in (lambda: store.read(b"short"), lambda: store.write(b"short", 1, lambda view: None)):
        with pytest.raises(ValueError, match="28 bytes"):
            use()


def test_an_interpreter_ends_without_output_with_values_alive(store):
    put(store, 1, b"x" * MIB)
    script = (
        f"from zray.store import Store; s = Store.open({store.path!r});"
        f"v = s.read({object_id(1)!r}); w = s.read({object_id(1)!r}); cycle = [s, v]; cycle.append(cycle); print(v[0])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{ord('x')}\n", "")


def test_threads_share_a_store(make_store):
    store = make_store(8 * MIB, wait_s=5)
    failures = []

    def work(thread):
        for number in range(thread * 1000, thread * 1000 + 60):
            data = bytes([number % 251]) * (100_000 + number)
            view = store.read(put(store, number, data))
            store.free([object_id(number)])
            if view != data:
                failures.append(number)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not failures
    assert store.usage().live == 0


NO_IDENTIFIERS = [b"", b"o", b"o" * 16, b"o" * 27, b"o" * 29]


@pytest.mark.parametrize("wrong", NO_IDENTIFIERS)
def test_a_malformed_identifier_does_nothing(store, wrong):
    """An empty one would be the name of the directory with all objects."""
    kept = put(store, 1, b"kept" * MIB)
    for action in (store.keep, store.contains, store.read, lambda each: store.free([kept, each])):
        with pytest.raises(ValueError, match="an object's identifier has 28 bytes"):
            action(wrong)
    with pytest.raises(ValueError, match="an object's identifier has 28 bytes"):
        store.write(wrong, 5, lambda view: None)
    writing = store.begin(5)
    with pytest.raises(ValueError, match="an object's identifier has 28 bytes"):
        writing.publish(wrong)
    assert store.read(kept)[:4] == b"kept"
    assert not store.usage().writing
    check(store)


@pytest.mark.parametrize("wrong", [b"", b"o", b"o" * 15, b"o" * 28])
def test_a_malformed_owner_owns_nothing(store, wrong):
    kept = put(store, 1, b"kept" * MIB)
    with pytest.raises(ValueError, match="a process's identifier has 16 bytes"):
        store.free_owned_by(wrong)
    assert store.contains(kept)


def test_files_that_others_have_put_into_the_store_are_left_alone(store):
    """A full store looks for segments to remove: it leaves files and directories of other programs alone."""
    for place in ("live", "copies", "doomed", "free"):
        Path(store.path, place, "notes.txt").write_text("mine")
        Path(store.path, place, "directory").mkdir()
    for number in range(8):
        put(store, number, bytes([number]) * 4 * MIB)
    assert store.usage().spilled
    store.sweep()
    assert store.owners() == {b"o" * 16}
    assert [bytes(store.read(object_id(number))[:1]) for number in range(8)] == [bytes([n]) for n in range(8)]


def test_more_values_than_a_process_may_have_maps(make_store):
    """Small ones are copied then: 65,530 is the usual number (vm.max_map_count), for maps of all kinds."""
    store = make_store(64 * MIB)
    store._maps.most = 20
    small = [put(store, number, bytes([number]) * 50_000) for number in range(60)]
    large = [put(store, number, bytes([number]) * 2 * MIB) for number in range(60, 65)]
    store.free([put(store, 99, b"x" * MIB)])
    store._write_maps.clear()
    values = [store.read(each) for each in (*small, *large)]
    assert [(value[0], value[-1]) for value in values] == [(number, number) for number in range(65)]
    assert all(value.readonly and np.frombuffer(value, np.uint8).ctypes.data % 64 == 0 for value in values)
    assert len(store._maps) == 20 + len(large)
    store.free(small)  # a copy holds no segment
    assert store.usage().doomed <= 20 * segment_bytes(50_000)
    del values
    put(store, 1, b"y" * MIB)
    assert store.read(object_id(1)) == b"y" * MIB


def test_the_error_at_the_limit_on_maps_names_the_limit(store, monkeypatch):
    kept = put(store, 1, b"kept" * MIB)

    def refused(*arguments):
        ctypes.set_errno(errno.ENOMEM)
        return maps_module._MAP_FAILED

    libc = types.SimpleNamespace(mmap=refused, munmap=maps_module._libc.munmap)
    monkeypatch.setattr(maps_module, "_libc", libc)
    with pytest.raises(SystemFailure, match=r"vm\.max_map_count=1048576"):
        store.read(kept)
    with pytest.raises(SystemFailure, match=r"vm\.max_map_count=1048576"):
        put(store, 2, b"new" * MIB)
    monkeypatch.undo()
    assert not store._pins.in_use and not store.usage().writing
    assert store.read(kept)[:4] == b"kept"
