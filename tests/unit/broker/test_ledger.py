"""What a broker keeps over a restart, and what is back after it. The journal is a dictionary here."""

from __future__ import annotations

import random
from typing import Any

import pytest

from tests.unit.broker.harness import ACTOR, FUNCTION, NO_CPU, OTHER, BrokerHarness, amounts
from zray.broker.effects import Journaled
from zray.broker.journal_records import (
    Kept,
    KeptActor,
    KeptEnvironment,
    KeptFunction,
    KeptGroup,
    KeptJob,
    KeptValue,
    decode,
    encode,
)
from zray.broker.states import SERVING
from zray.bundles import ANY, asked
from zray.ids import make_task_id
from zray.protocol import messages as m
from zray.protocol.codec import shape_key
from zray.protocol.key_values import KvDelete, KvGet, KvPut, KvValue
from zray.protocol.messages import ProtocolError
from zray.protocol.questions import GroupList, GroupsQuery
from zray.protocol.records import EnvironmentSpec, GroupSpec, JoinInfo

GROUP, ANOTHER = b"g" * 18, b"h" * 18


class KeepingBroker(BrokerHarness):
    """A broker whose journal is ``file``."""

    def __init__(self, file: dict[bytes, bytes] | None = None) -> None:
        super().__init__(has_journal=True)
        self.file = {} if file is None else file
        take = self.core.take_output

        def take_and_write() -> Any:
            output = take()
            for effect in output.effects:
                if isinstance(effect, Journaled):
                    if effect.record is None:
                        del self.file[effect.key]  # what was not kept is not deleted
                    else:
                        self.file[effect.key] = effect.record
            return output

        self.core.take_output = take_and_write  # type: ignore[method-assign]
        self.core.restore(self.kept(), self.now)
        self.turn()

    def kept(self, *kinds: type[Kept]) -> list[Any]:
        records = list(map(decode, self.file.values()))
        return [record for record in records if not kinds or isinstance(record, kinds)]

    def again(self) -> KeepingBroker:
        """The broker dies, and another one is started with the same journal."""
        return KeepingBroker(dict(self.file))

    def put_class(self, driver: bytes) -> None:
        self.say(driver, m.FunctionPut(FUNCTION, "module.A", b"code"))

    def detached(self, driver: bytes, actor_id: bytes = ACTOR, name: str = "it", **changes: Any) -> None:
        self.create(driver, actor_id, name=name, namespace="n", detached=True, **changes)

    def find(self, name: str = "it") -> Any:
        asker = self.driver("asker")
        self.say(asker, m.ActorLookup(7, name, "n"))
        (found,) = self.take(asker, m.ActorFound, m.NoSuchActor)
        return found

    def starts(self, host: bytes) -> list[m.ActorStart]:
        return [start for worker in self.workers(host) for start in self.take(worker, m.ActorStart)]

    def serve(self, host: bytes, actor_id: bytes = ACTOR) -> bytes:
        """Has an actor's constructor return. Returns the actor's worker."""
        self.workers(host)
        worker = self.core.actors.actors[actor_id].worker
        assert worker is not None
        self.say(worker.worker_id, m.ActorReady(actor_id, b""))
        return worker.worker_id


@pytest.fixture
def broker() -> KeepingBroker:
    return KeepingBroker()


# ------------------------------------------------------------------ actors


def test_a_detached_actor_is_started_again_with_all_that_it_needs(broker):
    driver = broker.driver()
    broker.put_class(driver)
    broker.detached(driver, max_restarts=2, payload=b"arguments")
    broker.serve(broker.host(CPU=1))
    broker = broker.again()
    assert broker.find().actor_id == ACTOR
    host = broker.host(CPU=1)
    (worker,) = [each for each in broker.workers(host) if broker.core.workers.workers[each].actor]
    job, function, start = broker.take(worker, m.JobConfig, m.FunctionBlob, m.ActorStart)
    assert job.settings.namespace == "driver"
    assert (function.name, function.blob) == ("module.A", b"code")
    assert (start.actor_id, start.incarnation, start.payload, start.creator) == (ACTOR, 1, b"arguments", driver)
    broker.say(worker, m.ActorReady(ACTOR, b""))
    (kept,) = broker.kept(KeptActor)
    assert (kept.incarnation, kept.restarts_left, kept.constructed) == (1, 1, True)


def test_a_caller_of_the_new_run_reaches_it(broker):
    broker.detached(broker.driver(), max_restarts=1)
    broker.serve(broker.host(CPU=1))
    broker = broker.again()
    worker = broker.serve(broker.host(CPU=1))
    caller = broker.driver("caller")
    task_id = make_task_id(caller, 1)
    broker.say(caller, m.ActorCall(ACTOR, 1, 1, task_id, 0, b"payload"))
    assert [run.task_id for run in broker.take(worker, m.ActorRun)] == [task_id]


def test_the_loss_of_its_process_costs_a_restart_and_without_one_it_is_dead(broker):
    driver = broker.driver()
    broker.detached(driver, max_restarts=0)
    broker.serve(broker.host(CPU=1))
    assert broker.kept(KeptActor, KeptJob)
    broker = broker.again()
    assert isinstance(broker.find(), m.NoSuchActor)
    caller = broker.driver("caller")
    broker.say(caller, m.ActorCall(ACTOR, 0, 1, make_task_id(caller, 1), 0, b""))
    (state,) = broker.take(caller, m.ActorState)
    assert "the broker was started again" in state.message
    assert not broker.file, "nothing is kept of what has ended"


def test_an_actor_that_has_not_begun_loses_no_restart(broker):
    broker.detached(broker.driver(), max_restarts=0)
    broker = broker.again()
    (start,) = broker.starts(broker.host(CPU=1))
    assert start.incarnation == 0


def test_restarts_without_a_limit(broker):
    broker.detached(broker.driver(), max_restarts=-1)
    for run in range(3):
        broker.serve(broker.host(CPU=1))
        broker = broker.again()
        assert broker.kept(KeptActor)[0].incarnation == run + 1


def test_restarts_during_a_run_are_kept(broker):
    broker.detached(broker.driver(), max_restarts=5)
    host = broker.host(CPU=1)
    worker = broker.serve(host)
    broker.kill(worker)
    broker.serve(host)
    (kept,) = broker.kept(KeptActor)
    assert (kept.incarnation, kept.restarts_left) == (1, 4)


def test_other_actors_are_not_kept(broker):
    driver = broker.driver()
    broker.put_class(driver)
    broker.create(driver, name="n")
    broker.serve(broker.host(CPU=1))
    assert not broker.file


def test_an_actor_without_its_arguments_is_not_kept(broker):
    driver = broker.driver()
    broker.detached(driver, ready=False)
    assert not broker.kept(KeptActor)
    broker.detached(driver)
    assert broker.kept(KeptActor)


@pytest.mark.parametrize("how", ["killed", "constructor raised", "out of restarts"])
def test_what_has_ended_is_not_kept(broker, how):
    driver = broker.driver()
    broker.put_class(driver)
    broker.detached(driver)
    broker.detached(driver, OTHER, "other")
    host = broker.host(CPU=2)
    worker = broker.serve(host)
    assert len(broker.kept(KeptActor)) == 2 and len(broker.kept(KeptFunction, KeptJob)) == 2
    if how == "killed":
        broker.say(driver, m.ActorKill(ACTOR, True))
    elif how == "constructor raised":
        broker.say(driver, m.ActorReady(ACTOR, b"error"))
    else:
        broker.kill(worker)
    assert [kept.actor_id for kept in broker.kept(KeptActor)] == [OTHER]
    assert len(broker.kept(KeptFunction, KeptJob)) == 2, "the other one needs them"
    broker.say(driver, m.ActorKill(OTHER, True))
    assert not broker.file


def test_its_runtime_environment_is_kept(broker):
    driver = broker.driver()
    environment = EnvironmentSpec(text='{"env_vars": {"A": "1"}}')
    broker.say(driver, m.EnvironmentPut(b"e" * 16, environment, False))
    placement = shape_key({"CPU": 10_000}, environment_id=b"e" * 16)
    broker.detached(driver, max_restarts=1, placement=placement)
    assert broker.kept(KeptEnvironment)[0].environment == environment
    broker = broker.again()
    host = broker.host(CPU=1)
    assert environment in [message.environment for message in broker.take(host, m.StartWorker)]
    broker.say(broker.driver("another"), m.ActorKill(ACTOR, True))
    assert not broker.file


def test_the_job_of_an_actor_that_is_back_ends_with_it(broker):
    broker.detached(broker.driver(), max_restarts=1)
    broker = broker.again()
    new = broker.driver("new")
    assert broker.core.processes[new].job_id == (2).to_bytes(4, "big"), "the numbers of jobs go on"
    broker.say(new, m.ActorKill(ACTOR, True))
    assert list(broker.core.jobs) == [broker.core.processes[new].job_id]


def test_one_job_with_an_actor_that_is_dead_and_one_that_is_back(broker):
    """The end of the first one must not close the job under the second."""
    driver = broker.driver()
    broker.put_class(driver)
    broker.detached(driver, max_restarts=0)
    broker.detached(driver, OTHER, "other", max_restarts=1)
    host = broker.host(CPU=2)
    broker.serve(host)
    broker.serve(host, OTHER)
    broker = broker.again()
    assert len(broker.kept(KeptJob)) == len(broker.kept(KeptFunction)) == 1
    (start,) = broker.starts(broker.host(CPU=1))
    assert start.actor_id == OTHER


# ------------------------------------------------------------------ placement groups


def group_spec(**changes: Any) -> GroupSpec:
    return GroupSpec("pg", "n", "PACK", [amounts(CPU=1)], True, b"")._replace(**changes)


def groups(broker: KeepingBroker) -> dict[bytes, str]:
    asker = broker.driver("groups")
    broker.say(asker, GroupsQuery(1, b"", "", ""))
    (found,) = broker.take(asker, GroupList)
    return {row.group_id: row.state for row in found.groups}


def test_a_detached_group_is_reserved_again_under_its_name(broker):
    broker.say(
        broker.driver(),
        m.GroupCreate(GROUP, 1, group_spec()),
        m.GroupCreate(ANOTHER, 2, group_spec(name="", detached=False)),
    )
    broker.host(CPU=4)
    assert groups(broker) == {GROUP: "CREATED", ANOTHER: "CREATED"}
    broker = broker.again()
    assert groups(broker) == {GROUP: "PENDING"}
    broker.host(CPU=1)
    assert groups(broker) == {GROUP: "CREATED"}
    driver = broker.driver("again")
    broker.say(driver, m.GroupCreate(ANOTHER, 3, group_spec()))
    assert broker.take(driver, m.GroupNamed) == [m.GroupNamed(3, True)]
    broker.say(driver, m.GroupRemove(GROUP))
    assert not broker.file


def test_an_actor_in_a_group_that_is_back_waits_for_it(broker):
    driver = broker.driver()
    broker.say(driver, m.GroupCreate(GROUP, 1, group_spec()))
    placement = shape_key(asked(amounts(CPU=1), GROUP.hex(), ANY))
    broker.detached(driver, max_restarts=1, placement=placement, running=placement)
    broker.serve(broker.host(CPU=1))
    broker = broker.again()
    assert broker.find().actor_id == ACTOR
    (start,) = broker.starts(broker.host(CPU=1))
    assert start.actor_id == ACTOR


def test_an_actor_in_a_group_that_ends_with_its_job_is_dead(broker):
    driver = broker.driver()
    broker.say(driver, m.GroupCreate(GROUP, 1, group_spec(detached=False)))
    placement = shape_key(asked(amounts(CPU=1), GROUP.hex(), ANY))
    broker.detached(driver, max_restarts=1, placement=placement, running=placement)
    broker.serve(broker.host(CPU=1))
    broker = broker.again()
    assert isinstance(broker.find(), m.NoSuchActor)
    assert not broker.file


def test_the_groups_of_a_detached_actor_are_back_with_it_and_end_with_it(broker):
    driver = broker.driver()
    broker.detached(driver, max_restarts=1)
    worker = broker.serve(broker.host(CPU=3))
    broker.say(worker, m.GroupCreate(GROUP, 1, group_spec(detached=False)))
    broker = broker.again()
    assert groups(broker) == {GROUP: "PENDING"}
    broker.say(broker.driver("new"), m.ActorKill(ACTOR, True))
    assert groups(broker) == {GROUP: "REMOVED"}
    assert not broker.file


# ------------------------------------------------------------------ the key-value store


def get(broker: KeepingBroker, key: bytes) -> bytes | None:
    asker = broker.driver("asker")
    broker.say(asker, KvGet(1, b"space", key, True))
    (answer,) = broker.take(asker, KvValue)
    return answer[2] if answer[1] else None


def test_values_are_back(broker):
    driver = broker.driver()
    broker.say(driver, KvPut(1, b"space", b"a", b"1", True), KvPut(2, b"space", b"b", b"2", True))
    broker.say(driver, KvPut(3, b"space", b"a", b"3", True), KvPut(4, b"space", b"b", b"4", False))
    broker = broker.again()
    assert (get(broker, b"a"), get(broker, b"b"), get(broker, b"c")) == (b"3", b"2", None)
    broker.core.key_values.check()
    broker.say(driver := broker.driver("d"), KvDelete(1, b"space", b"", True))
    assert not broker.file and get(broker.again(), b"a") is None and driver


def test_keys_of_several_namespaces_do_not_meet(broker):
    driver = broker.driver()
    broker.say(
        driver, KvPut(1, b"a", b"bc", b"1", True), KvPut(2, b"ab", b"c", b"2", True), KvPut(3, b"", b"", b"3", True)
    )
    assert sorted(kept.value for kept in broker.again().kept(KeptValue)) == [b"1", b"2", b"3"]


# ------------------------------------------------------------------ records


def test_a_broker_without_a_journal_notes_nothing():
    broker = BrokerHarness()
    broker.create(broker.driver(), name="n", detached=True)
    broker.say(broker.driver("other"), KvPut(1, b"", b"k", b"v", True))
    assert not [effect for effect in broker.core.take_output().effects if isinstance(effect, Journaled)]


TRUNCATED = encode(KeptValue(b"", b"", b""))[:-1]


@pytest.mark.parametrize("data", [b"", b"\x90", b"\x91\x09", b"\x91\xa1x", b"\x93\x05\x01\x02", TRUNCATED])
def test_what_is_no_record_is_refused(data):
    with pytest.raises(ProtocolError):
        decode(data)


def test_records_are_read_as_they_were_written():
    for record in (
        KeptJob(b"j" * 4, b"d" * 16, JoinInfo().job),
        KeptGroup(GROUP, b"j" * 4, b"", True, group_spec()),
        KeptValue(b"n", b"k", b"v" * 10_000),
    ):
        assert decode(encode(record)) == record


STEPS = ("create", "serve", "kill", "crash", "group", "remove", "put", "delete", "restart", "driver")


@pytest.mark.parametrize("seed", range(20))
def test_a_random_history_is_back_as_far_as_it_was_told(seed):
    """Whatever happens, a restart brings back the names, groups and values that were there, and nothing is left when
    all has ended."""
    random_ = random.Random(seed)
    broker = KeepingBroker()
    number = 0
    driver, host = broker.driver("d0"), broker.host("h0", CPU=3)
    for step in range(120):
        alive = list(broker.core.actors.actors)
        what = random_.choice(STEPS)
        if what == "create":
            number += 1
            actor_id = make_task_id(driver, number)
            broker.put_class(driver)
            broker.create(driver, actor_id, name=f"a{step}", namespace="n", detached=random_.random() < 0.7,
                          max_restarts=random_.choice([0, 1, -1]), placement=NO_CPU, running=NO_CPU)  # fmt: skip
        elif what == "serve" and alive:
            broker.workers(host)
            worker = broker.core.actors.actors[random_.choice(alive)].worker
            if worker is not None and worker.state is SERVING:
                assert worker.actor is not None
                broker.say(worker.worker_id, m.ActorReady(worker.actor.actor_id, b""))
        elif what == "kill" and alive:
            broker.say(driver, m.ActorKill(random_.choice(alive), random_.random() < 0.5))
        elif what == "crash":
            workers = list(broker.core.workers.workers)
            if workers:
                broker.kill(random_.choice(workers))
        elif what == "group":
            number += 1
            broker.say(
                driver,
                m.GroupCreate(number.to_bytes(18, "big"), 1, group_spec(name="", detached=random_.random() < 0.5)),
            )
        elif what == "remove" and broker.core.groups.groups:
            broker.say(driver, m.GroupRemove(bytes.fromhex(random_.choice(list(broker.core.groups.groups)))))
        elif what == "put":
            broker.say(driver, KvPut(1, b"space", bytes([random_.randrange(5)]), b"v", random_.random() < 0.5))
        elif what == "delete":
            broker.say(driver, KvDelete(1, b"space", bytes([random_.randrange(5)]), False))
        elif what == "driver":
            broker.lose(driver)
            driver = broker.driver(f"d{step}")
        elif what == "restart":
            core = broker.core
            named = {actor.spec.name for actor in core.actors.actors.values()
                     if actor.detached and not (actor.constructed and actor.restarts_left == 0)}  # fmt: skip
            outliving = {name for name, group in core.groups.groups.items() if group.outlives_job}
            values = core.key_values._spaces
            broker = broker.again()
            assert {actor.spec.name for actor in broker.core.actors.actors.values()} == named
            assert set(broker.core.groups.groups) == outliving
            assert broker.core.key_values._spaces == values
            driver, host = broker.driver(f"d{step}"), broker.host(f"h{step}", CPU=3)
    for actor_id in list(broker.core.actors.actors):
        broker.say(driver, m.ActorKill(actor_id, True))
    for name in list(broker.core.groups.groups):
        broker.say(driver, m.GroupRemove(bytes.fromhex(name)))
    broker.say(driver, KvDelete(1, b"space", b"", True))
    assert not broker.file
