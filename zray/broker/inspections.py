"""Questions that the broker cannot answer alone: it asks other processes, and waits for their answers.

No process reports anything unasked, so this costs nothing until a question comes. A process that does not answer in
time is left out: its code holds the GIL, or the process is stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from zray.broker.records import Process
from zray.protocol.messages import HostInspected, Inspect, Inspected
from zray.protocol.records import Activity
from zray.protocol.state_questions import RecordsInspected

PATIENCE_S = 0.5
"""How long the broker waits for the answers, unless the question says otherwise."""
MAX_OPEN = 8
"""The number of open questions of one process. The broker answers further ones with what it knows itself."""


class Found:
    """The answers. ``activities``, ``records``: of drivers and workers; ``hosts``: what hosts use."""

    __slots__ = ("activities", "hosts", "records")

    def __init__(self) -> None:
        self.activities: dict[bytes, Activity] = {}
        self.hosts: dict[bytes, HostInspected] = {}
        self.records: dict[bytes, RecordsInspected] = {}


class _Round:
    """One question to several processes. ``open``: those that have not answered; ``found``: the answers so far."""

    __slots__ = ("asker", "found", "on_end", "open", "until")

    def __init__(self, asker: bytes, open_: dict[bytes, None], until: float, on_end: Callable[[Found], None]) -> None:
        self.asker = asker
        self.open = open_
        self.until = until
        self.on_end = on_end
        self.found = Found()


class Inspections:
    """The open rounds of questions, by number. ``clock()``: the time of the present event, in seconds."""

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

    def ask(
        self,
        asker: bytes,
        processes: Iterable[bytes],
        on_end: Callable[[Found], None],
        message: Callable[[int], Any] = Inspect,
        patience_s: float = PATIENCE_S,
    ) -> None:
        """Asks processes what they do. ``on_end`` gets the answers that came within ``patience_s``.

        ``message(number)``: the question to them, with the number of the round.

        If ``asker`` has ``MAX_OPEN`` open questions already, no process is asked and ``on_end`` gets no answers.
        """
        if sum(each.asker == asker for each in self._rounds.values()) >= MAX_OPEN:
            on_end(Found())
            return
        asked = dict.fromkeys(each for each in processes if each in self._processes)
        number = self._next
        self._next += 1
        self._rounds[number] = _Round(asker, asked, self._clock() + patience_s, on_end)
        for process_id in asked:
            self._send(process_id, message(number))
        self._end_if_complete(number)

    def on_inspected(self, source: Process, message: Inspected | HostInspected | RecordsInspected) -> None:
        """Handles an answer."""
        asked = self._rounds.get(message.request)
        if asked is not None and source.process_id in asked.open:
            del asked.open[source.process_id]
            if isinstance(message, HostInspected):
                asked.found.hosts[source.process_id] = message
            elif isinstance(message, RecordsInspected):
                asked.found.records[source.process_id] = message
            else:
                asked.found.activities[source.process_id] = message.activity
            self._end_if_complete(message.request)

    def process_lost(self, process_id: bytes) -> None:
        """A process is gone: drops its own questions, and no longer waits for its answers."""
        for number, each in list(self._rounds.items()):
            if each.asker == process_id:
                del self._rounds[number]
            elif process_id in each.open:
                del each.open[process_id]
                self._end_if_complete(number)

    def tick(self, now: float) -> None:
        """Ends the rounds whose time is over."""
        for number in [number for number, each in self._rounds.items() if now >= each.until]:
            each = self._rounds.pop(number)
            each.on_end(each.found)

    def _end_if_complete(self, number: int) -> None:
        each = self._rounds[number]
        if not each.open:
            del self._rounds[number]
            each.on_end(each.found)
