"""A random workload on the simulated cluster, and what must be true at each step and at its end."""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from typing import Any

from tests.simulation.streams import generator, read_some
from zray.broker.resources import UNIT, shape_key
from zray.client.core.assignments import CALL, Assignment
from zray.client.core.states import STORED
from zray.client.core.windows import WINDOWS, Windows
from zray.ids import owner_of
from zray.protocol.messages import CANCEL_FORCE, CANCEL_RECURSIVE
from zray.scheduling.combine import combine
from zray.scheduling.node_affinity import NodeAffinitySchedulingStrategy
from zray.scheduling.node_label import In, NodeLabelSchedulingStrategy
from zray.testing.clients import SimActor, SimDriver, SimProcess
from zray.testing.cluster import SimCluster
from zray.testing.hosts import SimHost
from zray.testing.intruders import Intruder
from zray.testing.lanes import LaneFaults
from zray.testing.network import NetworkFaults
from zray.testing.nodes import SILENCE_S
from zray.testing.operations import Get, Program, Sleep
from zray.testing.workers import SimWorker

LIMIT_S = 300.0
"""Virtual seconds in which everything must have ended, deaths and their detection included."""
NAMES = ("first", "second")
CANCEL_MODES = (0, CANCEL_RECURSIVE, CANCEL_FORCE, CANCEL_FORCE | CANCEL_RECURSIVE)
NARROW = Windows(calls=2, call_bytes=150, all_call_bytes=400, task_bytes=1, all_task_bytes=60, started_bytes=0)
"""A few messages fill them."""
ONE_BY_ONE = Windows(calls=1, call_bytes=1, task_bytes=100, started_bytes=0)
"""Small tasks tell that they have begun as well: in a window of this size, few of them would block each other."""
LANE_FAULTS = (
    LaneFaults(),
    LaneFaults(after=1),
    LaneFaults(after=2, full=0.1),
    LaneFaults(after=1, full=0.3, late=0.2),
)
BAD_WEATHER = NetworkFaults(loss=0.02, duplication=0.02)


@dataclasses.dataclass(frozen=True)
class Trouble:
    """What goes wrong in a run: processes that are killed, whether users cancel, processes that are stopped for a
    while, intruders that try to get in. ``choosy``: work asks for certain hosts, also for those that die.
    ``limits``: some work may run for a limited time, and runs longer. ``urgent``: work has priorities."""

    workers: int = 0
    hosts: int = 0
    drivers: int = 0
    cancels: bool = False
    pauses: int = 0
    intruders: int = 0
    choosy: bool = False
    limits: bool = False
    urgent: bool = False


def random_program(
    worker: SimWorker, task: Assignment, refs: list[bytes], cancels: bool = False, limits: bool = False
) -> Program:
    """A task or method: computes, submits children, waits for some, keeps or returns references, or raises.

    ``cancels``: it also cancels what it has a reference to, its own children or what others have submitted. ``limits``:
    it may run for a limited time. If it runs longer, it ends when it is interrupted, or goes on.
    """
    if task.producer is not None:
        return generator(worker, task, refs)
    rng = worker.cluster.sim.random
    held = list(refs)  # each loaded once for this task
    blocked = False

    def work() -> Program:
        nonlocal blocked
        if limits and rng.random() < 0.3:
            deaf = rng.random() < 0.2
            worker.limit(task, rng.choice([0.0005, 0.01, 100.0]), deaf=deaf)
            if deaf:
                yield Sleep(rng.choice([0.1, 3.0]))
        if rng.random() < 0.7:
            yield Sleep(rng.choice([0.0001, 0.001, 0.02]))
        depth = int(worker.function_of(task)) if task.kind != CALL else 3
        if depth >= 3:
            return
        for _ in range(rng.choice([0, 0, 1, 2])):
            passed = [ref for ref in held if rng.random() < 0.3]
            if rng.random() < 0.3:
                held.append(worker.put(passed))
            else:
                top = held[:1] if rng.random() < 0.3 else []
                cpus = rng.choice([0, 0, 1])
                held.extend(worker.submit(str(depth + 1), top, passed, cpus=cpus, parent=task.task_id))
        if cancels and held and rng.random() < 0.1:
            worker.cancel(rng.choice(held), rng.choice(CANCEL_MODES))
        if rng.random() < 0.1:
            worker.block()
            blocked = True
            held.extend((yield from read_some(worker, [], held[:2], task.task_id)))
            worker.unblock()
            blocked = False
        if held and rng.random() < 0.6:
            wanted = [rng.choice(held)]
            worker.block()
            blocked = True
            values = yield Get(wanted)
            worker.unblock()
            blocked = False
            for value in values:
                held.extend(value or [])

    def program() -> Program:
        try:
            yield from work()
        except GeneratorExit:  # cancelled
            if blocked:
                worker.unblock()
            for ref in held:
                worker.drop(ref)
            raise
        if rng.random() < 0.08:
            for ref in held:
                worker.drop(ref)
            raise RuntimeError("the task failed")
        return settle_references(worker, held)

    return program()


def settle_references(worker: SimWorker, held: list[bytes]) -> list[bytes]:
    """At the end of a task: which references are returned. Some are kept in a global, of those one may be dropped."""
    rng = worker.cluster.sim.random
    result = []
    for ref in held:
        choice = rng.random()
        if choice < 0.25:
            result.append(ref)
        elif choice < 0.35:
            worker.kept.append(ref)
        else:
            worker.drop(ref)
    for ref in worker.kept:
        if rng.random() < 0.3:
            worker.kept.remove(ref)
            worker.drop(ref)
            break
    return result


def random_driver(n_tasks: int, n_actors: int, trouble: Trouble) -> Any:
    """A driver that submits, calls, gets, cancels, drops, and in the end drops everything."""

    def start(driver: SimDriver) -> Program:
        rng = driver.cluster.sim.random
        bag: list[bytes] = []

        def where() -> list[Any] | None:
            return random_constraint(driver) if trouble.choosy else None

        actors = [
            driver.create_actor(rng.choice([0, 2]), rng.choice([1, 3]), constraint=where()) for _ in range(n_actors)
        ]
        for _ in range(rng.randrange(2)):
            named = yield from driver.create_named(rng.choice(NAMES), rng.choice([0, 2]), rng.choice([1, 3]))
            actors.extend([named] if named else [])
        for _ in range(n_tasks):
            some = [ref for ref in bag if rng.random() < 0.1]
            if actors and rng.random() < 0.3:
                bag.append(driver.call(rng.choice(actors), some[:2], retries=rng.choice([0, 3])))
            else:
                retries, cpus = rng.choice([0, 3]), rng.choice([0, 0, 1])
                shape = shape_key({"CPU": cpus * UNIT}, priority=rng.randrange(-3, 4)) if trouble.urgent else b""
                bag.extend(driver.submit("0", some[:1], some[1:], retries, cpus, constraint=where(), shape=shape))
            if actors and rng.random() < 0.05:
                actor = rng.choice(actors)
                bag.extend(driver.call(actor, retries=rng.choice([0, 3])) for _ in range(10))
            if actors and rng.random() < 0.1:
                bag.extend((yield from call_behind_one_that_waits(driver, rng.choice(actors))))
            if rng.random() < 0.2:
                bag.extend((yield from one_by_one(driver, rng.choice([2, 5]), some[:1])))
            if rng.random() < 0.1:
                bag.append(driver.put(some))
            if rng.random() < 0.15:
                bag.extend((yield from read_some(driver, actors, some[:3])))
            if bag and rng.random() < 0.2:
                (value,) = yield Get([rng.choice(bag)])
                bag.extend(value or [])
            if trouble.cancels and bag and rng.random() < 0.2:
                driver.cancel(rng.choice(bag), rng.choice(CANCEL_MODES))
            if bag and rng.random() < 0.3:
                driver.drop(bag.pop(rng.randrange(len(bag))))
            if rng.random() < 0.05:
                found = yield from driver.find_named(rng.choice(NAMES))
                actors.extend([found] if found else [])
            if rng.random() < 0.05:
                yield Sleep(0.05)
        values = yield Get(list(bag))
        for value in values:
            bag.extend(value or [])
        for ref in bag:
            driver.drop(ref)
        for actor in actors:
            driver.drop(actor.handle_id)

    return start


def random_constraint(driver: SimDriver) -> list[Any] | None:
    """Any host, one host (also one that is dead, or never was), or hosts with labels that a host has which lives."""
    rng = driver.cluster.sim.random
    hosts = [node.process_id for node in driver.cluster.nodes.values() if isinstance(node, SimHost)]
    number = {"number": str(rng.randrange(len(hosts)))}
    constraint = rng.choice(
        [
            None,
            combine(NodeAffinitySchedulingStrategy(rng.choice([*hosts, bytes(16)]), soft=False), None, None),
            combine(NodeAffinitySchedulingStrategy(rng.choice([*hosts, bytes(16)]), soft=True), None, None),
            combine(NodeLabelSchedulingStrategy(None, soft={"number": In(number["number"])}), None, None),
            combine(None, number, [{"label_selector": {"number": "0"}}]),
        ]
    )
    return None if constraint is None else constraint.to_row()


def one_by_one(driver: SimDriver, n_tasks: int, refs: list[bytes]) -> Program:
    """Submits tasks, each after the outcome of the one before; returns the references in their values.

    After some of them, the driver leases the worker.
    """
    rng = driver.cluster.sim.random
    found: list[bytes] = []
    for _ in range(n_tasks):
        (called,) = driver.submit("2", refs, retries=rng.choice([0, 3, 3, 3]), cpus=1)
        if rng.random() < 0.05:
            driver.cancel(called, rng.choice(CANCEL_MODES))
        (value,) = yield Get([called])
        found.extend(value or [])
        driver.drop(called)
        yield Sleep(rng.choice([0.0, 0.0, 0.001, 0.6]))
    return found


def call_behind_one_that_waits(driver: SimDriver, actor: SimActor) -> Program:
    """Makes two calls, of which the first waits for an argument; returns their results.

    If the actor runs several at once, that argument exists only when the second call has ended.
    """
    retries = driver.cluster.sim.random.choice([0, 3])
    argument = driver.promise()
    calls = [driver.call(actor, [argument], retries), driver.call(actor, (), retries)]
    if actor.concurrency > 1:
        yield Get(calls[1:])
    else:
        yield Sleep(0.01)
    driver.keep_promise(argument)
    driver.drop(argument)
    return calls


def run_scenario(seed: int, trouble: Trouble = Trouble(), network_faults: NetworkFaults = BAD_WEATHER) -> SimCluster:
    """Runs one seed to its end and checks everything; an AssertionError tells how to run it again."""
    try:
        return _run(seed, trouble, network_faults)
    except Exception as error:
        raise AssertionError(f"{error!r}: run it again with ZRAY_TEST_SEED={seed}") from error


def _run(seed: int, trouble: Trouble, network_faults: NetworkFaults) -> SimCluster:
    program = functools.partial(random_program, cancels=trouble.cancels, limits=trouble.limits)
    windows = (WINDOWS, NARROW, ONE_BY_ONE)[seed % 3]
    cluster = SimCluster(seed, program, network_faults, windows=windows, lane_faults=LANE_FAULTS[seed % 4])
    cluster.die_storing = trouble.workers
    sim = cluster.sim
    for _ in range(seed % 4):
        sim.after(sim.random.uniform(0.005, 0.5), cluster.lanes.break_one)
    hosts = [
        SimHost(cluster, {"CPU": sim.random.choice([10_000, 20_000, 40_000])}, {"number": str(number)})
        for number in range(1 + trouble.hosts)
    ]
    drivers = [
        SimDriver(cluster, random_driver(sim.random.randrange(5, 25), sim.random.randrange(3), trouble))
        for _ in range(2)
    ]
    for _ in range(trouble.workers):
        sim.after(sim.random.uniform(0.005, 0.5), lambda: kill_somebody(cluster))
    for victim in [*hosts[1:], *drivers[: trouble.drivers]]:
        sim.after(sim.random.uniform(0.005, 0.5), lambda victim=victim: cluster.kill(victim))  # type: ignore[misc]
    for _ in range(trouble.pauses):
        sim.after(sim.random.uniform(0.005, 0.5), lambda: pause_somebody(cluster))
    for _ in range(trouble.intruders):
        Intruder(cluster)
    assert sim.run(lambda: all(driver.done or not driver.alive for driver in drivers), LIMIT_S), (
        "somebody waits forever"
    )
    settled = sim.run(lambda: is_clean(cluster, drivers), LIMIT_S)
    assert settled, f"left over: {leftovers(cluster, drivers)}"
    check_order_of_calls(cluster)
    return cluster


def kill_somebody(cluster: SimCluster) -> None:
    """A random worker dies."""
    live = cluster.live_workers()
    if live:
        cluster.kill(cluster.sim.random.choice(live))


def pause_somebody(cluster: SimCluster) -> None:
    """A random process stands still, for a moment or for longer than one may be silent: not the first host, which would
    be declared dead, and somebody has to do the work."""
    rng = cluster.sim.random
    victim = rng.choice([node for node in cluster.nodes.values() if node.alive and not isinstance(node, Intruder)])
    is_first_host = victim is next(iter(cluster.nodes.values()))
    victim.pause()
    cluster.sim.after(rng.uniform(0.0, rng.choice([2.0, 2.0 if is_first_host else 3 * SILENCE_S])), victim.go_on)


def check_order_of_calls(cluster: SimCluster) -> None:
    """The calls of each caller ran in the order in which it made them, in each incarnation of an ordinary actor."""
    for worker in cluster.workers:
        spec = worker.core.execution.actor_spec
        if spec is None or not spec.ordered:
            continue
        last: dict[bytes, bytes] = {}
        for caller, task_id in worker.seen:  # the counter in a task's ID tells when its call was made
            assert task_id > last.get(caller, b""), "calls of one caller changed their order"
            last[caller] = task_id


# ------------------------------------------------------------------ what is left


def is_clean(cluster: SimCluster, drivers: list[SimDriver]) -> bool:
    """Whether nothing is left of all the work."""
    for worker in cluster.live_workers():
        if worker.kept:
            drop_kept(worker)
    return not leftovers(cluster, drivers)


def drop_kept(worker: SimWorker) -> None:
    """The worker's global is emptied."""
    for ref in worker.kept:
        worker.drop(ref)
    worker.kept.clear()
    worker.flush()


def leftovers(cluster: SimCluster, drivers: list[SimDriver]) -> list[str]:
    """What should be gone."""
    found = []
    processes = [*[driver for driver in drivers if driver.alive and not driver.fenced], *cluster.live_workers()]
    for process in processes:
        name = type(process).__name__
        core = process.core
        if core.tasks.tasks:
            found.append(f"{name} tasks")
        if core.execution.running or core.execution.queued:
            found.append(f"{name} work")
        if core.streams.streams:
            found.append(f"{name} streams")
    if not found:
        found.extend(unexplained(processes))
        found.extend(unexplained_values(cluster, processes))
    return found + leftovers_at_the_broker(cluster)


def leftovers_at_the_broker(cluster: SimCluster) -> list[str]:
    """As ``leftovers``: what the broker remembers."""
    broker = cluster.broker
    found = []
    if any(process.tasks for process in broker.processes.values()):
        found.append("broker tasks")
    if broker.actors.actors or broker.actors.names:
        found.append("actors")
    if broker.groups.groups or any(host.bundles for host in broker.scheduler.hosts.values()):
        found.append("placement groups")
    for host in broker.scheduler.hosts.values():
        if host.pool.free != host.pool.total:
            found.append(f"resources {host.pool.free}")
        if not cluster.nodes[host.host_id].alive:
            found.append("a dead host")
    live = {job.job_id for job in broker.jobs.values() if job.driver in broker.processes}
    if live != set(broker.jobs):
        found.append("jobs")
    dead = [process_id for process_id in broker.processes if not cluster.nodes[process_id].alive]
    if dead:
        found.append("dead processes")
    return found


def unexplained_values(cluster: SimCluster, processes: list[SimProcess]) -> list[str]:
    """Values in the stores of living hosts that their living owners know nothing of."""
    alive = {process.process_id: process.core for process in processes}
    found = []
    for host in cluster.nodes.values():
        for object_id in host.store if isinstance(host, SimHost) and host.alive else ():
            owner = alive.get(owner_of(object_id))
            entry = owner.references.entries.get(object_id) if owner is not None else None
            if owner is not None and (entry is None or (entry.status, entry.host) != (STORED, host.process_id)):
                found.append(f"the value {object_id.hex()[:6]}..{object_id.hex()[-12:]} in a store")
    return found


def unexplained(processes: list[SimProcess]) -> list[str]:
    """Entries that are held by something else than a cycle of values, which no reference counting can free.

    Every count of every entry must be accounted for: pins by the values of the same process, an owner's registrations
    by its borrowers.
    """
    found = []
    alive = {process.process_id: process for process in processes}
    for process in processes:
        entries = process.core.references.entries
        pins = Counter(inner for entry in entries.values() for inner in entry.inner)
        pins.update(pinned for record in process.core.lineage.records.values() for pinned in record.pinned)
        for object_id, entry in entries.items():
            where = f"{process.process_id.hex()[:6]}: {object_id.hex()[:6]}..{object_id.hex()[-12:]}"
            if entry.local or entry.covers or entry.announced or entry.pins != pins[object_id]:
                found.append(
                    f"{where} {entry.local=} {entry.covers=} {entry.announced=} {entry.pins=}, {pins[object_id]}"
                )
            for holder, count in (entry.holders or {}).items():
                other = alive[holder].core.references.entries.get(object_id) if holder in alive else None
                if other is None or other.registered != count:
                    known = other and other.registered
                    found.append(f"{where} is held {count} times by {holder.hex()[:6]}, which knows of {known}")
            if not (entry.pins or entry.holders):
                found.append(f"{where} is held by nothing")
    return found
