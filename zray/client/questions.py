"""Asks the broker, and tells it what must come before anything that this process does later."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from zray.client.shell import ClientShell
from zray.client.waiter import Waiter
from zray.exceptions import ClusterUnavailableError, MessageRefusedError
from zray.protocol.key_values import KvRequest
from zray.protocol.questions import MemberQuery, Membership, Question
from zray.protocol.state_questions import StateQuestion

_Answer = TypeVar("_Answer")


class Questions:
    """The questions of one process. ``check_usable``: raises if the cluster is gone or this is a forked child."""

    def __init__(self, shell: ClientShell, process_id: bytes, check_usable: Callable[[], None]) -> None:
        self._shell = shell
        self._core = shell.core
        self._process_id = process_id
        self._check_usable = check_usable
        self._members = {process_id}  # processes known to be members of the cluster

    def ask(self, send: Callable[[Callable[[Any], None]], None], timeout_s: float = 30.0) -> Any:
        """Calls ``send(on_answer)`` under the lock, and waits for the answer.

        Raises ClusterUnavailableError if there is none within ``timeout_s`` seconds.
        """
        self._check_usable()
        waiter = Waiter(self._shell)
        answers: list[Any] = []

        def on_answer(value: Any) -> None:
            answers.append(value)
            waiter.wake()

        with self._shell.lock:
            send(on_answer)
        self._shell.wait(waiter, timeout_s)
        if not answers or self._shell.lost:
            raise ClusterUnavailableError(self._shell.lost or f"the broker did not answer within {timeout_s:g} s")
        return answers[0]

    def query(self, question: Callable[[int], Question | StateQuestion | KvRequest], kind: type[_Answer]) -> _Answer:
        """Asks the broker; returns its answer, of type ``kind``. ``question(number)`` makes the question.

        Raises ClusterUnavailableError, and MessageRefusedError if the question cannot be sent.
        """
        answer = self.ask(lambda on_answer: self._core.query(question, on_answer))
        if not isinstance(answer, kind):
            raise MessageRefusedError(f"the broker gave no {kind.__name__}: the question was too large for a message")
        return answer

    def tell(self, messages: Iterable[Any]) -> None:
        """Sends messages to the broker, before anything that this process does later.

        If the process has lanes, waits until the broker has them: a call by a lane could overtake them.
        """
        self._check_usable()

        def send() -> None:
            for message in messages:
                self._core.to_broker(message)

        self._shell.run(send)
        if self._core.lanes.is_used:
            self.query(lambda request: MemberQuery(request, self._process_id), Membership)

    def is_member(self, process_id: bytes) -> bool:
        """Whether a process belongs, or has belonged, to the cluster."""
        if process_id not in self._members:
            answer = self.query(lambda request: MemberQuery(request, process_id), Membership)
            if answer.is_member:
                self._members.add(process_id)
        return process_id in self._members
