"""The stores that a process can reach, and what is said of those that have gone."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import Any

import pytest

from zray.client.stores import Stores
from zray.exceptions import ObjectLostError
from zray.store import Store
from zray.store.sections import NO_SHIELD
from zray.util.machine import machine_id

HOST = b"host".ljust(16, b"\0")
OBJECT = b"o" * 28


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    """The hosts that live."""
    return []


@pytest.fixture
def stores(tmp_path: Path, rows: list[dict[str, Any]]) -> Any:
    store = Store.create(str(tmp_path / "store"), str(tmp_path / "spill"), 1 << 22, 1.0, HOST)
    rows.append({"host_id": HOST, "machine_id": machine_id(), "store": store.path, "fetch": ""})
    stores = Stores(b"", rows, lambda: rows, lambda: NO_SHIELD, print)
    yield stores
    stores.close()
    with contextlib.suppress(OSError):
        store.close()


def loss(stores: Stores) -> str:
    with pytest.raises(ObjectLostError) as caught:
        stores.read(HOST, OBJECT)
    return str(caught.value)


def test_a_segment_that_is_gone(stores):
    assert loss(stores) == f"object {OBJECT.hex()} is lost: its segment is gone from the store"


def test_a_host_that_has_died(stores, rows):
    rows.clear()
    assert loss(stores).endswith("the host that kept it (686f7374) has died, and no other has a copy")


def test_a_store_that_went_with_its_host_before_the_broker_knows(stores, rows):
    shutil.rmtree(rows[0]["store"])
    assert loss(stores).endswith("the host that kept it (686f7374) has died, and no other has a copy")


def test_a_store_that_is_open_and_went_with_its_host(stores, rows):
    loss(stores)
    shutil.rmtree(rows[0]["store"])
    assert loss(stores).endswith("the host that kept it (686f7374) has died, and no other has a copy")
