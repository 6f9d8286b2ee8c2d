"""How many values a piece of msgpack has, counted before any of them is made.

A byte of msgpack may become a hundred of memory: an empty map is one byte there, and 64 as an object. So what is large
is looked through first. What is small is not (``UNCOUNTED_BYTES``, into which any batch of small messages fits): of
it only the maps are counted, and it becomes 200 MiB at worst, for as long as it takes to find that it is no message.
"""

from __future__ import annotations

from typing import Any

from zray.protocol.messages import ProtocolError

MAX_ELEMENTS = 1 << 20
"""Values of one frame, those within lists and maps included."""
MAX_DEPTH = 64
UNCOUNTED_BYTES = 2 << 20
MAX_MAPS = 1 << 16
"""Maps of a frame that is not looked through: they weigh the most, and batches of small messages have none."""

_BYTES, _LIST, _MAP = 0, 1, 2


def _by_first_byte() -> list[tuple[int, int, int, int]]:
    """For each first byte: how many bytes of a length follow, how many other bytes, how many values without a length,
    and for how many values each unit of the length stands (0: it counts bytes)."""
    forms = [(0, 0, 0, _BYTES)] * 256
    for low in range(16):
        forms[0x80 + low] = (0, 0, 2 * low, _BYTES)
        forms[0x90 + low] = (0, 0, low, _BYTES)
    for low in range(32):
        forms[0xA0 + low] = (0, low, 0, _BYTES)
    for byte, width in ((0xC4, 1), (0xC5, 2), (0xC6, 4), (0xD9, 1), (0xDA, 2), (0xDB, 4)):  # bytes and text
        forms[byte] = (width, 0, 0, _BYTES)
    for byte, width in ((0xC7, 1), (0xC8, 2), (0xC9, 4)):  # extensions, which have a type as well
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
    """Whether there are no more than ``MAX_ELEMENTS`` values, within each other to no more than ``MAX_DEPTH`` levels.

    True as well where ``data`` end early or have too much: that is for the parser to say.
    """
    position, end, count = 0, len(data), 1
    left = 1  # values still to come in the innermost list or map
    around: list[int] = []  # and in those that it is in
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
    """Takes note of each map that msgpack has made, and raises ProtocolError after ``MAX_MAPS``."""

    __slots__ = ("_left",)

    def __init__(self) -> None:
        self._left = MAX_MAPS

    def __call__(self, made: dict[Any, Any]) -> dict[Any, Any]:
        self._left -= 1
        if self._left < 0:
            raise ProtocolError(f"more than {MAX_MAPS:,} maps")
        return made
