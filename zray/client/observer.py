"""Asks a broker questions without a driver's session: the process joins as an observer, and leaves no trace."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from zray.exceptions import ClusterUnavailableError
from zray.protocol.messages import OBSERVER, Goodbye
from zray.protocol.questions import Answer
from zray.protocol.records import JoinInfo
from zray.protocol.state_questions import StateAnswer
from zray.transport.connection import connect
from zray.transport.sockets import POLLIN

if TYPE_CHECKING:
    from zray.config import Config
    from zray.transport.security.keys import ClientCredentials

POLL_MS = 100


class Observer:
    """A connection over which a broker is asked one question after the other. Leave it with ``close`` or ``with``.

    Raises ZrayError if the broker does not answer, or refuses.
    """

    def __init__(self, address: str, config: Config, credentials: ClientCredentials | None = None) -> None:
        self.address = address
        self._timeout_s = config.connect_timeout_s
        self._requests = itertools.count(1)
        self._connection = connect(address, OBSERVER, os.urandom(16), JoinInfo(os.getpid()), config, credentials)

    def __enter__(self) -> Observer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, question: Callable[[int], Any], timeout_s: float | None = None) -> Any:
        """Returns the answer to a question of ``zray.protocol.questions`` or ``zray.protocol.state_questions``.

        Args:
            question: makes the question of the number of a request.
            timeout_s: seconds to wait; default: ``connect_timeout_s`` of the configuration.

        Raises:
            ClusterUnavailableError: there is no answer in time, or the broker is gone.
        """
        request = next(self._requests)
        self._connection.flush([question(request)])
        return self._answer(request, self._timeout_s if timeout_s is None else timeout_s)

    def _answer(self, request: int, timeout_s: float) -> Any:
        connection, deadline = self._connection, time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            connection.socket.poll(POLL_MS, POLLIN)
            for message in connection.receive():
                # An answer to an earlier question came too late.
                if isinstance(message, Answer | StateAnswer) and message.request == request:
                    return message
            connection.link.tick(time.monotonic())
            connection.flush([])
        raise ClusterUnavailableError(f"the broker at {self.address!r} has not answered within {timeout_s:g} s")

    def close(self) -> None:
        """Leaves the cluster."""
        self._connection.flush([Goodbye("it has looked")])
        self._connection.close()


def ask_broker(
    address: str,
    question: Callable[[int], Any],
    config: Config,
    credentials: ClientCredentials | None = None,
    timeout_s: float | None = None,
) -> Any:
    """Returns the answer of the broker at ``address`` to one question; see ``Observer.ask``."""
    with Observer(address, config, credentials) as observer:
        return observer.ask(question, timeout_s)
