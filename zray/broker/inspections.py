"""Questions that the broker cannot answer alone: it asks those who can, and waits for their answers.

Nobody reports anything unasked, so this costs nothing while nobody looks.  Who does not answer in time (his code holds
the interpreter's lock, or he is stopped) is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from zray.broker.records import Process
from zray.protocol.messages import HOST, Inspect, Inspected, ProtocolError

if TYPE_CHECKING:
    from zray.broker.core import BrokerCore

PATIENCE_S = 0.5
MAX_OPEN = 8
"""Questions of one process at a time; it needs one."""

Found = dict[bytes, dict[str, Any]]
"""What was found, by process."""


class _Round:
    """``open``: who has not answered; ``found``: what the others said."""

    __slots__ = ("asker", "found", "on_end", "open", "until")

    def __init__(self, asker: bytes, open_: dict[bytes, None], until: float, on_end: Callable[[Found], None]) -> None:
        self.asker = asker
        self.open = open_
        self.until = until
        self.on_end = on_end
        self.found: Found = {}


class Inspections:
    """State: the rounds of questions that are open, by number. ``clock()``: the time of what is being done."""

    def __init__(self, core: BrokerCore, clock: Callable[[], float]) -> None:
        self._core = core
        self._clock = clock
        self._rounds: dict[int, _Round] = {}
        self._next = 1

    def ask(self, asker: bytes, processes: Iterable[bytes], on_end: Callable[[Found], None]) -> None:
        """Asks processes what they do; ``on_end`` gets the answers that came in time.

        Raises ProtocolError for an asker who asks again and again before it is answered.
        """
        if sum(each.asker == asker for each in self._rounds.values()) >= MAX_OPEN:
            raise ProtocolError(f"{MAX_OPEN} questions of this process are open already")
        asked = dict.fromkeys(each for each in processes if each in self._core.processes)
        number = self._next
        self._next += 1
        self._rounds[number] = _Round(asker, asked, self._clock() + PATIENCE_S, on_end)
        for process_id in asked:
            self._core.send(process_id, Inspect(number))
        self._end_if_complete(number)

    def on_inspected(self, source: Process, message: Inspected) -> None:
        """An answer."""
        if source.kind == HOST:
            _check_host(message.found)
        else:
            _check_client(message.found)
        asked = self._rounds.get(message.request)
        if asked is not None and source.process_id in asked.open:
            del asked.open[source.process_id]
            asked.found[source.process_id] = message.found
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


def _check_host(found: dict[str, Any]) -> None:
    for amounts in (found.get("store"), found.get("memory")):
        if type(amounts) is not dict or not all(type(x) is str and type(y) is int for x, y in amounts.items()):
            raise ProtocolError("malformed account of what a host uses")


def _check_client(found: dict[str, Any]) -> None:
    running, waits, arguments = (found.get(name) for name in ("running", "waits", "arguments"))
    if type(running) is not list or type(waits) is not list or type(arguments) is not dict:
        raise ProtocolError("malformed account of what a process does")
    if not all(type(row) is list and [type(x) for x in row] == [str, float, bytes] for row in running):
        raise ProtocolError("malformed account of what a process runs")
    if not all(type(row) is list and [type(x) for x in row] == [bytes, str, bytes] for row in waits):
        raise ProtocolError("malformed account of what a process waits for")
    if not all(type(name) is str and type(count) is int for name, count in arguments.items()):
        raise ProtocolError("malformed account of what waits for arguments")
