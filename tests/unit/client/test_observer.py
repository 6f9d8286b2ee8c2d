"""An observer's connection: questions one after the other, and answers that come too late."""

from __future__ import annotations

from typing import Any

import pytest

from zray.client import observer as module
from zray.client.observer import Observer, ask_broker
from zray.config import Config
from zray.exceptions import ClusterUnavailableError
from zray.protocol.messages import OBSERVER, Goodbye
from zray.protocol.questions import BrokerCounts, CountsQuery, Resources, ResourcesQuery
from zray.protocol.state_questions import StateOfJobs


class Connection:
    """Gives what a test has put into ``arrived``, one batch at a time. ``sent``: the messages of the observer."""

    def __init__(self, arrived: list[list[Any]]) -> None:
        self.socket = self.link = self
        self.arrived = arrived
        self.sent: list[Any] = []
        self.closed = False

    def poll(self, timeout_ms: int, events: int) -> int:
        return 0

    def receive(self) -> list[Any]:
        return self.arrived.pop(0) if self.arrived else []

    def tick(self, now: float) -> None:
        pass

    def flush(self, messages: list[Any]) -> bool:
        self.sent += messages
        return True

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def connection(monkeypatch: pytest.MonkeyPatch) -> Connection:
    made = Connection([])

    def connect(address: str, kind: str, *_: Any) -> Connection:
        assert (address, kind) == ("ipc:///x", OBSERVER)
        return made

    monkeypatch.setattr(module, "connect", connect)
    return made


def counts(request: int) -> BrokerCounts:
    return BrokerCounts(request, 0, 0, 0, 0, 0, 0, 0, 0)


def test_one_question_after_the_other(connection: Connection) -> None:
    connection.arrived[:] = [[], [counts(1)], [Resources(2, {"CPU": 2.0})]]
    with Observer("ipc:///x", Config()) as observer:
        assert observer.ask(CountsQuery) == counts(1)
        assert observer.ask(lambda request: ResourcesQuery(request, True)) == Resources(2, {"CPU": 2.0})
        assert connection.sent == [CountsQuery(1), ResourcesQuery(2, True)]
    assert connection.sent[2:] == [Goodbye("it has looked")] and connection.closed


def test_an_answer_that_comes_too_late_is_not_taken_for_the_next_one(connection: Connection) -> None:
    with Observer("ipc:///x", Config()) as observer:
        with pytest.raises(ClusterUnavailableError, match="at 'ipc:///x' has not answered within 0 s"):
            observer.ask(StateOfJobs, timeout_s=0.0)
        connection.arrived[:] = [[counts(1), counts(2)]]
        assert observer.ask(CountsQuery) == counts(2)


def test_a_single_question(connection: Connection) -> None:
    connection.arrived[:] = [[counts(1)]]
    assert ask_broker("ipc:///x", CountsQuery, Config()) == counts(1)
    assert connection.closed
    with pytest.raises(ClusterUnavailableError):
        ask_broker("ipc:///x", CountsQuery, Config(), timeout_s=0.0)
