"""The one contract of all cores: their inputs, their output, and how a shell performs it.

A *core* decides, and does nothing else. It has no socket, clock, thread or randomness. A *shell* owns these: it tells
the core what has happened, and performs the core's output. All cores work this way, so a reader has to learn it only
once, and the simulation (``zray/testing``) runs the same cores as a cluster.

The rules:

1. Messages of other processes come in by ``receive``. The shell guarantees that ``source`` is the real sender.
2. What happens in the process itself comes in by methods marked with ``event``. Their last parameter is ``now``.
3. Each message and event brings the time, in seconds of a clock that never runs backwards. ``tick`` brings it at least
   every ``TICK_S``. If ``due_s`` says so, the shell runs a turn sooner, an empty one if nothing comes.
4. A turn is one or more inputs. In it the shell takes the ``Output`` and performs all of it: ``effects`` in order, and
   ``sends`` in the order of each destination, those to ``BROKER`` before those to others. Sends may wait for the end of
   the turn. Performing an effect may cause new inputs. The turn is over when the output is empty.
5. A core raises ProtocolError for a malformed or disallowed message. The message is dropped, and the core's state stays
   consistent. A core must not raise any other exception.
6. Other public methods and attributes are for reading. The only exception is the tables of a client, which user code
   calls: their methods change them and return what user code needs, so they cannot be events.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

BROKER = b""
"""The broker's name, as a source and as a destination."""
TICK_S = 0.25
"""The longest time between two ticks of a core, in seconds."""

E = TypeVar("E")
E_co = TypeVar("E_co", covariant=True)
F = TypeVar("F", bound=Callable[..., Any])


class Output(Generic[E]):
    """What a core wants done. False if it is empty."""

    __slots__ = ("effects", "sends")

    def __init__(self, sends: dict[bytes, list[Any]], effects: list[E]) -> None:
        self.sends = sends
        """Messages by destination (the identifier of a process, or ``BROKER``), in order."""
        self.effects = effects
        """What the shell must do besides sending, in order."""

    def __bool__(self) -> bool:
        return bool(self.sends or self.effects)

    def add_sends_to(self, unsent: dict[bytes, list[Any]]) -> None:
        """Appends the sends to those that wait for the end of the turn."""
        for dest, messages in self.sends.items():
            unsent.setdefault(dest, []).extend(messages)


class Outbox(Generic[E]):
    """Collects the next output of a core. The tables of the core share it."""

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
        """Whether something has been collected. (Asking is cheaper than taking an empty output.)"""
        return bool(self._to_broker or self._effects or self._sends)

    def take(self) -> Output[E]:
        """Takes what has been collected since the last call."""
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
    """The interface of every core. ``E_co``: the types of its effects."""

    def receive(self, source: bytes, message: Any, now: float) -> None:
        """Handles a message of a process. Raises ProtocolError if its content is malformed or not allowed."""

    def tick(self, now: float) -> None:
        """Does what depends on the time."""

    def due_s(self, now: float) -> float:
        """In how many seconds a turn has something to do even if nothing comes in; infinite if never."""

    def take_output(self) -> Output[Any]:
        """Takes what the core wants done. The next call returns only what has been added since."""

    def check(self) -> None:
        """Raises AssertionError if an invariant does not hold; for tests and the simulation."""


def event(method: F) -> F:
    """Marks a method of a core as an event: the shell calls it when something has happened in the process itself."""
    method.is_event = True  # type: ignore[attr-defined]
    return method
