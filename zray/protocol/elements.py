"""Counts the values in msgpack before any of them is made.

One byte of msgpack may become a hundred bytes of memory: an empty map is one byte of msgpack, and 64 bytes as an
object. So the values of large data are counted before parsing. Data of up to ``UNCOUNTED_BYTES`` (any batch of small
messages fits into that) are parsed at once, and only their maps are counted. At worst they become 200 MiB, until the
check finds that they are not a message.
"""

from __future__ import annotations

from typing import Any

from zray.protocol.messages import ProtocolError

MAX_ELEMENTS = 1 << 20
"""The most values of one frame, including those within lists and maps."""
MAX_DEPTH = 64
"""The most levels of lists and maps within each other."""
UNCOUNTED_BYTES = 2 << 20
"""Data of up to this size are parsed without counting their values first."""
MAX_MAPS = 1 << 16
"""The most maps in a frame whose values are not counted.

Maps take the most memory, and batches of small messages have none.
"""

_BYTES, _LIST, _MAP = 0, 1, 2


def _by_first_byte() -> list[tuple[int, int, int, int]]:
    """What follows each possible first byte of a value: four numbers.

    The size of the length field in bytes; the number of other bytes; the number of values if there is no length field;
    and the number of values per unit of the length (0: the length counts bytes).
    """
    forms = [(0, 0, 0, _BYTES)] * 256
    for low in range(16):
        forms[0x80 + low] = (0, 0, 2 * low, _BYTES)
        forms[0x90 + low] = (0, 0, low, _BYTES)
    for low in range(32):
        forms[0xA0 + low] = (0, low, 0, _BYTES)
    for byte, width in ((0xC4, 1), (0xC5, 2), (0xC6, 4), (0xD9, 1), (0xDA, 2), (0xDB, 4)):  # bytes and text
        forms[byte] = (width, 0, 0, _BYTES)
    for byte, width in ((0xC7, 1), (0xC8, 2), (0xC9, 4)):  # extensions, which also have a type
        forms[byte] = (width, 1, 0, _BYTES)
    for power in range(5):
        forms[0xD4 + power] = (0, 1 + (1 << power), 0, _BYTES)
    for byte, size in ((0xCA, 4), (0xCB, 8), (0xCC, 1), (0xCD, 2), (0xCE, 4), (0xCF, 8),
                       (0xD0, 1), (0xD1, 2), (0xD2, 4), (0xD3, 8)):  # fmt: skip  # numbers
        forms[byte] = (0, size, 0, _BYTES)
    for byte, width, unit in ((0xDC, 2, _LIST), (0xDD, 4, _LIST), (0xDE, 2, _MAP), (0xDF, 4, _MAP)):
        forms[byte] = (width, 0, 0, unit)
    return forms


_FORMS = _by_first_byte()


def has_few_elements(data: bytes | memoryview) -> bool:
    """Whether there are at most ``MAX_ELEMENTS`` values, nested at most ``MAX_DEPTH`` levels deep.

    Also True if ``data`` end early or are too long: the parser finds that.
    """
    position, end, count = 0, len(data), 1
    left = 1  # values still to come in the innermost list or map
    around: list[int] = []  # the same for the lists and maps around it, the outermost first
    while True:
        while not left:
            if not around:
                return True
            left = around.pop()
        left -= 1
        if position >= end:
            return True
        width, skipped, values, unit = _FORMS[data[position]]
        position += 1
        if width:
            length = int.from_bytes(data[position : position + width], "big")
            position += width
            if unit:
                values = length * unit
            else:
                skipped += length
        position += skipped
        if values:
            count += values
            around.append(left)
            left = values
            if count > MAX_ELEMENTS or len(around) > MAX_DEPTH:
                return False


class MapCounter:
    """Counts the maps that msgpack makes. Raises ProtocolError after ``MAX_MAPS``."""

    __slots__ = ("_left",)

    def __init__(self) -> None:
        self._left = MAX_MAPS

    def __call__(self, made: dict[Any, Any]) -> dict[Any, Any]:
        self._left -= 1
        if self._left < 0:
            raise ProtocolError(f"more than {MAX_MAPS:,} maps")
        return made
