"""What a broker keeps over a restart, as records, and their form in the journal.

Only what no other process could tell the next broker is kept: detached actors with what it takes to start them again,
placement groups that outlive their job, and the key-value store. A record is stored as the msgpack array of its number
and its fields, and checked like a message when it is read (``zray.protocol.schema``).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from zray.ids import ActorId, FunctionId, ProcessId
from zray.named_tuples import NamedTuple
from zray.protocol.codec import pack, unpack
from zray.protocol.messages import ProtocolError
from zray.protocol.records import ActorSpec, EnvironmentSpec, GroupSpec, JobSettings
from zray.protocol.schema import fault_in, fits_message, maker


class KeptJob(NamedTuple):
    """A job with a detached actor. Its driver is gone by the time this is read."""

    job_id: bytes
    driver: bytes
    settings: JobSettings


class KeptFunction(NamedTuple):
    """The class of a detached actor, as its creator has sent it."""

    function_id: FunctionId
    name: str
    blob: bytes


class KeptEnvironment(NamedTuple):
    """The runtime environment of a detached actor, as its job has announced it."""

    job_id: bytes
    environment_id: bytes
    environment: EnvironmentSpec


class KeptActor(NamedTuple):
    """A detached actor.

    ``constructed``: its constructor has returned once, so that the loss of its process is a death. ``payload``: the
    arguments of its constructor.
    """

    actor_id: ActorId
    creator: ProcessId
    job_id: bytes
    function_id: FunctionId
    spec: ActorSpec
    depth: int
    incarnation: int
    restarts_left: int
    constructed: bool
    payload: bytes


class KeptGroup(NamedTuple):
    """A placement group that outlives its job. ``actor``: the detached actor that has created it, or empty."""

    group_id: bytes
    job_id: bytes
    actor: bytes
    by_job: bool
    spec: GroupSpec


class KeptValue(NamedTuple):
    """A value of the key-value store."""

    namespace: bytes
    key: bytes
    value: bytes


Kept = KeptJob | KeptFunction | KeptEnvironment | KeptActor | KeptGroup | KeptValue
_KINDS = (KeptJob, KeptFunction, KeptEnvironment, KeptActor, KeptGroup, KeptValue)
_NUMBER_OF: dict[Any, int] = {kind: number for number, kind in enumerate(_KINDS)}


@functools.cache
def _decoder(number: int) -> tuple[Any, Callable[[list[Any]], bool], Callable[[list[Any]], Any]]:
    """A kind of record, the test for its array, and the function that makes a record of its fields."""
    kind: Any = _KINDS[number]
    return kind, fits_message(kind), maker(kind)


def key_of(kind: type[Kept], *parts: bytes) -> bytes:
    """The key of a record in the journal. ``parts``: what identifies it among those of its kind."""
    return bytes([_NUMBER_OF[kind]]) + (parts[0] if len(parts) == 1 else pack(parts))


def encode(record: Kept) -> bytes:
    """Returns a record in the form of the journal."""
    return pack((_NUMBER_OF[type(record)], *record))


def decode(data: bytes) -> Kept:
    """Returns the record of ``data``. Raises ProtocolError if it is malformed."""
    row = unpack(data)
    if type(row) is not list or not row or type(row[0]) is not int or not 0 <= row[0] < len(_KINDS):
        raise ProtocolError("not a record of this version")
    kind, fits, make = _decoder(row[0])
    if not fits(row):
        raise ProtocolError(f"malformed {fault_in(kind, row[1:])}")
    del row[0]
    record: Kept = make(row)
    return record
