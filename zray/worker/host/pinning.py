"""Whether a host pins its workers to CPUs. Which CPUs: ``zray.broker.cpus``."""

from __future__ import annotations

import socket
from collections.abc import Iterable

from zray.config import AUTO, ON
from zray.system.cpus import usable_cpus

UNIT = 10_000
_LONGEST_NAME = 107
"""The longest name of a Unix socket, in bytes."""


class PinningClaim:
    """A host's decision to pin its workers, and the machine's other hosts' sight of it.

    ``setting``: "auto", "on" or "off"; ``amount``: the CPUs that the host offers, in ten-thousandths. ``pins``: whether
    workers are pinned. ``warning``: why they are not although the setting demands it; else empty.

    With "auto" a host pins if it offers exactly the CPUs that its process may use, and if no other host pins to the
    same CPUs: two hosts that know nothing of each other would choose the same ones. The first host holds the name of an
    abstract Unix socket as long as it lives; the kernel frees the name however the host ends.
    """

    def __init__(self, setting: str, amount: int) -> None:
        self._socket: socket.socket | None = None
        self.warning = ""
        cpus = usable_cpus()
        if setting == ON:
            self.pins = 0 < amount <= len(cpus) * UNIT and not amount % UNIT
            if not self.pins:
                self.warning = (
                    f"pin_cpus=on, but workers are not pinned: the host offers {amount / UNIT:g} CPUs, and its process "
                    f"may use {len(cpus)}. Pinning needs a whole number of CPUs, no more than these (num_cpus)"
                )
            return
        self.pins = setting == AUTO and amount == len(cpus) * UNIT and self._is_first(cpus)

    def _is_first(self, cpus: list[int]) -> bool:
        """Whether no other host of this machine (of this network namespace) pins to the same CPUs."""
        name = f"\0zray-cpus-{ranges(cpus)}"
        if len(name) > _LONGEST_NAME:
            import hashlib  # few machines have so many CPUs in so many ranges

            name = f"\0zray-cpus-{hashlib.sha256(name.encode()).hexdigest()}"
        claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            claim.bind(name)
        except OSError:
            claim.close()
            return False
        self._socket = claim
        return True

    def close(self) -> None:
        """Lets another host pin."""
        if self._socket is not None:
            self._socket.close()


def ranges(cpus: Iterable[int]) -> str:
    """Returns numbers in ascending order as the kernel writes them, such as ``0-3,8``."""
    found: list[list[int]] = []
    for cpu in cpus:
        if found and cpu == found[-1][1] + 1:
            found[-1][1] = cpu
        else:
            found.append([cpu, cpu])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in found)
