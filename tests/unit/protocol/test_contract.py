"""All cores keep the contract: the same inputs, with the time, and one output."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest

from zray.broker.core import BrokerCore
from zray.broker.membership import Membership, Rules
from zray.client.core.client_core import ClientCore
from zray.protocol.contract import BROKER, Core, Outbox
from zray.protocol.messages import Forward, ProcessDied, Watch
from zray.protocol.routing import CHUNK_BYTES, through_broker
from zray.transfer.core import TransferCore
from zray.worker.host.core import HostCore

ME, OTHER, THIRD = b"m" * 16, b"o" * 16, b"t" * 16

CORES: dict[str, Callable[[], Core[Any]]] = {
    "broker": lambda: BrokerCore(lambda: bytes(16)),
    "membership": lambda: Membership(bytes(8), Rules(1.0, 6.0, 1 << 20, False), None, lambda *who: ""),
    "client": lambda: ClientCore(ME, bytes(16), 1 << 20),
    "host": lambda: HostCore("machine"),
    "transfer": lambda: TransferCore(ME, is_host=True),
}
CONTRACT = ("receive", "tick", "due_s", "take_output", "check")

QUERIES = {
    "broker": {"may_join", "is_member"},
    "membership": {"silent_s", "route"},
    "client": {"only_task"},
    "host": set(),
    "transfer": {"place_for", "is_at_rest"},
}
"""The methods that only read."""
CALLED_BY_USERS = {"client": {"cancel", "new_task_id", "export", "new_request", "query", "send"}}
"""The methods of a client that user code calls, see the sixth rule."""


@pytest.fixture(params=CORES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_every_input_has_the_time(name: str) -> None:
    known = {*CONTRACT, *QUERIES[name], *CALLED_BY_USERS.get(name, ())}
    for method_name, method in vars(type(CORES[name]())).items():
        if method_name.startswith("_") or not inspect.isfunction(method) or method_name in known:
            continue
        assert getattr(method, "is_event", False), f"{method_name} is neither an event nor a known method"
        assert list(inspect.signature(method).parameters)[-1] == "now", method_name


def test_the_signatures_are_those_of_the_contract(name: str) -> None:
    for method_name in CONTRACT:
        mine = list(inspect.signature(getattr(type(CORES[name]()), method_name)).parameters)
        assert mine == list(inspect.signature(getattr(Core, method_name)).parameters), method_name


def test_output_is_taken_once(name: str) -> None:
    core = CORES[name]()
    core.tick(1.0)
    core.take_output()
    assert not core.take_output()
    assert core.due_s(1.0) > 0
    core.check()


# ------------------------------------------------------------------ outbox and routing


def test_an_outbox_keeps_the_order_of_each_destination() -> None:
    outbox: Outbox[str] = Outbox()
    assert not outbox and not outbox.take()
    outbox.send(OTHER, 1)
    outbox.to_broker("a")
    outbox.perform("later")
    outbox.send(THIRD, 2)
    outbox.send(OTHER, 3)
    outbox.to_broker("b")
    assert outbox
    output = outbox.take()
    assert list(output.sends.items()) == [(BROKER, ["a", "b"]), (OTHER, [1, 3]), (THIRD, [2])]
    assert output.effects == ["later"] and output
    assert not outbox.take() and not outbox
    outbox.to_broker("c")
    outbox.send(BROKER, "d")
    outbox.send(OTHER, 4)
    outbox.to_broker("e")
    assert outbox.take().sends == {BROKER: ["c", "d", "e"], OTHER: [4]}, "to_broker and send share one order"
    assert output.sends[BROKER] == ["a", "b"], "a taken output does not change"


def test_messages_for_others_come_after_those_for_the_broker() -> None:
    watch, died = Watch(OTHER), ProcessDied(THIRD, "it was killed")
    messages = through_broker({OTHER: [died, died], BROKER: [watch], THIRD: [died]})
    assert messages[0] == watch
    assert [(type(each), each.dest) for each in messages[1:]] == [(Forward, OTHER), (Forward, THIRD)]
    assert through_broker({}) == [] and through_broker({BROKER: [watch]}) == [watch]


def test_large_forwards_are_split() -> None:
    from zray.protocol.messages import ObjectState

    large = ObjectState(bytes(28), 1, bytes(CHUNK_BYTES), b"", 0, b"")
    small = large._replace(data=b"x")
    assert len(through_broker({OTHER: [small, large, small, small]})) == 2
