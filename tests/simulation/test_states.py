"""Simulated runs reach every state and make every transition of the tables, save those that another test makes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.simulation import scenario, test_placement_groups, transfers
from tests.simulation.test_transfers import small_chunks  # noqa: F401 (a fixture for all tests here)
from zray.broker.states import ACTOR, GROUP, WORKER
from zray.client.core.states import TASK
from zray.client.states import CONNECTION
from zray.states import Machine
from zray.testing.network import NetworkFaults
from zray.testing.states import MACHINES, Seen, transitions, transitions_seen
from zray.transfer.states import CHANNEL, PULL

SEEDS = 20
ROOT = Path(__file__).resolve().parents[2]

BROKER_ACTORS, BROKER_WORKERS = "tests/unit/broker/test_actors.py", "tests/unit/broker/test_workers.py"
TRANSFERS, SHELL = "tests/unit/transfer/test_core.py", "tests/unit/client/test_shell.py"
ELSEWHERE: dict[Machine[Any], dict[tuple[str, str], str]] = {
    TASK: {("SENT", "WAITING"): "tests/unit/client/test_pauses.py"},
    WORKER: {
        ("STARTING", "RETIRED"): BROKER_WORKERS,
        ("STARTING", "DEAD"): BROKER_WORKERS,
        ("BUSY", "RETIRED"): BROKER_WORKERS,
        ("LEASED", "RETIRED"): "tests/unit/broker/test_leases.py",
        ("PROBED", "RETIRED"): BROKER_WORKERS,
        ("SERVING", "RETIRED"): BROKER_ACTORS,
    },
    ACTOR: {
        ("PENDING_CREATION", "RESTARTING"): BROKER_ACTORS,
        ("RESTARTING", "RESTARTING"): BROKER_ACTORS,
        ("RESTARTING", "DEAD"): BROKER_ACTORS,
    },
    GROUP: {("RESCHEDULING", "REMOVED"): "tests/unit/broker/test_placement_groups.py"},
    PULL: {
        ("RESERVING", "FAILED"): TRANSFERS,
        ("RUNNING", "FAILED"): TRANSFERS,
        ("SEALING", "FAILED"): TRANSFERS,
    },
    CHANNEL: {("RELAYED", "DIRECT"): TRANSFERS, ("DIRECT", "GONE"): TRANSFERS},
    CONNECTION: {("OPEN", "LOST"): SHELL, ("OPEN", "CLOSED"): SHELL, ("LOST", "CLOSED"): SHELL},
}
"""Transitions that so few runs may not make, or that no simulated process makes; and the tests that make them."""


def play() -> dict[str, Seen]:
    """The transitions of some runs, by the name of the machine."""
    with transitions_seen() as seen:
        for seed in range(SEEDS):
            scenario.run_scenario(seed, network_faults=NetworkFaults())
            scenario.run_scenario(seed, scenario.Trouble(workers=1 + seed % 6))
            everything = scenario.Trouble(workers=seed % 4, hosts=seed % 3, drivers=seed % 2, cancels=True)
            scenario.run_scenario(seed, everything)
            test_placement_groups.run(seed, hosts=seed % 3, joiners=1)
        for seed in range(5 * SEEDS):
            transfers.World(seed, transfers.Trouble(break_channels=0.5, no_channels=0.5)).run()
            transfers.World(seed, transfers.Trouble(deaths=2, withdraw=0.2, evict=0.3, tight=True)).run()
    return seen


def test_every_state_is_reached_and_every_transition_made() -> None:
    seen = play()
    for machine in MACHINES:
        never = [(one.name, other.name) for one, other in transitions(machine) if not seen[machine.name][one, other]]
        assert set(never) <= set(ELSEWHERE.get(machine, ())), machine.name
        reached = {*machine.initial, *(after for _, after in seen[machine.name])}
        assert reached == set(machine.states.__members__.values()) or machine is CONNECTION, machine.name


def test_what_is_made_elsewhere_is_in_the_tables() -> None:
    for machine, made in ELSEWHERE.items():
        assert made.keys() <= {(before.name, after.name) for before, after in transitions(machine)}
        assert all((ROOT / test).exists() for test in made.values())
