"""Work that only some hosts may take: which host gets it, what waits, and what fails."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.broker.harness import ACTOR, BrokerHarness, amounts
from zray.failures import decode_failure
from zray.protocol import messages as m
from zray.protocol.codec import pack, shape_key
from zray.protocol.messages import ProtocolError
from zray.scheduling.combine import combine
from zray.scheduling.node_affinity import NodeAffinitySchedulingStrategy
from zray.scheduling.node_label import In, NodeLabelSchedulingStrategy

GONE = b"gone".ljust(16, b"\0")
LONG = 10**6


@pytest.fixture
def broker() -> BrokerHarness:
    return BrokerHarness()


def wanted(
    strategy: Any = None, selector: dict[str, str] | None = None, *others: dict[str, str], **resources: float
) -> bytes:
    """The shape of work of one CPU. ``others``: the selectors to fall back to."""
    constraint = combine(strategy, selector, [{"label_selector": other} for other in others])
    assert constraint is not None
    return shape_key(amounts(**{"CPU": 1, **resources}), constraint.to_row())


def on(node_id: bytes, soft: bool = False, **private: bool) -> NodeAffinitySchedulingStrategy:
    return NodeAffinitySchedulingStrategy(node_id, soft, **private)


class Zones:
    """A driver, and a host with one CPU in each of the zones a and b."""

    def __init__(self, broker: BrokerHarness) -> None:
        self.broker = broker
        self.driver = broker.driver()
        self.a = broker.host_with({"zone": "a"}, "a", CPU=1)
        self.b = broker.host_with({"zone": "b"}, "b", CPU=1)
        (self.at_a,), (self.at_b,) = broker.workers(self.a), broker.workers(self.b)

    def submit(self, shape: bytes, count: int = 1) -> list[bytes]:
        return self.broker.submit(self.driver, count, shape, retryable=False)

    def failed(self) -> list[m.Failed]:
        return self.broker.take(self.driver, m.Failed)


@pytest.fixture
def zones(broker) -> Zones:
    return Zones(broker)


# ------------------------------------------------------------------ which host


def test_work_goes_only_where_its_selector_leads(broker, zones):
    first, second = zones.submit(wanted(selector={"zone": "b"}), 2)
    assert broker.runs(zones.at_b) == [first]
    assert broker.runs(zones.at_a) == []
    broker.done(zones.at_b, first, run_us=LONG)
    assert broker.runs(zones.at_b) == [second]


def test_a_worker_gets_the_amounts_without_the_constraint(broker, zones):
    zones.submit(wanted(selector={"zone": "b"}))
    (run,) = broker.take(zones.at_b, m.Run)
    assert run.shape == shape_key(amounts(CPU=1))


def test_other_work_does_not_wait_behind_it(broker, zones):
    zones.submit(wanted(selector={"zone": "nowhere"}), 5)
    (plain,) = zones.submit(shape_key(amounts(CPU=1)))
    assert broker.runs(zones.at_a) == [plain]


def test_work_waits_for_a_host_with_its_labels(broker, zones):
    (task,) = zones.submit(wanted(selector={"zone": "c"}))
    assert zones.failed() == []
    (at_c,) = broker.workers(broker.host_with({"zone": "c"}, "c", CPU=1))
    assert broker.runs(at_c) == [task]


def test_soft_labels_come_first_but_work_does_not_wait_for_them(broker, zones):
    strategy = NodeLabelSchedulingStrategy({}, soft={"zone": In("b")})
    first, second = zones.submit(wanted(strategy), 2)
    assert (broker.runs(zones.at_b), broker.runs(zones.at_a)) == ([first], [second])


def test_a_fallback_is_used_when_the_first_choice_has_no_room(broker, zones):
    first, second = zones.submit(wanted(None, {"zone": "b"}, {"zone": "a"}), 2)
    assert (broker.runs(zones.at_b), broker.runs(zones.at_a)) == ([first], [second])


def test_a_task_waits_for_a_worker_of_its_first_choice(broker, zones):
    blocker = zones.submit(wanted(on(zones.b)))
    broker.kill(zones.at_b, *blocker)
    (task,) = zones.submit(wanted(None, {"zone": "b"}, {"zone": "a"}))
    assert broker.runs(zones.at_a) == []
    (at_b,) = broker.workers(zones.b)
    assert broker.runs(at_b) == [task]


def test_a_fallback_is_used_when_the_first_choice_is_gone(broker, zones):
    blockers = zones.submit(shape_key(amounts(CPU=1)), 2)
    (task,) = zones.submit(wanted(None, {"zone": "b"}, {"zone": "a"}))
    broker.lose(zones.b)
    broker.done(zones.at_a, blockers[0], run_us=LONG)
    assert broker.runs(zones.at_a)[-1:] == [task]


def test_a_spread_task_prefers_hosts_too(broker, zones):
    zones.submit(shape_key(amounts(CPU=1)))  # a is the fuller host
    broker.done(zones.at_a, *broker.runs(zones.at_a), run_us=LONG)
    shape = wanted(None, {"zone": "b"}, {"zone": "a"})
    broker.say(
        zones.driver,
        *[m.Submit(zones.driver + bytes([0, 0, 0, 9, 0, 0, 0, n]), 0, bytes(16), shape, m.FLAG_SPREAD, b"", b"p")
          for n in range(2)],
    )  # fmt: skip
    tasks = broker.runs(zones.at_b) + broker.runs(zones.at_a)
    assert [task[-1] for task in tasks] == [0, 1]


def test_a_task_that_is_near_another_host_follows_its_constraint(broker, zones):
    (task,) = broker.submit(zones.driver, 1, wanted(selector={"zone": "b"}), near=zones.a)
    assert broker.runs(zones.at_b) == [task]


def test_a_hundred_lines_of_other_hosts_find_theirs(broker):
    driver = broker.driver()
    hosts = [broker.host(f"h{number}", CPU=1) for number in range(100)]
    workers = [broker.workers(host)[0] for host in hosts]
    for host, worker in zip(hosts, workers, strict=True):
        (task,) = broker.submit(driver, 1, wanted(on(host)))
        assert broker.runs(worker) == [task]


# ------------------------------------------------------------------ one host


def test_hard_affinity_waits_for_room(broker, zones):
    first, second = zones.submit(wanted(on(zones.b)), 2)
    assert broker.runs(zones.at_b) == [first]
    assert (broker.runs(zones.at_a), zones.failed()) == ([], [])
    broker.done(zones.at_b, first, run_us=LONG)
    assert broker.runs(zones.at_b) == [second]


def test_hard_affinity_to_an_unknown_host_fails(broker, zones):
    tasks = zones.submit(wanted(on(GONE)), 2)
    failures = zones.failed()
    assert [failed.task_id for failed in failures] == tasks
    assert {failed.kind for failed in failures} == {"TaskUnschedulableError"}
    assert "doesn't exist" in failures[0].message
    assert broker.tasks == {}


def test_hard_affinity_to_a_host_that_is_too_small_fails(broker, zones):
    zones.submit(wanted(on(zones.a), CPU=2))
    (failed,) = zones.failed()
    assert "infeasible" in failed.message


def test_hard_affinity_fails_when_the_host_dies(broker, zones):
    runs, waits = zones.submit(wanted(on(zones.b)), 2)
    broker.lose(zones.b)
    kinds = {failed.task_id: failed.kind for failed in zones.failed()}
    assert kinds == {runs: "NodeDiedError", waits: "TaskUnschedulableError"}
    zones.submit(wanted(on(zones.b)))
    assert [failed.kind for failed in zones.failed()] == ["TaskUnschedulableError"]


def test_a_cancelled_task_of_a_dead_host_fails_once(broker, zones):
    _, waits = zones.submit(wanted(on(zones.b)), 2)
    broker.say(zones.driver, m.Cancel(waits, 0))
    broker.lose(zones.b)
    assert [failed.kind for failed in zones.failed() if failed.task_id == waits] == ["TaskCancelledError"]


def test_soft_affinity_waits_for_its_host(broker, zones):
    first, second = zones.submit(wanted(on(zones.b, soft=True)), 2)
    assert (broker.runs(zones.at_b), broker.runs(zones.at_a)) == ([first], [])
    broker.done(zones.at_b, first, run_us=LONG)
    assert broker.runs(zones.at_b) == [second]


def test_soft_affinity_goes_elsewhere_if_the_host_dies(broker, zones):
    zones.submit(wanted(on(zones.b, soft=True)))
    (waits,) = zones.submit(wanted(on(zones.b, soft=True)))
    broker.lose(zones.b)
    assert broker.runs(zones.at_a) == [waits]


def test_soft_affinity_goes_elsewhere_if_the_host_is_unknown_or_too_small(broker, zones):
    big = broker.host("big", CPU=2)
    workers = broker.workers(big)
    (unknown,) = zones.submit(wanted(on(GONE, soft=True)))
    assert broker.runs(zones.at_a) == [unknown]
    (large,) = zones.submit(wanted(on(zones.b, soft=True), CPU=2))
    assert [task for worker in workers for task in broker.runs(worker)] == [large]


def test_the_private_variants(broker, zones):
    first, second = zones.submit(wanted(on(zones.b, soft=True, _spill_on_unavailable=True)), 2)
    assert (broker.runs(zones.at_b), broker.runs(zones.at_a)) == ([first], [second])
    zones.submit(wanted(on(zones.b, _fail_on_unavailable=True)))
    (failed,) = zones.failed()
    assert "no room now" in failed.message


# ------------------------------------------------------------------ actors


def actor_host(broker: BrokerHarness) -> bytes:
    worker = broker.core.actors.actors[ACTOR].worker
    return worker.host.host_id if worker is not None else b""


def test_an_actor_goes_where_it_may(broker, zones):
    broker.create(zones.driver, placement=wanted(selector={"zone": "b"}))
    assert actor_host(broker) == zones.b


def test_an_actor_of_a_fallback(broker, zones):
    zones.submit(wanted(on(zones.b)))
    broker.create(zones.driver, placement=wanted(None, {"zone": "b"}, {"zone": "a"}))
    assert actor_host(broker) == zones.a


def test_an_actor_waits_for_a_host_with_its_labels(broker, zones):
    broker.create(zones.driver, placement=wanted(selector={"zone": "c"}))
    assert actor_host(broker) == b""
    c = broker.host_with({"zone": "c"}, "c", CPU=1)
    assert actor_host(broker) == c


def test_an_actor_that_can_never_be_placed_dies(broker, zones):
    broker.create(zones.driver, placement=wanted(on(GONE)))
    (state,) = broker.take(zones.driver, m.ActorState)
    assert state.state == m.DEAD
    assert type(decode_failure(state.error)).__name__ == "ActorUnschedulableError"
    assert broker.core.actors.actors == {}


def test_a_restarting_actor_dies_with_its_host(broker, zones):
    broker.create(zones.driver, placement=wanted(on(zones.b)), max_restarts=-1)
    broker.take(zones.driver)
    broker.lose(zones.b)
    states = broker.take(zones.driver, m.ActorState)
    assert [state.state for state in states] == [m.RESTARTING, m.DEAD]


def test_a_restarting_actor_with_soft_affinity_moves(broker, zones):
    broker.create(zones.driver, placement=wanted(on(zones.b, soft=True)), max_restarts=-1)
    broker.lose(zones.b)
    assert actor_host(broker) == zones.a


# ------------------------------------------------------------------ beside other work


def test_workers_make_no_room_for_work_that_their_host_cannot_take(broker, zones):
    other = broker.driver("other")
    broker.teach(other, zones.at_a, run_us=10)
    zones.submit(wanted(selector={"zone": "nowhere"}))
    tasks = broker.submit(other, 40)
    given: list[bytes] = []
    for _ in range(40):
        for worker in (zones.at_a, zones.at_b):
            now = broker.runs(worker)
            given += now
            broker.done(worker, *now, run_us=10)
    assert sorted(given) == sorted(tasks)


def test_no_host_is_held_for_work_that_it_cannot_take(broker):
    driver, other = broker.driver(), broker.driver("other")
    broker.workers(broker.host_with({"zone": "a"}, "a", CPU=2))
    broker.host_with({"zone": "b"}, "b", CPU=1)
    broker.submit(other, 50, retryable=False)
    broker.submit(driver, 1, wanted(selector={"zone": "b"}, CPU=2))
    for _ in range(5):
        broker.tick(1.0)
        holds = broker.core.grants.shares._holds.values()
        assert all(hold.share.shape.constraint is None for hold in holds)


def test_the_warning_names_the_labels(broker, zones):
    zones.submit(wanted(selector={"zone": "!in(a,b)"}))
    broker.tick(1.0)
    broker.tick(3.0)
    (notice,) = broker.take(zones.driver, m.Notice)
    assert "{CPU: 1} on zone not in (a, b)" in notice.text
    assert "'zone': 'a'" in notice.text


def test_work_that_fails_with_its_host_is_not_warned_of(broker, zones):
    zones.submit(wanted(on(zones.b)), 2)
    broker.now += 5.0
    broker.core.tick(broker.now)
    broker.core.lost(zones.b, "it was silent", broker.now)
    broker.core.tick(broker.now)
    broker.turn()
    notices = [notice.text for notice in broker.take(zones.driver, m.Notice)]
    assert not any("cannot be scheduled" in text for text in notices)


def test_malformed_constraints_are_refused(broker, zones):
    for row in ({"amounts": [["CPU", 10_000]]}, {"amounts": [["CPU", 1]], "constraint": [[], 1, 1, 1]}, {"x": 1}):
        with pytest.raises(ProtocolError, match="malformed resources"):
            zones.submit(pack(row))
