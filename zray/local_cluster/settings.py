"""What a driver tells the subprocess of its local cluster."""

from __future__ import annotations

import dataclasses
import json

from zray.config import Config
from zray.named_tuples import NamedTuple


class Settings(NamedTuple):
    """``session``, ``root``: of ``SessionPaths``. ``lock``, ``report``: descriptors, which the subprocess inherits.

    ``resources``: in ten-thousandths; ``store_bytes``: capacity of the store, 0: by ``config``. ``broker``: the address
    of the broker to join; empty: start one.
    """

    session: str
    root: str
    lock: list[int]
    report: int
    resources: dict[str, int]
    store_bytes: int
    config: Config
    broker: str = ""

    def to_json(self) -> bytes:
        """Returns the settings as JSON, which has infinite numbers too."""
        return json.dumps({**self._asdict(), "config": dataclasses.asdict(self.config)}).encode()

    @classmethod
    def from_json(cls, text: bytes) -> Settings:
        """Reads what ``to_json`` wrote, in a process of the same version."""
        fields = json.loads(text)
        return cls(**{**fields, "config": Config(**fields["config"])})
