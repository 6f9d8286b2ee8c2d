"""The tables of states: what is not in them raises, everything in them can be reached, and nothing goes around them."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from zray.broker.group_records import Group
from zray.broker.records import Actor, Host, Worker
from zray.broker.resources import Pool
from zray.broker.states import ACTOR, GROUP, WORKER
from zray.client.core.client_core import ClientCore
from zray.client.core.lanes import Lane
from zray.client.core.payloads import Arguments
from zray.client.core.references import Entry
from zray.client.core.states import INLINE, LANE, OBJECT, TASK, VIEW
from zray.client.core.tasks import Task
from zray.client.shell import ClientShell
from zray.client.states import CONNECTION
from zray.protocol import messages as m
from zray.protocol.link import Link
from zray.protocol.records import GroupSpec, HostInfo
from zray.states import IllegalTransition, Machine, State
from zray.testing.states import MACHINES, transitions, transitions_seen
from zray.transfer.records import Incoming, Peer
from zray.transfer.states import CHANNEL, PULL

ROOT = Path(__file__).resolve().parents[2]
PROCESS = b"p" * 16


def core() -> ClientCore:
    return ClientCore(PROCESS, b"h" * 16, 1000)


def task() -> Task:
    arguments = Arguments(INLINE, b"", b"", b"", 0, (), ())
    return Task(b"t" * 24, core().queue_route, b"", b"", 0, b"", arguments, 1, 0, b"")


def group() -> Group:
    return Group(b"g" * 16, GroupSpec("", "", "PACK", [], False, b""), b"j" * 4, b"", True, 0.0)


RECORDS: dict[Machine[Any], Callable[[], Any]] = {
    TASK: task,
    OBJECT: Entry,
    VIEW: lambda: core().actors.view(b"a" * 24, ordered=True),
    ACTOR: lambda: Actor(b"a" * 24),
    WORKER: lambda: Worker(PROCESS, Host(b"h" * 16, Pool({}), HostInfo())),
    PULL: lambda: Incoming(1, b"o" * 28, PROCESS, 1),
    CHANNEL: lambda: Peer(PROCESS),
    LANE: lambda: Lane(b"n" * 16, b"q" * 16, b"a" * 24, Link(bytes(8), frozenset(), 0.0), core().lanes),
    CONNECTION: lambda: ClientShell.__new__(ClientShell),
    GROUP: group,
}
"""A new record for each machine."""
ENTER = {CONNECTION: "_enter_state"}
ATTRIBUTE = {OBJECT: "status"}

machines = pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.name)


def record_in(machine: Machine[Any], state: State) -> tuple[Any, str, Callable[[int], None]]:
    """A record in a state, the name of its attribute, and the method that changes it."""
    record, attribute = RECORDS[machine](), ATTRIBUTE.get(machine, "state")
    setattr(record, attribute, state)
    return record, attribute, getattr(record, ENTER.get(machine, "enter"))


@machines
def test_a_record_enters_the_states_that_the_table_names_and_no_other(machine: Machine[Any]) -> None:
    for state in machine.states:
        for wanted in machine.states:
            record, attribute, enter = record_in(machine, state)
            if (state, wanted) in transitions(machine):
                enter(wanted)
                assert getattr(record, attribute) is wanted
            else:
                with pytest.raises(IllegalTransition) as caught:
                    enter(wanted)
                assert str(caught.value) == f"{machine.name}: {wanted.name} cannot follow {state.name}"
                assert getattr(record, attribute) is state


@machines
def test_a_number_becomes_the_state(machine: Machine[Any]) -> None:
    """Some come by the network."""
    before, after = transitions(machine)[0]
    record, attribute, enter = record_in(machine, before)
    enter(int(after))
    assert getattr(record, attribute) is after


@machines
def test_a_number_that_is_no_state(machine: Machine[Any]) -> None:
    _, _, enter = record_in(machine, machine.initial[0])
    with pytest.raises(IllegalTransition, match=f"99 cannot follow {machine.initial[0].name}"):
        enter(99)


@machines
def test_each_state_can_be_reached(machine: Machine[Any]) -> None:
    reached = set(machine.initial)
    while more := {after for before, after in transitions(machine) if before in reached} - reached:
        reached |= more
    assert reached == set(machine.states.__members__.values())


@machines
def test_each_state_and_transition_is_explained(machine: Machine[Any]) -> None:
    causes = [machine.causes[before][after] for before, after in transitions(machine)]
    texts = [*(state.meaning for state in machine.states), *causes]
    assert all(text.endswith(".") and "|" not in text and "\n" not in text for text in texts)


def test_what_travels_keeps_its_number() -> None:
    assert [(state.name, int(state)) for state in OBJECT.states] == [
        ("PENDING", 0), ("INLINE", 1), ("STORED", 2), ("ERROR", 3), ("HANDLE", 4),
    ]  # fmt: skip
    assert [(state.name, int(state)) for state in m.ActorStatus] == [
        ("PENDING_CREATION", 0), ("ALIVE", 1), ("RESTARTING", 2), ("DEAD", 3),
    ]  # fmt: skip


def test_transitions_are_counted_within_the_block_only() -> None:
    with transitions_seen() as seen:
        Entry().enter(INLINE)
        with pytest.raises(IllegalTransition):
            Entry(INLINE).enter(INLINE)
    Entry().enter(INLINE)
    assert seen[OBJECT.name] == {transitions(OBJECT)[0]: 1}


ASSIGNED = re.compile(r"\.(?:state|status)\b[^=\n]*=[^=]")


def test_states_are_written_by_one_method_of_each_record() -> None:
    """``state`` and ``status`` are assigned to where a record is made, and where its table is looked up."""
    found: list[str] = []
    for path in sorted((ROOT / "zray").rglob("*.py")):
        if ASSIGNED.search(text := path.read_text()):
            found.extend(f"{path.relative_to(ROOT)}:{line}" for line in _assignments(ast.parse(text)))
    assert found == []


STATES = ("state", "status")


def _assignments(tree: ast.Module) -> Iterator[int]:
    """The lines that assign to a state, outside of the methods that may."""
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef) and function.name not in ("__init__", "enter", "_enter_state"):
            for node in ast.walk(function):
                if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and node.attr in STATES:
                    yield node.lineno
