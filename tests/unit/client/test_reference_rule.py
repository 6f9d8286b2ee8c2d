"""The reference rule under any order of events: no object is freed while it is held, and all are freed in the end."""

from __future__ import annotations

import random
from collections.abc import Iterator

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.client.wiring import Process, Wire, nothing_is_left
from zray.client.core.states import ERROR
from zray.ids import owner_of, return_id


class History:
    """Random users on a wire of four processes, and the invariants after each step.

    ``contents``: the references in each value. No value may contain itself, at any depth, because reference counting
    never frees a cycle (as in Ray).
    """

    def __init__(self, rng: random.Random, *, deaths: bool) -> None:
        self.rng = rng
        self.wire = Wire("one", "two", "three", "four")
        self.contents: dict[bytes, set[bytes]] = {}
        self.deaths = 2 if deaths else 0
        self.pace = rng.choice([1, 2, 4, 8])  # the speed of messages, relative to the users

    def step(self) -> None:
        alive = list(self.wire.processes.values())
        process = self.rng.choice(alive)
        actions = ["up", "down"] * self.pace + ["put", "submit", "take", "finish", "get", "get", "drop", "drop"]
        action = self.rng.choice(actions + ["die"] * (self.deaths > 0 and len(alive) > 2))
        held = [object_id for object_id, count in process.bag.items() if count]
        some = self.rng.sample(held, min(len(held), self.rng.randrange(4)))
        if action == "up":
            self.wire.step_up(process)
        elif action == "down":
            self.wire.step_down(process)
        elif action == "put":
            self.contents[process.put(some)] = set(some)
        elif action == "submit":
            process.submit(self.rng.choice(alive), refs=some[:1], nested=some[1:], retries=self.rng.choice([0, 2]))
        elif action == "take":
            process.take()
        elif action == "finish" and process.tasks:
            task = self.rng.choice(process.tasks)
            result = return_id(task.task_id, 1)
            fine = [object_id for object_id in some if not self.contains(object_id, result)]
            self.contents.setdefault(result, set()).update(fine)
            process.finish(task, fine, retryable=self.rng.random() < 0.2)
        elif action == "get" and held:
            object_id = self.rng.choice(held)
            if not process.request(object_id):
                process.load(object_id)
        elif action == "drop" and held:
            process.drop(self.rng.choice(held))
        elif action == "die":
            self.deaths -= 1
            self.wire.kill(process)
        self.check()

    def contains(self, outer: bytes, inner: bytes) -> bool:
        seen, stack = {outer}, [outer]
        while stack:
            new = self.contents.get(stack.pop(), set()) - seen
            seen |= new
            stack.extend(new)
        return inner in seen

    def check(self) -> None:
        """Checks that no process holds a freed object."""
        for process in self.wire.processes.values():
            for object_id, count in process.bag.items():
                owner = self.wire.processes.get(owner_of(object_id))
                if count and owner is not None:
                    entry = owner.entry(object_id)
                    assert entry is not None, f"{process.name} holds an object that {owner.name} has freed"
                    assert not (entry.status == ERROR and b"ObjectFreed" in entry.data)

    def end(self) -> None:
        """Drops all references and runs all tasks, then checks that nothing is left."""
        for _ in range(200):
            self.wire.run_all()
            self.check()
            held = list(self.holdings())
            for process, object_id, count in held:
                process.drop(object_id, count)
            if not held:
                break
        nothing_is_left(self.wire)

    def holdings(self) -> Iterator[tuple[Process, bytes, int]]:
        for process in self.wire.processes.values():
            for object_id, count in list(process.bag.items()):
                if count:
                    yield process, object_id, count


def run_history(rng: random.Random, *, deaths: bool) -> None:
    history = History(rng, deaths=deaths)
    for _ in range(rng.choice([30, 100, 200])):
        history.step()
    history.end()


seeded = st.randoms(use_true_random=True)  # hypothesis draws only a seed, so that many steps cost little


@settings(max_examples=250, deadline=None)
@given(seeded)
def test_nothing_is_freed_too_early_or_never(rng):
    run_history(rng, deaths=False)


@settings(max_examples=250, deadline=None)
@given(seeded)
def test_nothing_is_freed_too_early_or_never_though_processes_die(rng):
    run_history(rng, deaths=True)
