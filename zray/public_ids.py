"""The classes of identifiers that programs see.

Inside zray an identifier is plain ``bytes`` (see ``zray.ids``). At the surface each kind has a class with Ray's
interface, so that two kinds are never equal and a printed identifier says what it names. Sizes are those of
``zray.ids``. Kinds that zray does not have itself keep Ray's sizes. The module is loaded when a program uses a class.
"""

from __future__ import annotations

import os
from typing import Any, ClassVar, TypeVar

from zray.ids import ACTOR_ID_BYTES, FUNCTION_ID_BYTES, JOB_ID_BYTES, PROCESS_ID_BYTES, TASK_ID_BYTES

Id = TypeVar("Id", bound="BaseID")


class BaseID:
    """An identifier: an immutable value that can be compared, hashed and pickled.

    Args:
        id: as many bytes as ``size()``.

    Raises:
        TypeError: ``id`` is not ``bytes``.
        ValueError: it has another length.
    """

    __slots__ = ("_id",)
    SIZE: ClassVar[int] = 28

    def __init__(self, id: bytes) -> None:
        if not isinstance(id, bytes):
            raise TypeError(f"Unsupported type: a {type(self).__name__} is made from bytes, got {type(id).__name__}")
        if len(id) != self.SIZE:
            raise ValueError(f"a {type(self).__name__} needs to have length {self.SIZE}, got {len(id)} bytes")
        self._id = id

    @classmethod
    def from_binary(cls: type[Id], id: bytes) -> Id:
        """The identifier of these bytes."""
        return cls(id)

    @classmethod
    def from_hex(cls: type[Id], hex_id: str | bytes) -> Id:
        """The identifier that ``hex_id`` shows in hexadecimal.

        Raises ValueError if it is not hexadecimal or has another length. (Ray returns ``nil()`` then.)
        """
        return cls(bytes.fromhex(hex_id if isinstance(hex_id, str) else hex_id.decode()))

    @classmethod
    def nil(cls: type[Id]) -> Id:
        """The identifier that names nothing: all bits are set."""
        return cls(b"\xff" * cls.SIZE)

    @classmethod
    def size(cls) -> int:
        """The number of bytes."""
        return cls.SIZE

    def is_nil(self) -> bool:
        """Whether it is ``nil()``."""
        return self._id == b"\xff" * self.SIZE

    def binary(self) -> bytes:
        """The bytes."""
        return self._id

    def hex(self) -> str:
        """The bytes in hexadecimal."""
        return self._id.hex()

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other._id == self._id

    def __hash__(self) -> int:
        return hash((type(self).__name__, self._id))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._id.hex()})"

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self._id,))


class _RandomID(BaseID):
    """An identifier of which a program may make a random one."""

    __slots__ = ()

    @classmethod
    def from_random(cls: type[Id]) -> Id:
        """A random identifier, which names nothing that exists."""
        return cls(os.urandom(cls.SIZE))


class UniqueID(_RandomID):
    """A random identifier of any kind."""

    __slots__ = ()


class NodeID(UniqueID):
    """Identifies a host."""

    __slots__ = ()
    SIZE = PROCESS_ID_BYTES


class WorkerID(UniqueID):
    """Identifies a worker or a driver."""

    __slots__ = ()
    SIZE = PROCESS_ID_BYTES


class ClusterID(UniqueID):
    """Identifies a cluster."""

    __slots__ = ()
    SIZE = PROCESS_ID_BYTES


class FunctionID(UniqueID):
    """Identifies a remote function or an actor class, by its content."""

    __slots__ = ()
    SIZE = FUNCTION_ID_BYTES


class ActorClassID(UniqueID):
    """Identifies an actor class, by its content."""

    __slots__ = ()
    SIZE = FUNCTION_ID_BYTES


class PlacementGroupID(_RandomID):
    """Identifies a placement group."""

    __slots__ = ()
    SIZE = 18


class ActorID(_RandomID):
    """Identifies an actor."""

    __slots__ = ()
    SIZE = ACTOR_ID_BYTES


class JobID(BaseID):
    """Identifies a job: everything that one driver submits. Jobs are numbered from 1."""

    __slots__ = ()
    SIZE = JOB_ID_BYTES

    @classmethod
    def from_int(cls, value: int) -> JobID:
        """The identifier of the job with this number."""
        return cls(value.to_bytes(cls.SIZE, "big"))

    def int(self) -> int:
        """The number of the job."""
        return int.from_bytes(self._id, "big")


class TaskID(BaseID):
    """Identifies a task, a call of an actor, or a ``put``."""

    __slots__ = ()
    SIZE = TASK_ID_BYTES
