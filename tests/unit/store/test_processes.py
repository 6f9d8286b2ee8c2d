"""The store between processes: pins, deaths, forks, and all of these at once."""

from __future__ import annotations

import contextlib
import os
import random
import struct
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from zray.exceptions import SystemFailure
from zray.store import SegmentMissing, Store
from zray.store.ledger import Place, segment_bytes

from .conftest import MIB, Child, call, check, object_id, put


def test_an_object_is_read_in_another_process(store):
    put(store, 1, b"hello")
    assert call(lambda: bytes(Store.open(store.path).read(object_id(1)))) == b"hello"


def test_a_pin_of_another_process_holds_the_pages_until_it_dies(store):
    put(store, 1, b"a" * MIB)

    def reader(say, hear):
        view = Store.open(store.path).read(object_id(1))
        say(b"pinned")
        hear()
        say(bytes(view[-3:]))
        hear()

    child = Child(reader)
    assert child.hear() == b"pinned"
    store.free([object_id(1)])
    put(store, 2, b"b" * MIB)
    child.say()
    assert child.hear() == b"aaa"
    store.sweep()
    assert store.usage().doomed == segment_bytes(MIB)
    child.kill()
    assert child.wait() < 0
    store.sweep()
    assert store.usage().doomed == 0
    assert store.usage().recyclable == segment_bytes(MIB)


def in_the_middle_of_a_write(store, number):
    """Returns a process that writes an object and waits before the end."""

    def writer(say, hear):
        def fill(view):
            view[:] = b"h" * MIB
            say(b"half")
            hear()

        Store.open(store.path).write(object_id(number), MIB, fill)

    child = Child(writer)
    assert child.hear() == b"half"
    return child


def test_what_a_writer_leaves_that_is_killed_is_swept(store):
    child = in_the_middle_of_a_write(store, 1)
    store.sweep()
    assert store.usage().writing == segment_bytes(MIB)  # it is alive, and is left alone
    child.kill()
    child.wait()
    store.sweep()
    assert store.usage().used == 0
    assert not store.contains(object_id(1))


def test_what_a_killed_writer_was_filling_again_is_filled_by_the_next(store):
    store.free([put(store, 1, b"a" * MIB)])
    child = in_the_middle_of_a_write(store, 2)
    store.sweep()
    child.kill()
    child.wait()
    assert not store.contains(object_id(2))
    put(store, 3, b"c" * MIB)
    assert store.usage().used == segment_bytes(MIB)
    assert store.read(object_id(3)) == b"c" * MIB


def test_the_sweep_leaves_this_process_own_writing_alone(store):
    def fill(view):
        store.sweep()
        view[:] = b"kept"

    store.write(object_id(1), 4, fill)
    assert store.read(object_id(1)) == b"kept"


def test_the_ledger_is_correct_after_a_death_during_a_change(store):
    put(store, 1, b"x")

    def die(say, hear):
        with Store.open(store.path)._changing as ledger:
            ledger.held[Place.LIVE] = 12345
            os._exit(7)

    assert Child(die).wait() == 7
    check(store)
    assert store.usage().live == segment_bytes(1)


def test_a_copy_that_a_dead_process_was_spilling_is_swept(store):
    Path(store.spill_dir, "spilling").write_bytes(b"half")
    store.sweep()
    assert os.listdir(store.spill_dir) == []


def test_an_object_that_is_pinned_or_freed_while_it_is_copied_stays_or_goes(make_store, monkeypatch):
    store = make_store(2 * MIB)
    put(store, 1, b"a" * MIB)
    other = Store.open(store.path)
    held: list[Any] = []
    real = os.sendfile

    def pin_first(*args):
        if not held:
            held.append(other.read(object_id(1)))
        return real(*args)

    def free_first(*args):
        other.free([object_id(1)])
        return real(*args)

    monkeypatch.setattr(os, "sendfile", pin_first)
    put(store, 2, b"b" * MIB)
    assert os.listdir(store.spill_dir) == [object_id(2).hex()]
    store.free([object_id(2)])
    held.clear()
    other.settle()
    monkeypatch.setattr(os, "sendfile", free_first)
    put(store, 2, b"b" * MIB)
    assert os.listdir(store.spill_dir) == []
    assert not store.contains(object_id(1))
    other.close()


def test_a_forked_child_opens_its_own_and_leaves_the_parents_alone(store):
    view = store.read(put(store, 1, b"a" * MIB))

    def use_inherited():
        with pytest.raises(SystemFailure, match="fork"):
            store.read(object_id(1))
        inherited = bytes(view[:1])
        return inherited, bytes(Store.open(store.path).read(object_id(1))[:1])

    assert call(use_inherited) == (b"a", b"a")
    store.free([object_id(1)])
    assert store.usage().doomed  # the child's end has not ended the parent's pin


def test_processes_that_write_read_and_free_at_random_see_only_whole_objects(make_store):
    store = make_store(8 * MIB, wait_s=5)  # all that can be pinned or in writing at once just fits
    children = [Child(partial(churn, store.path, seed, 1.2)) for seed in range(4)]
    reads = 0
    while any(alive := [child.hear() for child in children]):
        reads += sum(struct.unpack("I", answer)[0] for answer in alive if answer)
        store.sweep()
    assert [child.wait() for child in children] == [0] * 4
    assert reads > 100
    check(store)
    store.sweep()
    store.free_owned_by(b"o" * 16)
    assert store.usage().recyclable == store.usage().used
    assert store.usage().spilled == 0


def churn_until_killed(path, seed, say, hear):
    say(b"on")
    churn(path, seed, 9.0, say, hear)


def churn(path, seed, seconds, say, hear):
    """Reads, writes and frees objects until killed. Each word names its object, so a torn or mixed object shows."""
    store, dice, kept, reads = Store.open(path), random.Random(seed), [], 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        number, action = dice.randrange(12), dice.random()
        if action < 0.4:
            size = dice.choice([40_000, 90_000, 300_000, 600_000])
            put(store, number, struct.pack("II", number, dice.randrange(1 << 31)) * (size // 8))
        elif action < 0.5:
            store.free([object_id(dice.randrange(12))])
        else:
            with contextlib.suppress(SegmentMissing):
                kept.append((number, store.read(object_id(number))))
        if len(kept) > 2:
            number, view = kept.pop(dice.randrange(len(kept)))
            words = view.cast("Q")
            assert struct.unpack("II", view[:8])[0] == number
            assert bytes(view) == struct.pack("Q", words[0]) * len(words)
            del words, view
            reads += 1
    say(struct.pack("I", reads))


def test_processes_that_are_killed_at_any_moment_leave_a_sound_store(make_store):
    store = make_store(6 * MIB, wait_s=1)
    dice = random.Random(5)
    for seed in range(25):
        child = Child(partial(churn_until_killed, store.path, seed))
        child.hear()
        for _ in range(dice.randrange(60)):
            store.free([put(store, 99, b"meanwhile")])
        child.kill()
        child.wait()
        store.sweep()
        check(store)
        assert store.usage().writing == store.usage().doomed == 0
    store.free_owned_by(b"o" * 16)
    assert store.usage().recyclable == store.usage().used
