"""Brings back what an earlier run of the broker has kept: see ``zray.broker.ledger``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from zray.broker.actors import Actors
from zray.broker.functions import Functions
from zray.broker.journal_records import (
    Kept,
    KeptActor,
    KeptEnvironment,
    KeptFunction,
    KeptGroup,
    KeptJob,
    KeptValue,
)
from zray.broker.key_values import KeyValues
from zray.broker.ledger import Ledger
from zray.broker.placement_groups import PlacementGroups
from zray.broker.records import Job
from zray.broker.workers import Workers
from zray.logs.line import INFO, LogLine

ENDED = "the broker was started again, and the actor's process had ended with the broker before"
"""Why the incarnations of an earlier run are dead."""


class Tables(Protocol):
    """The parts of the broker's core that are restored."""

    jobs: dict[bytes, Job]
    job_counter: int
    workers: Workers
    functions: Functions
    actors: Actors
    groups: PlacementGroups
    key_values: KeyValues
    ledger: Ledger
    log: Callable[[LogLine], None]


def restore(core: Tables, records: Iterable[Kept]) -> None:
    """Puts the records of an earlier run into the tables of a broker that has just been made, and starts the actors."""
    by_kind: dict[type[Kept], list[Kept]] = {}
    for record in records:
        by_kind.setdefault(type(record), []).append(record)
    if not by_kind:
        return
    functions = {each.function_id: each for each in by_kind.get(KeptFunction, []) if isinstance(each, KeptFunction)}
    actors = []
    for kind in (KeptJob, KeptEnvironment, KeptValue, KeptGroup, KeptActor):
        for record in by_kind.get(kind, []):
            if isinstance(record, KeptJob):
                core.jobs[record.job_id] = Job(record.job_id, record.driver, record.settings)
                core.job_counter = max(core.job_counter, int.from_bytes(record.job_id, "big"))
            elif isinstance(record, KeptEnvironment):
                core.workers.environments[record.job_id, record.environment_id] = record.environment
            elif isinstance(record, KeptValue):
                core.key_values.restore(*record)
            elif isinstance(record, KeptGroup):
                core.groups.restore(record)
            elif isinstance(record, KeptActor):
                function = functions.get(record.function_id)
                if function is not None:
                    core.functions.restore(*function, record.job_id)
                actors.append(core.actors.restore(record))
    for actor in actors:
        core.ledger.actor_restored(actor)
    for actor in actors:  # now that all are there: the end of a job's last actor closes the job
        core.actors.start_again(actor, ENDED)
    counts = {"detached actors": KeptActor, "placement groups": KeptGroup, "values of the key-value store": KeptValue}
    text = ", ".join(f"{len(by_kind[kind])} {what}" for what, kind in counts.items() if kind in by_kind)
    core.log(LogLine(INFO, "broker", f"the journal has brought back {text}"))
