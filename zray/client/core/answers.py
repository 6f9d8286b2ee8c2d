"""What a worker sends to the owners of its work: the items of streams, and one answer to each task or call.

Items and answers with references inside leave once the owners of these have acknowledged (the reference rule).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zray.client.core.assignments import CALL, TASK, Assignment
from zray.client.core.payloads import Return, pack_outcome
from zray.client.core.references import ReferenceTable
from zray.protocol.messages import Done, LeaseReturned, Reply, Result, Yield


class Answers:
    """The items and answers of one worker. ``running``: the tasks and calls that are not finished."""

    def __init__(
        self,
        references: ReferenceTable,
        running: dict[bytes, Assignment],
        send: Callable[[Any], None],
        reply: Callable[[Reply], None],
        answer_owner: Callable[[bytes, Result | LeaseReturned], None],
        process_id: bytes,
        host_id: bytes,
    ) -> None:
        """``send``, ``reply``, ``answer_owner``: see ``Execution``."""
        self._references = references
        self._running = running
        self._send = send
        self._reply = reply
        self._answer_owner = answer_owner
        self._process_id = process_id
        self._host_id = host_id
        self.gathering: list[Assignment] = []  # their generators have yielded items that were not sent
        self.owed = 0  # number of answers that wait for acknowledgements

    # ------------------------------------------------------------------ answers

    @staticmethod
    def message(task: Assignment, run_us: int, payload: bytes) -> Any:
        """The answer to a task or call."""
        if task.kind != TASK or task.by_lane:
            return Reply(task.owner, task.task_id, task.attempt, payload)
        return Done(task.task_id, task.attempt, run_us, payload)

    def way(self, task: Assignment) -> Callable[[Any], None]:
        """The way of an answer. That of a stream must come behind the items, which travel through the broker."""
        if task.by_lane:
            return self.by_lane
        return self._send if task.kind != CALL or task.producer is not None else self._reply

    def by_lane(self, reply: Reply) -> None:
        """Sends an answer to the owner who has leased this worker."""
        self._answer_owner(reply.owner, Result(reply.task_id, reply.attempt, self._process_id, b"", reply.payload))

    def later(self, answer: Any, inner: list[bytes], send_answer: Callable[[Any], None] | None = None) -> None:
        """Sends an answer once the owners of all references have acknowledged. ``inner``: the references inside.
        ``send_answer``: its way; default: through the broker."""
        self.flush_items()  # they come before it
        # References in the answer are pinned until it is sent: giving back a registration must not overtake it.
        self.owed += 1
        for object_id in inner:
            self._references.pin(object_id)

        def send() -> None:
            self.owed -= 1
            (send_answer or self._send)(answer)
            for object_id in inner:
                self._references.unpin(object_id)

        self._references.when_acknowledged(send)

    # ------------------------------------------------------------------ items

    def send_items(self, task: Assignment, items: list[Return]) -> None:
        """Sends the next items of a stream.

        Items with references inside leave once the owners of these have acknowledged. The others are gathered until the
        next output is taken: a generator may be faster than the thread that sends.
        """
        producer = task.producer
        assert producer is not None
        if task.task_id not in self._running:
            return  # the actor has exited meanwhile
        task.stored.clear()  # from here on they are the owner's
        inner = [object_id for item in items for object_id in item.inner]
        if not inner and self._references.acknowledged:
            if not producer.gathered:
                self.gathering.append(task)
            producer.gather(items)
            if producer.is_full:
                self.flush_items()
            return
        self.flush_items()
        for item in items:
            if item.inner:
                self._references.hand_over(item.inner, task.owner)
        producer.sent += len(items)
        self.later(self.items_message(task, producer.sent, items), inner)

    def flush_items(self) -> None:
        """Sends the items that were gathered."""
        for task in self.gathering:
            if (producer := task.producer) is not None:
                self._send(self.items_message(task, producer.sent, producer.take_gathered()))
        self.gathering.clear()

    def items_message(self, task: Assignment, end: int, items: list[Return]) -> Yield:
        """The message with items of a stream. ``end``: the position behind them."""
        payload = pack_outcome(self._host_id, items, [], False)
        return Yield(task.owner, task.task_id, task.attempt, end - len(items), payload)
