"""Decides what of the broker's state is kept over a restart, and brings it back. Only used by a broker with a journal.

Each change is an effect (``Journaled``). The shell has written the changes of a turn before anything of that turn
leaves, acknowledgements included. So whatever another process has heard of is in the journal.

What is back after a restart: a detached actor is started again, if restarts are left, since its process has ended with
the earlier broker. A placement group that outlives its job is reserved again. The key-value store is as it was. All
else ends with its processes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from zray.broker.actors import ActorEvents
from zray.broker.effects import Journaled
from zray.broker.functions import Functions
from zray.broker.group_records import Group
from zray.broker.journal_records import (
    Kept,
    KeptActor,
    KeptEnvironment,
    KeptFunction,
    KeptGroup,
    KeptJob,
    KeptValue,
    encode,
    key_of,
)
from zray.broker.placement_groups import GroupEvents
from zray.broker.records import Actor, Job, Worker
from zray.protocol.records import EnvironmentSpec


class Ledger(ActorEvents, GroupEvents):
    """Notes what is kept. ``note(change)`` has the shell write a change.

    A job, function or environment is kept while an actor that is kept needs it.
    """

    def __init__(
        self,
        jobs: Mapping[bytes, Job],
        functions: Functions,
        environments: Mapping[tuple[bytes, bytes], EnvironmentSpec],
        note: Callable[[Journaled], None],
    ) -> None:
        self._jobs = jobs
        self._functions = functions
        self._environments = environments
        self._note = note
        self._needs: dict[bytes, list[bytes]] = {}  # by the key of an actor that is kept
        self._uses: Counter[bytes] = Counter()

    # ------------------------------------------------------------------ actors

    def actor_created(self, actor: Actor) -> None:
        """An actor was announced, with the arguments of its constructor."""
        if not actor.detached:
            return
        needs = self._needed(actor)
        for name, record in needs.items():
            if not self._uses[name]:
                self._note(Journaled(name, encode(record)))
        self._count(actor, needs)
        self._keep(actor)

    def actor_restored(self, actor: Actor) -> None:
        """The actor of a record is back, and what it needs: all of it is kept already."""
        self._count(actor, self._needed(actor))

    def _count(self, actor: Actor, needs: Iterable[bytes]) -> None:
        names = self._needs[key_of(KeptActor, actor.actor_id)] = list(needs)
        self._uses.update(names)

    def _needed(self, actor: Actor) -> dict[bytes, Kept]:
        """What it takes to start an actor, by key."""
        job = self._jobs[actor.job_id]
        needed: dict[bytes, Kept] = {key_of(KeptJob, job.job_id): KeptJob(job.job_id, job.driver, job.settings)}
        function = self._functions.blob(actor.function_id)
        if function is not None:
            kept = KeptFunction(actor.function_id, function.name, function.blob)
            needed[key_of(KeptFunction, actor.function_id)] = kept
        environment_id = actor.placement.environment_id
        if environment_id:
            environment = self._environments[job.job_id, environment_id]
            needed[key_of(KeptEnvironment, job.job_id, environment_id)] = KeptEnvironment(
                job.job_id, environment_id, environment
            )
        return needed

    def _keep(self, actor: Actor) -> None:
        key = key_of(KeptActor, actor.actor_id)
        if key in self._needs:
            record = KeptActor(actor.actor_id, actor.creator, actor.job_id, actor.function_id, actor.spec, actor.depth,
                               actor.incarnation, actor.restarts_left, actor.constructed, actor.payload)  # fmt: skip
            self._note(Journaled(key, encode(record)))

    def actor_runs(self, actor: Actor, worker: Worker) -> None:
        """See ``ActorEvents``."""
        self._keep(actor)

    def actor_restarts(self, actor: Actor, message: str, told: bool) -> None:
        """See ``ActorEvents``."""
        self._keep(actor)

    def actor_dead(self, actor: Actor, message: str) -> None:
        """See ``ActorEvents``."""
        key = key_of(KeptActor, actor.actor_id)
        needs = self._needs.pop(key, None)
        if needs is None:
            return
        self._note(Journaled(key, None))
        for name in needs:
            self._uses[name] -= 1
            if not self._uses[name]:
                del self._uses[name]
                self._note(Journaled(name, None))

    # ------------------------------------------------------------------ placement groups and values

    def group_created(self, group: Group) -> None:
        """A placement group was created. It waits for its place."""
        if group.outlives_job:
            record = KeptGroup(group.group_id, group.job_id, group.actor, group.by_job, group.spec)
            self._note(Journaled(key_of(KeptGroup, group.group_id), encode(record)))

    def group_removed(self, group: Group) -> None:
        """A placement group was removed."""
        if group.outlives_job:
            self._note(Journaled(key_of(KeptGroup, group.group_id), None))

    def value_changed(self, namespace: bytes, key: bytes, value: bytes | None) -> None:
        """A value of the key-value store was put, or deleted (None)."""
        record = None if value is None else encode(KeptValue(namespace, key, value))
        self._note(Journaled(key_of(KeptValue, namespace, key), record))
