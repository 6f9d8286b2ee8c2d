"""Runs of workflows whose process ends at any moment, with steps that run here."""

from __future__ import annotations

import random
import sys
from collections import Counter
from pathlib import Path

import pytest

import zray
from zray.dag import InputNode, MultiOutputNode
from zray.exceptions import WorkerCrashedError
from zray.workflow.exceptions import WorkflowCancellationError, WorkflowExecutionError, WorkflowStorageError
from zray.workflow.execution import Execution
from zray.workflow.graphs import LABEL, Continuation
from zray.workflow.storage import CANCELED, FAILED, GRAPH, ROOT, RUNNING, SUCCESSFUL, VALUE, Storage

from .steps import Crash, Crashes, CrashingStorage, HereTasks, combine, random_node, run, stored


@pytest.fixture
def storage(tmp_path: Path):
    with Storage(str(tmp_path / "storage")) as opened:
        yield opened


def tasks(**given) -> HereTasks:
    return HereTasks(random.Random(0), **given)


@zray.remote
def add(a, b=0):
    return a + b


@zray.remote
def fail(value=None):
    raise ValueError("no")


@zray.remote
def crash(value=None):
    raise WorkerCrashedError("gone")


@zray.remote
def count_down(number):
    return Continuation(count_down.bind(number - 1)) if number else "end"


@pytest.mark.parametrize("seed", range(60))
def test_random_graphs_with_a_crash_at_any_moment(seed: int, tmp_path: Path) -> None:
    """Whatever is on disk is not run again, and the value is that of a run without a crash."""
    node = random_node(random.Random(seed))
    directory = str(tmp_path / "calm")
    calm = Crashes()
    with CrashingStorage(directory, calm) as opened:
        stored(opened, node)
        expected = run(opened, HereTasks(random.Random(seed), calm))
    rng = random.Random(seed)
    for turn in range(4):
        directory = str(tmp_path / str(turn))
        runs: Counter[str] = Counter()
        with Storage(directory) as opened:
            stored(opened, node)
        for _ in range(1000):
            crashes = Crashes(rng.randrange(calm.events + 5))
            with CrashingStorage(directory, crashes) as opened:
                finished = {content.step for content in opened.kept("w")}
                before = Counter(runs)
                try:
                    value = run(opened, HereTasks(rng, crashes, runs))
                    break
                except Crash:
                    continue
                finally:
                    again = {step for step in finished if runs[step] != before[step]}
                    assert again == set()
        assert value == expected
        with Storage(directory) as opened:
            assert opened.get("w").status == SUCCESSFUL
            assert run(opened, tasks(runs=runs)) == expected
            assert opened.get("w").status == SUCCESSFUL


@pytest.mark.parametrize("seed", range(8))
def test_a_crash_at_each_event_runs_only_what_was_not_finished(seed: int, tmp_path: Path) -> None:
    node = random_node(random.Random(seed))
    calm = Crashes()
    with CrashingStorage(str(tmp_path / "calm"), calm) as opened:
        stored(opened, node)
        expected = run(opened, HereTasks(random.Random(seed), calm))
    for moment in range(calm.events):
        directory = str(tmp_path / str(moment))
        crashes = Crashes(moment)
        runs: Counter[str] = Counter()
        with CrashingStorage(directory, crashes) as opened:
            stored(opened, node)
            with pytest.raises(Crash):
                run(opened, HereTasks(random.Random(seed), crashes, runs))
        with CrashingStorage(directory, Crashes()) as opened:
            finished = {content.step for content in opened.kept("w")} - {ROOT}
            before = Counter(runs)
            assert run(opened, tasks(runs=runs)) == expected
        assert all(before[step] == runs[step] == 1 for step in finished)
        assert max((runs - before).values(), default=1) == 1


def test_a_failed_step_is_run_again_and_the_others_are_not(storage: Storage) -> None:
    attempts = []

    @zray.remote
    def flaky(value):
        attempts.append(value)
        if len(attempts) == 1:
            raise ValueError("first")
        return value

    graph = stored(storage, add.bind(flaky.bind(add.bind(1, 2)), 4))
    first = tasks()
    with pytest.raises(WorkflowExecutionError, match=r"step 'test_.*flaky|step 'flaky'") as raised:
        run(storage, first, graph=graph)
    assert isinstance(raised.value.__cause__, ValueError)
    assert storage.get("w").status == FAILED
    storage.change("w", RUNNING, (FAILED,))
    assert run(storage, first, graph=graph) == 7
    assert first.runs["add"] == 1
    assert attempts == [3, 3]


def test_steps_that_run_when_another_fails_are_kept(storage: Storage) -> None:
    graph = stored(storage, add.bind(add.bind(fail.bind(), 1), add.bind(1, 1)))
    done = tasks()
    with pytest.raises(WorkflowExecutionError):
        run(storage, done, graph=graph)
    assert {content.step for content in storage.kept("w")} >= {ROOT, "add_1"}
    assert not done.cancelled


def test_a_failure_of_the_machine_leaves_the_workflow_resumable(storage: Storage) -> None:
    stored(storage, add.bind(crash.bind(), 1))
    with pytest.raises(WorkflowExecutionError, match="WorkerCrashedError: gone"):
        run(storage, tasks())
    assert storage.get("w").status == RUNNING


def test_an_error_counts_before_a_failure_of_the_machine(storage: Storage) -> None:
    stored(storage, add.bind(crash.bind(), fail.bind()))
    with pytest.raises(WorkflowExecutionError, match="ValueError: no"):
        run(storage, tasks())
    assert storage.get("w").status == FAILED


def test_a_long_chain_of_continuations_takes_no_stack(storage: Storage) -> None:
    storage._db.execute("PRAGMA synchronous = OFF")
    stored(storage, count_down.bind(600))
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(500)
    try:
        assert run(storage, tasks()) == "end"
        assert run(storage, tasks()) == "end"
    finally:
        sys.setrecursionlimit(limit)


def test_names_stay_the_same_after_a_crash_between_continuations(tmp_path: Path) -> None:
    runs: Counter[str] = Counter()
    directory = str(tmp_path)
    with Storage(directory) as opened:
        stored(opened, add.bind(count_down.bind(3), ""))
    for _ in range(100):
        crashes = Crashes(3)
        with CrashingStorage(directory, crashes) as opened:
            try:
                value = run(opened, tasks(crashes=crashes, runs=runs))
                break
            except Crash:
                continue
    assert value == "end"
    with Storage(directory) as opened:
        names = {content.step for content in opened.kept("w")}
    assert names == {ROOT, "add", "count_down", "count_down_1", "count_down_2", "count_down_3"}


def test_a_damaged_value_that_is_needed_is_made_again(storage: Storage) -> None:
    graph = stored(storage, add.bind(add.bind(1, 2), fail.bind()))
    with pytest.raises(WorkflowExecutionError):
        run(storage, tasks(), graph=graph)
    storage._db.execute("UPDATE contents SET body = x'8005' WHERE step = 'add'")
    storage.change("w", RUNNING, (FAILED,))
    again = tasks()
    with pytest.raises(WorkflowExecutionError):
        run(storage, again, graph=graph)
    assert again.runs["add"] == 1


def test_a_damaged_output_is_made_again(storage: Storage) -> None:
    graph = stored(storage, add.bind(add.bind(1, 2), 4))
    assert run(storage, tasks(), graph=graph) == 7
    storage._db.execute("UPDATE contents SET body = x'8005' WHERE kind = 'value'")
    again = tasks()
    assert run(storage, again, graph=graph) == 7
    assert again.runs == {"add": 1, "add_1": 1}


def test_a_damaged_continuation_is_made_again(storage: Storage) -> None:
    graph = stored(storage, add.bind(count_down.bind(1), fail.bind()))
    with pytest.raises(WorkflowExecutionError):
        run(storage, tasks(), graph=graph)
    storage._db.execute("UPDATE contents SET body = x'8005' WHERE step = 'count_down'")
    storage.change("w", RUNNING, (FAILED,))
    again = tasks()
    with pytest.raises(WorkflowExecutionError):
        run(storage, again, graph=graph)
    assert again.runs["count_down"] == 1


def test_cancelled_by_another_process_while_steps_run(storage: Storage) -> None:
    stored(storage, add.bind(add.bind(1, 2), 3))
    running = tasks()

    def cancel() -> None:
        storage.change("w", CANCELED, (RUNNING,))

    running.before_outcomes = cancel
    with pytest.raises(WorkflowCancellationError):
        run(storage, running)
    assert running.cancelled
    assert storage.get("w").status == CANCELED


def test_a_result_that_cannot_be_pickled_fails_its_step(storage: Storage) -> None:
    @zray.remote
    def make():
        return iter(each for each in [1])

    stored(storage, add.bind(make.bind(), 1))
    with pytest.raises(WorkflowExecutionError, match="generator"):
        run(storage, tasks())
    assert storage.get("w").status == FAILED


def test_a_continuation_that_cannot_be_run_fails_its_step(storage: Storage) -> None:
    class Actor:
        pass

    @zray.remote
    def make():
        return Continuation(zray.remote(Actor).bind())

    stored(storage, make.bind())
    with pytest.raises(WorkflowExecutionError, match="an actor's state is not stored"):
        run(storage, tasks())


def test_an_exception_that_is_returned_is_a_value(storage: Storage) -> None:
    stored(storage, add.bind([ValueError("kept")], [1]))
    value = run(storage, tasks())
    assert repr(value) == "[ValueError('kept'), 1]"


def test_caught_exceptions_are_values(storage: Storage) -> None:
    caught = {"_labels": {f"{LABEL}catch_exceptions": "1"}}
    graph = stored(storage, MultiOutputNode([fail.options(**caught).bind(), add.options(**caught).bind(1, 2)]))
    (nothing, error), other = run(storage, tasks(), graph=graph)
    assert (nothing, repr(error), other) == (None, "ValueError('no')", (3, None))
    (_, again), _ = run(storage, tasks())
    assert repr(again) == "ValueError('no')"


def test_inputs_are_stored_with_the_graph(storage: Storage) -> None:
    with InputNode() as value:
        node = MultiOutputNode([add.bind(value[0], value[1]), value[1]])
    stored(storage, node, args=(1, 2))
    assert run(storage, tasks()) == [3, 2]
    with InputNode() as value:
        stored(storage, value, "itself", args=({"x": 1},))
    assert run(storage, tasks(), "itself") == {"x": 1}


def test_a_full_disk_loses_nothing_that_was_kept(storage: Storage) -> None:
    @zray.remote
    def fill(value):
        return bytes(50_000 * value)

    graph = stored(storage, add.bind(fill.bind(add.bind(0, 1)), b"x"))
    first = tasks()

    def limit() -> None:
        pages = storage._db.execute("PRAGMA page_count").fetchone()[0]
        storage._db.execute(f"PRAGMA max_page_count = {pages + 1}")

    first.before_outcomes = limit
    with pytest.raises(WorkflowStorageError, match="full"):
        run(storage, first, graph=graph)
    assert first.cancelled
    assert storage.get("w").status == RUNNING
    assert {content.step for content in storage.kept("w")} == {ROOT, "add"}
    storage._db.execute("PRAGMA max_page_count = 1000000")
    second = tasks()
    assert run(storage, second, graph=graph) == bytes(50_000) + b"x"
    assert second.runs == {"fill": 1, "add_1": 1}


def test_an_execution_reads_only_what_is_needed(storage: Storage) -> None:
    graph = stored(storage, combine.bind(0, combine.bind(1, combine.bind(2))))
    run(storage, tasks(), graph=graph)
    read = []
    load = storage.load

    def note_and_load(*args):
        read.append(args[1:])
        return load(*args)

    storage.load = note_and_load  # type: ignore[method-assign]
    Execution(storage, "w", tasks()).run()
    assert read == [(ROOT, GRAPH), (graph.shape.output,)]
    assert storage.is_whole("w", graph.shape.output, VALUE)
