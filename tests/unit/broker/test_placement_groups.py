"""The broker's placement groups: from creation to removal, beside other work, and with deaths at each step."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest

from tests.unit.broker.harness import ACTOR, ONE_CPU, BrokerHarness, amounts, shape
from zray.broker.packing import STRATEGIES
from zray.broker.resources import HEAD, Pool, shape_key
from zray.broker.states import CREATED, PENDING, REMOVED, RESCHEDULING
from zray.bundles import ANY, GROUP_ID_BYTES, asked
from zray.protocol import messages as m
from zray.protocol.questions import ClusterStatus, ExplainTask, Explanation, GroupList, GroupsQuery, StatusQuery
from zray.protocol.records import GroupSpec, Selector
from zray.scheduling.constraint import Term
from zray.scheduling.labels import read_selector

REMOVED_KINDS = ("TaskPlacementGroupRemoved", b"ActorPlacementGroupRemoved")


class Groups:
    """A broker, and the groups that processes create there."""

    def __init__(self) -> None:
        self.broker = BrokerHarness()
        self._numbers = itertools.count(1)

    def create(
        self,
        source: bytes,
        *bundles: dict[str, float],
        strategy: str = "PACK",
        name: str = "",
        detached: bool = False,
        target: bytes = b"",
        selectors: Sequence[dict[str, str]] = (),
        topology: str = "",
    ) -> bytes:
        group_id = next(self._numbers).to_bytes(GROUP_ID_BYTES, "big")
        conditions = [Selector(read_selector(selector)) for selector in selectors]
        sizes = [amounts(**bundle) for bundle in bundles]
        spec = GroupSpec(name, "space", strategy, sizes, detached, target, conditions, topology)
        self.broker.say(source, m.GroupCreate(group_id, 7, spec))
        return group_id

    def remove(self, source: bytes, group_id: bytes) -> None:
        self.broker.say(source, m.GroupRemove(group_id))

    def state(self, group_id: bytes) -> int:
        table = self.broker.core.groups
        name = group_id.hex()
        return (table.groups.get(name) or table._removed[name]).state

    def hosts(self, group_id: bytes) -> list[bytes]:
        hosts = self.broker.core.groups.groups[group_id.hex()].hosts
        return [host.host_id if host is not None else b"" for host in hosts]

    def row(self, asker: bytes, group_id: bytes) -> Any:
        self.broker.say(asker, GroupsQuery(3, group_id, "", ""))
        (answer,) = self.broker.take(asker, GroupList)
        return answer.groups[0] if answer.groups else None


@pytest.fixture
def groups() -> Groups:
    return Groups()


@pytest.fixture
def broker(groups: Groups) -> BrokerHarness:
    return groups.broker


def plain(pool: Pool) -> dict[str, int]:
    """The total of a host, without what bundles and the broker have added."""
    return {name: amount for name, amount in pool.without_bundles(pool.total).items() if name != HEAD}


def inside(group_id: bytes, index: int = ANY, **resources: float) -> bytes:
    """The shape of work in a group."""
    return shape_key(asked(amounts(**(resources or {"CPU": 1})), group_id.hex(), index))


# ------------------------------------------------------------------------------------- creation and tasks


def test_bundles_become_resources_of_their_host(groups, broker):
    driver, host = broker.driver(), broker.host(CPU=3, x=1)
    group = groups.create(driver, {"CPU": 1}, {"CPU": 1, "x": 1})
    assert groups.state(group) is CREATED
    pool = broker.core.scheduler.hosts[host].pool
    name = group.hex()
    assert pool.free["CPU"] == 10_000 and pool.free["x"] == 0
    assert pool.total[f"CPU_group_{name}"] == 20_000
    assert pool.total[f"CPU_group_0_{name}"] == pool.total[f"x_group_1_{name}"] == 10_000
    assert plain(pool) == amounts(CPU=3, x=1)
    groups.remove(driver, group)
    assert groups.state(group) is REMOVED
    assert pool.free == pool.total and plain(pool) == amounts(CPU=3, x=1)


def test_tasks_run_in_their_bundle(groups, broker):
    driver, host = broker.driver(), broker.host(CPU=4)
    workers = broker.workers(host)
    group = groups.create(driver, {"CPU": 1}, {"CPU": 1})
    first, second = broker.submit(driver, 2, inside(group, 0), retryable=False)
    other = broker.submit(driver, 1, inside(group, ANY), retryable=False)
    third = broker.submit(driver, 1, inside(group, ANY), retryable=False)
    ran = {task_id: worker for worker in workers for task_id in broker.runs(worker)}
    assert ran.keys() == {first, *other}
    broker.done(ran[other[0]], *other)
    broker.done(ran[first], first)
    assert sorted(task for worker in workers for task in broker.runs(worker)) == sorted([second, *third])


def test_a_task_that_waits_for_its_group_runs_in_the_turn_in_which_the_group_is_reserved(groups, broker):
    driver, host = broker.driver(), broker.host(CPU=1)
    (worker,) = broker.workers(host)
    first = groups.create(driver, {"CPU": 1})
    second = groups.create(driver, {"CPU": 0.5})
    (task_id,) = broker.submit(driver, 1, inside(second, CPU=0.5))
    assert broker.runs(worker) == []
    groups.remove(driver, first)
    assert broker.runs(worker) == [task_id]


def test_all_or_nothing(groups, broker):
    driver, host = broker.driver(), broker.host(CPU=2)
    first = groups.create(driver, {"CPU": 1})
    second = groups.create(driver, {"CPU": 1}, {"CPU": 1})
    assert groups.state(second) is PENDING
    assert broker.core.scheduler.hosts[host].pool.free["CPU"] == 10_000
    groups.remove(driver, first)
    assert groups.state(second) is CREATED


def test_a_group_waits_for_hosts(groups, broker):
    driver = broker.driver()
    group = groups.create(driver, {"CPU": 1}, {"CPU": 1}, strategy="STRICT_SPREAD")
    first = broker.host("first", CPU=4)
    assert groups.state(group) is PENDING
    assert groups.row(driver, group).hosts == [b"", b""]
    second = broker.host("second", CPU=4)
    assert groups.state(group) is CREATED
    assert sorted(groups.hosts(group)) == sorted([first, second])


def test_watchers_are_told_once(groups, broker):
    driver, other = broker.driver(), broker.driver("other")
    group = groups.create(driver, {"CPU": 1})
    broker.say(driver, m.GroupWatch(1, group))
    broker.say(other, m.GroupWatch(2, group))
    assert broker.take(driver, m.GroupSettled) == []
    broker.host(CPU=1)
    assert broker.take(driver, m.GroupSettled) == [m.GroupSettled(1, True)]
    assert broker.take(other, m.GroupSettled) == [m.GroupSettled(2, True)]
    broker.say(other, m.GroupWatch(3, group))
    assert broker.take(other, m.GroupSettled) == [m.GroupSettled(3, True)]
    groups.remove(driver, group)
    broker.say(other, m.GroupWatch(4, group))
    broker.say(other, m.GroupWatch(5, b"unknown".ljust(GROUP_ID_BYTES)))
    assert broker.take(other, m.GroupSettled) == [m.GroupSettled(4, False), m.GroupSettled(5, False)]


def test_a_removed_group_is_shown_with_the_hosts_that_it_had(groups, broker):
    driver, host = broker.driver(), broker.host(CPU=1)
    group = groups.create(driver, {"CPU": 1})
    groups.remove(driver, group)
    assert (groups.row(driver, group).state, groups.row(driver, group).hosts) == ("REMOVED", [host])


def test_removal_tells_watchers(groups, broker):
    driver = broker.driver()
    group = groups.create(driver, {"CPU": 1})
    broker.say(driver, m.GroupWatch(1, group))
    groups.remove(driver, group)
    assert broker.take(driver, m.GroupSettled) == [m.GroupSettled(1, False)]


def test_names(groups, broker):
    driver, other = broker.driver(), broker.driver("other")
    group = groups.create(driver, {"CPU": 1}, name="n")
    assert broker.take(driver, m.GroupNamed) == [m.GroupNamed(7, False)]
    twin = groups.create(other, {"CPU": 1}, name="n")
    assert broker.take(other, m.GroupNamed) == [m.GroupNamed(7, True)]
    assert groups.row(driver, twin) is None
    broker.say(other, GroupsQuery(1, b"", "n", "space"), GroupsQuery(2, b"", "n", "elsewhere"))
    found, missing = broker.take(other, GroupList)
    assert [row.group_id for row in found.groups] == [group] and missing.groups == []
    groups.remove(driver, group)
    groups.create(other, {"CPU": 1}, name="n")
    assert broker.take(other, m.GroupNamed) == [m.GroupNamed(7, False)]


@pytest.mark.parametrize(
    "spec",
    [
        GroupSpec("", "", "FOO", [{"CPU": 1}], False, b""),
        GroupSpec("", "", "PACK", [], False, b""),
        GroupSpec("", "", "PACK", [{}], False, b""),
        GroupSpec("", "", "PACK", [{"CPU": 1}, {"CPU": 0}], False, b""),
        GroupSpec("", "", "PACK", [{"x" * 70_000: 1}], False, b""),
        GroupSpec("", "", "PACK", [{"CPU": 1}, {"CPU": 1}], False, b"", [Selector([])]),
        GroupSpec("", "", "PACK", [{"CPU": 1}], False, b"", [Selector([Term("zone", 4, ["a"])])]),
    ],
)
def test_malformed_groups(broker, spec):
    driver = broker.driver()
    with pytest.raises(m.ProtocolError):
        broker.say(driver, m.GroupCreate(b"g" * GROUP_ID_BYTES, 0, spec))
    assert not broker.core.groups.groups


def test_an_identifier_that_is_in_use(groups, broker):
    driver = broker.driver()
    group = groups.create(driver, {"CPU": 1})
    spec = GroupSpec("", "", "PACK", [{"CPU": 1}], False, b"")
    for _ in range(2):
        with pytest.raises(m.ProtocolError):
            broker.say(driver, m.GroupCreate(group, 0, spec))
        groups.remove(driver, group)


def test_gpus_of_a_bundle_are_those_that_its_tasks_get(groups, broker):
    driver, host = broker.driver(), broker.host(CPU=8, GPU=3)
    workers = broker.workers(host)
    outside = broker.submit(driver, 1, shape(GPU=1))
    group = groups.create(driver, {"GPU": 1}, {"GPU": 0.5})
    broker.submit(driver, 1, inside(group, 0, GPU=1), retryable=False)
    broker.submit(driver, 1, inside(group, 1, GPU=0.5), retryable=False)
    seen = {run.task_id: run.gpus for worker in workers for run in broker.take(worker, m.Run)}
    assert seen[outside[0]] == [0]
    assert sorted(seen.values()) == [[0], [1], [2]]
    broker.submit(driver, 1, shape(GPU=0.5), retryable=False)
    (gpus,) = [run.gpus for worker in workers for run in broker.take(worker, m.Run)]
    assert gpus == [2]  # the half that the bundle has left


# ---------------------------------------------------------------------------------------- beside other work


def test_a_stream_of_small_tasks_does_not_starve_a_group(groups, broker):
    driver, host = broker.driver(), broker.host(CPU=2)
    workers = broker.workers(host)
    broker.submit(driver, 4000)
    group = groups.create(driver, {"CPU": 1}, {"CPU": 1})
    for _ in range(60):
        broker.now += 0.005
        for worker in workers:
            broker.done(worker, *broker.runs(worker), run_us=1000)
        if groups.state(group) is CREATED:
            break
    assert groups.state(group) is CREATED
    groups.remove(driver, group)
    broker.tick(0.01)
    assert any(broker.runs(worker) for worker in workers), "the other tasks go on"


def test_a_group_over_two_busy_hosts_gets_both(groups, broker):
    driver = broker.driver()
    hosts = [broker.host(name, CPU=1) for name in ("a", "b")]
    workers = [worker for host in hosts for worker in broker.workers(host)]
    broker.submit(driver, 4000)
    other = broker.driver("other")
    group = groups.create(other, {"CPU": 1}, {"CPU": 1}, strategy="STRICT_SPREAD")
    for step in range(400):
        broker.now += 0.004
        worker = workers[step % 2]  # never both at once
        broker.done(worker, *broker.runs(worker), run_us=1000)
        if groups.state(group) is CREATED:
            break
    assert groups.state(group) is CREATED


def test_a_group_that_fits_nowhere_keeps_nothing_back(groups, broker):
    driver, host = broker.driver(), broker.host(CPU=2)
    workers = broker.workers(host)
    groups.create(driver, {"CPU": 1}, {"CPU": 1}, strategy="STRICT_SPREAD")
    groups.create(driver, {"CPU": 5})
    small = groups.create(driver, {"CPU": 1})
    assert groups.state(small) is CREATED
    for _ in range(20):
        tasks = broker.submit(driver, 1, retryable=False)
        broker.tick(0.05)
        (worker,) = [worker for worker in workers if tasks[0] in broker.runs(worker)]
        broker.done(worker, *tasks)


def test_the_user_is_told_of_a_group_that_fits_nowhere(groups, broker):
    driver = broker.driver()
    broker.host(CPU=2)
    group = groups.create(driver, {"CPU": 5}, name="big")
    fits = groups.create(driver, {"CPU": 2})
    groups.create(driver, {"CPU": 2})
    for _ in range(5):
        broker.tick(1.0)
    (notice,) = broker.take(driver, m.Notice)
    assert "'big'" in notice.text and "do not fit" in notice.text and "{CPU: 2" in notice.text
    row = groups.row(driver, group)
    assert not row.can_be_placed and "do not fit" in row.why
    assert groups.row(driver, fits).why == ""


# ------------------------------------------------------------------------------------------------- removal


def test_removal_fails_what_waits_and_kills_what_runs(groups, broker):
    driver, host = broker.driver(), broker.host(CPU=2)
    workers = broker.workers(host)
    group = groups.create(driver, {"CPU": 1})
    running, waiting = broker.submit(driver, 2, inside(group), retryable=False)
    (worker,) = [worker for worker in workers if running in broker.runs(worker)]
    groups.remove(driver, group)
    (failed,) = broker.take(driver, m.Failed)
    assert (failed.task_id, failed.kind) == (waiting, "TaskPlacementGroupRemoved")
    (kill,) = broker.take(host, m.KillWorker)
    assert kill.worker_id == worker and "placement group was removed" in kill.reason
    pool = broker.core.scheduler.hosts[host].pool
    assert pool.free["CPU"] == 10_000  # the bundle is in use until the worker is gone
    broker.kill(worker)
    assert pool.free == pool.total and plain(pool) == amounts(CPU=2)
    (failed,) = broker.take(driver, m.Failed)
    assert (failed.task_id, failed.kind) == (running, "WorkerCrashedError")
    broker.say(driver, m.Submit(running, 1, b"f" * 16, inside(group), 0, b"", b""))
    (failed,) = broker.take(driver, m.Failed)
    assert (failed.attempt, failed.kind) == (1, "TaskPlacementGroupRemoved")


def test_a_task_that_is_handed_back_after_the_removal(groups, broker):
    driver, host = broker.driver(), broker.host(CPU=1)
    (worker,) = broker.workers(host)
    broker.teach(driver, worker, 10)
    group = groups.create(driver, {"CPU": 1})
    tasks = broker.submit(driver, 4, inside(group))
    held = broker.runs(worker)
    assert len(held) > 1
    groups.remove(driver, group)
    broker.say(worker, m.Returned(held[1:]))
    failed = {message.task_id for message in broker.take(driver, m.Failed)}
    assert failed == set(tasks) - {held[0]}


def test_an_actor_in_a_removed_group(groups, broker):
    driver, host = broker.driver(), broker.host(CPU=2)
    broker.workers(host)
    group = groups.create(driver, {"CPU": 1})
    broker.create(driver, ACTOR, placement=inside(group), running=inside(group), max_restarts=5)
    worker = broker.core.actors.actors[ACTOR].worker
    groups.remove(driver, group)
    states = broker.take(driver, m.ActorState)
    assert states[-1].state == m.DEAD and "placement group was removed" in states[-1].message
    assert not states[-1].error
    broker.kill(worker.worker_id)
    pool = broker.core.scheduler.hosts[host].pool
    assert pool.free == pool.total and plain(pool) == amounts(CPU=2)


def test_an_actor_that_waits_for_a_place_in_a_removed_group(groups, broker):
    driver = broker.driver()
    group = groups.create(driver, {"CPU": 1})
    broker.create(driver, ACTOR, placement=inside(group), running=inside(group))
    groups.remove(driver, group)
    states = broker.take(driver, m.ActorState)
    assert states[-1].state == m.DEAD and REMOVED_KINDS[1] in states[-1].error


# ------------------------------------------------------------------------------------- labels and domains


def racks(broker: BrokerHarness, *rows: tuple[str, str, float]) -> list[bytes]:
    """Adds hosts: the name, the rack and the CPUs of each."""
    return [broker.host_with({"rack": rack, "name": name}, name, CPU=cpus) for name, rack, cpus in rows]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_bundles_go_where_their_selectors_admit_them(groups, broker, strategy):
    driver = broker.driver()
    _, b, c = racks(broker, ("a", "1", 8), ("b", "2", 2), ("c", "2", 2))
    selectors = [{"rack": "!1", "name": "in(a,b)"}, {"name": "c"} if strategy.endswith("SPREAD") else {"rack": "2"}]
    group = groups.create(driver, {"CPU": 1}, {"CPU": 1}, strategy=strategy, selectors=selectors)
    assert groups.hosts(group) == ([b, c] if strategy.endswith("SPREAD") else [b, b])
    assert groups.row(driver, group).selectors == [Selector(read_selector(each)) for each in selectors]


def test_a_selector_that_no_host_fulfils_is_waited_for(groups, broker):
    driver = broker.driver()
    racks(broker, ("a", "1", 8))
    group = groups.create(driver, {"CPU": 1}, {"CPU": 1}, selectors=[{}, {"rack": "2"}])
    assert groups.state(group) is PENDING
    row = groups.row(driver, group)
    assert not row.can_be_placed and "rack in (2)" in row.why and "'rack': '1'" in row.why
    (b,) = racks(broker, ("b", "2", 1))
    assert groups.hosts(group)[1] == b


def test_a_lost_bundle_waits_for_a_host_that_its_selector_admits(groups, broker):
    driver = broker.driver()
    a, b = racks(broker, ("a", "1", 1), ("b", "2", 1))
    group = groups.create(driver, {"CPU": 1}, {"CPU": 1}, selectors=[{"rack": "1"}, {"rack": "2"}])
    assert groups.hosts(group) == [a, b]
    broker.lose(b)
    racks(broker, ("c", "1", 9))
    assert groups.state(group) is RESCHEDULING
    (d,) = racks(broker, ("d", "2", 1))
    assert groups.state(group) is CREATED and groups.hosts(group) == [a, d]


def test_a_group_that_needs_two_busy_hosts_holds_those_that_its_selectors_admit(groups, broker):
    """Holds are planned with the selectors, too."""
    driver = broker.driver()
    racks(broker, ("a", "1", 1), ("b", "2", 1), ("c", "1", 1))
    taken = groups.create(driver, {"CPU": 1}, selectors=[{"name": "a"}])
    group = groups.create(driver, {"CPU": 1}, {"CPU": 1}, selectors=[{"rack": "1"}] * 2)
    broker.tick(5)
    assert groups.state(group) is PENDING
    groups.remove(driver, taken)
    assert groups.state(group) is CREATED


def test_groups_that_wait_for_other_labels_are_counted_apart(groups, broker):
    driver = broker.driver()
    broker.host(CPU=1)
    for rack in ("1", "1", "2"):
        groups.create(driver, {"CPU": 1}, {"CPU": 1}, selectors=[{"rack": rack}, {}])
    groups.create(driver, {"CPU": 2}, topology="rack")
    broker.say(driver, StatusQuery(1))
    broker.tick(1)
    (status,) = broker.take(driver, ClusterStatus)
    assert {row.what: row.count for row in status.waiting} == {
        "placement groups (PACK; hosts where rack in (1), any)": 2,
        "placement groups (PACK; hosts where rack in (2), any)": 1,
        "placement groups (PACK; all with the same rack)": 1,
    }


def test_what_is_worth_waiting_for(groups, broker):
    """By Ray's rules: bundles of PACK and SPREAD are looked at one by one."""
    driver = broker.driver()
    racks(broker, ("a", "1", 1))

    def can(*bundles: dict[str, float], **options: Any) -> bool:
        return bool(groups.row(driver, groups.create(driver, *bundles, **options)).can_be_placed)

    for strategy in ("PACK", "SPREAD"):
        assert can({"CPU": 1}, {"CPU": 1}, strategy=strategy)
        assert not can({"CPU": 2}, strategy=strategy)
        assert not can({"CPU": 1}, strategy=strategy, selectors=[{"rack": "9"}])
        assert not can({"CPU": 1}, {"CPU": 1}, strategy=strategy, topology="rack")
    assert not can({"CPU": 1}, {"CPU": 1}, strategy="STRICT_PACK")
    assert not can({"CPU": 1}, {"CPU": 1}, strategy="STRICT_SPREAD")


@pytest.mark.parametrize("strategy", ["PACK", "SPREAD", "STRICT_SPREAD"])
def test_a_group_stays_within_one_domain(groups, broker, strategy):
    driver = broker.driver()
    _, _, c, d, _ = racks(broker, ("a", "1", 1), ("b", "2", 1), ("c", "3", 1), ("d", "3", 1), ("e", "4", 1))
    broker.host("nowhere", CPU=9)
    group = groups.create(driver, {"CPU": 1}, {"CPU": 1}, strategy=strategy, topology="rack")
    assert sorted(groups.hosts(group)) == [c, d]
    assert (groups.row(driver, group).topology, groups.row(driver, group).domain) == ("rack", "3")


def test_a_lost_bundle_stays_in_its_domain_while_that_has_hosts(groups, broker):
    driver = broker.driver()
    a, b, *_ = racks(broker, ("a", "1", 1), ("b", "1", 1))
    group = groups.create(driver, {"CPU": 1}, {"CPU": 1}, topology="rack")
    racks(broker, ("c", "2", 1), ("d", "2", 1))
    broker.lose(b)
    assert groups.state(group) is RESCHEDULING and "all with the same rack" in groups.row(driver, group).why
    broker.lose(a)  # no host of the domain is left: another one may have all
    assert groups.state(group) is CREATED
    assert groups.row(driver, group).domain == "2"


def test_a_spare_host_of_the_domain_gets_a_lost_bundle(groups, broker):
    driver = broker.driver()
    a, b, c, _ = racks(broker, ("a", "1", 1), ("b", "1", 1), ("c", "1", 1), ("d", "2", 1))
    group = groups.create(driver, {"CPU": 1}, {"CPU": 1}, strategy="STRICT_SPREAD", topology="rack")
    before = groups.hosts(group)
    broker.lose(before[0])
    (spare,) = {a, b, c} - {*before}
    assert groups.hosts(group) == [spare, before[1]]


# -------------------------------------------------------------------------------------------------- deaths


def test_the_bundles_of_a_lost_host_get_another_place(groups, broker):
    driver = broker.driver()
    first, second = broker.host("first", CPU=1), broker.host("second", CPU=1)
    group = groups.create(driver, {"CPU": 1}, {"CPU": 1}, strategy="STRICT_SPREAD")
    before = groups.hosts(group)
    broker.lose(first)
    assert groups.state(group) is RESCHEDULING
    assert groups.hosts(group) == [b"" if host == first else host for host in before]
    broker.say(driver, m.GroupWatch(1, group))
    assert broker.take(driver, m.GroupSettled) == []
    third = broker.host("third", CPU=1)
    assert groups.state(group) is CREATED
    assert groups.hosts(group) == [third if host == first else second for host in before]
    assert broker.take(driver, m.GroupSettled) == [m.GroupSettled(1, True)]


def test_losing_both_hosts_one_after_the_other(groups, broker):
    driver = broker.driver()
    hosts = [broker.host(name, CPU=1) for name in ("a", "b")]
    group = groups.create(driver, {"CPU": 1}, {"CPU": 1}, strategy="SPREAD")
    for host in hosts:
        broker.lose(host)
    assert groups.state(group) is RESCHEDULING and groups.hosts(group) == [b"", b""]
    broker.host("c", CPU=2)
    assert groups.state(group) is CREATED


def test_a_task_and_an_actor_of_a_lost_bundle_go_where_it_goes(groups, broker):
    driver = broker.driver()
    host = broker.host("first", CPU=2)
    broker.workers(host)
    group = groups.create(driver, {"CPU": 2}, strategy="STRICT_PACK")
    broker.create(driver, ACTOR, placement=inside(group, 0), running=inside(group, 0), max_restarts=1)
    broker.lose(host)
    new = broker.host("second", CPU=2)
    broker.workers(new)
    assert broker.core.actors.actors[ACTOR].worker.host.host_id == new
    broker.submit(driver, 1, inside(group, 0))
    assert any(broker.runs(worker) for worker in broker.core.scheduler.hosts[new].workers)


def test_removing_a_group_that_is_rescheduled(groups, broker):
    driver = broker.driver()
    broker.host("first", CPU=1)
    second = broker.host("second", CPU=1)
    group = groups.create(driver, {"CPU": 1}, {"CPU": 1}, strategy="STRICT_SPREAD")
    broker.lose(b"first".ljust(16, b"\0"))
    groups.remove(driver, group)
    pool = broker.core.scheduler.hosts[second].pool
    assert pool.free == pool.total and plain(pool) == amounts(CPU=1)
    assert groups.state(group) is REMOVED


def test_a_host_dies_while_a_removed_group_is_still_used_there(groups, broker):
    driver, host = broker.driver(), broker.host(CPU=1)
    broker.workers(host)
    group = groups.create(driver, {"CPU": 1})
    broker.submit(driver, 1, inside(group))
    groups.remove(driver, group)
    broker.lose(host)
    assert not broker.core.scheduler.hosts
    assert broker.core.grants.shares.totals._total == {}


def test_groups_end_with_their_job_unless_they_are_detached(groups, broker):
    driver = broker.driver()
    broker.host(CPU=3)
    plain = groups.create(driver, {"CPU": 1})
    waiting = groups.create(driver, {"CPU": 9})
    detached = groups.create(driver, {"CPU": 1}, detached=True)
    broker.say(driver, m.Goodbye("done"))
    assert [groups.state(each) for each in (plain, waiting, detached)] == [REMOVED, REMOVED, CREATED]
    other = broker.driver("other")
    groups.remove(other, detached)
    assert groups.state(detached) is REMOVED


def test_a_detached_group_is_created_after_its_job(groups, broker):
    driver = broker.driver()
    group = groups.create(driver, {"CPU": 1}, detached=True)
    broker.say(driver, m.Goodbye("done"))
    broker.tick(5.0)
    broker.host(CPU=1)
    assert groups.state(group) is CREATED


@pytest.mark.parametrize("detached", [False, True])
def test_groups_of_actors(groups, broker, detached):
    driver, host = broker.driver(), broker.host(CPU=3)
    broker.workers(host)
    broker.create(driver, ACTOR, detached=detached)
    worker = broker.core.actors.actors[ACTOR].worker.worker_id
    group = groups.create(worker, {"CPU": 1})
    if detached:
        broker.say(driver, m.Goodbye("done"))  # the actor lives on
        assert groups.state(group) is CREATED
        broker.kill(worker)
        assert groups.state(group) is REMOVED
    else:
        broker.kill(worker)
        assert groups.state(group) is CREATED  # the job lives on
        broker.say(driver, m.Goodbye("done"))
        assert groups.state(group) is REMOVED


def test_removed_groups_are_forgotten_at_last(groups, broker, monkeypatch):
    monkeypatch.setattr("zray.broker.placement_groups.MAX_REMOVED", 2)
    driver = broker.driver()
    made = [groups.create(driver, {"CPU": 1}) for _ in range(3)]
    for group in made:
        groups.remove(driver, group)
    assert [groups.row(driver, group) is None for group in made] == [True, False, False]


def test_work_in_an_unknown_group(broker):
    driver = broker.driver()
    broker.host(CPU=1)
    broker.submit(driver, 1, inside(b"unknown".ljust(GROUP_ID_BYTES)))
    assert [message.kind for message in broker.take(driver, m.Failed)] == ["TaskPlacementGroupRemoved"]
    broker.submit(driver, 1, ONE_CPU)
    assert broker.take(driver, m.Failed) == []


def test_why_a_task_in_a_group_waits(groups, broker):
    driver, host = broker.driver(), broker.host(CPU=1)
    broker.workers(host)
    group, large = groups.create(driver, {"CPU": 1}), groups.create(driver, {"CPU": 2})
    broker.submit(driver, 1, inside(group), retryable=False)
    for where, expected in ((group, "in use"), (large, "do not fit")):
        (task_id,) = broker.submit(driver, 1, inside(where), retryable=False)
        broker.say(driver, ExplainTask(1, task_id))
        (answer,) = broker.take(driver, Explanation)
        assert expected in answer.why
    broker.tick(3.0)
    assert not any("cannot be scheduled" in notice.text for notice in broker.take(driver, m.Notice))
