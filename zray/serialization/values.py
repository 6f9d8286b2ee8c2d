"""Encodes values as bytes: pickle protocol 5, with large buffers outside the pickle, so that reading copies nothing.

There are two encodings. The first byte says which:

- *plain*, for most small values: the pickle itself. Its first byte is pickle's own ``0x80``.
- *framed*, if there are buffers or references: ``B``, 3 bytes of padding, number of buffers (u32), length of the
  pickle (u64), length of each buffer (u64), the pickle, then the buffers, each at the next multiple of 64 bytes. An
  empty pickle means that the value is ``bytes``: the content of the only buffer.

All integers are little-endian. An error in place of a value has a tag of its own, see ``zray.failures``.

A value arrives as it was sent, with few differences: arrays over buffers are read-only, a ``memoryview`` arrives as
``bytes``, and an array with gaps arrives without them. ``zray.serialization.views`` encodes values of other libraries.
"""

from __future__ import annotations

import ctypes
import pickle
import struct
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from zray.exceptions import SerializationError, SystemFailure
from zray.object_ref import ObjectRef
from zray.serialization import pickler, views
from zray.serialization.explain import explain_unpicklable
from zray.serialization.pickler import PROTOCOL, LoadRef
from zray.system.signals import came_from_handler

ALIGNMENT = 64
_PADDING = bytes(ALIGNMENT)
_PLAIN_TAG = 0x80
_FRAMED_TAG = 0x42
_HEADER = struct.Struct("<B3xIQ")
_BYTES_OUT_OF_BAND = 4096
"""``bytes`` of this size or more become a buffer, so that writing them needs no second copy."""

_SCALARS = frozenset((int, float, bool, str, type(None), bytes, complex))
_FIXED_SCALARS = _SCALARS - {bytes}
_SEQUENCES = frozenset((list, tuple))
_LAST_NUMBER = 16
"""NumPy's type numbers up to this one are bool, integers, floats and complex numbers."""
_FLAT_MAX = 32
"""The longest container whose members are checked. For a longer one, the check would cost more than it saves."""
_BYTES_HEADER = bytes.__basicsize__ - 1
"""The offset of the content of a ``bytes`` object from its address, which is its ``id`` in CPython."""


class Serialized:
    """A value that is ready to be written.

    ``pickle``: the pickle, or its pieces. ``buffers``: the contiguous byte views that it refers to. ``refs``: the
    identifiers of the ObjectRefs inside, each once, in order. ``total_bytes``: the size of the encoded form.

    Buffers and large pieces share the memory of the value. If the value is changed before they are written, the change
    is written.
    """

    __slots__ = ("_framed", "_pickle_bytes", "buffers", "held", "pickle", "refs", "total_bytes")

    def __init__(
        self,
        pickle: bytes | list[bytes | memoryview],
        buffers: list[memoryview],
        refs: tuple[bytes, ...],
        framed: bool | None = None,
        held: tuple[ObjectRef, ...] = (),
    ) -> None:
        self.pickle = pickle
        self.buffers = buffers
        self.refs = refs
        self.held = held  # keeps the references themselves until they are pinned
        self._framed = bool(buffers or refs) if framed is None else framed
        size = len(pickle) if type(pickle) is bytes else sum(len(part) for part in pickle)  # type: ignore[misc,arg-type]
        if self._framed:
            self._pickle_bytes = size
            offset = end = self._header_bytes() + size
            for offset, size in _places([buffer.nbytes for buffer in buffers], end):
                end = offset + size
            self.total_bytes = end
        else:
            self.total_bytes = size

    def _header_bytes(self) -> int:
        return _HEADER.size + 8 * len(self.buffers)

    def write_into(self, view: memoryview) -> None:
        """Writes the encoded form to the start of ``view``, buffers at multiples of 64 bytes from there.

        Raises ValueError if ``view`` has fewer than ``total_bytes`` bytes.
        """
        if view.nbytes < self.total_bytes:
            raise ValueError(f"{self.total_bytes} bytes do not fit into {view.nbytes}")
        end = 0
        for piece in self.pieces():
            view[end : end + len(piece)] = piece
            end += len(piece)

    def to_bytes(self) -> bytes:
        """Returns the encoded form. Copies nothing if the value is small and has neither buffers nor references."""
        if type(self.pickle) is bytes and not self._framed:
            return self.pickle
        return b"".join(self.pieces())

    def pieces(self) -> list[bytes | memoryview]:
        """Returns the pieces of the encoded form, in order. Those of large values share their memory."""
        parts = [self.pickle] if type(self.pickle) is bytes else self.pickle
        if not self._framed:
            return [*parts]
        buffers = self.buffers
        sizes = [buffer.nbytes for buffer in buffers]
        pieces = [_HEADER.pack(_FRAMED_TAG, len(sizes), self._pickle_bytes), _packed_sizes(sizes), *parts]
        end = self._header_bytes() + self._pickle_bytes
        for buffer, size in zip(buffers, sizes, strict=True):
            pieces += (_PADDING[: -end % ALIGNMENT], buffer)
            end += -end % ALIGNMENT + size
        return pieces


def _packed_sizes(sizes: list[int]) -> bytes:
    return struct.pack(f"<{len(sizes)}Q", *sizes)


def _places(sizes: list[int], start: int) -> Iterator[tuple[int, int]]:
    """Yields the offset and size of each buffer, the first at or after ``start``."""
    for size in sizes:
        offset = -(-start // ALIGNMENT) * ALIGNMENT
        yield offset, size
        start = offset + size


def serialize(value: Any, label: str = "the value") -> Serialized:
    """Serializes ``value``.

    Raises SerializationError, which names the member that cannot be pickled. ``label`` describes the value in that
    error, for instance ``argument 'x' of f``. An exception that a signal handler raises meanwhile is passed on
    unchanged.
    """
    if _is_flat(value):
        if type(value) is bytes and len(value) >= _BYTES_OUT_OF_BAND:
            return Serialized(b"", [memoryview(value)], ())
        return Serialized(pickle.dumps(value, PROTOCOL), [], (), False)
    if _is_array_of_numbers(value):
        return _pickle_plainly(value)
    outside: list[pickle.PickleBuffer] = []
    try:
        data, refs = pickler.dump(value, outside.append)
        return Serialized(data, [buffer.raw() for buffer in outside], tuple(refs), held=tuple(refs.values()))
    except MemoryError:
        raise
    except Exception as error:
        if came_from_handler(error):
            raise
        raise SerializationError(explain_unpicklable(value, label)) from error


def serialize_call(args: list[Any], kwargs: dict[str, Any]) -> Serialized:
    """Serializes the arguments of a call. The result is that of ``serialize((args, kwargs))``."""
    if len(args) <= _FLAT_MAX and _is_flat(kwargs) and all(map(_is_plain, args)):
        return _pickle_plainly((args, kwargs))
    return serialize((args, kwargs), "the arguments")


def _pickle_plainly(value: Any) -> Serialized:
    outside: list[pickle.PickleBuffer] = []
    data = pickle.dumps(value, PROTOCOL, buffer_callback=outside.append)
    return Serialized(data, [buffer.raw() for buffer in outside], ())


def _is_plain(value: Any) -> bool:
    kind = type(value)
    return (kind in _SCALARS and (kind is not bytes or _is_short(value))) or _is_array_of_numbers(value)


def _is_array_of_numbers(value: Any) -> bool:
    """Whether ``value`` is a NumPy array of numbers whose elements lie in one piece.

    It cannot contain references or functions, so plain pickle is enough, and NumPy pickles its memory as a buffer.
    """
    # getattr, because another thread may be importing NumPy.
    if type(value) is not getattr(sys.modules.get("numpy"), "ndarray", None):
        return False
    dtype = value.dtype
    return dtype.num <= _LAST_NUMBER and dtype.metadata is None and value.flags.forc and not views.custom


def _is_flat(value: Any) -> bool:
    """Whether ``value`` is a scalar or a small container of small scalars, for which plain pickle is enough."""
    kind = type(value)
    if kind in _SCALARS:
        return True
    if kind in _SEQUENCES:
        return len(value) <= _FLAT_MAX and (_FIXED_SCALARS.issuperset(map(type, value)) or _are_short(value))
    if kind is dict:
        return (
            len(value) <= _FLAT_MAX
            and (_FIXED_SCALARS.issuperset(map(type, value)) or _are_short(value))
            and (_FIXED_SCALARS.issuperset(map(type, value.values())) or _are_short(value.values()))
        )
    return False


def _are_short(values: Iterable[Any]) -> bool:
    return _SCALARS.issuperset(map(type, values)) and all(map(_is_short, values))


def _is_short(value: Any) -> bool:
    """Whether ``value`` is not ``bytes``, or is too short to become a buffer."""
    return type(value) is not bytes or len(value) < _BYTES_OUT_OF_BAND


def deserialize(data: bytes | memoryview, load_ref: LoadRef) -> Any:
    """Returns the value that ``data`` encodes. Its buffers are read-only slices of ``data`` and keep ``data`` alive.

    ``load_ref`` makes an ObjectRef from its identifier. Raises ModuleMissingError if a module is not on this machine,
    SystemFailure if ``data`` is malformed, DeserializationError if a constructor inside the value raises.
    """
    tag = data[0] if len(data) else None
    if tag == _PLAIN_TAG:
        try:
            return pickle.loads(data)
        except Exception as error:
            if (failure := pickler.load_failure(error, data)) is error:
                raise
            raise failure from error
    if tag == _FRAMED_TAG:
        body, buffers = _parse_frame(data)
        return pickler.load(body, buffers, load_ref) if body.nbytes else bytes(buffers[0])
    raise SystemFailure(f"a malformed value arrived: no value starts with {bytes(data[:1])!r}")


def _aligned(data: bytes) -> memoryview:
    """Returns a read-only view of ``data`` that begins at an address that is a multiple of 64: a copy if necessary."""
    if not (id(data) + _BYTES_HEADER) % ALIGNMENT:
        return memoryview(data)
    room = bytearray(len(data) + ALIGNMENT)
    start = -ctypes.addressof(ctypes.c_char.from_buffer(room)) % ALIGNMENT
    room[start : start + len(data)] = data
    return memoryview(room).toreadonly()[start : start + len(data)]


def _parse_frame(data: bytes | memoryview) -> tuple[memoryview, list[memoryview]]:
    """Returns the pickle and the buffers in ``data``. Raises SystemFailure if their sizes do not fit."""
    try:
        _, count, pickle_bytes = _HEADER.unpack_from(data)
        view = _aligned(data) if count and type(data) is bytes else memoryview(data).toreadonly()
        sizes = list(struct.unpack_from(f"<{count}Q", view, _HEADER.size))
    except struct.error as error:
        raise SystemFailure(f"a malformed value arrived: {error}") from error
    start = _HEADER.size + 8 * count
    end = start + pickle_bytes
    buffers = [view[offset : offset + size] for offset, size in _places(sizes, end)]
    if end > view.nbytes or [buffer.nbytes for buffer in buffers] != sizes or not (pickle_bytes or buffers):
        raise SystemFailure(
            f"a malformed value arrived: {view.nbytes} bytes for a pickle of {pickle_bytes} and {sizes}"
        )
    return view[start:end], buffers
