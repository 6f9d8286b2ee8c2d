"""Random streams: generators that yield references, and drivers that read them to their end, in part, or not at all."""

from __future__ import annotations

from zray.client.core.assignments import Assignment
from zray.client.core.states import ERROR
from zray.client.core.streams import StreamSpec
from zray.ids import task_of
from zray.testing.clients import SimActor, SimProcess, SimReader
from zray.testing.operations import Emit, Program, Sleep
from zray.testing.workers import SimWorker


def number_of_items(task_id: bytes) -> int:
    """How many items the stream of a task has, the same in each attempt."""
    return task_id[-1] % 7


def generator(worker: SimWorker, task: Assignment, refs: list[bytes]) -> Program:
    """A generator: each of its items contains some of the references that it has; in the end it may raise."""
    rng = worker.cluster.sim.random
    held = list(refs)

    def program() -> Program:
        try:
            for _ in range(number_of_items(task.task_id)):
                if rng.random() < 0.4:
                    held.append(worker.put([ref for ref in held if rng.random() < 0.3]))
                if rng.random() < 0.5:
                    yield Sleep(rng.choice([0.0001, 0.001, 0.02]))
                yield Emit([ref for ref in held if rng.random() < 0.4])
        finally:  # also if it is cancelled
            for ref in held:
                worker.drop(ref)
        if rng.random() < 0.1:
            raise RuntimeError("the generator failed")
        return []

    return program()


def read_some(process: SimProcess, actors: list[SimActor], refs: list[bytes], parent: bytes = b"") -> Program:
    """Starts a stream and reads it, for ``yield from``. Returns the references that the process holds then."""
    rng = process.cluster.sim.random
    retries = rng.choice([0, 3])
    if rng.random() < 0.3:
        return process.submit("0", refs[:1], refs[1:], retries, parent=parent, stream=StreamSpec(True, 0))
    spec = StreamSpec(False, rng.choice([0, 0, 1, 3]))
    if actors and rng.random() < 0.4:
        opened = process.call_stream(rng.choice(actors), refs, retries, spec)
    else:
        opened = process.submit("0", refs[:1], refs[1:], retries, parent=parent, stream=spec)
    reader = SimReader(*opened)
    items: list[bytes] = []
    try:
        while rng.random() < 0.9:
            item = yield from process.read(reader)
            if item is None:
                check_complete(process, reader, items)
                break
            items.append(item)
    except GeneratorExit:  # it runs in a task that is cancelled
        for item in items:
            process.drop(item)
        raise
    finally:
        process.close(reader)
    return items


def check_complete(process: SimProcess, reader: SimReader, items: list[bytes]) -> None:
    """At the end of a stream, each item was there once; or the last one is an error."""
    failed = bool(items) and process.core.references.entries[items[-1]].status is ERROR
    expected = number_of_items(task_of(reader.completion))
    if failed:
        assert len(items) - 1 <= expected, "a stream has more items than were yielded"
    else:
        assert len(items) == expected, "a stream has lost or doubled an item"
