"""Durable graphs: what is kept across the deaths of drivers, workers, hosts and brokers, and what is refused."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import zray
from zray import workflow
from zray.cluster_utils import Cluster
from zray.dag import InputNode, MultiOutputNode
from zray.workflow import WorkflowStatus
from zray.workflow.exceptions import (
    WorkflowCancellationError,
    WorkflowDamagedError,
    WorkflowExecutionError,
    WorkflowExistsError,
    WorkflowNotFoundError,
    WorkflowNotResumableError,
    WorkflowStillActiveError,
    WorkflowStorageError,
)
from zray.workflow.storage import Storage

from .helpers import Process, Sandbox, driver, eventually


@pytest.fixture(autouse=True)
def directory(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The storage of the test."""
    monkeypatch.setenv("ZRAY_WORKFLOW_DIR", str(sandbox.directory / "workflows"))
    return sandbox.directory / "workflows"


@pytest.fixture
def ran(sandbox: Sandbox) -> Path:
    """A file with the name of each step that was run, a line each."""
    return sandbox.directory / "ran"


def counts(ran: Path) -> Counter[str]:
    return Counter(ran.read_text().split()) if ran.exists() else Counter()


def note(ran: Path | str, name: str) -> None:
    with open(ran, "a") as file:
        file.write(f"{name}\n")


def names_of(workflow_id: str) -> list[str]:
    """The statuses of a workflow, for comparisons."""
    return [status.value for name, status in workflow.list_all() if name == workflow_id]


@zray.remote
def add(a, b=0):
    return a + b


@zray.remote
def noted(ran, name, *values):
    note(ran, name)
    return [name, *values]


# ------------------------------------------------------------------ graphs


def test_a_graph_with_inputs_and_several_results(ray: ModuleType) -> None:
    with InputNode() as value:
        first = add.bind(value.left, value["right"])
        node = MultiOutputNode([first, add.bind(first, 1)])
    assert workflow.run(node, left=2, right=3, workflow_id="w") == [5, 6]
    assert workflow.get_output("w") == [5, 6]
    assert workflow.resume("w") == [5, 6]
    assert workflow.get_output("w", task_id="add_1") == 6


def test_nodes_inside_values_are_references(ray: ModuleType) -> None:
    @ray.remote
    def total(named):
        return sum(ray.get(named["parts"]))

    assert workflow.run(total.bind({"parts": [add.bind(1, 2), add.bind(3, 4)]})) == 10


def test_references_in_arguments_are_stored(ray: ModuleType) -> None:
    @ray.remote
    def join(value, inside):
        return value + ray.get(inside[0])

    ref = ray.put("x")
    assert workflow.run(join.bind(ref, [ref]), workflow_id="w") == "xx"
    zray.shutdown()
    workflow.delete("w")
    zray.init(num_cpus=1)
    node = join.bind(ray.put("a"), [ray.put("b")])
    assert workflow.run(node, workflow_id="w") == "ab"


def test_large_values_and_arrays(ray: ModuleType) -> None:
    numpy = pytest.importorskip("numpy")

    @ray.remote
    def make(count):
        return numpy.arange(count)

    @ray.remote
    def total(*arrays):
        return int(sum(array.sum() for array in arrays))

    made = make.bind(300_000)
    assert workflow.run(total.bind(made, made), workflow_id="w") == 300_000 * 299_999
    assert (workflow.get_output("w", task_id="make") == numpy.arange(300_000)).all()
    assert workflow.get_metadata("w", "make")["bytes"] > 2_400_000


def test_names_of_steps(ray: ModuleType) -> None:
    @workflow.options(task_id="decorated", metadata={"x": 1})
    @ray.remote
    def one():
        return 1

    two = add.options(**workflow.options(task_id="given"))
    node = two.bind(two.bind(one.bind(), 1), add.options(name="named").bind(1, 1))
    assert workflow.run(node, workflow_id="w", metadata={"owner": "me"}) == 4
    for name, value in (("decorated", 1), ("given", 2), ("given_1", 4), ("named", 2)):
        assert workflow.get_output("w", task_id=name) == value
    assert workflow.get_metadata("w", "decorated")["user_metadata"] == {"x": 1}
    about = workflow.get_metadata("w")
    assert (about["status"], about["user_metadata"]) == ("SUCCESSFUL", {"owner": "me"})
    assert sorted(about["finished_tasks"]) == ["decorated", "given", "given_1", "named"]
    assert about["stats"]["start_time"] <= about["stats"]["end_time"]
    for name in ("", "other"):
        with pytest.raises(WorkflowNotFoundError):
            workflow.get_metadata("w", name)


def test_continuations(ray: ModuleType) -> None:
    @ray.remote
    def factorial(number, product):
        return workflow.continuation(factorial.bind(number - 1, number * product)) if number > 1 else product

    @ray.remote
    def several(count):
        return workflow.continuation(MultiOutputNode([add.bind(number, 1) for number in range(count)]))

    assert workflow.run(add.bind(factorial.bind(10, 1), 1), workflow_id="w") == 3628801
    assert workflow.resume("w") == 3628801
    assert workflow.get_output("w", task_id="factorial") == 3628800
    assert workflow.run(several.bind(3)) == [1, 2, 3]
    with pytest.raises(TypeError, match=r"a graph made with \.bind"):
        workflow.continuation(5)  # type: ignore[arg-type]


def test_caught_exceptions(ray: ModuleType) -> None:
    @ray.remote
    def fail():
        raise ValueError("no")

    caught = fail.options(**workflow.options(catch_exceptions=True))
    value, error = workflow.run(caught.bind(), workflow_id="w")
    assert value is None
    assert isinstance(error, ValueError)
    assert workflow.get_status("w") is WorkflowStatus.SUCCESSFUL
    assert isinstance(workflow.get_output("w")[1], ValueError)


def test_local_mode() -> None:
    zray.init(local_mode=True)
    assert workflow.run(add.bind(add.bind(1, 2), 3), workflow_id="w") == 6
    assert workflow.resume("w") == 6
    assert zray.get(workflow.run_async(add.bind(1, 2))) == 3
    with pytest.raises(WorkflowExecutionError, match="TypeError"):
        zray.get(workflow.run_async(add.bind(1, "x")))


def test_under_the_name_ray(sandbox: Sandbox) -> None:
    """Ray 2.60 raises at this import."""
    source = """
        ray.install_as_ray()
        import ray
        from ray import workflow

        @ray.remote
        def add(a, b):
            return a + b

        ray.init(num_cpus=1)
        print(workflow.run(add.bind(1, 2), workflow_id="w"), ray.workflow.list_all())
    """
    with driver(source) as process:
        assert process.succeed() == "3 [('w', <WorkflowStatus.SUCCESSFUL: 'SUCCESSFUL'>)]"


# ------------------------------------------------------------------ what is refused


def test_actors_are_refused(ray: ModuleType) -> None:
    @ray.remote(num_cpus=0)
    class Counter:
        def read(self):
            return 1

    counter = Counter.remote()
    for node in (Counter.bind().read.bind(), counter.read.bind(), add.bind(Counter.bind().read.bind())):
        with pytest.raises(TypeError, match="an actor's state is not stored"):
            workflow.run(node, workflow_id="w")
    with pytest.raises(TypeError, match="cannot have the handle of an actor in its arguments"):
        workflow.run(add.bind([counter], []), workflow_id="w")
    assert workflow.list_all() == []


def test_several_values_are_refused(ray: ModuleType) -> None:
    @ray.remote
    def each():
        yield 1

    for node in (each.bind(), add.options(num_returns=2).bind(1), add.options(num_returns=0).bind(1)):
        with pytest.raises(ValueError, match="a step of a workflow has one"):
            workflow.run(node)


def test_references_in_results_are_refused(ray: ModuleType) -> None:
    @ray.remote
    def refers():
        return [ray.put(1)]

    with pytest.raises(WorkflowExecutionError, match="has references in it"):
        workflow.run(refers.bind(), workflow_id="w")
    assert workflow.get_status("w") is WorkflowStatus.FAILED


def test_wrong_arguments(ray: ModuleType) -> None:
    with pytest.raises(TypeError, match=r"a graph made with \.bind"):
        workflow.run(5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="workflow_id must be a string"):
        workflow.run(add.bind(1), workflow_id=5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="must not be empty"):
        workflow.run(add.bind(1), workflow_id="")
    with pytest.raises(TypeError, match="values that JSON has"):
        workflow.run(add.bind(1), metadata={"x": object()})
    with pytest.raises(TypeError, match="must be a dict"):
        workflow.options(metadata=5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="non-empty string"):
        workflow.options(task_id="")
    with pytest.raises(TypeError, match=r"write it above @zray\.remote"):
        workflow.options(task_id="x")(len)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="PENDING"):
        workflow.list_all("PENDING")
    with pytest.raises(TypeError, match=r"cannot pickle the graph: .*add.*lock"):
        workflow.run(add.bind(threading.Lock()))
    assert workflow.list_all() == []
    for call in (workflow.resume, workflow.get_status, workflow.get_output, workflow.cancel, workflow.delete):
        with pytest.raises(WorkflowNotFoundError, match="workflow 'unknown' is not in "):
            call("unknown")
    with pytest.raises(WorkflowExecutionError, match=r"TypeError: .*add"):
        workflow.run(add.bind(add.bind(1, 2), 3, 4, 5), workflow_id="w")
    assert workflow.get_status("w") is WorkflowStatus.FAILED


def test_another_graph_of_the_same_name(ray: ModuleType) -> None:
    assert workflow.run(add.bind(1, 2), workflow_id="w") == 3
    assert workflow.run(add.bind(1, 2), workflow_id="w") == 3
    assert workflow.run(add.bind(5, 6), workflow_id="w") == 3  # the stored arguments count
    with pytest.raises(WorkflowExistsError, match="is stored with other steps"):
        workflow.run(add.bind(add.bind(1, 2), 3), workflow_id="w")


def test_another_version_of_python(ray: ModuleType, directory: Path) -> None:
    workflow.run(add.bind(1, 2), workflow_id="w")
    with workflow.api._storage() as storage:
        storage._db.execute("UPDATE workflows SET python = '3.2.1'")
    with pytest.raises(WorkflowNotResumableError, match=r"was stored by Python 3\.2, and this is Python 3\."):
        workflow.resume("w")
    assert workflow.get_output("w") == 3


# ------------------------------------------------------------------ storage


def test_the_directory(ray: ModuleType, sandbox: Sandbox, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workflow.api, "_directory", None)
    workflow.run(add.bind(1, 2), workflow_id="by variable")
    assert (directory / "workflows.db").exists()
    workflow.init(storage=sandbox.directory / "given")
    assert workflow.list_all() == []
    workflow.run(add.bind(1, 2), workflow_id="given")
    workflow.init()
    assert [name for name, _ in workflow.list_all()] == ["by variable"]
    monkeypatch.delenv("ZRAY_WORKFLOW_DIR")
    monkeypatch.setenv("XDG_DATA_HOME", str(sandbox.directory / "data"))
    workflow.run(add.bind(1, 2), workflow_id="default")
    assert (sandbox.directory / "data" / "zray" / "workflows" / "workflows.db").exists()
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", str(sandbox.directory))
    assert workflow.list_all() == []
    assert (sandbox.directory / ".local" / "share" / "zray" / "workflows").is_dir()
    (sandbox.directory / "file").write_text("")
    with pytest.raises(WorkflowStorageError):
        workflow.init(storage=sandbox.directory / "file")


def test_a_damaged_output_is_an_error_and_resume_makes_it_again(ray: ModuleType, ran: Path, directory: Path) -> None:
    @ray.remote
    def large(value):
        note(ran, "large")
        return bytes(100_000) + value

    node = large.bind(noted_bytes.bind(str(ran)))
    expected = workflow.run(node, workflow_id="w")
    (path,) = (path for path in directory.glob("contents/*/*") if path.stat().st_size > 100_000)
    os.truncate(path, 50_000)
    with pytest.raises(WorkflowDamagedError, match="the value of step 'large"):
        workflow.get_output("w")
    assert workflow.resume("w") == expected
    assert workflow.get_output("w") == expected
    assert counts(ran) == {"large": 2, "bytes": 1}


@zray.remote
def noted_bytes(ran):
    note(ran, "bytes")
    return b"end"


def test_delete(ray: ModuleType, directory: Path) -> None:
    @ray.remote
    def large():
        return bytes(100_000)

    workflow.run(large.bind(), workflow_id="w")
    assert list(directory.glob("contents/*"))
    workflow.delete("w")
    assert workflow.list_all() == []
    assert not list(directory.glob("contents/*"))
    assert not list(directory.glob("locks/*"))
    assert len(workflow.run(large.bind(), workflow_id="w")) == 100_000


def test_one_directory_under_two_names(ray: ModuleType, sandbox: Sandbox, directory: Path) -> None:
    """POSIX's locks do not keep apart two descriptors of one process."""
    directory.mkdir()
    (sandbox.directory / "link").symlink_to(directory)
    with Storage(str(directory)) as first, Storage(str(sandbox.directory / "link")) as second:
        lock = first.lock("w")
        assert lock is not None
        assert second.lock("w") is None
        assert second.is_locked("w")
        lock.release()


# ------------------------------------------------------------------ failures and the other ends


def test_a_failed_step_is_run_again_and_the_others_are_not(ray: ModuleType, ran: Path, sandbox: Sandbox) -> None:
    good = str(sandbox.directory / "good")

    @ray.remote
    def flaky(value):
        note(ran, "flaky")
        if not os.path.exists(good):
            raise ValueError("not yet")
        return value

    node = noted.bind(str(ran), "last", flaky.bind(noted.bind(str(ran), "first")))
    with pytest.raises(WorkflowExecutionError, match="failed in step 'flaky': ValueError: not yet") as raised:
        workflow.run(node, workflow_id="w")
    assert isinstance(raised.value.__cause__, ValueError)
    assert raised.value.task_id == "flaky"
    assert workflow.get_status("w") is WorkflowStatus.FAILED
    with pytest.raises(WorkflowExecutionError, match="not yet") as stored:
        workflow.get_output("w")
    assert isinstance(stored.value.__cause__, ValueError)
    with pytest.raises(WorkflowNotFoundError, match="has no finished step 'flaky'"):
        workflow.get_output("w", task_id="flaky")
    Path(good).touch()
    assert workflow.resume("w") == ["last", ["first"]]
    assert workflow.get_status("w") is WorkflowStatus.SUCCESSFUL
    assert counts(ran) == {"first": 1, "flaky": 2, "last": 1}


def test_what_the_code_of_a_step_raises_is_its_own_failure(ray: ModuleType) -> None:
    """Also if it is an error of zray, which a task or an actor that the step has used raised."""

    @ray.remote
    def fail():
        raise zray.exceptions.WorkerCrashedError("one that the step has used")

    with pytest.raises(WorkflowExecutionError, match="WorkerCrashedError: one that the step has used"):
        workflow.run(fail.bind(), workflow_id="w")
    assert workflow.get_status("w") is WorkflowStatus.FAILED


def test_an_error_that_cannot_be_loaded(ray: ModuleType) -> None:
    @ray.remote
    def fail():
        raise ValueError("no")

    with pytest.raises(WorkflowExecutionError):
        workflow.run(fail.bind(), workflow_id="w")
    with Storage(os.environ["ZRAY_WORKFLOW_DIR"]) as storage:
        storage._db.execute("UPDATE workflows SET error = x'00'")
    with pytest.raises(WorkflowExecutionError, match="its error cannot be loaded: a malformed value"):
        workflow.get_output("w")


def test_run_async_and_resume_all(ray: ModuleType, sandbox: Sandbox) -> None:
    good = str(sandbox.directory / "good")

    @ray.remote
    def flaky(value):
        if not os.path.exists(good):
            raise ValueError("not yet")
        return value

    assert ray.get(workflow.run_async(add.bind(1, 2), workflow_id="done")) == 3
    with pytest.raises(WorkflowExecutionError, match="not yet"):
        ray.get(workflow.run_async(flaky.bind(1), workflow_id="failed"))
    assert workflow.list_all({WorkflowStatus.FAILED, "SUCCESSFUL"}) == [
        ("done", WorkflowStatus.SUCCESSFUL),
        ("failed", WorkflowStatus.FAILED),
    ]
    assert workflow.list_all("FAILED") == [("failed", WorkflowStatus.FAILED)]
    assert workflow.resume_all() == []
    Path(good).touch()
    ((name, output),) = workflow.resume_all(include_failed=True)
    assert (name, ray.get(output)) == ("failed", 1)
    assert ray.get(workflow.resume_async("done")) == 3


def test_one_thread_at_a_time(ray: ModuleType, sandbox: Sandbox) -> None:
    fifo = str(sandbox.directory / "fifo")
    os.mkfifo(fifo)

    @ray.remote
    def read():
        with open(fifo) as file:
            return file.read()

    output = workflow.run_async(read.bind(), workflow_id="w")
    assert workflow.get_status("w") is WorkflowStatus.RUNNING
    for call in (workflow.resume, workflow.delete, workflow.get_output):
        with pytest.raises(WorkflowStillActiveError, match="workflow 'w' is being run by this process"):
            call("w")
    with pytest.raises(WorkflowStillActiveError):
        workflow.run(read.bind(), workflow_id="w")
    Path(fifo).write_text("text")
    assert ray.get(output) == "text"
    assert workflow.get_output("w") == "text"


def test_cancel(ray: ModuleType, sandbox: Sandbox, ran: Path) -> None:
    started = str(sandbox.directory / "started")
    os.mkfifo(started)

    @ray.remote
    def wait(value):
        with open(started, "w") as file:
            file.write("x")
        threading.Event().wait(60)

    output = workflow.run_async(wait.bind(noted.bind(str(ran), "first")), workflow_id="w")
    Path(started).read_text()
    workflow.cancel("w")
    with pytest.raises(WorkflowCancellationError):
        ray.get(output)
    assert workflow.get_status("w") is WorkflowStatus.CANCELED
    with pytest.raises(WorkflowNotResumableError, match="was cancelled"):
        workflow.resume("w")
    with pytest.raises(WorkflowNotResumableError):
        workflow.run(wait.bind(noted.bind(str(ran), "first")), workflow_id="w")
    with pytest.raises(WorkflowCancellationError):
        workflow.get_output("w")
    assert workflow.get_output("w", task_id="noted") == ["first"]
    workflow.cancel("w")
    workflow.delete("w")
    workflow.run(add.bind(1, 2), workflow_id="done")
    workflow.cancel("done")
    assert workflow.get_status("done") is WorkflowStatus.SUCCESSFUL


# ------------------------------------------------------------------ deaths


STEPS = """
    from zray import workflow
    from zray.workflow.storage import Storage

    ran, moment = sys.argv[1], int(sys.argv[2])
    events = 0

    def event():
        global events
        events += 1
        if events - 1 == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(name):
        method = getattr(Storage, name)
        def changed(*args, **kwargs):
            event()
            result = method(*args, **kwargs)
            event()
            return result
        setattr(Storage, name, changed)

    for name in ("create", "keep", "change"):
        around(name)

    def note(name):
        with open(ran, "a") as file:
            file.write(name + "\\n")

    @ray.remote
    def first():
        note("first")
        return 1

    @ray.remote
    def second(value):
        note("second")
        return workflow.continuation(fourth.bind(third.bind(value)))

    @ray.remote
    def third(value):
        note("third")
        return bytes(100_000)

    @ray.remote
    def fourth(value):
        note("fourth")
        return len(value)

    @ray.remote
    def last(value):
        note("last")
        return value + 1

    ray.init(num_cpus=1)
    if sys.argv[3] == "run":
        print(workflow.run(last.bind(second.bind(first.bind())), workflow_id="w"))
    else:
        print(workflow.resume("w"))
    print(f"{events} events", file=sys.stderr)
"""
CHAIN = ["first", "second", "third", "fourth", "last"]
EVENTS = 2 * (1 + len(CHAIN) + 1)
"""Before and after: the creation, each step's result, the last status."""


def test_events_of_the_chain(ran: Path) -> None:
    with driver(STEPS, arguments=[str(ran), "-1", "run"]) as process:
        assert process.succeed() == "100001"
        assert process.err.splitlines()[-1] == f"{EVENTS} events"
    assert counts(ran) == dict.fromkeys(CHAIN, 1)


@pytest.mark.parametrize("moment", range(EVENTS))
def test_the_driver_is_killed_at_each_boundary(ran: Path, moment: int) -> None:
    with driver(STEPS, arguments=[str(ran), str(moment), "run"]) as process:
        assert process.wait() == -signal.SIGKILL
    if moment == 0:  # not stored yet
        assert workflow.list_all() == []
        how = "run"
    elif moment < EVENTS - 1:
        assert names_of("w") == ["RESUMABLE"]
        with pytest.raises(WorkflowNotResumableError, match="has no output yet"):
            workflow.get_output("w")
        how = "resume"
    else:
        assert names_of("w") == ["SUCCESSFUL"]
        how = "resume"
    with driver(STEPS, arguments=[str(ran), "-1", how]) as process:
        assert process.succeed() == "100001"
    again = {CHAIN[moment // 2 - 1]} if moment % 2 == 0 and 2 <= moment < EVENTS - 2 else set()
    assert counts(ran) == {name: 2 if name in again else 1 for name in CHAIN}
    assert names_of("w") == ["SUCCESSFUL"]
    assert workflow.get_output("w") == 100_001


RANDOM = """
    import random
    from zray import workflow
    from zray.workflow.storage import Storage

    ran, seed, moment = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    rng = random.Random(seed)
    events = 0

    def event():
        global events
        events += 1
        if events - 1 == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    keep = Storage.keep
    def changed(*args):
        event()
        keep(*args)
        event()
    Storage.keep = changed

    @ray.remote
    def step(number, *values):
        with open(ran, "a") as file:
            file.write(f"step_{number}\\n" if number else "step\\n")
        if number % 3 == 2:
            return workflow.continuation(total.bind(number, *values))
        return number + sum(values)

    @ray.remote
    def total(*values):
        return sum(values)

    nodes = []
    for number in range(8):
        nodes.append(step.bind(number, *rng.sample(nodes, rng.randint(0, min(3, len(nodes))))))
    ray.init(num_cpus=2)
    print(workflow.run(total.bind(*nodes), workflow_id="w"))
"""


@pytest.mark.parametrize("seed", range(3))
def test_random_graphs_whose_driver_is_killed_at_random_moments(ran: Path, seed: int) -> None:
    rng = random.Random(seed)
    with driver(RANDOM, arguments=[str(ran), str(seed), "-1"]) as process:
        expected = process.succeed()
    workflow.delete("w")
    ran.unlink()
    finished: set[str] = set()
    for _ in range(20):
        before = counts(ran)
        with driver(RANDOM, arguments=[str(ran), str(seed), str(rng.randint(0, 6))]) as process:
            ended = process.wait()
            output = process.out
        after = counts(ran)
        assert {name for name in finished if after[name] != before[name]} == set()
        if ended == 0:
            break
        assert ended == -signal.SIGKILL, process.report()
        finished = set(workflow.get_metadata("w")["finished_tasks"])
    assert output == expected
    assert names_of("w") == ["SUCCESSFUL"]


def test_a_step_whose_worker_dies_is_tried_again(ray: ModuleType, ran: Path) -> None:
    @ray.remote(max_retries=1)
    def dies(value):
        note(ran, "dies")
        if counts(ran)["dies"] % 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return value

    assert workflow.run(dies.bind(noted.bind(str(ran), "first"))) == ["first"]
    assert counts(ran) == {"first": 1, "dies": 2}
    node = dies.options(max_retries=0).bind(noted.bind(str(ran), "first"))
    with pytest.raises(WorkflowExecutionError, match="WorkerCrashedError"):
        workflow.run(node, workflow_id="w")
    assert workflow.get_status("w") is WorkflowStatus.RESUMABLE
    assert workflow.resume("w") == ["first"]
    assert counts(ran) == {"first": 2, "dies": 4}


def test_a_finished_step_is_not_run_again_when_its_host_is_lost(ran: Path) -> None:
    @zray.remote(resources={"far": 1})
    def make():
        note(ran, "make")
        return bytes(3_000_000)

    @zray.remote(resources={"later": 1})
    def size(value):
        note(ran, "size")
        return len(value)

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        far = cluster.add_node(num_cpus=1, resources={"far": 1})
        zray.init(address=cluster.address)
        output = workflow.run_async(size.bind(make.bind()), workflow_id="w")

        def is_kept() -> bool:
            try:
                return bool(workflow.get_metadata("w", "make"))
            except WorkflowNotFoundError:
                return False

        eventually(is_kept)
        cluster.remove_node(far, allow_graceful=False)
        cluster.add_node(num_cpus=1, resources={"later": 1, "far": 1})
        assert zray.get(output, timeout=30) == 3_000_000
        assert counts(ran) == {"make": 1, "size": 1}
    finally:
        zray.shutdown()
        cluster.shutdown()


def test_the_broker_is_killed(sandbox: Sandbox, ran: Path) -> None:
    started = str(sandbox.directory / "started")
    os.mkfifo(started)

    @zray.remote
    def wait(value):
        if counts(ran)["wait"] == 0:
            note(ran, "wait")
            with open(started, "w") as file:
                file.write("x")
            threading.Event().wait(60)
        return value

    failures: list[BaseException] = []

    def work() -> None:
        try:
            workflow.run(wait.bind(noted.bind(str(ran), "first")), workflow_id="w")
        except BaseException as error:
            failures.append(error)

    zray.init(num_cpus=1)
    thread = threading.Thread(target=work)
    thread.start()
    Path(started).read_text()
    assert workflow.get_status("w") is WorkflowStatus.RUNNING
    os.kill(sandbox.one("zray: broker"), signal.SIGKILL)
    thread.join()
    assert [type(error) for error in failures] == [WorkflowExecutionError]
    assert workflow.get_status("w") is WorkflowStatus.RESUMABLE
    zray.shutdown()
    zray.init(num_cpus=1)
    assert workflow.resume("w") == ["first"]
    assert counts(ran) == {"first": 1, "wait": 1}


def test_a_run_does_not_go_on_in_the_next_cluster(ran: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``shutdown`` comes between two steps, when no task runs whose failure would tell."""
    keep = Storage.keep

    def keep_and_shut_down(self: Storage, *args) -> None:
        keep(self, *args)
        zray.shutdown()

    zray.init(num_cpus=1)
    with (
        monkeypatch.context() as patched,
        pytest.raises(WorkflowExecutionError, match=r"zray\.shutdown\(\) was called"),
    ):
        patched.setattr(Storage, "keep", keep_and_shut_down)
        workflow.run(noted.bind(str(ran), "last", noted.bind(str(ran), "first")), workflow_id="w")
    assert not zray.is_initialized()
    assert names_of("w") == ["RESUMABLE"]
    zray.init(num_cpus=1)
    assert workflow.resume("w") == ["last", ["first"]]
    assert counts(ran) == {"first": 1, "last": 1}


def test_shutdown_ends_the_run_and_it_can_be_resumed(sandbox: Sandbox, ran: Path) -> None:
    started = str(sandbox.directory / "started")
    os.mkfifo(started)

    @zray.remote
    def wait(value):
        note(ran, "wait")
        if counts(ran)["wait"] == 1:
            with open(started, "w") as file:
                file.write("x")
            threading.Event().wait(60)
        return value

    zray.init(num_cpus=1)
    output = workflow.run_async(wait.bind(noted.bind(str(ran), "first")), workflow_id="w")
    Path(started).read_text()
    zray.shutdown()
    del output
    eventually(lambda: names_of("w") == ["RESUMABLE"])
    zray.init(num_cpus=1)
    assert workflow.resume("w") == ["first"]
    assert counts(ran) == {"first": 1, "wait": 2}


WAITS = """
    from zray import workflow
    from zray.workflow.exceptions import WorkflowCancellationError

    ran = sys.argv[1]

    def note(name):
        with open(ran, "a") as file:
            file.write(name + "\\n")

    @ray.remote
    def first():
        note("first")
        return 1

    @ray.remote
    def wait(value):
        note("wait")
        if os.path.exists(ran + ".wait"):
            print("waits")
            time.sleep(60)
        return value

    ray.init(num_cpus=1)
    try:
        print("value", workflow.run(wait.bind(first.bind()), workflow_id="w"))
    except WorkflowCancellationError as error:
        print("cancelled:", error)
    except KeyboardInterrupt:
        print("interrupted", workflow.get_status("w"))
"""


def waiting(ran: Path) -> Process:
    """A driver whose second step waits."""
    Path(f"{ran}.wait").touch()
    process = driver(WAITS, arguments=[str(ran)])
    process.expect("waits")
    return process


def test_another_driver_is_told_who_runs_it_and_takes_over_after_its_death(ran: Path) -> None:
    with waiting(ran) as process:
        assert workflow.get_status("w") is WorkflowStatus.RUNNING
        for call in (workflow.resume, workflow.delete, workflow.get_output):
            with pytest.raises(WorkflowStillActiveError, match=rf"'w' is being run by process {process.pid} \("):
                call("w")
        with driver(WAITS, arguments=[str(ran)]) as second:
            assert second.wait() == 1
            assert "WorkflowStillActiveError" in second.err
        process.signal(signal.SIGKILL)
        process.wait()
    assert workflow.get_status("w") is WorkflowStatus.RESUMABLE
    Path(f"{ran}.wait").unlink()
    zray.init(num_cpus=1)
    assert workflow.resume("w") == 1  # the functions of its __main__ are stored with it
    assert counts(ran) == {"first": 1, "wait": 2}


def test_cancelled_by_another_process(ran: Path) -> None:
    with waiting(ran) as process:
        workflow.cancel("w")
        assert process.succeed().splitlines()[-1] == "cancelled: workflow 'w' was cancelled"
    assert workflow.get_status("w") is WorkflowStatus.CANCELED


def test_an_interrupted_run_can_be_resumed(ran: Path) -> None:
    with waiting(ran) as process:
        process.signal(signal.SIGINT)
        assert process.succeed().splitlines()[-1] == "interrupted WorkflowStatus.RESUMABLE"
    Path(f"{ran}.wait").unlink()
    zray.init(num_cpus=1)
    ((name, output),) = workflow.resume_all()
    assert (name, zray.get(output)) == ("w", 1)
    assert counts(ran) == {"first": 1, "wait": 2}


def test_a_module_that_is_missing_at_resume_is_named(sandbox: Sandbox, ran: Path) -> None:
    (sandbox.directory / "steps_of_mine.py").write_text("def double(value):\n    return 2 * value\n")
    source = """
        import steps_of_mine
        from zray import workflow
        ray.init(num_cpus=1)
        node = ray.remote(steps_of_mine.double).bind(4)
        if sys.argv[1:]:
            workflow.api.Execution = None
        print(workflow.run(node, workflow_id="w"))
    """
    there = {"PYTHONPATH": os.pathsep.join([str(sandbox.directory), *sys.path])}
    with driver(source, environ=there, arguments=["fails"]) as process:
        assert process.wait() == 1
    zray.init(num_cpus=1)
    with pytest.raises(ModuleNotFoundError, match="steps_of_mine"):
        workflow.resume("w")
    assert workflow.get_status("w") is WorkflowStatus.RESUMABLE
    with driver(source, environ=there) as process:
        assert process.succeed() == "8"


class Unpicklable:
    def __reduce__(self) -> Any:
        return threading.Lock, ()  # can be pickled here, and its copy cannot

    def __repr__(self) -> str:
        return "what cannot be pickled"


def test_an_error_that_cannot_be_passed_on_is_told_in_words(ray: ModuleType) -> None:
    @ray.remote
    def fails() -> None:
        raise ValueError(Unpicklable())

    with pytest.raises(WorkflowExecutionError, match="ValueError"):
        ray.get(workflow.run_async(fails.bind(), workflow_id="w"), timeout=20)
    assert workflow.get_status("w") == "FAILED"


def test_a_workflow_that_cannot_be_resumed_does_not_keep_back_the_others(
    ray: ModuleType, sandbox: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a", "b", "c"):
        with pytest.raises(WorkflowExecutionError):
            workflow.run(add.bind(1, "x"), workflow_id=name)
    with Storage(os.environ["ZRAY_WORKFLOW_DIR"]) as storage:
        storage._db.execute("UPDATE workflows SET python = '3.9.1' WHERE id = 'b'")
    resumed = workflow.resume_all(include_failed=True)
    assert [name for name, _ in resumed] == ["a", "c"]
    assert "has left out a workflow" in caplog.text and "'b'" in caplog.text
    for _, output in resumed:
        with pytest.raises(WorkflowExecutionError):
            ray.get(output, timeout=20)
