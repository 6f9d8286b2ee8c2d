"""Pins and claims: who excludes whom, how long the kernel's lists of locks get, and what descriptors they take."""

from __future__ import annotations

import collections
import errno
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from zray.exceptions import SystemFailure
from zray.store.ledger import segment_bytes
from zray.store.pins import Pins

from .conftest import Child, object_id, put

MAX_IDLE = 16


@pytest.fixture
def directory(tmp_path: Path) -> str:
    path = tmp_path / "pins"
    path.mkdir()
    return str(path)


def lock_files(directory: str) -> list[int]:
    """Returns the descriptors of this process on lock files."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        path = f"/proc/self/fd/{name}"
        if os.path.lexists(path) and os.readlink(path).startswith(f"{directory}/"):
            found.append(int(name))
    return found


def ranges(fd: int) -> int:
    """Returns how many ranges the kernel keeps for the locks of a descriptor."""
    with open(f"/proc/self/fdinfo/{fd}") as file:
        return sum(line.startswith("lock:") for line in file)


@pytest.mark.parametrize("inode", [5, 255, 256, 1 << 40, (1 << 62) + 5, (1 << 64) - 1])
def test_a_pin_excludes_claims_and_a_claim_excludes_everything(directory, inode):
    one, other = Pins(directory), Pins(directory)  # two descriptions, as in two processes
    assert not one.is_pinned(inode)
    assert one.pin(inode)
    assert one.pin(inode)
    assert other.pin(inode)
    for pins in (one, other):
        assert pins.is_pinned(inode)
        assert not pins.is_claimed(inode)
        assert not pins.claim(inode)
    assert other.unpin(inode)
    assert not one.unpin(inode)
    assert not other.claim(inode)
    assert one.unpin(inode)
    assert not one.is_pinned(inode)
    assert one.claim(inode)
    for pins in (one, other):
        assert pins.is_pinned(inode)
        assert pins.is_claimed(inode)
        assert not pins.claim(inode)
        assert not pins.pin(inode)
    other.unclaim(inode)  # it has none
    assert other.is_claimed(inode)
    one.unclaim(inode)
    assert other.claim(inode)
    other.close()
    assert not one.is_claimed(inode)
    one.close()


def test_neighbours_do_not_exclude_each_other(directory):
    one, other = Pins(directory), Pins(directory)
    assert one.claim(1000)
    assert other.claim(1001)
    assert other.pin(999)
    assert one.unpin(998) is False
    assert not one.is_pinned(998)
    one.close()
    other.close()


def test_the_kernel_drops_the_locks_of_a_killed_process(directory):
    mine = Pins(directory)
    inodes = range(0, 100_000, 999)

    def hold(say, hear):
        pins = Pins(directory)
        assert all(pins.pin(inode) for inode in inodes)
        assert pins.claim(7)
        say(b"held")
        hear()

    child = Child(hold)
    assert child.hear() == b"held"
    assert not any(mine.claim(inode) for inode in (*inodes, 7))
    child.kill()
    child.wait()
    assert all(mine.claim(inode) for inode in (*inodes, 7))
    mine.close()


@pytest.mark.parametrize("spread", [1, 3, 100])
def test_the_kernel_searches_a_short_list_whatever_the_order(directory, spread):
    """For each lock it searches those of one file. ``spread``: the inodes for each one that is pinned."""
    n_pins = 20_000
    dice = random.Random(spread)
    pins, longest = Pins(directory), 0
    for number, inode in enumerate(dice.sample(range(10_000_000, 10_000_000 + n_pins * spread), n_pins), 1):
        assert pins.pin(inode)
        if number % 5_000 == 0:
            longest = max(longest, *map(ranges, lock_files(directory)))
    assert longest <= 400  # 2,500 with 8 files
    assert len(lock_files(directory)) <= 128
    pins.close()
    assert not lock_files(directory)


def test_descriptors_follow_what_is_locked(directory):
    pins = Pins(directory)
    assert not lock_files(directory)  # a process that uses nothing has none
    inodes = list(range(1 << 15))
    assert all(pins.pin(inode) for inode in inodes[:300])
    assert len(lock_files(directory)) == 2
    assert all(pins.pin(inode) for inode in inodes[300:])
    assert len(lock_files(directory)) == 128
    random.Random(1).shuffle(inodes)
    assert all(pins.unpin(inode) for inode in inodes)
    assert len(lock_files(directory)) == MAX_IDLE
    pins.close()
    assert not lock_files(directory)


def test_queries_and_single_locks_keep_a_bounded_number_of_files_open(directory):
    pins, dice = Pins(directory), random.Random(2)
    assert pins.pin(77)
    for inode in dice.sample(range(1 << 20), 3_000):
        kind = inode % 4
        if kind == 0:
            assert not pins.is_pinned(inode)
        elif kind == 1:
            assert not pins.is_claimed(inode)
        elif kind == 2:
            assert pins.claim(inode)
            pins.unclaim(inode)
        else:
            assert pins.pin(inode)
            assert pins.unpin(inode)
        assert len(pins._files) <= MAX_IDLE + 1
        assert len(pins._idle) + 1 == len(pins._files)
    assert len(lock_files(directory)) == MAX_IDLE + 1
    other = Pins(directory)
    assert not other.claim(77)  # the closing of other files has not ended it
    pins.close()
    other.close()


def test_a_file_in_use_is_found_without_opening_it_again(directory, monkeypatch):
    opened: collections.Counter[str] = collections.Counter()
    real = os.open

    def count(path: str, *args: Any, **options: Any) -> int:
        opened[path] += 1
        return real(path, *args, **options)

    monkeypatch.setattr(os, "open", count)
    pins = Pins(directory)
    for _ in range(50):
        for inode in range(0, 256 * MAX_IDLE, 256):
            assert pins.claim(inode)
            pins.unclaim(inode)
            assert pins.pin(inode)
            assert pins.is_pinned(inode)
            assert pins.unpin(inode)
            assert not pins.is_pinned(inode)
    assert set(opened.values()) == {1}
    assert len(opened) == MAX_IDLE
    pins.close()


def refuse_lock_files(monkeypatch: pytest.MonkeyPatch, code: int, refused: Callable[[], bool]) -> None:
    """Lets no lock file be opened while ``refused``, as at the limit on descriptors."""
    real = os.open

    def fail(path: str, *args: Any, **options: Any) -> int:
        if refused() and "/pins/" in path:
            raise OSError(code, os.strerror(code), path)
        return real(path, *args, **options)

    monkeypatch.setattr(os, "open", fail)


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE])
def test_without_a_descriptor_a_segment_counts_as_used(directory, monkeypatch, code):
    pins, full = Pins(directory), False
    refuse_lock_files(monkeypatch, code, lambda: full)
    assert pins.pin(1)
    full = True
    assert pins.is_pinned(1)
    assert not pins.is_claimed(1)
    assert not pins.is_pinned(2)  # its file is open
    assert pins.is_pinned(5_000)
    assert pins.is_claimed(5_000)
    for lock in (pins.pin, pins.claim):
        with pytest.raises(OSError, match=os.strerror(code)):
            lock(5_000)
    assert pins.unpin(1)
    assert not pins.in_use
    full = False
    assert not pins.is_pinned(5_000)
    assert pins.claim(5_000)
    pins.close()


def test_a_lock_file_that_cannot_be_opened_is_an_error(directory, monkeypatch):
    pins = Pins(directory)
    refuse_lock_files(monkeypatch, errno.EACCES, lambda: True)
    for method in (pins.pin, pins.claim, pins.is_pinned, pins.is_claimed):
        with pytest.raises(PermissionError):
            method(5_000)
    assert not pins.in_use


def test_a_process_without_descriptors_leaves_what_it_frees_to_the_sweep(make_store, monkeypatch):
    store = make_store()
    put(store, 1, b"a")
    put(store, 2, b"b")
    other, full = type(store).open(store.path), True
    refuse_lock_files(monkeypatch, errno.EMFILE, lambda: full)
    descriptors = len(os.listdir("/proc/self/fd"))
    with pytest.raises(SystemFailure, match="cannot be read: Too many open files"):
        other.read(object_id(1))
    assert len(os.listdir("/proc/self/fd")) == descriptors
    other.free([object_id(1)])
    assert not other.contains(object_id(1))
    assert other.usage().doomed == segment_bytes(1)
    store.sweep()  # as the host does, in whose process the lock file is open
    assert store.usage().doomed == 0
    assert store.usage().recyclable == segment_bytes(1)
    full = False
    assert other.read(object_id(2)) == b"b"
    other.close()


def test_a_child_forked_while_a_lock_file_is_opened_does_not_share_it(directory, monkeypatch):
    """Otherwise the child, which may outlive its parent, would keep the parent's locks."""
    pins = Pins(directory)
    children: list[Child] = []
    real = os.open

    def child(say, hear):
        pins.close()
        say(b"%d" % len(lock_files(directory)))
        hear()

    def open_and_fork(path: str, *args: Any, **options: Any) -> int:
        fd = real(path, *args, **options)
        if not children:
            children.append(Child(child))  # another thread's fork, before the descriptor is noted
        return fd

    assert pins.pin(5_000_000)
    monkeypatch.setattr(os, "open", open_and_fork)
    assert pins.pin(1)
    assert children[0].hear() == b"0"
    other = Pins(directory)
    assert not other.claim(1)
    assert not other.claim(5_000_000)
    pins.close()  # as when this process ends
    assert other.claim(1)
    assert other.claim(5_000_000)
    children[0].say()
    assert children[0].wait() == 0
    other.close()


def test_a_child_forked_before_a_lock_file_is_made_goes_on(directory, monkeypatch):
    pins = Pins(directory)
    children: list[Child] = []
    real = os.open

    def fork_and_open(path: str, *args: Any, **options: Any) -> int:
        if not children:
            children.append(Child(lambda say, hear: pins.close()))
        return real(path, *args, **options)

    monkeypatch.setattr(os, "open", fork_and_open)
    assert pins.pin(1)
    assert children[0].wait() == 0
    assert pins.unpin(1)
    pins.close()
