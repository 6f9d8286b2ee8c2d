"""Answers where objects are: those of this process, and, by asking their owners, those of others.

States of a question: it is open while an owner has not answered and is not known to be dead. An owner that dies answers
nothing: its objects are left out of the answer. The end of the cluster ends every question, with what is known. If the
asker dies, its owners' answers are dropped by the broker.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from zray.client.core.locations import LocationTable
from zray.client.core.references import ReferenceTable, is_stored
from zray.client.core.states import HANDLE, PENDING
from zray.ids import owner_of, was_put
from zray.protocol.messages import LocationsAsked, LocationsTold, ProtocolError
from zray.protocol.records import ObjectLocation

OnAnswer = Callable[[list[ObjectLocation]], None]


class _Question:
    """``open``: the owners that have not answered. ``found``: the answers so far."""

    __slots__ = ("found", "on_answer", "open")

    def __init__(self, open_: set[bytes], on_answer: OnAnswer) -> None:
        self.open = open_
        self.on_answer = on_answer
        self.found: list[ObjectLocation] = []


class ObjectPlaces:
    """The open questions of this process. ``home``: the host at which its small values count as stored, or empty."""

    def __init__(
        self,
        process_id: bytes,
        home: bytes,
        references: ReferenceTable,
        locations: LocationTable,
        send: Callable[[bytes, Any], None],
    ) -> None:
        self.home = home
        self._process_id = process_id
        self._references = references
        self._locations = locations
        self._send = send
        self._questions: dict[int, _Question] = {}
        self._next = 1

    def own(self, object_ids: Iterable[bytes]) -> list[ObjectLocation]:
        """Where objects of this process are. Objects that it does not know are left out."""
        return [found for object_id in object_ids if (found := self._place(object_id)) is not None]

    def _place(self, object_id: bytes) -> ObjectLocation | None:
        entry = self._references.entries.get(object_id)
        if entry is None or entry.status is HANDLE:
            return None
        if entry.status is PENDING:
            return ObjectLocation(object_id, [], None)
        if is_stored(entry.status, entry.data):
            holders = dict.fromkeys((entry.host, *self._locations.complete(object_id)))
            return ObjectLocation(object_id, [host for host in holders if host], entry.size)
        here = [self.home] if self.home and was_put(object_id) else []
        return ObjectLocation(object_id, here, len(entry.data))

    def ask(self, object_ids: Iterable[bytes], on_answer: OnAnswer) -> int:
        """Asks where objects are. ``on_answer`` is called once, maybe at once. Returns the number of the question."""
        by_owner: dict[bytes, list[bytes]] = {}
        for object_id in object_ids:
            by_owner.setdefault(owner_of(object_id), []).append(object_id)
        mine = self.own(by_owner.pop(self._process_id, ()))
        living = {owner: ids for owner, ids in by_owner.items() if not self._references.is_dead(owner)}
        number = self._next
        self._next += 1
        question = self._questions[number] = _Question(set(living), on_answer)
        question.found.extend(mine)
        for owner, ids in living.items():
            self._references.watch_once(owner)
            self._send(owner, LocationsAsked(number, ids))
        self._end_if_complete(number)
        return number

    def give_up(self, number: int) -> None:
        """Forgets a question, if it is still open: the asker waits no longer."""
        self._questions.pop(number, None)

    def _end_if_complete(self, number: int) -> None:
        question = self._questions[number]
        if not question.open:
            del self._questions[number]
            question.on_answer(question.found)

    def on_asked(self, source: bytes, message: LocationsAsked) -> None:
        """Tells another process where objects of this one are."""
        for object_id in message.object_ids:
            self._references.check_own(object_id)
        self._send(source, LocationsTold(message.request, self.own(message.object_ids)))

    def on_told(self, source: bytes, message: LocationsTold) -> None:
        """Handles an owner's answer. It may only tell of its own objects."""
        if any(owner_of(each.object_id) != source for each in message.found):
            raise ProtocolError("told where an object of another process is")
        question = self._questions.get(message.request)
        if question is not None and source in question.open:
            question.open.discard(source)
            question.found.extend(message.found)
            self._end_if_complete(message.request)

    def on_process_died(self, process_id: bytes) -> None:
        """A process is dead: it answers nothing."""
        for number, question in list(self._questions.items()):
            if process_id in question.open:
                question.open.discard(process_id)
                self._end_if_complete(number)

    def lose_cluster(self) -> None:
        """Ends every question, because the broker is gone."""
        for number, question in list(self._questions.items()):
            question.open.clear()
            self._end_if_complete(number)
