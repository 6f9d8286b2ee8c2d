"""Which steps of a workflow may run: the core, without I/O.

A workflow is a graph of steps. A step that returns a continuation adds a graph: then its value is the value of that
graph's output. Each step is asked for by its users, from the output downwards. A step whose result is on disk
(*kept*) is not run, and so asks for nothing.

The cost of an event is proportional to the number of the step's inputs and users. No method recurses.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from zray.named_tuples import NamedTuple


class Shape(NamedTuple):
    """A graph. ``inputs``: the steps whose values a step needs, by step; ``output``: the step whose value is the
    graph's.
    """

    inputs: Mapping[str, tuple[str, ...]]
    output: str


class Progress:
    """The progress of one workflow.

    Args:
        shape: the graph that the workflow was started with.
        continuations: the graphs that steps have returned, by step.
        kept: the steps whose values are on disk.
    """

    def __init__(
        self, shape: Shape, continuations: Mapping[str, Shape] | None = None, kept: Iterable[str] = ()
    ) -> None:
        self._inputs: dict[str, tuple[str, ...]] = dict(shape.inputs)
        self._continues_as: dict[str, str] = {}  # a step, and the output of the graph that it has returned
        for step, graph in (continuations or {}).items():
            self._inputs.update(graph.inputs)
            self._continues_as[step] = graph.output
        self._kept = set(kept)
        self._asked: set[str] = set()
        self._resolved: set[str] = set()  # asked for, and the value is on disk
        self._missing: dict[str, int] = {}  # the number of inputs that are not resolved
        self._users: dict[str, list[str]] = {}
        self._left: dict[str, int] = {}  # the number of users that have not ended, by the step that has the value
        self._continued: dict[str, list[str]] = {}  # the steps that continue as graphs with this output
        self._ready: list[str] = []
        self.running: set[str] = set()
        """The steps that were taken and have not ended."""
        self.output = shape.output
        self._left[self.source_of(self.output)] = 1  # the caller of the workflow
        self._ask(self.output)

    # ------------------------------------------------------------------ questions

    @property
    def is_done(self) -> bool:
        """Whether the value of the workflow is on disk."""
        return self.output in self._resolved

    def source_of(self, step: str) -> str:
        """The step whose kept value is the value of ``step``: another one if ``step`` has returned a continuation."""
        passed = []
        while (following := self._continues_as.get(step)) is not None:
            passed.append(step)
            step = following
        for one in passed:
            self._continues_as[one] = step
        return step

    def needed(self) -> set[str]:
        """The kept steps whose values are read from now on."""
        return {step for step in self._asked & self._kept if self._left.get(step)}

    def has_users(self, step: str) -> bool:
        """Whether steps that have not ended need the value of ``step``, or the caller does."""
        return bool(self._left.get(self.source_of(step)))

    def inputs_of(self, step: str) -> tuple[str, ...]:
        """The steps whose values ``step`` needs."""
        return self._inputs[step]

    # ------------------------------------------------------------------ events

    def take_ready(self) -> list[str]:
        """Returns the steps that may run and were not taken before. They count as running."""
        ready, self._ready = self._ready, []
        self.running.update(ready)
        return ready

    def keep(self, step: str) -> list[str]:
        """The value of a running step is on disk. Returns the steps whose values nobody needs any longer."""
        self._kept.add(step)
        released = self._end(step)
        self._resolve(step)
        return released

    def go_on(self, step: str, shape: Shape) -> list[str]:
        """A running step has returned a graph, which is on disk. Returns, as ``keep``, the values without users.

        Raises ValueError if the graph has a step of the workflow.
        """
        if twice := self._inputs.keys() & shape.inputs.keys():
            raise ValueError(f"a continuation has steps that the workflow has: {', '.join(sorted(twice))}")
        self._inputs.update(shape.inputs)
        released = self._end(step)
        self._continues_as[step] = shape.output
        self._left[shape.output] = self._left.get(shape.output, 0) + self._left.pop(step, 0)
        self._ask(step)
        return released

    def fail(self, step: str) -> None:
        """A running step has failed. Its users never become ready."""
        self.running.remove(step)

    # ------------------------------------------------------------------ inside

    def _ask(self, wanted: str) -> None:
        """A value is needed: asks for all that it needs."""
        resolved = []
        stack = [wanted]
        self._asked.discard(wanted)
        while stack:
            step = stack.pop()
            if step in self._asked:
                continue
            self._asked.add(step)
            following = self._continues_as.get(step)
            if step in self._kept:
                resolved.append(step)
            elif following is not None:
                self._continued.setdefault(following, []).append(step)
                if following in self._resolved:
                    resolved.append(step)
                stack.append(following)
            else:
                self._missing[step] = 0
                for below in set(self._inputs[step]):
                    source = self.source_of(below)
                    self._left[source] = self._left.get(source, 0) + 1
                    if below not in self._resolved:
                        self._users.setdefault(below, []).append(step)
                        self._missing[step] += 1
                    stack.append(below)
                if not self._missing[step]:
                    self._ready.append(step)
        for step in resolved:
            self._resolve(step)

    def _resolve(self, step: str) -> None:
        """The value of a step is on disk: tells its users, and the steps that have become it."""
        stack = [step]
        while stack:
            step = stack.pop()
            if step in self._resolved:
                continue
            self._resolved.add(step)
            for user in self._users.pop(step, ()):
                self._missing[user] -= 1
                if not self._missing[user]:
                    self._ready.append(user)
            stack.extend(self._continued.pop(step, ()))

    def _end(self, step: str) -> list[str]:
        self.running.remove(step)
        released = []
        for below in set(self._inputs[step]):
            source = self.source_of(below)
            self._left[source] -= 1
            if not self._left[source]:
                released.append(source)
        return released
