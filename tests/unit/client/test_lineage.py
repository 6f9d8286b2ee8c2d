"""Values that are lost with their host are made again by their owner, from the records of their tasks."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from tests.unit.client.wiring import HOST, Process, Wire, kind_of_failure
from tests.unit.client.wiring import SECOND_HOST as SECOND
from zray.client.core.effects import FreeSegment
from zray.client.core.lineage import RECORD_BYTES
from zray.client.core.payloads import Return
from zray.client.core.states import ERROR, INLINE, PENDING, STORED
from zray.ids import return_id, task_of
from zray.protocol import messages as m
from zray.protocol.contract import BROKER

FAILED = "ObjectReconstructionFailedError"


class Cluster:
    """A driver, its worker, and another process. Values are stored at ``HOST``, which can die."""

    def __init__(self) -> None:
        self.wire = Wire("driver", "worker", "other")
        self.driver, self.worker, self.other = self.wire
        self.ran: list[bytes] = []

    def make(
        self, refs: tuple[bytes, ...] = (), nested: tuple[bytes, ...] = (), retries: int = 3, **more: Any
    ) -> bytes:
        """Runs a task whose values are stored. Returns its first value."""
        made = self.driver.submit(self.worker, refs, nested, retries, **more)
        self.work()
        return made

    def work(self, host: bytes = HOST, **answer: Any) -> None:
        """Lets all tasks run to their ends. ``answer``: see ``finish``."""
        self.wire.settle()
        while (task := self.worker.take()) is not None:
            self.ran.append(task.task_id)
            self.finish(task, host, **answer)
            self.wire.settle()

    def finish(self, task: Any, host: bytes, *, status: int = STORED, inner: tuple[bytes, ...] = ()) -> None:
        worker = self.worker
        worker.tasks.remove(task)
        for object_id in task.covered:
            worker.drop(object_id)
        worker.core.execution._host_id = host
        data = msgpack.packb(inner) if status == INLINE else b""
        n_returns = self.driver.core.tasks.tasks[task.task_id].n_returns
        worker.core.execution.finish(task, [Return(status, data, 100, inner)] * n_returns, False, 5)
        worker.flush()

    def lose(self, host: bytes = HOST) -> None:
        """The host dies, and the driver is told."""
        self.driver.core.receive(BROKER, m.ProcessDied(host, "killed"), 0.0)
        self.driver.flush()

    def status(self, object_id: bytes) -> int:
        return int(self.driver.entry(object_id).status)

    @property
    def freed(self) -> set[tuple[bytes, bytes]]:
        return {(each.host, each.object_id) for each in self.driver.effects if isinstance(each, FreeSegment)}

    @property
    def records(self) -> set[bytes]:
        return set(self.driver.core.lineage.records)


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


def test_a_lost_value_is_made_again_when_it_is_needed(cluster):
    made = cluster.make()
    cluster.lose()
    cluster.work()
    assert cluster.ran == [task_of(made)]  # not needed yet
    assert cluster.driver.request(made)
    assert cluster.status(made) == PENDING
    cluster.work(SECOND)
    assert cluster.ran == [task_of(made)] * 2
    assert (cluster.status(made), cluster.driver.entry(made).host) == (STORED, SECOND)


def test_a_task_that_needs_it_waits_for_it(cluster):
    made = cluster.make()
    cluster.lose()
    user = cluster.driver.submit(cluster.worker, [made])
    assert cluster.driver.core.tasks.tasks[task_of(user)].missing == 1
    cluster.work(SECOND)
    assert cluster.ran == [task_of(made), task_of(made), task_of(user)]


def test_a_value_costs_a_retry_each_time_it_is_made_again(cluster):
    made = cluster.make(retries=1)
    cluster.lose()
    cluster.driver.request(made)
    cluster.work(SECOND)
    cluster.lose(SECOND)
    assert not cluster.driver.request(made)  # it is as it was: a read tells why
    assert "no retries left" in cluster.driver.core.references.recover(made, SECOND)
    assert cluster.status(made) == STORED
    assert cluster.ran == [task_of(made)] * 2


@pytest.mark.parametrize("why", ["max_retries=0", "put", "max_lineage_bytes"])
def test_what_cannot_be_made_again(cluster, why):
    if why == "put":
        made = cluster.driver.put(stored=True)
    else:
        cluster.driver.core.lineage.max_bytes = RECORD_BYTES // 2 if why == "max_lineage_bytes" else 1 << 20
        made = cluster.make(retries=0 if why == "max_retries=0" else 3)
    assert not cluster.records
    cluster.lose()
    assert not cluster.driver.request(made)
    assert why in cluster.driver.core.references.recover(made, HOST)
    assert cluster.status(made) == STORED


def test_a_copy_takes_its_place_without_running_anything(cluster):
    made = cluster.make()
    cluster.driver.core.directory.on_copy_made(SECOND, m.CopyMade(made))
    cluster.lose()
    assert not cluster.driver.request(made)
    assert cluster.driver.entry(made).host == SECOND
    assert cluster.ran == [task_of(made)]


def test_a_chain_of_which_only_the_end_is_held(cluster):
    chain = [cluster.make()]
    for _ in range(20):
        chain.append(cluster.make((chain[-1],)))
        cluster.driver.drop(chain[-2])
    assert cluster.records == {task_of(each) for each in chain}
    cluster.lose()
    cluster.ran.clear()
    cluster.driver.request(chain[-1])
    cluster.work(SECOND)
    assert cluster.ran == [task_of(each) for each in chain]
    assert cluster.status(chain[-1]) == STORED
    cluster.driver.drop(chain[-1])
    assert not cluster.records


def test_a_very_long_chain_needs_no_recursion(cluster):
    for process in cluster.wire:
        process.is_checked = False
    first = last = cluster.make()
    for _ in range(3000):
        last, before = cluster.make((last,)), last
        cluster.driver.drop(before)
    cluster.lose()
    cluster.ran.clear()
    cluster.driver.request(last)
    cluster.work(SECOND)
    assert cluster.ran[0] == task_of(first)
    assert len(cluster.ran) == 3001
    cluster.driver.drop(last)
    assert not cluster.records


def test_what_two_lost_values_were_made_from_is_made_once(cluster):
    source = cluster.make()
    left, right = cluster.make((source,)), cluster.make((), (source,))
    cluster.driver.drop(source)
    cluster.lose()
    cluster.ran.clear()
    for each in (left, right):
        cluster.driver.request(each)
    cluster.work(SECOND)
    assert sorted(cluster.ran) == sorted(map(task_of, (source, left, right)))


def test_arguments_that_nothing_can_make_again_are_kept(cluster):
    put, small = cluster.driver.put(stored=True), cluster.driver.put()
    made = cluster.make((put,), (small,))
    for each in (put, small):
        cluster.driver.drop(each)
        assert cluster.driver.entry(each).pins == 1
    cluster.driver.drop(made)
    assert cluster.driver.entry(put) is None
    assert cluster.driver.entry(small) is None
    assert put in cluster.driver.freed


def test_a_small_value_with_references_inside_does_not_keep_their_objects(cluster):
    inner = cluster.make()
    outer = cluster.driver.put([inner])
    made = cluster.make((outer,))
    cluster.driver.drop(inner)
    cluster.driver.drop(outer)
    assert cluster.driver.entry(inner) is None
    assert inner in cluster.driver.freed
    cluster.lose()
    cluster.ran.clear()
    cluster.driver.request(made)
    cluster.work(SECOND)
    assert sorted(cluster.ran) == sorted(map(task_of, (inner, made)))
    assert cluster.driver.entry(outer) is None  # it was there while it was needed
    cluster.driver.drop(made)
    assert not cluster.records


def test_a_nested_argument_that_is_ready_only_after_its_user(cluster):
    late = cluster.driver.submit(cluster.worker, retries=3)
    made = cluster.driver.submit(cluster.worker, (), (late,), 3)
    cluster.wire.settle()
    first, second = cluster.worker.take(), cluster.worker.take()
    for task in (second, first):
        cluster.finish(task, HOST)
        cluster.wire.settle()
    cluster.driver.drop(late)
    assert cluster.records == {task_of(late), task_of(made)}
    cluster.lose()
    cluster.driver.request(made)
    cluster.work(SECOND)
    assert sorted(cluster.ran) == sorted(map(task_of, (late, made)))


def test_the_limit_drops_the_oldest_records(cluster):
    cluster.driver.core.lineage.max_bytes = 3 * RECORD_BYTES + 100
    made = [cluster.make() for _ in range(5)]
    assert cluster.records == {task_of(each) for each in made[2:]}
    assert "max_lineage_bytes" in cluster.driver.core.lineage.recover(made[0])


def test_two_values_of_a_task_are_made_again_together(cluster):
    first = cluster.make(n_returns=2)
    second = return_id(task_of(first), 2)
    cluster.lose()
    cluster.driver.request(first)
    cluster.work(SECOND)
    assert cluster.ran == [task_of(first)] * 2
    assert [cluster.driver.entry(each).host for each in (first, second)] == [SECOND] * 2


def test_a_second_value_that_was_not_lost_is_freed_where_it_was_stored_once_more(cluster):
    first = cluster.make(n_returns=2)
    second = return_id(task_of(first), 2)
    assert cluster.driver.core.directory.recover(first, HOST) == ""  # its segment alone is gone
    cluster.driver.flush()
    cluster.work(SECOND)
    assert cluster.driver.entry(second).host == HOST
    cluster.driver.effects.clear()
    cluster.driver.drop(second)
    assert cluster.freed == {(HOST, second), (SECOND, second)}


@pytest.mark.parametrize("outcome", [INLINE, ERROR])
def test_it_is_something_else_the_next_time(cluster, outcome):
    made = cluster.make()
    cluster.lose()
    cluster.driver.request(made)
    cluster.work(SECOND, status=outcome)
    assert cluster.status(made) == outcome
    assert not cluster.records
    cluster.driver.drop(made)
    assert cluster.driver.entry(made) is None


def test_a_task_that_is_cancelled_while_it_runs_again(cluster):
    source = cluster.make()
    made = cluster.make((source,))
    cluster.driver.drop(source)
    cluster.lose()
    cluster.driver.request(made)
    cluster.driver.core.cancel(made, 0)
    assert kind_of_failure(cluster.driver.entry(made).data) == "TaskCancelledError"
    cluster.work(SECOND)
    assert not cluster.records
    assert cluster.driver.entry(source) is None


def test_the_end_of_the_cluster_ends_it(cluster):
    made = cluster.make()
    cluster.lose()
    cluster.driver.request(made)
    cluster.driver.core.lose_cluster("the broker is gone", 0.0)
    assert kind_of_failure(cluster.driver.entry(made).data) == "ClusterUnavailableError"


# ---------------------------------------------------------------------------------------------- borrowers


def lend(cluster: Cluster, made: bytes) -> None:
    """Another process holds the value, and knows where it is."""
    outer = cluster.driver.put([made])
    cluster.other.core.references.load(outer)
    cluster.other.bag[outer] += 1
    cluster.other.flush()
    cluster.wire.get(cluster.other, outer)
    cluster.other.request(made)
    cluster.wire.settle()
    assert cluster.other.entry(made).status == STORED


def look_again(process: Process, object_id: bytes, missing: bytes) -> str:
    why = process.core.directory.look_again(object_id, HOST, missing)
    process.flush()
    return str(why)


def test_a_borrower_that_misses_it_on_its_machine_has_it_made_again(cluster):
    made = cluster.make()
    lend(cluster, made)
    assert look_again(cluster.other, made, HOST) == ""
    assert cluster.other.entry(made).status == PENDING
    cluster.work(SECOND)
    assert (cluster.other.entry(made).status, cluster.other.entry(made).host) == (STORED, SECOND)
    assert cluster.ran == [task_of(made)] * 2


def test_a_borrower_that_only_could_not_reach_it_does_not(cluster):
    made = cluster.make()
    lend(cluster, made)
    assert look_again(cluster.other, made, b"") == ""
    cluster.work(SECOND)
    assert (cluster.other.entry(made).status, cluster.other.entry(made).host) == (STORED, HOST)
    assert cluster.ran == [task_of(made)]


def test_a_borrower_is_told_why_it_cannot_be_made_again(cluster):
    made = cluster.make(retries=0)
    lend(cluster, made)
    look_again(cluster.other, made, HOST)
    cluster.wire.settle()
    assert kind_of_failure(cluster.other.entry(made).data) == FAILED
    assert b"max_retries=0" in cluster.other.entry(made).data


def test_a_borrower_whose_owner_is_dead(cluster):
    made = cluster.make()
    lend(cluster, made)
    cluster.wire.kill(cluster.driver)
    cluster.wire.settle()
    assert "owner is dead" in look_again(cluster.other, made, HOST)


def test_the_owner_that_looks_again_without_proof(cluster):
    made = cluster.make()
    assert "may have it still" in look_again(cluster.driver, made, b"")
    assert cluster.ran == [task_of(made)]


def test_a_puller_that_found_no_holder_is_told_that_it_is_made_again(cluster):
    made = cluster.make()
    directory, said = cluster.driver.core.directory, []
    directory._send = lambda dest, message: said.append(message)
    for _ in range(2):
        directory.on_locate(SECOND, m.Locate(made, 1, True, [HOST]))
    cluster.driver.flush()
    assert [(each.kind, "made again" in each.message) for each in said] == [("ObjectLostError", True)] * 2
    cluster.work(SECOND)
    assert cluster.ran == [task_of(made)] * 2


def test_a_copy_that_was_under_way_is_freed_with_the_object(cluster):
    made = cluster.make()
    cluster.lose()
    cluster.driver.request(made)
    cluster.driver.core.directory.on_copy_made(SECOND, m.CopyMade(made))
    cluster.work(HOST)
    cluster.driver.effects.clear()
    cluster.driver.drop(made)
    assert cluster.freed == {(HOST, made), (SECOND, made)}
