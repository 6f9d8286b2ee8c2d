"""Each test has a network of its own; where the kernel does not allow any, it is skipped, and says why."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from .network import Machine, Network, network_of_machines, obstacle
from .wire import TUN


@pytest.fixture(scope="session")
def networks_allowed() -> None:
    """Skips where there can be no network."""
    if reason := obstacle():
        pytest.skip(reason)


@pytest.fixture
def network(networks_allowed: None) -> Iterator[Network]:
    """A switch, with nothing plugged in yet."""
    with network_of_machines() as network:
        yield network


@pytest.fixture
def behind_nat(network: Network) -> Callable[[str], Machine]:
    """Makes machines behind a router."""

    def make(name: str) -> Machine:
        try:
            return network.machine_behind_nat(name)
        except OSError as error:
            pytest.skip(f"no NAT here: {error}")

    return make


@pytest.fixture
def on_a_wire(network: Network) -> Callable[[str], Machine]:
    """Makes machines whose cable can have network_faults."""

    def make(name: str) -> Machine:
        try:
            return network.machine(name, wire=True)
        except OSError as error:
            pytest.skip(f"no TAP devices here ({TUN}): {error}")

    return make
