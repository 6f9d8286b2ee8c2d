"""What a host gives to the processes that it has forked as workers."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

from zray.config import Config
from zray.protocol.codec import pack, unpack


class WorkerStart(NamedTuple):
    """``address``: where the worker reaches the broker; ``log_secret``: see ``zray.worker.log_marker``.

    A host has one as a template, in which ``worker_id`` and ``log_secret`` are empty.
    """

    address: str
    config: Config
    host_id: bytes
    worker_id: bytes = b""
    log_secret: str = ""

    def to_bytes(self) -> bytes:
        """Returns the form in which it travels through the zygote."""
        return pack(self._replace(config=dataclasses.asdict(self.config)))  # type: ignore[arg-type]

    @classmethod
    def from_bytes(cls, data: bytes) -> WorkerStart:
        """Reads what ``to_bytes`` wrote, in a process of the same version."""
        address, config, *others = unpack(data)
        return cls(address, Config(**config), *others)
