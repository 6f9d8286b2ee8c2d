"""The messages of the handshake: a process asks to join, and the broker answers."""

from __future__ import annotations

from zray.ids import ProcessId
from zray.named_tuples import NamedTuple
from zray.protocol.records import ClusterInfo, JoinInfo, VersionPair


class Hello(NamedTuple):
    """Asks to join.

    The fields before ``info`` are the same in every version: see ``zray.protocol.rows.decode_handshake``.
    """

    protocol: int
    python: str
    zray: str
    kind: str
    process_id: ProcessId
    info: JoinInfo


class Welcome(NamedTuple):
    """The answer to a ``Hello``: the process has joined. ``max_message_bytes``: the largest that the broker accepts."""

    incarnation: bytes
    max_message_bytes: int
    cluster: ClusterInfo


class Refused(NamedTuple):
    """The answer to a ``Hello``: the process must not join. The same in every version of the protocol.

    ``versions``: all versions, if some of them differ; empty if the reason is another one.
    """

    reason: str
    versions: list[VersionPair]
