"""Costs that may grow only as fast as the number of things: each is measured for n of them and for 10 n.

A slope is the decimal logarithm of the cost of 10 n things over that of n. It is 1 if each costs the same however many
there are, and 2 if each costs ten times as much. Costs are CPU time, which depends less on the machine's other load
than the time that passes: that of this process, where nothing else is said; for idle actors and calls, that of all
processes; for look-ups, that of this process and the broker. Each measurement has a new cluster of one CPU, or cores of
its own; the sizes take turns, and the lowest cost of each counts, since noise only ever makes things slower. It needs
1.5 GB of shared memory and as much disk.

    python -m benchmarks.slopes                      # some minutes; the table also goes into README.md
    python -m benchmarks.slopes --quick --json out   # a twentieth of the sizes, once; README.md stays as it is
    python -m benchmarks.slopes --actors 100         # 100 and 1,000 actors, not 10 and 100; README.md stays as it is
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import gc
import json
import math
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zray
from benchmarks.host_figures import WORDS, aligned, circumstances, record
from benchmarks.processes import cpu_s, descendants, exists, titled
from zray.client.core.references import ReferenceTable
from zray.client.core.states import INLINE
from zray.ids import make_task_id, put_id
from zray.protocol.messages import BorrowAdd
from zray.store import Store
from zray.store.ledger import segment_bytes

BEGIN, END = "<!-- slopes: written by slopes.py -->", "<!-- end of slopes -->"
MOST_SLOPE = 1.1
DECADE = 10
ROUNDS = 3
ACTORS = 10
IDLE_S = 5.0
SETTLE_PART = 0.2
"""Of the time in which idle actors are watched: so long they are left alone before."""
CALLS = 20
"""How often each actor is called, and looked up."""
REFS_OF_ONE = 100
"""The references of each of many borrowers."""
LARGE = 128 << 10
OWNER = b"owner".ljust(16, b"\0")
HEADER = ("", "n", "cost of n", "cost of 10 n", "slope", "target", "")


@dataclass(frozen=True)
class Row:
    """``cost(n)`` makes n things and returns what they cost, in seconds."""

    title: str
    n: int
    cost: Callable[[int], float]


@dataclass(frozen=True)
class Slope:
    """What a row has shown; the costs are in seconds."""

    title: str
    n: int
    cost: float
    cost_of_decade: float

    @property
    def slope(self) -> float:
        return math.log10(self.cost_of_decade / self.cost)

    @property
    def met(self) -> bool:
        return round(self.slope, 2) <= MOST_SLOPE  # as it is shown

    def figures(self) -> dict[str, float]:
        """What a program may want to read."""
        return {"n": self.n, "cost_s": self.cost, "cost_of_10n_s": self.cost_of_decade, "slope": self.slope}

    def cells(self) -> tuple[str, ...]:
        """A row of the table."""
        costs = (milliseconds(self.cost), milliseconds(self.cost_of_decade))
        return self.title, f"{self.n:,}", *costs, f"{self.slope:.2f}", f"<= {MOST_SLOPE:g}", WORDS[self.met]


def milliseconds(seconds: float) -> str:
    """A cost with three digits, or all before the point if there are more."""
    decimals = max(0, 2 - math.floor(math.log10(1e3 * seconds)))
    return f"{1e3 * seconds:,.{decimals}f} ms"


def used(action: Callable[[], object], processes: Iterable[int] | None = None) -> float:
    """The CPU time that processes (default: this one) used during an action, in seconds.

    Those that have ended meanwhile, as idle workers do, are left out.
    """
    before = {pid: cpu_s(pid) for pid in ([os.getpid()] if processes is None else processes)}
    action()
    return sum(cpu_s(pid) - earlier for pid, earlier in before.items() if exists(pid))


def everybody() -> list[int]:
    """This process and those of its cluster."""
    return [os.getpid(), *descendants()]


@contextlib.contextmanager
def cluster(**options: Any) -> Iterator[None]:
    """A local cluster of one CPU. ``options``: those of ``zray.init``."""
    zray.init("local", num_cpus=1, log_to_driver=False, logging_level="ERROR", **options)
    try:
        yield
    finally:
        zray.shutdown()


def nothing(*arguments: object) -> None:
    """The task of all rows."""


class Member:
    """The actor of all rows."""

    def answer(self) -> int:
        return 1


def members(n: int) -> list[Any]:
    """As many actors, named by their numbers, each of which has answered once."""
    member: Any = zray.remote(Member)
    actors = [member.options(num_cpus=0, name=str(number)).remote() for number in range(n)]
    zray.get([actor.answer.remote() for actor in actors])
    return actors


def puts_held(n: int) -> float:
    with cluster():
        refs: list[Any] = []
        return used(lambda: refs.extend(map(zray.put, range(n))))


def deaths(n: int, refs_of_one: int) -> float:
    """The core of an owner of n objects is told of the deaths of their borrowers."""
    owner = ReferenceTable(OWNER, lambda dest, message: None, lambda process: None, lambda host, object_id: None)
    borrowers: dict[bytes, None] = {}
    for number in range(n):
        object_id = put_id(make_task_id(OWNER, number))
        owner.own(object_id)
        owner.resolve(object_id, INLINE, b"value", b"", 5)
        borrower = (1 + number // refs_of_one).to_bytes(16, "big")
        borrowers[borrower] = None
        owner.on_borrow_add(borrower, BorrowAdd(object_id, borrower, number))
        owner.drop(object_id)

    def die() -> None:
        for borrower in borrowers:
            owner.on_process_died(borrower)

    seconds = used(die)
    assert not owner.entries
    return seconds


def cancels(n: int) -> float:
    """Tasks that wait for the value of a task that runs are cancelled, one after the other."""
    task, sleep = zray.remote(nothing), zray.remote(time.sleep)
    with cluster():
        value = sleep.remote(3600.0)
        refs = [task.remote(value) for _ in range(n)]

        def cancel() -> None:
            for ref in refs:
                zray.cancel(ref)
            zray.wait(refs, num_returns=n)

        return used(cancel)


def waits(n: int) -> float:
    """The next of n tasks that have ended is asked for, until there is none."""
    task = zray.remote(nothing)
    with cluster():
        refs: list[Any] = [task.remote() for _ in range(n)]
        zray.get(refs)

        def wait() -> None:
            left = refs
            while left:
                _, left = zray.wait(left, num_returns=1)

        return used(wait)


def shapes(n: int) -> float:
    """The broker's CPU time for tasks that differ in the amount of a resource that they need."""
    task = zray.remote(nothing)
    with cluster(resources={"thing": 1}):
        zray.get(task.remote())
        return used(
            lambda: zray.get(
                [task.options(resources={"thing": (1 + number) / 10_000}).remote() for number in range(n)]
            ),
            titled("broker"),
        )


def pins(n: int) -> float:
    """Objects of a store are read in random order and held, and then let go in another."""
    dice = random.Random(1)
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="zray-bench-", dir=memory) as directory:
        store = Store.create(f"{directory}/store", f"{directory}/spill", (n + 1) * segment_bytes(1))
        object_ids = [put_id(make_task_id(OWNER, number)) for number in range(n)]
        for object_id in object_ids:
            store.write(object_id, 1, lambda view: None)
        dice.shuffle(object_ids)
        views: list[memoryview] = []
        seconds = used(lambda: views.extend(map(store.read, object_ids)))
        dice.shuffle(views)

        def let_go() -> None:
            while views:
                views.pop()
                store.settle()

        seconds += used(let_go)
        store.destroy()
    return seconds


def puts_into_full_store(n: int) -> float:
    """n objects fill a store, and all are held: each of n more has another one spilled."""
    value = bytes(LARGE)
    with cluster(object_store_memory=n * segment_bytes(LARGE)):
        refs = [zray.put(value) for _ in range(n)]
        return used(lambda: refs.extend(zray.put(value) for _ in range(n)))


def idle_actors(n: int, watched_s: float) -> float:
    """CPU time in a second, with actors that have nothing to do."""
    with cluster():
        actors = members(n)
        time.sleep(SETTLE_PART * watched_s)
        seconds = used(lambda: time.sleep(watched_s), everybody())
        del actors
    return seconds / watched_s


def calls(n: int) -> float:
    """Rounds of a call to each of n actors."""
    with cluster():
        actors = members(n)
        return used(lambda: [zray.get([actor.answer.remote() for actor in actors]) for _ in range(CALLS)], everybody())


def lookups(n: int) -> float:
    """Rounds of a look-up of the name of each of n actors: what this process and the broker use."""
    with cluster():
        actors = members(n)
        seconds = used(
            lambda: [zray.get_actor(str(number)) for _ in range(CALLS) for number in range(n)],
            [os.getpid(), *titled("broker")],
        )
        del actors
    return seconds


def rows(actors: int, watched_s: float) -> list[Row]:
    """All rows. ``actors``: the lower number of them; ``watched_s``: how long idle ones are watched."""
    return [
        Row("small values put, all held", 10_000, puts_held),
        Row("references of one borrower that dies (core)", 10_000, lambda n: deaths(n, n)),
        Row(f"references of borrowers of {REFS_OF_ONE} each that die (core)", 10_000, lambda n: deaths(n, REFS_OF_ONE)),
        Row("dependants of one task cancelled", 1_000, cancels),
        Row("wait(num_returns=1) in a loop", 1_000, waits),
        Row("tasks of as many shapes, the broker's part", 200, shapes),
        Row("objects pinned in random order, and let go", 1_000, pins),
        Row("puts of 128 KiB into a store full of as many", 1_000, puts_into_full_store),
        Row("idle actors, in a second", actors, functools.partial(idle_actors, watched_s=watched_s)),
        Row(f"actors, each called {CALLS} times", actors, calls),
        Row(f"actors, each looked up by name {CALLS} times", actors, lookups),
    ]  # fmt: skip


def measure(row: Row, n: int, rounds: int) -> Slope:
    """The lowest costs of n things and of 10 n, in some rounds."""
    costs: dict[int, list[float]] = {n: [], DECADE * n: []}
    for _ in range(rounds):
        for number, found in costs.items():
            gc.collect()
            found.append(row.cost(number))
    return Slope(row.title, n, *map(min, costs.values()))


def main() -> int:
    """Measures, and prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a twentieth of the sizes, once")
    parser.add_argument("--actors", type=int, default=ACTORS, help="the lower number of actors (default: %(default)s)")
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write the figures there")
    options = parser.parse_args()
    part, rounds, watched_s = (20, 1, 0.5) if options.quick else (1, ROUNDS, IDLE_S)
    load = f"load average {os.getloadavg()[0]:.1f} at the start"
    found = []
    for row in rows(options.actors, watched_s):
        print(row.title, file=sys.stderr, flush=True)
        found.append(measure(row, max(1, row.n // part), rounds))
    lines = aligned([HEADER, *(slope.cells() for slope in found)], {1, 2, 3, 4})
    head = f"{circumstances()}, {load}."
    print(f"{head}\n\n{lines}")
    if not options.quick and options.actors == ACTORS:
        record(BEGIN, END, head, lines)
    if options.json:
        figures = {slope.title: slope.figures() for slope in found}
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    return int(not all(slope.met for slope in found))


if __name__ == "__main__":
    sys.exit(main())
