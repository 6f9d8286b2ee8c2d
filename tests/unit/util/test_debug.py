"""``log_once``: when a key counts as new again."""

from __future__ import annotations

import pytest

from zray.util import debug


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debug, "_logged", set())
    monkeypatch.setattr(debug, "_disabled", False)
    monkeypatch.setattr(debug, "_periodic", False)


def test_keys_are_new_again_after_a_minute_if_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("zray.util.debug.time.monotonic", lambda: now)
    assert debug.log_once("key")
    now += 2 * debug.PERIOD_S
    assert not debug.log_once("key")
    debug.enable_periodic_logging()
    assert not debug.log_once("key")
    assert debug.log_once("key")


def test_it_can_be_switched_off() -> None:
    debug.disable_log_once_globally()
    assert not debug.log_once("key")


def test_keys_can_be_reset() -> None:
    assert debug.log_once("a")
    debug.reset_log_once()
    assert debug.log_once("a")
