"""The broker's placement groups: bundles of resources that are reserved together, all or none.

A group waits in a line of its job, beside the lines of tasks and actors, and takes its turn with them
(``zray.broker.shares``). When it is next, ``zray.broker.packing`` looks for hosts for all of its bundles. If there are
some, each bundle becomes resources of its host under names of the group (``zray.bundles``). Work in the group asks for
these, so the scheduler treats it like any other work. If there are none, the line holds the hosts that could be freed.
So a stream of small tasks cannot starve a group, and a group that waits does not keep others out for long.

What a death does: the host of a bundle: the bundle waits for another place, before groups that are not created yet, and
the other bundles stay reserved. The driver: the groups of its job are removed, but not the detached ones, and not those
of actors that live on. The creating actor, if it is detached: its groups are removed. A worker: nothing.

A removal ends what runs in the group. The bundle of a host is released when the last worker that uses it there is gone,
so that nothing is granted twice.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from zray.broker.actors import Actors
from zray.broker.grants import Grants
from zray.broker.group_records import Group, GroupLine, total
from zray.broker.group_reports import GroupReports
from zray.broker.journal_records import KeptGroup
from zray.broker.lines import Lines
from zray.broker.packing import STRATEGIES
from zray.broker.places import Places
from zray.broker.records import Envelope, Host, Job, Process, Reservation
from zray.broker.resources import Pool, Shape, as_floats
from zray.broker.states import CREATED, PENDING, REMOVED, RESCHEDULING
from zray.broker.workers import Workers
from zray.bundles import added
from zray.protocol.messages import GroupCreate, GroupNamed, GroupRemove, GroupSettled, GroupWatch, ProtocolError
from zray.protocol.questions import GroupList, GroupRow, GroupsQuery
from zray.scheduling.constraint import OPERATORS

MAX_REMOVED = 1000
"""How many removed groups are remembered, for processes that ask."""
MAX_BUNDLES = 10_000


class GroupEvents:
    """What ``PlacementGroups`` reports. Here it is ignored."""

    def group_created(self, group: Group) -> None:
        """A group was created. It waits for its place."""

    def group_removed(self, group: Group) -> None:
        """A group was removed."""


class PlacementGroups:
    """All placement groups, and the last removed ones."""

    def __init__(
        self,
        places: Places,
        grants: Grants,
        lines: Lines,
        workers: Workers,
        actors: Actors,
        send: Callable[[bytes, Any], None],
        jobs: dict[bytes, Job],
        processes: dict[bytes, Process],
        clock: Callable[[], float],
    ) -> None:
        self.fail_task: Callable[[Envelope], None] = lambda envelope: None
        """Fails a task that has not started, because its group is removed. The broker's core sets it."""
        self.events: GroupEvents = GroupEvents()
        self.groups: dict[str, Group] = {}  # by identifier in hexadecimal; not removed
        self.names: dict[tuple[str, str], Group] = {}
        self._by_actor: dict[bytes, dict[str, Group]] = {}  # by the actor that created them
        self._removed: OrderedDict[str, Group] = OrderedDict()
        self.reports = GroupReports(self.groups, places.hosts)
        self._places = places
        self._hosts = places.hosts
        self._grants = grants
        self._shares = grants.shares
        self._lines = lines
        self._workers = workers
        self._actors = actors
        self._send = send
        self._jobs = jobs
        self._processes = processes
        self._clock = clock
        grants.on_released = self._released
        actors.is_gone = self.is_gone

    # ------------------------------------------------------------------ messages

    def on_create(self, source: Process, message: GroupCreate) -> None:
        """Handles the creation of a group. Raises ProtocolError if it is malformed."""
        spec = message.spec
        if spec.strategy not in STRATEGIES or not 0 < len(spec.bundles) <= MAX_BUNDLES:
            raise ProtocolError("a placement group with an unknown strategy, without bundles, or with too many")
        if not all(bundle and all(bundle.values()) for bundle in spec.bundles):
            raise ProtocolError("a placement group with an empty bundle, or with nothing of a resource")
        if len(spec.selectors) not in (0, len(spec.bundles)) or not all(
            term.operator in OPERATORS for selector in spec.selectors for term in selector.terms
        ):
            raise ProtocolError("a placement group with malformed selectors")
        name = message.group_id.hex()
        if name in self.groups or name in self._removed:
            raise ProtocolError("a placement group with an identifier that is in use")
        if source.job_id not in self._jobs:
            return  # its job has ended: the process is about to be killed
        if spec.name:
            taken = (spec.namespace, spec.name) in self.names
            self._send(source.process_id, GroupNamed(message.request, taken))
            if taken:
                return
        actor = source.worker.actor if source.worker is not None else None
        creator, by_job = (b"", True) if actor is None else (actor.actor_id, not actor.detached)
        try:
            group = Group(message.group_id, spec, source.job_id, creator, by_job, self._clock())
        except ValueError as error:
            raise ProtocolError(f"malformed bundle: {error}") from None
        self._add(group)
        self.events.group_created(group)
        self._wait(group, source.depth)

    def _add(self, group: Group) -> None:
        spec = group.spec
        self.groups[group.name] = group
        if spec.name:
            self.names[spec.namespace, spec.name] = group
        if group.actor:
            self._by_actor.setdefault(group.actor, {})[group.name] = group

    def restore(self, kept: KeptGroup) -> None:
        """Brings back a group of an earlier run of the broker. It waits for hosts."""
        group = Group(kept.group_id, kept.spec, kept.job_id, kept.actor, kept.by_job, self._clock())
        self._add(group)
        self._wait(group)

    def on_remove(self, source: Process, message: GroupRemove) -> None:
        group = self.groups.get(message.group_id.hex())
        if group is not None:
            self._remove(group)

    def on_watch(self, source: Process, message: GroupWatch) -> None:
        group = self.groups.get(message.group_id.hex())
        if group is None or group.state is CREATED:
            self._send(source.process_id, GroupSettled(message.request, group is not None))
        else:
            group.watchers.append((source.process_id, message.request))

    def on_query(self, source: Process, question: GroupsQuery) -> None:
        if question.group:
            name = question.group.hex()
            known = self.groups.get(name) or self._removed.get(name)
            found = [] if known is None else [known]
        elif question.name:
            named = self.names.get((question.namespace, question.name))
            found = [] if named is None else [named]
        else:
            found = [*self.groups.values(), *self._removed.values()]
        self._send(source.process_id, GroupList(question.request, [self._row(group) for group in found]))

    def _row(self, group: Group) -> GroupRow:
        spec = group.spec
        hosts = group.had or [host.host_id if host is not None else b"" for host in group.hosts]
        waited_s, why, can_be_placed = group.created_s, "", True
        if group.line is not None:
            waited_s, fits = self._clock() - group.since, self.reports.could_ever_fit(group)
            why, can_be_placed = self.reports.why_waits(group, fits), fits or self.reports.each_would_fit(group)
        return GroupRow(group.group_id, spec.name, spec.namespace, group.state.name, spec.strategy,
                        [as_floats(bundle) for bundle in spec.bundles], hosts, spec.detached, group.job_id,
                        group.attempts, waited_s, why, can_be_placed, spec.selectors, spec.topology,
                        group.domain or "")  # fmt: skip

    def _settle(self, group: Group, is_created: bool) -> None:
        watchers, group.watchers = group.watchers, []
        for process_id, request in watchers:
            self._send(process_id, GroupSettled(request, is_created))

    # ------------------------------------------------------------------ waiting and reserving

    def _wait(self, group: Group, depth: int = 0) -> None:
        """Queues a group for its missing bundles. A group that has lost bundles waits in a line of its own."""
        missing = group.missing()
        alone = group.group_id if group.state is RESCHEDULING else b""
        wanted = (group.spec.strategy, group.spec.soft_target, tuple(shape.key for _, shape in missing),
                  repr(group.spec.selectors), group.spec.topology)  # fmt: skip
        key = (group.job_id, alone, wanted, depth)
        line = self._lines.others.get(key)
        if line is None:
            share = self._shares.open(group.job_id, total(shape for _, shape in missing), depth)
            line = self._lines.others[key] = GroupLine(share, self._place)
            share.plan = lambda: self._plan(line)
        assert isinstance(line, GroupLine), "other lines are those of groups"
        group.line = line
        group.since = self._clock()
        line.groups[group.group_id] = group

    def _wait_no_more(self, group: Group) -> None:
        line, group.line = group.line, None
        if line is not None:
            del line.groups[group.group_id]
            group.created_s = self._clock() - group.since

    def _place(self, group: Group) -> bool:
        """Reserves the missing bundles of a group that waits, if there is room for all of them."""
        line = group.line
        assert line is not None
        group.attempts += 1
        hosts = [host for host in self._hosts.values() if not self._grants.keeps_off(host, line.share)]
        found = group.hosts_for(hosts, lambda host: host.pool)
        if found is None:
            return False
        for index, host in found.items():
            self._reserve(group, index, host)
        self._wait_no_more(group)
        group.enter(CREATED)
        for host_id in self._shares.served(line.share):
            self._places.touch(self._hosts[host_id])
        self._settle(group, True)
        return True

    def _plan(self, line: GroupLine) -> list[tuple[Host, Shape]]:
        """Which hosts the first group of a line could have once their tasks have ended, and how much of each."""
        if not line.groups:
            return []
        found = line.first().hosts_for(list(self._hosts.values()), _freed) or {}
        shapes: dict[bytes, list[Shape]] = {}
        for index, host in found.items():
            shapes.setdefault(host.host_id, []).append(line.first().shapes[index])
        return [(self._hosts[host_id], total(each)) for host_id, each in shapes.items()]

    def _reserve(self, group: Group, index: int, host: Host) -> None:
        shape = group.shapes[index]
        names = added(shape.amounts, group.name, index)
        gpus = host.pool.reserve(shape, names)
        host.bundles.setdefault(group.name, []).append(Reservation(group.group_id, index, shape, names, gpus))
        group.hosts[index] = host
        self._shares.totals.add(names)
        self._places.touch(host)

    # ------------------------------------------------------------------ ends

    def is_gone(self, name: str) -> bool:
        """Whether a group (in hexadecimal) is removed, or unknown: nothing can run in it."""
        return name not in self.groups

    def _remove(self, group: Group) -> None:
        """Removes a group, ends what runs or waits in it, and releases its bundles."""
        self._wait_no_more(group)
        group.enter(REMOVED)
        self.events.group_removed(group)
        del self.groups[group.name]
        created = self._by_actor.get(group.actor)
        if created is not None:
            del created[group.name]
            if not created:
                del self._by_actor[group.actor]
        if group.spec.name:
            del self.names[group.spec.namespace, group.spec.name]
        self._removed[group.name] = group
        if len(self._removed) > MAX_REMOVED:
            self._removed.popitem(last=False)
        self._settle(group, False)
        self._end_what_waits(group.name)
        for host in {host.host_id: host for host in group.hosts if host is not None}.values():
            self._end_what_runs(group.name, host)
            self._release(group.name, host)
        group.had = [host.host_id if host is not None else b"" for host in group.hosts]
        group.hosts = [None] * len(group.hosts)

    def _end_what_waits(self, name: str) -> None:
        for queue in self._lines.queues.values():
            if queue.share.shape.group == name:
                for envelope in [envelope for envelope in queue if not envelope.cancelled]:
                    self.fail_task(envelope)
        for line in list(self._lines.actors.values()):
            if line.share.shape.group == name:
                for actor in list(line.actors.values()):
                    self._actors.end_without_group(actor)

    def _end_what_runs(self, name: str, host: Host) -> None:
        reason = f"its placement group was removed (placement group id: {name})"
        for worker in [worker for worker in host.workers.values() if worker.grant.group == name]:
            if worker.actor is not None:
                self._actors.end(worker.actor, f"the actor died because {reason}", keeps_name=True)
            else:
                self._workers.kill(worker, reason)

    def _released(self, host: Host, shape: Shape) -> None:
        """A worker has given back what it held in a group."""
        if self.is_gone(shape.group):
            self._release(shape.group, host)

    def _release(self, name: str, host: Host) -> None:
        """Ends the reservations of a removed group on a host, unless a worker still holds something of them."""
        if name not in host.bundles or any(worker.grant.group == name for worker in host.workers.values()):
            return
        for _, _, shape, names, gpus in host.bundles.pop(name):
            host.pool.end_reservation(shape, names, gpus)
            self._shares.totals.add(names, -1)
        self._places.touch(host)

    def host_lost(self, host: Host) -> None:
        """A host is gone: the bundles that it had wait for another place. Called once the scheduler has dropped it."""
        lost, host.bundles = host.bundles, {}
        for name in lost:
            group = self.groups.get(name)
            if group is None:
                continue
            group.hosts = [None if each is host else each for each in group.hosts]
            if group.state is CREATED:
                group.enter(RESCHEDULING)
            self._wait_no_more(group)
            self._wait(group)

    def job_ended(self, job_id: bytes) -> None:
        """The driver of a job is gone."""
        for group in [group for group in self.groups.values() if group.job_id == job_id]:
            if self._is_over(group):
                self._remove(group)

    def actor_dead(self, actor_id: bytes) -> None:
        """An actor has ended: removes the groups that it has created, if it is detached or its job has ended."""
        for group in list(self._by_actor.get(actor_id, {}).values()):
            if self._is_over(group):
                self._remove(group)

    def _is_over(self, group: Group) -> bool:
        """Whether the creator of a group has ended: its actor, if it has one, and its job, if it counts."""
        if group.spec.detached or group.actor in self._actors.actors:
            return False
        job = self._jobs.get(group.job_id)
        return not group.by_job or job is None or job.driver not in self._processes

    def check(self) -> None:
        """Raises AssertionError if an invariant does not hold; for tests."""
        lines = [line for line in self._lines.others.values() if isinstance(line, GroupLine)]
        waiting = [group for line in lines for group in line.groups.values()]
        assert len(waiting) == len({group.group_id for group in waiting}), "a group waits in two lines"
        assert {group.group_id for group in waiting} == {group.group_id for group in self.reports.waiting()}, (
            "who waits"
        )
        reserved: dict[tuple[bytes, int], Host] = {}
        for host in self._hosts.values():
            for name, bundles in host.bundles.items():
                for bundle in bundles:
                    assert (bundle.group_id, bundle.index) not in reserved, "a bundle is reserved twice"
                    reserved[bundle.group_id, bundle.index] = host
                if self.is_gone(name):
                    assert any(worker.grant.group == name for worker in host.workers.values()), "a bundle is left"
        for group in self.groups.values():
            missing = len(group.missing())
            assert (group.line is not None) == (missing > 0), "a group waits exactly if a bundle is missing"
            assert (group.state is CREATED) == (missing == 0), "the state of a group"
            assert group.state is not PENDING or missing == len(group.shapes), "a part of a group is reserved"
            for index, place in enumerate(group.hosts):
                assert reserved.get((group.group_id, index)) is place, "where a bundle is"
            if group.spec.strategy == "STRICT_SPREAD":
                assert len(group.used()) + missing == len(group.shapes), "two bundles of STRICT_SPREAD on one host"
            assert group.spec.strategy != "STRICT_PACK" or len(group.used()) <= 1, "STRICT_PACK on two hosts"
            places = [host for host in group.hosts if host is not None]
            if group.spec.topology:
                assert len({host.info.labels[group.spec.topology] for host in places}) <= 1, "one domain"
            assert all(host is None or group.admits(host, index) for index, host in enumerate(group.hosts)), "selectors"


def _freed(host: Host) -> Pool:
    """The resources of a host once its tasks have ended. Actors and bundles keep what they have."""
    pool = host.pool.copy()
    for worker in host.workers.values():
        if worker.share is not None and not worker.grant.group:
            pool.give_back(worker.grant, worker.gpus)
            pool.lend(-worker.lent)
    return pool
