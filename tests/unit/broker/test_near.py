"""Tasks that are near a host, their queue, and the index of hosts with room."""

from __future__ import annotations

import random
from typing import Any

import pytest

from zray.broker.accounts import Account, Share
from zray.broker.places import Places
from zray.broker.queues import TaskQueue
from zray.broker.records import Envelope, Host
from zray.broker.resources import Pool, Shape, read_shape
from zray.ids import make_task_id
from zray.protocol import messages as m
from zray.protocol.records import HostInfo

from .harness import NO_CPU, ONE_CPU, BrokerHarness, amounts, shape

LONG = 10**6


@pytest.fixture
def broker() -> BrokerHarness:
    return BrokerHarness()


def two_hosts(broker: BrokerHarness, cpus: int = 1) -> tuple[bytes, bytes, bytes, list[bytes], list[bytes]]:
    driver = broker.driver()
    a, b = broker.host("a", CPU=cpus), broker.host("b", CPU=cpus)
    return driver, a, b, broker.workers(a), broker.workers(b)


def run_by(broker: BrokerHarness, workers: list[bytes]) -> list[bytes]:
    return [task_id for worker in workers for task_id in broker.runs(worker)]


def test_a_task_goes_to_the_host_that_it_is_near(broker):
    driver, a, b, at_a, at_b = two_hosts(broker)
    (to_b,) = broker.submit(driver, near=b)
    (to_a,) = broker.submit(driver, near=a)
    assert (run_by(broker, at_a), run_by(broker, at_b)) == ([to_a], [to_b])


def test_tasks_of_one_turn_all_go_to_their_near_hosts(broker):
    driver, a, b, at_a, at_b = two_hosts(broker, cpus=2)
    rows: list[m.Submit] = []
    for host in (b, b, a, a):
        task_id = driver + len(rows).to_bytes(8, "big")
        rows.append(m.Submit(task_id, 0, b"f" * 16, ONE_CPU, 0, host, b""))
    broker.say(driver, *rows)
    ids = [row.task_id for row in rows]
    assert set(run_by(broker, at_b)) == set(ids[:2]) and set(run_by(broker, at_a)) == set(ids[2:])


def test_another_host_takes_a_task_if_the_near_one_is_full(broker):
    driver, _, b, at_a, at_b = two_hosts(broker)
    first, second, third = broker.submit(driver, 3, near=b, retryable=False)
    assert (run_by(broker, at_b), run_by(broker, at_a)) == ([first], [second])
    broker.done(at_b[0], first, run_us=LONG)
    assert run_by(broker, at_b) == [third]


def test_an_idle_unchanged_host_takes_a_task_of_a_full_one(broker):
    """The host with room has not changed; only the task is new."""
    driver, _, b, at_a, at_b = two_hosts(broker)
    broker.submit(driver, near=b, retryable=False)
    run_by(broker, at_b)
    broker.turn()
    (task_id,) = broker.submit(driver, near=b, retryable=False)
    assert run_by(broker, at_a) == [task_id]


def test_the_task_that_has_waited_longer_goes_first(broker):
    driver, a, b, at_a, at_b = two_hosts(broker)
    blockers = broker.submit(driver, 2, retryable=False)
    run_by(broker, at_a), run_by(broker, at_b)
    (anywhere,) = broker.submit(driver, retryable=False)
    (near,) = broker.submit(driver, near=a, retryable=False)
    broker.done(at_a[0], blockers[0], run_us=LONG)
    assert run_by(broker, at_a) == [anywhere]
    broker.done(at_a[0], anywhere, run_us=LONG)
    assert run_by(broker, at_a) == [near]
    assert run_by(broker, at_b) == []
    del b


def test_a_task_near_an_unknown_host(broker):
    driver = broker.driver()
    a = broker.host("a", CPU=1)
    at_a = broker.workers(a)
    (task_id,) = broker.submit(driver, near=b"nobody".ljust(16, b"\0"))
    assert run_by(broker, at_a) == [task_id]


def test_a_host_dies_with_tasks_waiting_for_it(broker):
    driver, a, b, at_a, at_b = two_hosts(broker)
    blockers = broker.submit(driver, 2, retryable=False)
    run_by(broker, at_a), run_by(broker, at_b)
    waiting = broker.submit(driver, 2, near=b, retryable=False)
    broker.lose(b)
    broker.done(at_a[0], blockers[0], run_us=LONG)
    assert run_by(broker, at_a) == [waiting[0]]
    broker.done(at_a[0], waiting[0], run_us=LONG)
    assert run_by(broker, at_a) == [waiting[1]]
    del a


def test_tasks_without_cpus_and_with_other_resources(broker):
    driver = broker.driver()
    a, b = broker.host("a", CPU=1), broker.host("b", CPU=1, x=1)
    at_a, at_b = broker.workers(a), broker.workers(b)
    (special,) = broker.submit(driver, shape=shape(x=1), near=a)
    assert run_by(broker, at_b) == [special]
    (free,) = broker.submit(driver, shape=NO_CPU, near=b)
    broker.workers(b)
    assert free in run_by(broker, [*at_b, *broker.core.workers.workers])
    del at_a


# ------------------------------------------------------------------ the queue


def envelope(number: int, near: bytes = b"") -> Envelope:
    return Envelope(number.to_bytes(24, "big"), 0, b"", b"", b"", read_shape(ONE_CPU), 0, near, b"")


def test_the_queue_against_a_list():
    """Each envelope that is queued or put back comes out once, and those of a host in order."""
    rng = random.Random(5)
    hosts = [b"a", b"b", b"c"]
    for _ in range(200):
        queue = TaskQueue(b"job", Share(Account(0.0), b"job", read_shape(ONE_CPU), 0, 0.0))
        expected: list[Envelope] = []
        taken: list[Envelope] = []
        stuck: list[bytes] = []
        for number in range(60):
            action = rng.random()
            if action < 0.5:
                new = envelope(number, rng.choice([b"", *hosts]))
                queue.append(new)
                expected.append(new)
                queue.look_for_stuck(lambda host: host not in stuck)  # noqa: B023
            elif action < 0.8:
                host = rng.choice(hosts)
                found = queue.next_for(host)
                suited = [each for each in expected if each.near in (b"", host, *stuck) and not each.cancelled]
                assert found is (min(suited, key=lambda each: each.order) if suited else None)
                if found is not None:
                    queue.take(found)
                    expected.remove(found)
                    taken.append(found)
            elif action < 0.85 and taken:
                back = taken.pop()
                queue.append_front(back)
                expected.append(back)
                queue.look_for_stuck(lambda host: host not in stuck)  # noqa: B023
            elif action < 0.9 and expected:
                rng.choice(expected).cancelled = True
            elif action < 0.95:
                queue.forget_host(rng.choice(hosts))
            else:
                stuck = rng.sample(hosts, rng.randint(0, 2))
                queue.look_for_stuck(lambda host: host not in stuck)  # noqa: B023
        assert sorted(map(id, queue)) == sorted(id(each) for each in expected if each in list(queue))
        left = 0
        while (found := queue.any()) is not None:
            queue.take(found)
            left += 1
        assert left == len([each for each in expected if not each.cancelled]) and len(queue) == 0


# ------------------------------------------------------------------ the index


def test_the_index_of_hosts_against_all_of_them():
    rng = random.Random(3)
    shapes = [read_shape(key) for key in (ONE_CPU, shape(CPU=2), shape(CPU=1, x=1), NO_CPU)]
    shapes.append(read_shape(shape(CPU=1, GPU=1)))
    for _ in range(50):
        places = Places()
        hosts: list[Host] = []
        grants: list[Any] = []
        for step in range(120):
            action = rng.random()
            if action < 0.15 or not hosts:
                total = amounts(CPU=rng.randint(0, 3), x=rng.randint(0, 1), GPU=rng.choice([0, 0, 2]))
                host = Host(step.to_bytes(16, "big"), Pool(total), HostInfo())
                hosts.append(host)
                places.add(host)
            elif action < 0.5:
                wanted = rng.choice(shapes)
                chosen = places.least_loaded(wanted, lambda host: host.pool.fits(wanted))  # noqa: B023
                fitting = [each for each in hosts if each.pool.fits(wanted)]
                assert (chosen is None) == (not fitting)
                if chosen is not None:
                    standing = [(spared(each, wanted), each.load, each.number) for each in fitting]
                    assert (spared(chosen, wanted), chosen.load, chosen.number) == min(standing)
                    grants.append((chosen, wanted, chosen.pool.take(wanted)))
                    chosen.count_actor(1)
                    places.touch(chosen)
            elif action < 0.8 and grants:
                host, wanted, gpus = grants.pop(rng.randrange(len(grants)))
                host.pool.give_back(wanted, gpus)
                host.count_actor(-1)
                places.touch(host)
            elif action > 0.97:
                gone = hosts.pop(rng.randrange(len(hosts)))
                places.remove(gone)
                grants = [grant for grant in grants if grant[0] is not gone]
                places.touch(gone)  # a late event of it
            _check_with_room(places, hosts, shapes)
        assert places.slots == sum(host.pool.total.get("CPU", 0) // 10_000 for host in hosts)


def spared(host: Host, wanted: Shape) -> bool:
    return bool(host.pool.total.get("GPU")) and not wanted.gpus


def _check_with_room(places: Places, hosts: list[Host], shapes: list[Shape]) -> None:
    for wanted in shapes:
        found = [host for host in places.with_room(wanted) if host.pool.fits(wanted)]
        fitting = [host for host in hosts if host.pool.fits(wanted)]
        expected = []
        for kind in (False, True):
            of_kind = [host for host in fitting if spared(host, wanted) == kind]
            expected += [host for host in of_kind if host.is_roomy] + of_kind
        assert found == expected


def test_a_task_for_a_host_without_room_is_not_overtaken_for_ever(broker):
    """Its arguments are on a host without CPUs; other tasks keep the only other host busy, one after the other."""
    driver = broker.driver()
    a, b = broker.host("a", CPU=1), broker.host("b", CPU=0)
    at_a = broker.workers(a)
    (blocker,) = broker.submit(driver, retryable=False)
    run_by(broker, at_a)
    (old,) = broker.submit(driver, near=b, retryable=False)
    young = broker.submit(driver, 3, retryable=False)
    broker.done(at_a[0], blocker, run_us=LONG)
    assert run_by(broker, at_a) == [old]
    broker.done(at_a[0], old, run_us=LONG)
    assert run_by(broker, at_a) == [young[0]]


def test_tasks_wait_for_the_workers_of_their_host_that_are_being_started(broker):
    driver = broker.driver()
    a, b = broker.host("a", CPU=2), broker.host("b", CPU=2)
    at_a = broker.workers(a)
    ids = broker.submit(driver, 2, near=b)
    assert run_by(broker, at_a) == []
    at_b = broker.workers(b)
    assert set(run_by(broker, at_b)) == set(ids)


def test_spreading_comes_before_nearness(broker):
    driver = broker.driver()
    hosts = [broker.host(name, CPU=4) for name in "abcd"]
    workers = [broker.workers(host) for host in hosts]
    rows = [
        m.Submit(driver + n.to_bytes(8, "big"), 0, b"f" * 16, ONE_CPU, m.FLAG_SPREAD, hosts[0], b"") for n in range(4)
    ]
    broker.say(driver, *rows)
    assert [len(run_by(broker, each)) for each in workers] == [1, 1, 1, 1]


def test_the_heap_of_hosts_does_not_grow(broker):
    driver = broker.driver()
    host = broker.host("a", CPU=1)
    broker.workers(host)
    for number in range(1, 301):
        actor_id = make_task_id(driver, number)
        broker.create(driver, actor_id)
        broker.workers(host)
        (worker,) = (worker for worker in broker.core.workers.workers.values() if worker.actor is not None)
        broker.say(driver, m.ActorKill(actor_id, True))
        broker.kill(worker.worker_id)
    assert len(broker.core.places._plain._heap) <= 4 + 64
