"""The cluster's key-value store in the broker."""

from __future__ import annotations

import pytest

from zray.broker.key_values import ENTRY_BYTES, KeyValues
from zray.protocol.key_values import KvCount, KvDelete, KvGet, KvKeys, KvList, KvPut, KvValue
from zray.protocol.messages import FROM_OBSERVER

from .harness import BrokerHarness


class Asker:
    """A driver of a broker, which asks and takes the answer."""

    def __init__(self, broker: BrokerHarness, name: str = "driver") -> None:
        self.broker = broker
        self.process_id = broker.driver(name)

    def ask(self, message: object) -> object:
        self.broker.say(self.process_id, message)
        (answer,) = self.broker.take(self.process_id, KvCount, KvValue, KvKeys)
        return answer

    def put(self, key: bytes, value: bytes, overwrite: bool = True, space: bytes = b"") -> object:
        return self.ask(KvPut(1, space, key, value, overwrite))

    def get(self, key: bytes, space: bytes = b"") -> object:
        return self.ask(KvGet(2, space, key, True))


@pytest.fixture
def broker() -> BrokerHarness:
    return BrokerHarness()


@pytest.fixture
def asker(broker: BrokerHarness) -> Asker:
    return Asker(broker)


def test_put_and_get(asker: Asker) -> None:
    assert asker.get(b"k") == KvValue(2, False, b"")
    assert asker.put(b"k", b"1") == KvCount(1, 1, "")
    assert asker.get(b"k") == KvValue(2, True, b"1")
    assert asker.put(b"k", b"22", overwrite=False) == KvCount(1, 0, "")
    assert asker.get(b"k") == KvValue(2, True, b"1")
    assert asker.put(b"k", b"22") == KvCount(1, 0, "")
    assert asker.get(b"k") == KvValue(2, True, b"22")


def test_whether_there_is_a_value_without_the_value(asker: Asker) -> None:
    asker.put(b"k", b"value")
    assert asker.ask(KvGet(3, b"", b"k", False)) == KvValue(3, True, b"")


def test_namespaces_are_apart(asker: Asker) -> None:
    asker.put(b"k", b"1", space=b"one")
    assert asker.get(b"k") == KvValue(2, False, b"")
    assert asker.ask(KvList(3, b"one", b"")) == KvKeys(3, [b"k"])
    assert asker.ask(KvDelete(4, b"two", b"k", False)) == KvCount(4, 0, "")


def test_prefixes(asker: Asker) -> None:
    for key in (b"a1", b"a2", b"b1"):
        asker.put(key, b"")
    assert asker.ask(KvList(3, b"", b"a")) == KvKeys(3, [b"a1", b"a2"])
    assert asker.ask(KvDelete(4, b"", b"a", False)) == KvCount(4, 0, "")
    assert asker.ask(KvDelete(4, b"", b"a", True)) == KvCount(4, 2, "")
    assert asker.ask(KvList(3, b"", b"")) == KvKeys(3, [b"b1"])


def test_it_outlives_who_put_a_value(broker: BrokerHarness, asker: Asker) -> None:
    asker.put(b"k", b"1")
    broker.lose(asker.process_id)
    assert Asker(broker, "other").get(b"k") == KvValue(2, True, b"1")


def test_it_has_a_bound(broker: BrokerHarness) -> None:
    broker.core.key_values._max_bytes = 2 * ENTRY_BYTES + 20
    asker = Asker(broker)
    assert asker.put(b"a", b"0123456789") == KvCount(1, 1, "")
    assert asker.put(b"b", b"0123456789") != KvCount(1, 1, "")
    assert asker.get(b"b") == KvValue(2, False, b"")
    assert asker.put(b"b", b"01234567") == KvCount(1, 1, "")
    refused = asker.put(b"a", b"01234567890")
    assert isinstance(refused, KvCount)
    assert "full" in refused.fault
    assert asker.get(b"a") == KvValue(2, True, b"0123456789")
    asker.ask(KvDelete(4, b"", b"b", False))
    assert asker.put(b"a", b"01234567890") == KvCount(1, 0, "")


def test_observers_do_not_use_it() -> None:
    assert not FROM_OBSERVER & {KvPut, KvGet, KvDelete, KvList}


def test_a_new_store_is_empty() -> None:
    store = KeyValues(lambda dest, message: None)
    store.check()
    assert store.n_bytes == 0
