"""Identifiers: their layout on the wire, and what they say about an object, a task or an actor.

Inside zray an identifier is plain ``bytes``, because the hot paths hash and compare identifiers. Sizes are Ray's where
Ray has the same thing. Layout:

=============  =====  =====================================================================
process        16     random; a worker, driver, host or broker *incarnation*. Never reused, so a late
                      message of a dead incarnation cannot be taken for a message of its successor
task           24     owner process (16) + counter of that process (8)
object         28     task (24) + index (4): 0 is a ``put``, 1..n are the returns of the task
actor          24     the identifier of the task that constructs it: its creator (16) + counter of that
                      process (8)
job            4      counter of the broker
environment    16     blake2b of the description of a runtime environment and of its setup hook
function       16     blake2b of the bytes that are shipped: the pickled function or class; if that is
                      large, the marker that names the stored object with the pickle
=============  =====  =====================================================================

An object's identifier names its owner (its first 16 bytes), so no central process has to be asked for the owner. An
actor's identifier names its creator. A process announces its actors in the order of their numbers, so the broker can
tell an actor that has not been announced yet from one that it has forgotten.
"""

from __future__ import annotations

from typing import TypeAlias

try:
    from _blake2 import blake2b  # the same as hashlib.blake2b; hashlib itself loads OpenSSL, 4 MB in every process
except ImportError:
    from hashlib import blake2b

ProcessId: TypeAlias = bytes
TaskId: TypeAlias = bytes
ObjectId: TypeAlias = bytes
ActorId: TypeAlias = bytes
FunctionId: TypeAlias = bytes
JobId: TypeAlias = bytes
"""For annotations: the fields of messages say so which identifier they hold."""

PROCESS_ID_BYTES = 16
TASK_ID_BYTES = 24
OBJECT_ID_BYTES = 28
ACTOR_ID_BYTES = TASK_ID_BYTES
JOB_ID_BYTES = 4
FUNCTION_ID_BYTES = 16
ENVIRONMENT_ID_BYTES = FUNCTION_ID_BYTES

PUT_INDEX = b"\0\0\0\0"


def make_task_id(owner: bytes, counter: int) -> bytes:
    """The identifier of the ``counter``-th task (or put) of the process ``owner``."""
    return owner + counter.to_bytes(8, "big")


def return_id(task_id: bytes, index: int) -> bytes:
    """The identifier of return value ``index`` (from 1) of a task."""
    return task_id + index.to_bytes(4, "big")


def put_id(task_id: bytes) -> bytes:
    """The identifier of an object that was stored by ``put``, not returned by a task."""
    return task_id + PUT_INDEX


def was_put(object_id: bytes) -> bool:
    """Whether an object was put, by the program or as the arguments of a call."""
    return object_id[TASK_ID_BYTES:] == PUT_INDEX


def owner_of(identifier: bytes) -> bytes:
    """The process that owns the task or object ``identifier``, or created the actor of that identifier."""
    return identifier[:PROCESS_ID_BYTES]


def counter_of(task_id: bytes) -> int:
    """The number of a task, put or actor among those of its owner; all three are counted together."""
    return int.from_bytes(task_id[PROCESS_ID_BYTES:], "big")


def function_id_of(blob: bytes) -> bytes:
    """The identifier of the function or class that ``blob`` ships. The broker accepts no other identifier for it."""
    return blake2b(blob, digest_size=FUNCTION_ID_BYTES).digest()


def task_of(object_id: bytes) -> bytes:
    """The task that made ``object_id``."""
    return object_id[:TASK_ID_BYTES]
