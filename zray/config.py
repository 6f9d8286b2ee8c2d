"""Every setting, in one frozen record, read from the environment in one place (``Config.from_environment``)."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping

from zray.exceptions import ConfigError

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of a zray process. Each can be given as ``ZRAY_<NAME>`` in the environment."""

    address: str = ""
    """Where the broker listens, for drivers that call ``init()`` without an address."""
    tmpdir: str = ""
    """Where session directories (sockets, logs, spilled objects) are made; default: a per-user runtime directory."""
    inline_max_bytes: int = 100 * KIB
    """Values up to this size travel inside messages; larger ones go through the store."""
    object_store_memory: int = 0
    """Capacity of a machine's object store in bytes; 0: 30% of the memory, at most what /dev/shm can hold."""
    heartbeat_s: float = 1.0
    """Longest silence on a link before a ping is sent, in seconds."""
    silence_s: float = 6.0
    """A peer that has not been heard for this long is declared dead, in seconds."""
    connect_timeout_s: float = 5.0
    """How long ``init(address=...)`` tries to reach a broker, in seconds."""
    store_wait_s: float = 10.0
    """How long a writer waits for room in a store whose objects are all in use, in seconds."""
    infeasible_warn_s: float = 2.0
    """A request that no host could ever satisfy is reported after this many seconds."""
    idle_worker_s: float = 5.0
    """An idle worker process beyond one per CPU is ended after this many seconds."""
    start_timeout_s: float = 30.0
    """How long a local cluster may take to start, in seconds."""
    log_to_driver: bool = True
    """Whether what workers print is shown at the driver."""
    log_file_max_bytes: int = 16 * MIB
    """A worker's log file is rotated at this size; one older file is kept."""
    max_message_bytes: int = 512 * MIB
    """A message larger than this is refused by the receiving socket."""

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Config:
        """Reads ``ZRAY_*``; raises ConfigError naming the variable when a value does not parse."""
        source = os.environ if environ is None else environ
        values: dict[str, object] = {}
        for field in dataclasses.fields(cls):
            variable = "ZRAY_" + field.name.upper()
            text = source.get(variable)
            if text is None or text == "":
                continue
            values[field.name] = _parse(variable, text, type(field.default))
        return cls(**values)  # type: ignore[arg-type]


def _parse(variable: str, text: str, kind: type) -> object:
    try:
        if kind is bool:
            return {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}[text.lower()]
        return kind(text)
    except (ValueError, KeyError):
        raise ConfigError(f"{variable}={text!r} is not a valid {kind.__name__}") from None
