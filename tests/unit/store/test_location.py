"""Where the store goes on machines with and without shared memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from zray.store import default_store_location, location

MIB = 1 << 20


@pytest.fixture
def free_bytes(monkeypatch):
    """Sets what /dev/shm and the directory for temporary files have free."""

    def have(shared, disk=1000 * MIB):
        monkeypatch.setattr(location, "_available", lambda path: shared if path == location.SHARED_MEMORY else disk)

    return have


def test_shared_memory_is_preferred(free_bytes):
    free_bytes(500 * MIB)
    path, capacity, warning = default_store_location("abc", 200 * MIB)
    assert (path.parent, capacity, warning) == (Path("/dev/shm"), 200 * MIB, None)
    assert path.name.endswith("-abc")


def test_the_capacity_is_what_there_is(free_bytes):
    free_bytes(500 * MIB)
    path, capacity, warning = default_store_location("abc", 900 * MIB)
    assert (path.parent, capacity) == (Path("/dev/shm"), 500 * MIB)
    assert "only 524,288,000 bytes" in warning


@pytest.mark.parametrize(("shared", "why"), [(64 * MIB, "has only 67,108,864"), (0, "missing, full or not writable")])
def test_without_enough_shared_memory_the_store_is_on_disk_and_says_so(free_bytes, tmp_path, monkeypatch, shared, why):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    free_bytes(shared)
    path, capacity, warning = default_store_location("abc", 2000 * MIB)
    assert (path.parent, capacity) == (tmp_path, 1000 * MIB)
    assert why in warning and "--shm-size" in warning


def test_a_small_store_fits_into_small_shared_memory(free_bytes):
    free_bytes(64 * MIB)
    assert default_store_location("abc", 40 * MIB)[1:] == (40 * MIB, None)


def test_what_is_missing_or_closed_has_nothing_available(tmp_path):
    assert location._available(tmp_path / "missing") == 0
    assert location._available(tmp_path) > 0
