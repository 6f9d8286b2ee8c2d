"""The name, resources and labels of this machine, for hosts that announce them and for drivers that start a host."""

from __future__ import annotations

import functools
import os
import socket
from collections.abc import Iterable, Mapping

from zray.system.processes import cpu_count, memory_limit_bytes


@functools.cache
def machine_id() -> str:
    """Names this machine and user. Processes with the same name can share a store, if they see the same files.

    ``ZRAY_TEST_MACHINE`` replaces the machine's name, for tests of many machines on one.
    """
    if name := os.environ.get("ZRAY_TEST_MACHINE"):
        return f"{name}-{os.getuid()}"
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            boot = file.read().strip()
    except OSError:
        boot = os.uname().nodename
    return f"{boot}-{os.getuid()}"


def ip_address(broker: str) -> str:
    """Returns the address by which this machine reaches a broker's ``tcp`` address; empty if there is no route.

    Nothing is sent: connecting a datagram socket only asks the kernel for the route.
    """
    host, _, port = broker.removeprefix("tcp://").rpartition(":")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((host, int(port)))
        except OSError:
            return ""
        return str(probe.getsockname()[0])


def host_resources(
    num_cpus: float | None, num_gpus: float | None, memory: float | None, resources: dict[str, float] | None
) -> dict[str, int]:
    """Returns a host's resources in ten-thousandths; detects those that are not given.

    Raises ConfigError for more accelerators than a variable such as ``CUDA_VISIBLE_DEVICES`` names.
    """
    from zray.system.accelerators import offered  # every process loads this module, and only hosts need that one

    given = resources or {}
    amounts: dict[str, float] = {
        "CPU": cpu_count() if num_cpus is None else num_cpus,
        **offered(num_gpus, given, os.environ),
        "memory": int(memory_limit_bytes() * 0.7) if memory is None else memory,
        f"node:{socket.gethostname()}": 1.0,
        **given,
    }
    return {name: round(value * 10_000) for name, value in amounts.items() if value}


_LABEL_VARIABLES = {
    "RAY_NODE_MARKET_TYPE": "ray.io/market-type",
    "RAY_NODE_TYPE_NAME": "ray.io/node-group",
    "RAY_NODE_ZONE": "ray.io/availability-zone",
    "RAY_NODE_REGION": "ray.io/availability-region",
}
"""The variables from which Ray takes default labels. Kubernetes operators set them."""
_TYPE = "accelerator_type:"


def host_labels(
    host_id: bytes, given: Mapping[str, str], environ: Mapping[str, str], resources: Iterable[str] = ()
) -> dict[str, str]:
    """Returns a host's labels: those that the environment names, those that are ``given``, and its identifier.

    The type of its accelerators is among the names of its ``resources``.

    Given labels override the environment's. No label overrides the identifier.
    """
    from zray.scheduling.constraint import NODE_ID_LABEL  # drivers load this module before those of the client

    of_environment = {label: environ[name] for name, label in _LABEL_VARIABLES.items() if environ.get(name)}
    kinds = [name.removeprefix(_TYPE) for name in resources if name.startswith(_TYPE)]
    of_accelerators = {"ray.io/accelerator-type": kinds[0]} if kinds else {}
    return {**of_accelerators, **of_environment, **given, NODE_ID_LABEL: host_id.hex()}
