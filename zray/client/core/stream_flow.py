"""Flow control of the streams that a worker produces: a generator goes on while its owner has given it credit.

See ``zray.client.core.streams`` for the rules.
"""

from __future__ import annotations

from collections.abc import Callable

from zray.client.core.assignments import Assignment
from zray.client.core.producers import Listener
from zray.client.core.references import ReferenceTable
from zray.client.core.streams import NO_LIMIT
from zray.protocol.messages import ProtocolError, StreamCredit


class StreamFlow:
    """The streams of one worker. ``running``: the tasks and calls that are not finished; ``hand_back``: returns the
    tasks that are queued behind."""

    def __init__(
        self, references: ReferenceTable, running: dict[bytes, Assignment], hand_back: Callable[[], None]
    ) -> None:
        self._references = references
        self._running = running
        self._hand_back = hand_back

    def has_room(self, task: Assignment, most_untaken: int, listener: Listener) -> bool:
        """Whether another item of a stream may be sent. If not, ``listener`` is woken when there may be room, and the
        tasks that are queued behind are handed back.

        ``most_untaken``: the number of items of all streams together that may not be taken yet; 0: any number.
        """
        producer = task.producer
        if producer is None or task.task_id not in self._running:
            return True
        self._references.watch_once(task.owner)
        if self._references.is_dead(task.owner):
            producer.limit = NO_LIMIT
        producer.listener = None
        if producer.has_room and not 0 < most_untaken <= self._untaken():
            return True
        producer.listener = listener
        self._hand_back()
        return False

    def _untaken(self) -> int:
        return sum(task.producer.untaken for task in self._running.values() if task.producer is not None)

    def on_credit(self, source: bytes, message: StreamCredit) -> None:
        """The owner of a stream has room for more items."""
        task = self._running.get(message.task_id)
        if task is None or task.attempt != message.attempt:
            return
        if task.owner != source or task.producer is None:
            raise ProtocolError("credit for a stream that another process owns, or that is none")
        task.producer.limit = max(task.producer.limit, message.limit)
        self.wake_producers()

    def wake_producers(self) -> None:
        """Has the generators that wait for room look again: there may be more room, or the owner of one is dead."""
        for task in self._running.values():
            if task.producer is not None and task.producer.listener is not None:
                task.producer.listener.wake()
