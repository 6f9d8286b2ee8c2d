"""Chooses the CPUs that each worker is pinned to.

The broker chooses them, because it alone knows what is granted. A host that pins its workers says so
(``HostInfo.pins_cpus``). Its CPUs are known here by their positions, 0, 1, ...; only its workers know which CPUs of the
machine these are.

A worker has a *claim*: the amount for which its CPUs were chosen. The claim outlives the grant. So a worker whose next
grant has the same amount keeps its CPUs, and nothing is computed or sent. Claims of workers that hold no grant, or that
wait in ``get``, are dropped only when a grant would otherwise have to share CPUs. A whole CPU belongs to one claim.
Parts of CPUs share one: the fullest that has room. If there are not enough free CPUs, because a woken task has taken
back what it had lent, or because the free parts are scattered, claims share the CPUs that are used least. While a host
shares CPUs (``Host.shares_cpus``), CPUs are chosen anew for each grant, so that this ends.

Pure; the state is in ``Host.cpu_loads`` and ``Worker.claim``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from zray.broker.records import Host, Worker
from zray.broker.resources import UNIT
from zray.broker.states import BUSY, LEASED, STARTING
from zray.protocol.messages import PinCpus

Cpus = tuple[int, ...]
"""Positions of CPUs: first those that are used as a whole, then the one that is used in part."""


class CpuClaims:
    """The claims of all workers. ``send(dest, message)``."""

    def __init__(self, send: Callable[[bytes, Any], None]) -> None:
        self._send = send

    def claim(self, worker: Worker, amount: int) -> None:
        """Chooses CPUs for a worker whose next work has ``amount`` of CPUs; 0: it may use all CPUs of its host.

        Tells the worker if it must change. It has to be told before that work.
        """
        self.drop(worker)
        worker.claim = amount
        loads = worker.host.cpu_loads
        if not loads:
            return
        chosen = choose(loads, amount, worker.cpus)
        if overlaps(loads, amount, chosen) and _drop_unused(worker.host):
            chosen = choose(loads, amount, worker.cpus)
        _take(worker.host, amount, chosen)
        if chosen != worker.cpus:
            worker.cpus = chosen
            if worker.state is not STARTING:
                self.tell(worker)

    def tell(self, worker: Worker) -> None:
        """Tells a worker its CPUs."""
        self._send(worker.worker_id, PinCpus(list(worker.cpus)))

    def wake(self, worker: Worker) -> None:
        """A worker whose claim was dropped goes on: it claims the same CPUs again, even if others use them now."""
        worker.claim = ~worker.claim
        _take(worker.host, worker.claim, worker.cpus)

    @staticmethod
    def drop(worker: Worker) -> None:
        """Drops a worker's claim. The worker stays where it is until it has another."""
        if worker.claim >= 0:
            _load(worker.host.cpu_loads, worker.claim, worker.cpus, -1)
            worker.claim = ~worker.claim


def choose(loads: list[int], amount: int, before: Cpus) -> Cpus:
    """Returns CPUs for an amount. ``loads``: how much of each CPU is claimed; ``before``: those to prefer.

    No more CPUs are returned than there are.
    """
    whole, part = divmod(amount, UNIT)
    chosen: list[int] = []
    if whole:
        ranked = sorted(range(len(loads)), key=lambda cpu: (loads[cpu], cpu not in before, cpu))
        chosen = sorted(ranked[:whole])

    def rank(cpu: int) -> tuple[bool, int, bool, int]:
        fits = loads[cpu] + part <= UNIT
        return not fits, -loads[cpu] if fits else loads[cpu], cpu not in before, cpu

    if part and len(chosen) < len(loads):
        chosen.append(min((cpu for cpu in range(len(loads)) if cpu not in chosen), key=rank))
    return tuple(chosen)


def overlaps(loads: list[int], amount: int, chosen: Cpus) -> bool:
    """Whether the CPUs that were chosen for an amount have no room for it."""
    return any(loads[cpu] + share > UNIT for cpu, share in _shares(amount, chosen))


def _drop_unused(host: Host) -> bool:
    """Drops the claims of workers that do not use their CPUs now. Returns whether there were any."""
    claims = [worker for worker in host.workers.values() if worker.claim > 0]
    unused = [worker for worker in claims if worker.blocked or not worker.grant.cpus_used]
    for worker in unused:
        CpuClaims.drop(worker)
    return bool(unused)


def _shares(amount: int, cpus: Cpus) -> Iterable[tuple[int, int]]:
    """Yields each CPU of a claim, and how much of it is claimed."""
    for number, cpu in enumerate(cpus):
        yield cpu, min(UNIT, amount - number * UNIT)


def _take(host: Host, amount: int, cpus: Cpus) -> None:
    _load(host.cpu_loads, amount, cpus, 1)
    host.shares_cpus = max(host.cpu_loads, default=0) > UNIT


def _load(loads: list[int], amount: int, cpus: Cpus, sign: int) -> None:
    if loads:
        for cpu, share in _shares(amount, cpus):
            loads[cpu] += sign * share


def check_claims(host: Host) -> None:
    """Raises AssertionError if the loads of a host's CPUs do not agree with its workers' claims; for tests."""
    loads = [0] * len(host.cpu_loads)
    for worker in host.workers.values():
        if worker.claim > 0:
            _load(loads, worker.claim, worker.cpus, 1)
            if loads:
                assert len(set(worker.cpus)) == min(-(-worker.claim // UNIT), len(loads)), "the CPUs of a claim"
        if loads and worker.state in (BUSY, LEASED) and not worker.blocked:
            assert worker.claim == worker.grant.cpus_used, "a worker runs with another claim than its grant"
    assert loads == host.cpu_loads, "the loads of CPUs"
