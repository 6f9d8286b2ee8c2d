"""Questions that the broker cannot answer alone: it asks those who can, and waits for their answers.

Nobody reports anything unasked, so this costs nothing while nobody looks.  Who does not answer in time (his code holds
the interpreter's lock, or he is stopped) is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from zray.broker.records import Process
from zray.protocol.messages import HostInspected, Inspect, Inspected
from zray.protocol.records import Activity

PATIENCE_S = 0.5
MAX_OPEN = 8
"""Questions of one process at a time; what it asks beyond is answered with what the broker knows."""


class Found:
    """What those who were asked have answered: ``activities`` of drivers and workers, ``hosts``: what hosts use."""

    __slots__ = ("activities", "hosts")

    def __init__(self) -> None:
        self.activities: dict[bytes, Activity] = {}
        self.hosts: dict[bytes, HostInspected] = {}


class _Round:
    """``open``: who has not answered; ``found``: what the others said."""

    __slots__ = ("asker", "found", "on_end", "open", "until")

    def __init__(self, asker: bytes, open_: dict[bytes, None], until: float, on_end: Callable[[Found], None]) -> None:
        self.asker = asker
        self.open = open_
        self.until = until
        self.on_end = on_end
        self.found = Found()


class Inspections:
    """State: the rounds of questions that are open, by number. ``clock()``: the time of what is being done."""

    def __init__(
        self,
        processes: Mapping[bytes, Process],
        send: Callable[[bytes, Any], None],
        clock: Callable[[], float],
    ) -> None:
        self._processes = processes
        self._send = send
        self._clock = clock
        self._rounds: dict[int, _Round] = {}
        self._next = 1

    def ask(self, asker: bytes, processes: Iterable[bytes], on_end: Callable[[Found], None]) -> None:
        """Asks processes what they do; ``on_end`` gets the answers that came in time.

        Nobody is asked for somebody who asks again and again before it is answered.
        """
        if sum(each.asker == asker for each in self._rounds.values()) >= MAX_OPEN:
            on_end(Found())
            return
        asked = dict.fromkeys(each for each in processes if each in self._processes)
        number = self._next
        self._next += 1
        self._rounds[number] = _Round(asker, asked, self._clock() + PATIENCE_S, on_end)
        for process_id in asked:
            self._send(process_id, Inspect(number))
        self._end_if_complete(number)

    def on_inspected(self, source: Process, message: Inspected | HostInspected) -> None:
        """An answer."""
        asked = self._rounds.get(message.request)
        if asked is not None and source.process_id in asked.open:
            del asked.open[source.process_id]
            if isinstance(message, HostInspected):
                asked.found.hosts[source.process_id] = message
            else:
                asked.found.activities[source.process_id] = message.activity
            self._end_if_complete(message.request)

    def process_lost(self, process_id: bytes) -> None:
        """Who is gone does not answer; who has asked wants no answer."""
        for number, each in list(self._rounds.items()):
            if each.asker == process_id:
                del self._rounds[number]
            elif process_id in each.open:
                del each.open[process_id]
                self._end_if_complete(number)

    def tick(self, now: float) -> None:
        """Ends the rounds whose time is up."""
        for number in [number for number, each in self._rounds.items() if now >= each.until]:
            each = self._rounds.pop(number)
            each.on_end(each.found)

    def _end_if_complete(self, number: int) -> None:
        each = self._rounds[number]
        if not each.open:
            del self._rounds[number]
            each.on_end(each.found)
