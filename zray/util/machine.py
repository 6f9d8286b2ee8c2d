"""What this machine is called and what it has to offer, for hosts that announce it and for drivers that start one."""

from __future__ import annotations

import functools
import os
import platform
import socket

from zray.util.processes import cpu_count, memory_limit_bytes


@functools.cache
def machine_id() -> str:
    """Names this machine and user: only processes with the same one can share a store, if they see the same files.

    ``ZRAY_TEST_MACHINE`` takes the machine's place, for tests of many on one.
    """
    if name := os.environ.get("ZRAY_TEST_MACHINE"):
        return f"{name}-{os.getuid()}"
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            boot = file.read().strip()
    except OSError:
        boot = platform.node()
    return f"{boot}-{os.getuid()}"


def host_resources(
    num_cpus: float | None, num_gpus: float | None, memory: float | None, resources: dict[str, float] | None
) -> dict[str, int]:
    """A host's resources in ten-thousandths; what is not given is found out."""
    hostname = socket.gethostname()
    amounts: dict[str, float] = {
        "CPU": cpu_count() if num_cpus is None else num_cpus,
        "GPU": num_gpus or 0,
        "memory": int(memory_limit_bytes() * 0.7) if memory is None else memory,
        f"node:{hostname}": 1.0,
        **(resources or {}),
    }
    return {name: round(value * 10_000) for name, value in amounts.items() if value}
