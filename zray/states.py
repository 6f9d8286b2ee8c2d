"""Tables of states: the states that a record can be in, and which state may follow which.

A kind of record, such as a task or a worker, has an enumeration of its states (a ``State``, whose members say what they
mean) and one ``Machine``, which holds its transitions and the cause of each. The state of a record changes in one
method of the record, ``enter``, which looks up the new state in the table::

    def enter(self, state: int) -> None:
        self.state = TASK.after[self.state][state]

Every change consults the table, which takes 0.05 us. A change that is not in the table is a fault of zray itself. It
raises ``IllegalTransition``, and the record keeps its state.

The machines are in the files ``states.py`` of ``broker``, ``client``, ``client/core`` and ``transfer``.
``docs/states.md`` is made from them by ``zray.testing.states``.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Generic, TypeVar


class IllegalTransition(AssertionError):
    """A record was told to enter a state that cannot follow its present state: a fault of zray itself."""


class State(IntEnum):
    """A state. Members are declared as ``NAME = number, "what it means"``. Messages may carry the numbers."""

    meaning: str

    def __new__(cls, number: int, meaning: str) -> State:
        member = int.__new__(cls, number)
        member._value_ = number
        member.meaning = meaning
        return member


S = TypeVar("S", bound=State)


class Successors(dict[int, S]):
    """The states that may follow one state, by number. Looking up any other raises ``IllegalTransition``."""

    def __init__(self, machine: Machine[S], state: S) -> None:
        super().__init__({successor: successor for successor in machine.causes.get(state, ())})
        self._machine = machine
        self._state = state

    def __missing__(self, number: int) -> S:
        named = {int(state): state.name for state in self._machine.states}
        wanted = named.get(number, str(number))
        raise IllegalTransition(f"{self._machine.name}: {wanted} cannot follow {self._state.name}")


class Machine(Generic[S]):
    """The states of one kind of record and its transitions.

    ``name``: of the record, in errors and in the documentation. ``initial``: the states in which it may begin.
    ``causes``: for each state, the states that may follow it, and the cause of each. A state without a row is final.
    ``after``: the same as a table for lookups, see the module's docstring.
    """

    def __init__(self, name: str, initial: tuple[S, ...], causes: Mapping[S, Mapping[S, str]]) -> None:
        self.name = name
        self.states: type[S] = type(initial[0])
        self.initial = initial
        self.causes = causes
        self.after: dict[S, Successors[S]] = {state: Successors(self, state) for state in self.states}
