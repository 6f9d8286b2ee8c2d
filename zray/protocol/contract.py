"""One contract for every core: what comes in, what goes out, and who performs it.

A *core* decides, and does nothing else. It has no socket, clock, thread or randomness. A *shell* owns these: it brings
what has happened to the core, and performs what the core wants done. So whoever knows one core knows all of them, and
the simulation (``zray/testing``) runs the cores that a cluster runs.

The rules:

1. What other processes say comes in by ``receive``. The shell vouches for ``source``: the name is the sender's.
2. What happens in the process itself comes in by methods marked with ``event``. Their last parameter is ``now``.
3. Time comes in with each message and event, in seconds of a clock that never runs backwards. ``tick`` brings it at
   least every ``TICK_S``. Where ``due_s`` says so, a turn is due sooner, an empty one if nothing comes.
4. In a turn, that is one or more inputs, the shell takes the ``Output`` and performs all of it: ``effects`` in order,
   and ``sends`` in each destination's order, those to ``BROKER`` before those to others. Sends may wait for the end of
   the turn. What is performed may be an input again. The turn is over when the output is empty.
5. A message that is no good raises ProtocolError. The message is dropped, and what was right before stays right. No
   other exception is expected of a core.
6. Other public methods and attributes are for reading. Only the tables of a client, which user code calls, are changed
   by their methods as well: such a method returns what user code needs, so it cannot be an event.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

BROKER = b""
"""The broker's name, as a source and as a destination."""
TICK_S = 0.25
"""A core is told the time at least so often, in seconds."""

E = TypeVar("E")
E_co = TypeVar("E_co", covariant=True)
F = TypeVar("F", bound=Callable[..., Any])


class Output(Generic[E]):
    """What a core wants done. False if that is nothing."""

    __slots__ = ("effects", "sends")

    def __init__(self, sends: dict[bytes, list[Any]], effects: list[E]) -> None:
        self.sends = sends
        """Messages by destination (the identifier of a process, or ``BROKER``), in order."""
        self.effects = effects
        """What the shell is to do besides, in order."""

    def __bool__(self) -> bool:
        return bool(self.sends or self.effects)

    def add_sends_to(self, unsent: dict[bytes, list[Any]]) -> None:
        """Puts what is to be sent behind what waits for the end of the turn."""
        for dest, messages in self.sends.items():
            unsent.setdefault(dest, []).extend(messages)


class Outbox(Generic[E]):
    """What a core gathers for its next output. Its tables share it."""

    __slots__ = ("_effects", "_sends", "_to_broker", "perform", "to_broker")

    def __init__(self) -> None:
        self._to_broker: list[Any] = []
        self._sends: dict[bytes, list[Any]] = {}
        self._effects: list[E] = []
        self.to_broker: Callable[[Any], None] = self._to_broker.append
        """Sends a message to the broker."""
        self.perform: Callable[[E], None] = self._effects.append
        """Has the shell do something."""

    def send(self, dest: bytes, message: Any) -> None:
        """Sends a message to a process, or to the broker."""
        if dest == BROKER:
            self._to_broker.append(message)
            return
        messages = self._sends.get(dest)
        if messages is None:
            self._sends[dest] = [message]
        else:
            messages.append(message)

    def __bool__(self) -> bool:
        """Whether something has been gathered. (To ask is cheaper than to take nothing.)"""
        return bool(self._to_broker or self._effects or self._sends)

    def take(self) -> Output[E]:
        """What has been gathered since the last call."""
        sends: dict[bytes, list[Any]] = {}
        effects: list[E] = []
        if self._to_broker:
            sends[BROKER] = self._to_broker[:]
            self._to_broker.clear()
        if self._sends:
            sends.update(self._sends)
            self._sends = {}
        if self._effects:
            effects = self._effects[:]
            self._effects.clear()
        return Output(sends, effects)


class Core(Protocol[E_co]):
    """What every core can do. ``E_co``: the types of its effects."""

    def receive(self, source: bytes, message: Any, now: float) -> None:
        """A message of a process has arrived. Raises ProtocolError if its content is no good."""

    def tick(self, now: float) -> None:
        """Time has passed."""

    def due_s(self, now: float) -> float:
        """In so many seconds a turn has something to do, though nothing comes in; infinite if nothing is due."""

    def take_output(self) -> Output[Any]:
        """What is to be done now. It is taken away: the next call returns what has come since."""

    def check(self) -> None:
        """Raises AssertionError if an invariant does not hold; for tests and the simulation."""


def event(method: F) -> F:
    """Marks a method of a core by which something that has happened in the process itself comes in."""
    method.is_event = True  # type: ignore[attr-defined]
    return method
