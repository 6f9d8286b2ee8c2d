"""Where the store is on machines with and without shared memory."""

from __future__ import annotations

import os

import pytest

from zray.store import Store, default_store_location, location, shares_store

MIB = 1 << 20


@pytest.fixture
def free_bytes(monkeypatch):
    """Sets the free bytes of /dev/shm and of the directory for temporary files."""

    def have(shared, disk=1000 * MIB):
        monkeypatch.setattr(location, "_available", lambda path: shared if path == location.SHARED_MEMORY else disk)

    return have


def test_shared_memory_is_preferred(free_bytes):
    free_bytes(500 * MIB)
    path, capacity, warning = default_store_location("abc", 200 * MIB)
    assert (os.path.dirname(path), capacity, warning) == ("/dev/shm", 200 * MIB, None)
    assert path.endswith("-abc")


def test_the_capacity_is_what_there_is(free_bytes):
    free_bytes(500 * MIB)
    path, capacity, warning = default_store_location("abc", 900 * MIB)
    assert (os.path.dirname(path), capacity) == ("/dev/shm", 500 * MIB)
    assert warning and "only 524,288,000 bytes" in warning


@pytest.mark.parametrize(("shared", "why"), [(64 * MIB, "has only 67,108,864"), (0, "missing, full or not writable")])
def test_without_enough_shared_memory_the_store_is_on_disk_and_says_so(free_bytes, tmp_path, monkeypatch, shared, why):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    free_bytes(shared)
    path, capacity, warning = default_store_location("abc", 2000 * MIB)
    assert (os.path.dirname(path), capacity) == (str(tmp_path), 1000 * MIB)
    assert warning and why in warning and "--shm-size" in warning


def test_a_small_store_fits_into_small_shared_memory(free_bytes):
    free_bytes(64 * MIB)
    assert default_store_location("abc", 40 * MIB)[1:] == (40 * MIB, None)


def test_a_missing_or_closed_directory_has_no_room(tmp_path):
    assert location._available(f"{tmp_path}/missing") == 0
    assert location._available(str(tmp_path)) > 0


HOST = b"h" * 16


@pytest.fixture
def shared(tmp_path):
    """A store that HOST has made."""
    store = Store.create(f"{tmp_path}/store", f"{tmp_path}/spill", 1 << 20, host_id=HOST)
    yield store
    store.destroy()


def test_a_store_is_shared_by_processes_that_find_it_at_its_path(shared):
    assert shares_store(shared.path, HOST)
    assert not shares_store(shared.path, b"o" * 16)  # another container's, at the same path


def test_a_store_that_spills_to_where_this_process_sees_something_else_is_not_shared(shared):
    os.rename(shared.spill_dir, shared.spill_dir + "-away")
    assert not shares_store(shared.path, HOST)
    os.mkdir(shared.spill_dir)
    assert not shares_store(shared.path, HOST)


@pytest.mark.parametrize("content", [None, "", "{", "[]", "5", "{}", '{"spill_dir": 5}', '{"spill_dir": "/"}'])
def test_a_malformed_store_is_not_shared(tmp_path, content):
    if content is not None:
        (tmp_path / "store.json").write_text(content)
    assert not shares_store(str(tmp_path), HOST)


@pytest.mark.parametrize("path", [None, 5, "", "\0", b"\xff"])
def test_a_malformed_path_is_not_shared(path):
    """A host sends its own row, so the row may have any value."""
    assert not shares_store(path, HOST)
