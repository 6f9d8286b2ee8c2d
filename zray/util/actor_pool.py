"""``ActorPool``: hands work to whichever actor of a fixed set is idle.

The pool has no thread and no process of its own. A call that waits for a result (``get_next``, ...) also hands the next
waiting value to the actor that has become idle. Values for which no actor is idle wait in the pool, in order.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from zray.api.objects import get, wait
from zray.exceptions import ActorDiedError
from zray.named_tuples import NamedTuple
from zray.object_ref import ObjectRef

Call = Callable[[Any, Any], Any]
"""Called with an actor and a value. Returns the reference to the result, or a list of references."""
TIMED_OUT = "the next result did not arrive in time"


class _Work(NamedTuple):
    """A call that an actor was given. ``number``: of the call; ``refs``: what the call returned."""

    number: int
    actor: Any
    refs: Any

    @property
    def all_refs(self) -> list[ObjectRef]:
        return list(self.refs) if isinstance(self.refs, (list, tuple)) else [self.refs]


class ActorPool:
    """Distributes calls over a set of actors.

    Args:
        actors: the handles of the actors.

    Results come in the order of submission (``get_next``, ``map``), or as they are ready (``get_next_unordered``,
    ``map_unordered``). An actor that turns out to be dead leaves the pool.
    """

    def __init__(self, actors: Iterable[Any]) -> None:
        self._idle_actors: list[Any] = list(actors)
        self._work: dict[int, _Work] = {}  # by number, in the order of submission
        self._pending_submits: deque[tuple[Call, Any]] = deque()
        self._next_number = 0
        self._next_return_number = 0

    # ------------------------------------------------------------------ many values

    def map(self, fn: Call, values: Iterable[Any]) -> Iterator[Any]:
        """Calls ``fn(actor, value)`` for all values; returns an iterator over the results, in the order of ``values``.

        The work goes on only while results are taken. Results of earlier calls that were not taken are dropped.

        Args:
            fn: makes the call, for instance ``lambda actor, value: actor.double.remote(value)``. The actor counts as
                busy until what it returns is ready.
            values: one for each call.

        Raises:
            TaskError: a call raised. The iterator raises it in the place of the result, and ends.
            ActorDiedError: an actor died.
        """
        self._drop_results(self.get_next)
        for value in values:
            self.submit(fn, value)
        return self._results(self.get_next)

    def map_unordered(self, fn: Call, values: Iterable[Any]) -> Iterator[Any]:
        """As ``map``, but the results come as they are ready."""
        self._drop_results(self.get_next_unordered)
        for value in values:
            self.submit(fn, value)
        return self._results(self.get_next_unordered)

    def _drop_results(self, take: Callable[..., Any]) -> None:
        while self.has_next():
            try:
                take(timeout=0, ignore_if_timedout=True)
            except TimeoutError:
                continue

    def _results(self, take: Callable[[], Any]) -> Iterator[Any]:
        while self.has_next():
            yield take()

    # ------------------------------------------------------------------ single values

    def submit(self, fn: Call, value: Any) -> None:
        """Calls ``fn(actor, value)`` with an idle actor, or keeps the value until an actor is idle.

        Args:
            fn: see ``map``.
            value: given to ``fn``.
        """
        if not self._idle_actors:
            self._pending_submits.append((fn, value))
            return
        actor = self._idle_actors.pop()
        work = _Work(self._next_number, actor, fn(actor, value))
        self._work[work.number] = work
        self._next_number += 1

    def has_next(self) -> bool:
        """Whether a result is ready or under way."""
        return bool(self._work)

    def get_next(self, timeout: float | None = None, ignore_if_timedout: bool = False) -> Any:
        """Returns the next result in the order of submission.

        Args:
            timeout: seconds to wait; None waits for ever.
            ignore_if_timedout: if the result is not ready in time, skip it. Its actor is given further work at once.

        Raises:
            StopIteration: there is no result left.
            TimeoutError: the result is not ready in time.
            ValueError: the result was skipped by ``get_next_unordered``: use only one of the two.
            TaskError: the call raised.
            ActorDiedError: the actor died.
        """
        if not self._work:
            raise StopIteration("there is no result left")
        work = self._work.get(self._next_return_number)
        if work is None:
            raise ValueError("get_next() must not be called after get_next_unordered(): the order is lost")
        ready = timeout is None or _is_ready(work.all_refs, timeout)
        if not ready and not ignore_if_timedout:
            raise TimeoutError(TIMED_OUT)
        self._next_return_number += 1
        return self._take(work, ready)

    def get_next_unordered(self, timeout: float | None = None, ignore_if_timedout: bool = False) -> Any:
        """Returns a result that is ready, whichever call it is of.

        Args:
            timeout: seconds to wait; None waits for ever.
            ignore_if_timedout: if no result is ready in time, skip the oldest one. Its actor is given further work at
                once.

        Raises:
            StopIteration: there is no result left.
            TimeoutError: no result is ready in time.
            TaskError: the call raised.
            ActorDiedError: the actor died.
        """
        if not self._work:
            raise StopIteration("there is no result left")
        work = self._first_ready(timeout)
        if work is None and not ignore_if_timedout:
            raise TimeoutError(TIMED_OUT)
        taken = next(iter(self._work.values())) if work is None else work
        self._next_return_number = max(self._next_return_number, taken.number + 1)
        return self._take(taken, work is not None)

    def _first_ready(self, timeout: float | None) -> _Work | None:
        """Waits for the first call of which all results are ready. None: there is none within ``timeout`` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        left = {number: set(work.all_refs) for number, work in self._work.items()}
        of = {ref: number for number, refs in left.items() for ref in refs}
        while True:
            left_s = None if deadline is None else max(0.0, deadline - time.monotonic())
            for number, refs in left.items():
                if not refs:
                    return self._work[number]
            ready, _ = wait(list(of), num_returns=1, timeout=left_s)
            if not ready:
                return None
            for ref in ready:
                left[of.pop(ref)].discard(ref)

    def _take(self, work: _Work, ready: bool) -> Any:
        """Removes a call; returns its result, or raises its error. Gives its actor the next value."""
        del self._work[work.number]
        lives = True
        try:
            if not ready:
                raise TimeoutError(f"{TIMED_OUT}: it is skipped ({work.refs})")
            return get(work.refs)
        except ActorDiedError:
            lives = False
            raise
        finally:
            self._return_actor(work.actor, lives)

    def _return_actor(self, actor: Any, lives: bool = True) -> None:
        if lives:
            self._idle_actors.append(actor)
        if self._pending_submits and self._idle_actors:
            self.submit(*self._pending_submits.popleft())

    # ------------------------------------------------------------------ the actors

    def has_free(self) -> bool:
        """Whether an actor is idle and no value waits."""
        return bool(self._idle_actors) and not self._pending_submits

    def pop_idle(self) -> Any:
        """Removes an idle actor from the pool; returns its handle, or None if no actor is idle."""
        return self._idle_actors.pop() if self.has_free() else None

    def push(self, actor: Any) -> None:
        """Adds an actor to the pool.

        Args:
            actor: its handle.

        Raises:
            ValueError: the pool has the actor already.
        """
        if actor in self._idle_actors or any(actor == work.actor for work in self._work.values()):
            raise ValueError(f"{actor!r} is in this pool already")
        self._return_actor(actor)


def _is_ready(refs: list[ObjectRef], timeout: float) -> bool:
    """Waits until all references are ready. Returns False if they are not within ``timeout`` seconds."""
    ready, _ = wait(refs, num_returns=len(refs), timeout=timeout)
    return len(ready) == len(refs)
