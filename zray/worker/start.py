"""What a host gives to the processes that it has forked: workers, and those that install for runtime environments."""

from __future__ import annotations

import os
from typing import Any

from zray.accelerators import NVIDIA, Family
from zray.config import Config
from zray.named_tuples import NamedTuple
from zray.protocol.codec import pack, unpack
from zray.protocol.records import EnvironmentPart, EnvironmentSpec

REMOVAL = "removal"
"""The kind of part that stands for the removal of what was installed."""
INSTALLER = b"install"
"""The payload of a process that installs; its order is in a file. Any other payload is a ``WorkerStart``."""


_DEFAULTS = vars(Config())
"""Each worker reads its settings, and few differ from these: so only those that differ are sent."""


class WorkerStart(NamedTuple):
    """``address``: where the worker reaches the broker; ``directory``: of its host's session; ``log_secret``: see
    ``zray.worker.log_marker``; ``gpus``: the family of the host's GPUs; ``spans``: the directory for its records of
    when tasks ran, empty for none.

    A host has one as a template, in which ``worker_id`` and ``log_secret`` are empty.
    """

    address: str
    config: Config
    host_id: bytes
    directory: str
    worker_id: bytes = b""
    log_secret: str = ""
    gpus: Family = NVIDIA
    spans: str = ""

    def to_bytes(self) -> bytes:
        """Returns the form in which it travels through the zygote."""
        changed = {name: value for name, value in vars(self.config).items() if value != _DEFAULTS[name]}
        return pack(self._replace(config=changed))  # type: ignore[arg-type]

    @classmethod
    def from_bytes(cls, data: bytes) -> WorkerStart:
        """Reads what ``to_bytes`` wrote, in a process of the same version."""
        address, config, host_id, directory, worker_id, log_secret, gpus, spans = unpack(data)
        return cls(address, Config(**config), host_id, directory, worker_id, log_secret, Family(*gpus), spans)


class EnvironmentStart(NamedTuple):
    """The runtime environment of a worker. ``paths``: where its parts are installed, in their order."""

    spec: EnvironmentSpec
    paths: list[str]

    def to_file(self) -> int:
        """Returns the descriptor of a file with it: it may be too large for the zygote's socket."""
        return _file_with(self)

    @classmethod
    def from_file(cls, fd: int) -> EnvironmentStart:
        """Reads what ``to_file`` wrote; closes the descriptor."""
        spec, paths = _content_of(fd)
        text, hook, parts, timeout_s = spec
        return cls(EnvironmentSpec(text, hook, [EnvironmentPart(*part) for part in parts], timeout_s), paths)


class InstallOrder(NamedTuple):
    """What a process that installs is told.

    ``text``: the environment, as JSON; ``target``: the directory to make; ``store``: the directory of the host's object
    store; ``fetch``: the socket at which the host takes requests for objects of other machines.
    """

    part: EnvironmentPart
    text: str
    target: str
    store: str
    fetch: str

    def to_file(self) -> int:
        """Returns the descriptor of a file with it."""
        return _file_with(self)

    @classmethod
    def from_file(cls, fd: int) -> InstallOrder:
        """Reads what ``to_file`` wrote; closes the descriptor."""
        part, *others = _content_of(fd)
        return cls(EnvironmentPart(*part), *others)


def _file_with(record: Any) -> int:
    fd = os.memfd_create("zray-environment", os.MFD_CLOEXEC)
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(pack(record))
    except OSError:
        os.close(fd)
        raise
    return fd


def _content_of(fd: int) -> Any:
    with open(fd, "rb") as file:
        file.seek(0)
        return unpack(file.read())
