"""Asks a broker one question, from a process that is not part of its cluster: as an observer, without a session."""

from __future__ import annotations

import os
import select
import time
from typing import Any, TypeVar

from zray.config import Config
from zray.exceptions import ClusterUnavailableError
from zray.protocol.messages import OBSERVER, Goodbye
from zray.protocol.records import JoinInfo
from zray.transport.connection import Connection, connect

POLL_MS = 100
_Answer = TypeVar("_Answer")


def ask_as_observer(
    address: str, question: Any, kind: type[_Answer], timeout_s: float, config: Config | None = None,
    insecure: bool = False,
) -> _Answer:  # fmt: skip
    """Joins as an observer, asks ``question``, and leaves. Returns the answer, of type ``kind``.

    ``config``: default: that of the environment. Raises ZrayError if the broker does not answer within ``timeout_s``
    seconds, or refuses.
    """
    from zray.transport.security.dialer import credentials_for  # drivers without keys do not load this

    if config is None:
        from zray.config.reading import from_environment

        config = from_environment()
    credentials = credentials_for(address, "driver", config.keys, insecure)
    connection = connect(address, OBSERVER, os.urandom(16), JoinInfo(os.getpid()), config, credentials)
    try:
        connection.flush([question])
        return _answer(connection, kind, timeout_s)
    finally:
        connection.flush([Goodbye("it has looked")])
        connection.close()


def _answer(connection: Connection, kind: type[_Answer], timeout_s: float) -> _Answer:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        connection.socket.poll(POLL_MS, select.POLLIN)
        for message in connection.receive():
            if isinstance(message, kind):
                return message
        connection.link.tick(time.monotonic())
        connection.flush([])
    raise ClusterUnavailableError(f"the broker at {connection.address!r} has not answered within {timeout_s:g} s")
