"""The core of workflows: which steps may run, what is kept, and what nobody needs any longer."""

from __future__ import annotations

import random

import pytest

from zray.workflow.progress import Progress, Shape

DIAMOND = Shape({"a": (), "b": ("a",), "c": ("a",), "d": ("b", "c")}, "d")


def test_a_step_is_ready_when_all_of_its_inputs_are_kept() -> None:
    progress = Progress(DIAMOND)
    assert progress.take_ready() == ["a"]
    progress.keep("a")
    assert sorted(progress.take_ready()) == ["b", "c"]
    progress.keep("b")
    assert progress.take_ready() == []
    progress.keep("c")
    assert progress.take_ready() == ["d"]
    assert not progress.is_done
    progress.keep("d")
    assert progress.is_done
    assert progress.running == set()


def test_kept_steps_are_not_run_and_ask_for_nothing() -> None:
    progress = Progress(DIAMOND, kept=["b", "c"])
    assert progress.needed() == {"b", "c"}
    assert progress.take_ready() == ["d"]
    assert Progress(DIAMOND, kept=["d"]).is_done
    assert Progress(DIAMOND, kept=["b"]).take_ready() == ["a"]


def test_a_step_that_the_output_does_not_need_is_not_run() -> None:
    assert Progress(Shape({"a": (), "b": ()}, "b")).take_ready() == ["b"]


def test_a_value_is_released_with_its_last_user() -> None:
    progress = Progress(DIAMOND)
    progress.take_ready()
    assert progress.keep("a") == []
    progress.take_ready()
    assert progress.keep("b") == []
    assert progress.has_users("a")
    assert progress.keep("c") == ["a"]
    assert not progress.has_users("a")
    progress.take_ready()
    assert sorted(progress.keep("d")) == ["b", "c"]
    assert progress.has_users("d")  # the caller needs it


def test_a_continuation_has_the_value_of_its_step() -> None:
    progress = Progress(Shape({"a": (), "b": ("a",)}, "b"))
    progress.take_ready()
    progress.go_on("a", Shape({"x": (), "y": ("x",)}, "y"))
    assert progress.take_ready() == ["x"]
    progress.keep("x")
    progress.take_ready()
    progress.go_on("y", Shape({"z": ()}, "z"))
    assert progress.take_ready() == ["z"]
    assert progress.keep("z") == []
    assert progress.source_of("a") == progress.source_of("y") == "z"
    assert progress.take_ready() == ["b"]
    assert progress.keep("b") == ["z"]
    assert progress.is_done


def test_continuations_that_are_stored_go_on() -> None:
    graphs = {"a": Shape({"x": (), "y": ("x",)}, "y"), "y": Shape({"z": ()}, "z")}
    root = Shape({"a": (), "b": ("a",)}, "b")
    progress = Progress(root, graphs, ["x"])
    assert progress.take_ready() == ["z"]
    assert Progress(root, graphs, ["x", "z"]).take_ready() == ["b"]
    assert Progress(root, graphs, ["z"]).needed() == {"z"}


def test_a_continuation_may_not_have_a_step_that_there_is() -> None:
    progress = Progress(DIAMOND)
    progress.take_ready()
    with pytest.raises(ValueError, match="steps that the workflow has: b"):
        progress.go_on("a", Shape({"b": ()}, "b"))


def test_users_of_a_failed_step_never_become_ready() -> None:
    progress = Progress(DIAMOND)
    progress.take_ready()
    progress.fail("a")
    assert progress.take_ready() == []
    assert progress.running == set()
    assert not progress.is_done


def test_long_chains_do_not_recurse() -> None:
    count = 20_000
    chain = Shape({str(number): (str(number - 1),) if number else () for number in range(count)}, str(count - 1))
    progress = Progress(chain)
    progress = Progress(Shape({"s": ()}, "s"))
    for number in range(count):
        (step,) = progress.take_ready()
        progress.go_on(step, Shape({str(number): ()}, str(number)))
    progress.keep(*progress.take_ready())
    assert progress.is_done
    assert progress.source_of("s") == str(count - 1)


def test_the_cost_of_an_end_does_not_grow_with_the_graph() -> None:
    """The inputs that are looked at: each once at the question, and once at the end of its user."""

    class Counted(dict):
        reads = 0

        def __getitem__(self, key):
            Counted.reads += 1
            return super().__getitem__(key)

    for count in (100, 1000):
        inputs = {str(number): (str(number - 1),) if number else () for number in range(count)}
        progress = Progress(Shape(inputs, str(count - 1)))
        progress._inputs = Counted(progress._inputs)
        Counted.reads = 0
        while not progress.is_done:
            progress.keep(*progress.take_ready())
        assert Counted.reads == count


@pytest.mark.parametrize("seed", range(200))
def test_random_graphs_end_with_each_step_run_once(seed: int) -> None:
    rng = random.Random(seed)
    count = rng.randint(1, 12)
    inputs: dict[str, tuple[str, ...]] = {}
    for number in range(count):
        below = rng.sample(sorted(inputs), rng.randint(0, min(3, number)))
        inputs[str(number)] = tuple(below)
    shape = Shape(dict(inputs), str(count - 1))
    graphs: dict[str, Shape] = {}
    kept: set[str] = set()
    held: set[str] = set()
    ran: list[str] = []
    progress = Progress(shape)
    while not progress.is_done:
        if rng.random() < 0.2:  # a crash: all that ran is lost, and what is kept stays
            progress, held = Progress(shape, graphs, kept), set()
            assert progress.needed() <= kept
        ready = progress.take_ready()
        for step in ready:
            assert step not in kept and step not in graphs
            assert all(progress.source_of(below) in kept for below in progress.inputs_of(step))
        assert progress.running
        step = rng.choice(sorted(progress.running))
        if rng.random() < 0.2 and len(graphs) < 5:
            name = f"g{len(graphs)}"
            graphs[step] = Shape({f"{name}a": (), f"{name}b": (f"{name}a",)}, f"{name}b")
            released = progress.go_on(step, graphs[step])
        else:
            kept.add(step)
            ran.append(step)
            released = progress.keep(step)
            if progress.has_users(step):
                held.add(step)
        for source in released:
            assert source in kept
            assert not progress.has_users(source)
            held.discard(source)
    assert len(ran) == len(set(ran)) == len(kept)
    assert held == {progress.source_of(progress.output)}
