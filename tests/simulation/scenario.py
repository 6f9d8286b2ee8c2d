"""A random workload on the simulated cluster, and what must be true at its end."""

from __future__ import annotations

from collections import Counter
from typing import Any

from zray.client.core.execution import CALL, Assignment
from zray.testing.cluster import Get, Program, SimCluster, SimDriver, SimHost, SimProcess, SimWorker, Sleep
from zray.testing.network import Weather

LIMIT_S = 300.0
"""Virtual seconds in which everything must have ended, deaths and their detection included."""


def random_program(worker: SimWorker, task: Assignment, refs: list[bytes]) -> Program:
    """A task or method: computes, submits children, waits for some, keeps or returns references, or raises."""
    rng = worker.cluster.sim.random
    held = list(refs)  # each loaded once for this task

    def program() -> Program:
        if rng.random() < 0.7:
            yield Sleep(rng.choice([0.0001, 0.001, 0.02]))
        depth = task.function_id[0] - ord("0") if task.kind != CALL else 3
        if depth < 3:
            for _ in range(rng.choice([0, 0, 1, 2])):
                passed = [ref for ref in held if rng.random() < 0.3]
                if rng.random() < 0.3:
                    held.append(worker.put(passed))
                else:
                    top = held[:1] if rng.random() < 0.3 else []
                    held.extend(worker.submit(str(depth + 1), top, passed, parent=task.task_id))
            if held and rng.random() < 0.6:
                wanted = [rng.choice(held)]
                worker.block()
                values = yield Get(wanted)
                worker.unblock()
                for value in values:
                    held.extend(value or [])
        if rng.random() < 0.08:
            for ref in held:
                worker.drop(ref)
            raise RuntimeError("the task failed")
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

    return program()


def random_driver(n_tasks: int, n_actors: int) -> Any:
    """A driver that submits, calls, gets, drops, and in the end drops everything."""

    def start(driver: SimDriver) -> Program:
        rng = driver.cluster.sim.random
        bag: list[bytes] = []
        actors = [driver.create_actor(restarts=rng.choice([0, 2])) for _ in range(n_actors)]
        for _ in range(n_tasks):
            some = [ref for ref in bag if rng.random() < 0.1]
            if actors and rng.random() < 0.3:
                bag.append(driver.call(*rng.choice(actors), some[:2], retries=rng.choice([0, 3])))
            else:
                bag.extend(driver.submit("0", some[:1], some[1:], retries=rng.choice([0, 3])))
            if rng.random() < 0.1:
                bag.append(driver.put(some))
            if bag and rng.random() < 0.2:
                (value,) = yield Get([rng.choice(bag)])
                bag.extend(value or [])
            if bag and rng.random() < 0.3:
                driver.drop(bag.pop(rng.randrange(len(bag))))
            if rng.random() < 0.05:
                yield Sleep(0.05)
        values = yield Get(list(bag))
        for value in values:
            bag.extend(value or [])
        for ref in bag:
            driver.drop(ref)
        for _, handle in actors:
            driver.drop(handle)

    return start


def run_scenario(seed: int, deaths: int = 0, weather: Weather | None = None) -> SimCluster:
    """Runs one seed to its end and checks the invariants."""
    cluster = SimCluster(seed, random_program, weather or Weather(loss=0.02, duplication=0.02))
    sim = cluster.sim
    SimHost(cluster, {"CPU": sim.random.choice([10_000, 20_000, 40_000])})
    drivers = [
        SimDriver(cluster, random_driver(sim.random.randrange(5, 25), sim.random.randrange(3))) for _ in range(2)
    ]
    for _ in range(deaths):
        sim.after(sim.random.uniform(0.005, 0.5), lambda: kill_somebody(cluster))
    assert sim.run(lambda: all(driver.done for driver in drivers), LIMIT_S), f"seed {seed}: somebody waits forever"
    for worker in cluster.live_workers():
        drop_kept(worker)
    settled = sim.run(lambda: is_clean(cluster, drivers), LIMIT_S)
    assert settled, f"seed {seed}: {leftovers(cluster, drivers)}"
    return cluster


def drop_kept(worker: SimWorker) -> None:
    """The worker's global is emptied."""
    for ref in worker.kept:
        worker.drop(ref)
    worker.kept.clear()
    worker.flush()


def kill_somebody(cluster: SimCluster) -> None:
    """A random worker dies."""
    live = cluster.live_workers()
    if live:
        cluster.kill(cluster.sim.random.choice(live))


def is_clean(cluster: SimCluster, drivers: list[SimDriver]) -> bool:
    """Whether nothing is left of all the work."""
    for worker in cluster.live_workers():
        if worker.kept:
            drop_kept(worker)
    return not leftovers(cluster, drivers)


def leftovers(cluster: SimCluster, drivers: list[SimDriver]) -> list[str]:
    """What should be gone."""
    found = []
    drivers = [driver for driver in drivers if not driver.fenced]
    for process in [*drivers, *cluster.live_workers()]:
        name = type(process).__name__
        core = process.core
        if core.tasks.tasks:
            found.append(f"{name} tasks")
        if core.execution.running or core.execution.queued:
            found.append(f"{name} work")
    if not found:
        found.extend(unexplained([*drivers, *cluster.live_workers()]))
    if cluster.broker.tasks:
        found.append("broker tasks")
    pools = [host.pool for host in cluster.broker.scheduler.hosts.values()]
    found.extend(f"resources {pool.free}" for pool in pools if pool.free != pool.total)
    if cluster.broker.actors.actors:
        found.append("actors")
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
        for object_id, entry in entries.items():
            where = f"{process.process_id.hex()[:6]}: {object_id.hex()[:6]}..{object_id.hex()[-12:]}"
            if entry.local or entry.covers or entry.pins != pins[object_id]:
                found.append(
                    f"{where} local={entry.local} covers={entry.covers} pins={entry.pins} of {pins[object_id]}"
                )
            for holder, count in (entry.holders or {}).items():
                other = alive[holder].core.references.entries.get(object_id) if holder in alive else None
                if other is None or other.registered != count:
                    known = other and other.registered
                    found.append(f"{where} is held {count} times by {holder.hex()[:6]}, which knows of {known}")
            if not (entry.pins or entry.holders):
                found.append(f"{where} is held by nothing")
    return found
