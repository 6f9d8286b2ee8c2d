"""Workflows without a cluster: steps that run here, random graphs, and crashes at chosen moments."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import zray
from zray.workflow.execution import Execution, Outcome
from zray.workflow.graphs import Call, Continuation, Graph, Names, graph_of
from zray.workflow.storage import GRAPH, ROOT, Content, Storage

PYTHON = "3.11.0"


class Crash(BaseException):
    """The process ends here."""


class Crashes:
    """Ends the process at the ``at``-th event; None: never."""

    def __init__(self, at: int | None = None) -> None:
        self.at = at
        self.events = 0

    def event(self) -> None:
        """Something happens that a crash may come before or after."""
        self.events += 1
        if self.events - 1 == self.at:
            raise Crash


class CrashingStorage(Storage):
    """A storage whose process ends before or after a change on disk."""

    def __init__(self, directory: str, crashes: Crashes) -> None:
        super().__init__(directory)
        self._db.execute("PRAGMA synchronous = OFF")  # no machine loses its power here
        self.crashes = crashes

    def pack(self, *args: Any, **kwargs: Any) -> Content:
        self.crashes.event()
        return super().pack(*args, **kwargs)

    def keep(self, workflow_id: str, contents: Iterable[Content]) -> None:
        self.crashes.event()
        super().keep(workflow_id, contents)
        self.crashes.event()

    def change(self, *args: Any, **kwargs: Any) -> bool:
        self.crashes.event()
        done = super().change(*args, **kwargs)
        self.crashes.event()
        return done


class HereTasks:
    """Runs steps in this process, and ends them in a random order. ``runs``: how often each step was run."""

    def __init__(self, rng: random.Random, crashes: Crashes | None = None, runs: Counter[str] | None = None) -> None:
        self._rng = rng
        self._crashes = crashes or Crashes()
        self._pending: list[Callable[[], Outcome]] = []
        self.runs: Counter[str] = Counter() if runs is None else runs
        self.cancelled = False
        self.before_outcomes: Callable[[], None] = lambda: None

    def hold(self, value: Any) -> Any:
        return value

    def start(self, step: str, call: Call, args: list[Any], kwargs: dict[str, Any]) -> None:
        assert call.function is not None
        function = call.function._function

        def work() -> Outcome:
            self.runs[step] += 1
            try:
                return Outcome(step, function(*args, **kwargs), None, 1.0, 2.0)
            except Exception as error:
                return Outcome(step, None, error, 1.0, 2.0)

        self._crashes.event()
        self._pending.append(work)

    def outcomes(self, timeout_s: float) -> list[Outcome]:
        self.before_outcomes()
        self._rng.shuffle(self._pending)
        count = self._rng.randint(1, len(self._pending)) if self._pending else 0
        chosen, self._pending = self._pending[:count], self._pending[count:]
        return [work() for work in chosen]

    def cancel(self) -> None:
        self.cancelled = True


@zray.remote
def combine(number: int, *values: Any) -> Any:
    return hash((number, *map(str, values))) % 1_000_003


@zray.remote
def grow(number: int, large: bool, *values: Any) -> Any:
    """Continues as a graph, or returns a value that goes to a file."""
    if large:
        return bytes([number % 251]) * 70_000
    first = combine.bind(number, *values)
    return Continuation(combine.bind(number + 1, first, combine.bind(number + 2, first)))


def random_node(rng: random.Random) -> Any:
    """Returns the end of a random graph."""
    nodes: list[Any] = []
    for number in range(rng.randint(1, 9)):
        below = rng.sample(nodes, rng.randint(0, min(3, len(nodes))))
        made = combine.bind(number, *below) if rng.random() < 0.7 else grow.bind(number, rng.random() < 0.4, *below)
        nodes.append(made)
    return combine.bind(-1, *nodes[-3:])


def stored(storage: Storage, node: Any, workflow_id: str = "w", args: tuple[Any, ...] = ()) -> Graph:
    """Stores a graph as a new workflow."""
    graph = graph_of(node, Names(), args)
    content = Storage.pack(storage, workflow_id, ROOT, GRAPH, graph)
    storage.create(workflow_id, PYTHON, "{}", content)
    return graph


def run(storage: Storage, tasks: HereTasks, workflow_id: str = "w", graph: Graph | None = None) -> Any:
    """Runs a stored workflow."""
    return Execution(storage, workflow_id, tasks, graph).run()
