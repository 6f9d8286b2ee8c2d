"""Random messages: rows with a valid form and random content, or malformed ones, for tests of message handlers."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any, get_args, get_type_hints

from zray.protocol.codec import shape_key
from zray.protocol.messages import ProtocolError
from zray.protocol.records import ActorSpec
from zray.protocol.rows import NUMBER_OF, decode_row

ODD_INTS = [0, 1, 2, 3, 4, 5, 7, 255, 1 << 20, (1 << 20) + 1, 1 << 31, 1 << 62, (1 << 63) - 1]
ODD_TEXT = [
    "",
    "n",
    "flush_logs",
    "hosts",
    "status",
    "WorkerCrashedError",
    "KeyError",
    "\0",
    "x" * 5000,
    "tcp://127.0.0.1:9",
]
ODD_BYTES = [b"", b"\xc1", b"\x90", b"\x91\x05", b"x" * 16, bytes(28), b"y" * 40, b"\x81" * 300, b"E\x90", b"F",
             shape_key({"CPU": 10_000}), shape_key({"CPU": 1}), shape_key({"GPU": 1 << 62})]  # fmt: skip
ODD: list[Any] = [*ODD_INTS, *ODD_TEXT, *ODD_BYTES, -1, -(1 << 63), (1 << 64) - 1, None, True, False, 1.5, float("nan"),
       float("inf"), [], {}, [[]], {"": {}}, [None] * 50, [b"x" * 28], [b"x" * 24], {b"k": 1}, {5: [5]}]  # fmt: skip
KEYS = ["CPU", "GPU", "memory", "object_store_memory", "x"]
SPEC = ActorSpec("A", "", "", False, 1, 1, True, False, shape_key({"CPU": 10_000}), shape_key({}), b"", b"")
"""A valid specification of an actor."""


class Nonsense:
    """A source of random messages, the same for the same seed. ``known``: identifiers that the receiver knows."""

    def __init__(self, seed: int, known: Iterable[bytes]) -> None:
        self.random = random.Random(seed)
        self.known = list(known)

    def identifier(self, size: int = 0) -> bytes:
        """Mostly a known identifier, maybe cut or extended to another kind; else random bytes."""
        rng = self.random
        identifier = rng.choice(self.known) if self.known and rng.random() < 0.9 else rng.randbytes(16)
        if size and len(identifier) != size:
            fitting = [each for each in self.known if len(each) == size]
            if fitting and rng.random() < 0.7:
                return rng.choice(fitting)
            identifier = (identifier + rng.choice([bytes(16), b"\0\0\0\0\0\0\0\1\0\0\0\1", rng.randbytes(16)]))[:size]
        return identifier

    def value(self, hint: Any, field: str) -> Any:
        """A value, mostly of the right type."""
        rng = self.random
        if rng.random() < 0.02:
            return rng.choice(ODD)
        if hasattr(hint, "_fields"):
            return self._record(hint)
        base, inner = getattr(hint, "__origin__", hint), get_args(hint)
        if type(None) in inner:
            return None if rng.random() < 0.5 else self.value(inner[0], field)
        if base is bytes:
            return self._bytes(field)
        if base is int:
            return rng.choice([0, 0, 1, 1, rng.choice(ODD_INTS)])
        if base is float:
            return rng.choice([0, 0.5, 1.0, 3600, float("inf")])
        if base is bool:
            return rng.random() < 0.5
        if base is str:
            return rng.choice(["stdout", "stderr"] if field == "stream" else ODD_TEXT)
        if hint == list[bytes]:
            size = {"object_ids": 28, "task_ids": 24}.get(field, 16)
            return [self.identifier(size) for _ in range(rng.randrange(4))]
        if hint == list[int]:
            return [rng.choice([1, 2]) for _ in range(rng.randrange(3))]
        if base is list:
            return [self.value(inner[0], "") for _ in range(rng.randrange(3))]
        keys = {str: rng.choice(KEYS), bytes: self.identifier(16), int: rng.choice([0, 1, 4711])}
        return dict([(keys[inner[0]], self.value(inner[1], ""))][: rng.randrange(2)])

    def _record(self, kind: Any) -> list[Any]:
        """A record as an array. Specifications of actors mostly have only one odd field, so that actors are made."""
        hints = get_type_hints(kind)
        if kind is not ActorSpec or self.random.random() > 0.8:
            return [self.value(hint, field) for field, hint in hints.items()]
        odd = self.random.choice(kind._fields)
        return list(SPEC._replace(**{odd: self.value(hints[odd], odd)}))

    def _bytes(self, field: str) -> bytes:
        sizes = {"task_id": 24, "actor_id": 24, "object_id": 28}
        if field in ("payload", "rows", "data", "shape", "blob", "checksum", "token", "key", "error", "running",
                     "placement", "handle", "meta"):  # fmt: skip
            return self.random.choice([*ODD_BYTES, self.identifier(), self.identifier(24)])
        return self.identifier(sizes.get(field, 16))

    def row(self, kind: Any) -> list[Any]:
        """The row of a message, which may be malformed."""
        fields = [self.value(hint, field) for field, hint in get_type_hints(kind).items()]
        if self.random.random() < 0.01:
            fields = fields[:-1]
        return [*NUMBER_OF[kind], *fields]

    def message(self, kinds: Iterable[Any]) -> Any:
        """A message that passes the check of its form."""
        kinds = sorted(kinds, key=lambda kind: kind.__name__)
        while True:
            try:
                return decode_row(self.row(self.random.choice(kinds)), frozenset(kinds))
            except ProtocolError:
                continue
