"""Tasks that are near a host, the queue that they wait in, and the index of hosts with room."""

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

from .desk import NO_CPU, ONE_CPU, Desk, amounts, shape

LONG = 10**6


@pytest.fixture
def desk() -> Desk:
    return Desk()


def two_hosts(desk: Desk, cpus: int = 1) -> tuple[bytes, bytes, bytes, list[bytes], list[bytes]]:
    driver = desk.driver()
    a, b = desk.host("a", CPU=cpus), desk.host("b", CPU=cpus)
    return driver, a, b, desk.workers(a), desk.workers(b)


def run_by(desk: Desk, workers: list[bytes]) -> list[bytes]:
    return [task_id for worker in workers for task_id in desk.runs(worker)]


def test_a_task_goes_to_the_host_that_it_is_near(desk):
    driver, a, b, at_a, at_b = two_hosts(desk)
    (to_b,) = desk.submit(driver, near=b)
    (to_a,) = desk.submit(driver, near=a)
    assert (run_by(desk, at_a), run_by(desk, at_b)) == ([to_a], [to_b])


def test_tasks_that_come_together_all_go_where_they_are_near(desk):
    driver, a, b, at_a, at_b = two_hosts(desk, cpus=2)
    rows: list[m.Submit] = []
    for host in (b, b, a, a):
        task_id = driver + len(rows).to_bytes(8, "big")
        rows.append(m.Submit(task_id, 0, b"f" * 16, ONE_CPU, 0, host, b""))
    desk.say(driver, *rows)
    ids = [row.task_id for row in rows]
    assert set(run_by(desk, at_b)) == set(ids[:2]) and set(run_by(desk, at_a)) == set(ids[2:])


def test_where_that_is_full_another_takes_it(desk):
    driver, _, b, at_a, at_b = two_hosts(desk)
    first, second, third = desk.submit(driver, 3, near=b, retryable=False)
    assert (run_by(desk, at_b), run_by(desk, at_a)) == ([first], [second])
    desk.done(at_b[0], first, run_us=LONG)
    assert run_by(desk, at_b) == [third]


def test_a_host_that_idles_unchanged_takes_what_comes_for_a_full_one(desk):
    """The host with room has nothing new to say; the task alone has come."""
    driver, _, b, at_a, at_b = two_hosts(desk)
    desk.submit(driver, near=b, retryable=False)
    run_by(desk, at_b)
    desk.turn()
    (task_id,) = desk.submit(driver, near=b, retryable=False)
    assert run_by(desk, at_a) == [task_id]


def test_what_has_waited_longer_goes_first(desk):
    driver, a, b, at_a, at_b = two_hosts(desk)
    blockers = desk.submit(driver, 2, retryable=False)
    run_by(desk, at_a), run_by(desk, at_b)
    (anywhere,) = desk.submit(driver, retryable=False)
    (near,) = desk.submit(driver, near=a, retryable=False)
    desk.done(at_a[0], blockers[0], run_us=LONG)
    assert run_by(desk, at_a) == [anywhere]
    desk.done(at_a[0], anywhere, run_us=LONG)
    assert run_by(desk, at_a) == [near]
    assert run_by(desk, at_b) == []
    del b


def test_hosts_that_are_not_known_or_alone(desk):
    driver = desk.driver()
    a = desk.host("a", CPU=1)
    at_a = desk.workers(a)
    (task_id,) = desk.submit(driver, near=b"nobody".ljust(16, b"\0"))
    assert run_by(desk, at_a) == [task_id]


def test_a_host_dies_with_tasks_waiting_for_it(desk):
    driver, a, b, at_a, at_b = two_hosts(desk)
    blockers = desk.submit(driver, 2, retryable=False)
    run_by(desk, at_a), run_by(desk, at_b)
    waiting = desk.submit(driver, 2, near=b, retryable=False)
    desk.lose(b)
    desk.done(at_a[0], blockers[0], run_us=LONG)
    assert run_by(desk, at_a) == [waiting[0]]
    desk.done(at_a[0], waiting[0], run_us=LONG)
    assert run_by(desk, at_a) == [waiting[1]]
    del a


def test_tasks_without_cpus_and_with_other_resources(desk):
    driver = desk.driver()
    a, b = desk.host("a", CPU=1), desk.host("b", CPU=1, x=1)
    at_a, at_b = desk.workers(a), desk.workers(b)
    (special,) = desk.submit(driver, shape=shape(x=1), near=a)
    assert run_by(desk, at_b) == [special]
    (free,) = desk.submit(driver, shape=NO_CPU, near=b)
    desk.workers(b)
    assert free in run_by(desk, [*at_b, *desk.core.scheduler.workers])
    del at_a


# ------------------------------------------------------------------ the queue


def envelope(number: int, near: bytes = b"") -> Envelope:
    return Envelope(number.to_bytes(24, "big"), 0, b"", b"", b"", read_shape(ONE_CPU), 0, near, b"")


def test_the_queue_against_a_list():
    """Whatever is queued, put back, cancelled or released comes out once, a host's in their order."""
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
                places.touch(gone)  # late news of it
            _check_with_room(places, hosts, shapes)
        assert places.slots == sum(host.pool.total.get("CPU", 0) // 10_000 for host in hosts)


def spared(host: Host, wanted: Shape) -> bool:
    return bool(host.pool.total.get("GPU")) and not wanted.gpus


def _check_with_room(places: Places, hosts: list[Host], shapes: list[Shape]) -> None:
    for wanted in shapes:
        found = [host for host in places.with_room(wanted) if host.pool.fits(wanted)]
        fitting = [host for host in hosts if host.pool.fits(wanted)]
        assert found == sorted(fitting, key=lambda host: spared(host, wanted))


def test_a_task_for_a_host_without_room_is_not_overtaken_for_ever(desk):
    """Its arguments are where no CPU is; others keep the only other host busy, one after the other."""
    driver = desk.driver()
    a, b = desk.host("a", CPU=1), desk.host("b", CPU=0)
    at_a = desk.workers(a)
    (blocker,) = desk.submit(driver, retryable=False)
    run_by(desk, at_a)
    (old,) = desk.submit(driver, near=b, retryable=False)
    young = desk.submit(driver, 3, retryable=False)
    desk.done(at_a[0], blocker, run_us=LONG)
    assert run_by(desk, at_a) == [old]
    desk.done(at_a[0], old, run_us=LONG)
    assert run_by(desk, at_a) == [young[0]]


def test_tasks_wait_for_the_workers_of_their_host_that_are_being_started(desk):
    driver = desk.driver()
    a, b = desk.host("a", CPU=2), desk.host("b", CPU=2)
    at_a = desk.workers(a)
    ids = desk.submit(driver, 2, near=b)
    assert run_by(desk, at_a) == []
    at_b = desk.workers(b)
    assert set(run_by(desk, at_b)) == set(ids)


def test_spreading_comes_before_nearness(desk):
    driver = desk.driver()
    hosts = [desk.host(name, CPU=4) for name in "abcd"]
    workers = [desk.workers(host) for host in hosts]
    rows = [
        m.Submit(driver + n.to_bytes(8, "big"), 0, b"f" * 16, ONE_CPU, m.FLAG_SPREAD, hosts[0], b"") for n in range(4)
    ]
    desk.say(driver, *rows)
    assert [len(run_by(desk, each)) for each in workers] == [1, 1, 1, 1]


def test_the_heap_of_hosts_does_not_grow(desk):
    driver = desk.driver()
    host = desk.host("a", CPU=1)
    desk.workers(host)
    for number in range(1, 301):
        actor_id = make_task_id(driver, number)
        desk.create(driver, actor_id)
        desk.workers(host)
        (worker,) = (worker for worker in desk.core.scheduler.workers.values() if worker.actor is not None)
        desk.say(driver, m.ActorKill(actor_id, True))
        desk.kill(worker.worker_id)
    assert len(desk.core.scheduler.places._plain._heap) <= 4 + 64
