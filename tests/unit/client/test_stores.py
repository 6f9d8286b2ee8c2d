"""The stores that a process can reach, and the errors about those that are gone."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import Any

import pytest

from zray.client.stores import Stores
from zray.exceptions import ObjectLostError
from zray.protocol.records import HostInfo, HostState
from zray.store import Store
from zray.store.sections import NO_SHIELD
from zray.system.machine import machine_id

HOST = b"host".ljust(16, b"\0")
OBJECT = b"o" * 28


@pytest.fixture
def hosts() -> list[HostState]:
    """The live hosts."""
    return []


@pytest.fixture
def stores(tmp_path: Path, hosts: list[HostState]) -> Any:
    store = Store.create(str(tmp_path / "store"), str(tmp_path / "spill"), 1 << 22, 1.0, HOST)
    hosts.append(HostState(HOST, HostInfo(machine_id=machine_id(), store=store.path), {}, {}, workers=0))
    stores = Stores(b"", hosts, lambda: hosts, lambda: NO_SHIELD, print)
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


def test_a_host_that_has_died(stores, hosts):
    hosts.clear()
    assert loss(stores).endswith("the host that kept it (686f7374) has died, and no other has a copy")


def test_a_store_that_went_with_its_host_before_the_broker_knows(stores, hosts):
    shutil.rmtree(hosts[0].info.store)
    assert loss(stores).endswith("the host that kept it (686f7374) has died, and no other has a copy")


def test_a_store_that_is_open_and_went_with_its_host(stores, hosts):
    loss(stores)
    shutil.rmtree(hosts[0].info.store)
    assert loss(stores).endswith("the host that kept it (686f7374) has died, and no other has a copy")
