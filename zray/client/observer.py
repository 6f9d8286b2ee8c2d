"""Asks a broker one question, without a driver's session: the process joins as an observer and leaves again."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from zray.exceptions import ClusterUnavailableError
from zray.protocol.messages import OBSERVER, Goodbye
from zray.protocol.questions import Answer
from zray.protocol.records import JoinInfo
from zray.protocol.state_questions import StateAnswer
from zray.transport.connection import Connection, connect
from zray.transport.sockets import POLLIN

if TYPE_CHECKING:
    from zray.config import Config
    from zray.transport.security.keys import ClientCredentials

POLL_MS = 100


def ask_broker(
    address: str,
    question: Any,
    config: Config,
    credentials: ClientCredentials | None = None,
    timeout_s: float | None = None,
) -> Any:
    """Returns the answer of the broker at ``address`` to a question of ``zray.protocol.questions`` or
    ``zray.protocol.state_questions``.

    Raises ZrayError if it does not answer within ``timeout_s`` seconds (default: ``connect_timeout_s`` of ``config``),
    or refuses.
    """
    connection = connect(address, OBSERVER, os.urandom(16), JoinInfo(os.getpid()), config, credentials)
    try:
        connection.flush([question])
        return _answer(connection, config.connect_timeout_s if timeout_s is None else timeout_s)
    finally:
        connection.flush([Goodbye("it has looked")])
        connection.close()


def _answer(connection: Connection, timeout_s: float) -> Any:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        connection.socket.poll(POLL_MS, POLLIN)
        for message in connection.receive():
            if isinstance(message, Answer | StateAnswer):
                return message
        connection.link.tick(time.monotonic())
        connection.flush([])
    raise ClusterUnavailableError(f"the broker at {connection.address!r} has not answered within {timeout_s:g} s")
