"""``LocalIterator``: a stream of items with stages that are applied where it is read. Used by ``zray.util.iter``.

Such an iterator is a function that makes the stream, and a list of stages: functions from one Python iterator to
another. Nothing runs before the first item is taken, so it can be sent to a task until then.

``union`` must not wait for one stream while another has items. A stream that was made with a timeout therefore yields
``_NextValueNotReady`` in place of an item that is not there yet. Each stage passes it on.
"""

from __future__ import annotations

import collections
import random
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar

from zray.api.decorator import remote
from zray.api.objects import get, wait
from zray.util.iter_metrics import MetricsContext, SharedMetrics

T = TypeVar("T")
Stream = Iterator[Any]
Stage = Callable[[Stream], Stream]
MAX_PULL = 100
"""How many items a turn of ``union`` takes from a stream of the weight "*"."""
_current = threading.local()


class _NextValueNotReady(Exception):
    """In the place of an item: the stream has none now, and may have one later. Functions of users may return it."""


class LocalIterator(Generic[T]):
    """An iterator over one shard, or over the gathered items of several. Made by a ``ParallelIterator``.

    It can be passed to a task before it is read. One process at a time may read it.
    """

    ON_FETCH_START_HOOK_NAME = "_on_fetch_start"
    """A function given to ``for_each`` may have a method of this name. It is called before each item is fetched."""

    def __init__(
        self,
        base_iterator: Callable[[Any], Iterable[Any]],
        shared_metrics: SharedMetrics,
        local_transforms: Sequence[Stage] = (),
        timeout: float | None = None,
        name: str | None = None,
    ) -> None:
        self.base_iterator = base_iterator
        self.shared_metrics = shared_metrics
        self.local_transforms = list(local_transforms)
        self.timeout = timeout
        self.name = name or "unknown"
        self.built_iterator: Stream | None = None

    @staticmethod
    def get_metrics() -> MetricsContext:
        """Returns the metrics of the iterator whose function is running.

        Raises:
            ValueError: no function of an iterator is running in this thread.
        """
        metrics: MetricsContext | None = getattr(_current, "metrics", None)
        if metrics is None:
            raise ValueError("Cannot access context outside an iterator.")
        return metrics

    def __iter__(self) -> Iterator[T]:
        if self.built_iterator is None:
            stream = iter(self.base_iterator(self.timeout))
            for stage in self.local_transforms:
                stream = stage(stream)
            self.built_iterator = stream
        return self.built_iterator

    def __next__(self) -> T:
        return next(iter(self))

    def __repr__(self) -> str:
        return f"LocalIterator[{self.name}]"

    def _then(self, stage: Stage, name: str) -> LocalIterator[Any]:
        stages = [*self.local_transforms, stage]
        return LocalIterator(self.base_iterator, self.shared_metrics, stages, name=self.name + name)

    # ------------------------------------------------------------------ stages

    def transform(self, fn: Callable[[Iterable[Any]], Iterable[Any]]) -> LocalIterator[Any]:
        """Applies ``fn`` once, to the whole stream. It has to pass on ``_NextValueNotReady``."""
        return self._then(lambda stream: iter(fn(stream)), ".transform()")

    def for_each(
        self, fn: Callable[[Any], Any], max_concurrency: int = 1, resources: dict[str, Any] | None = None
    ) -> LocalIterator[Any]:
        """Applies ``fn`` to each item.

        Args:
            fn: a function.
            max_concurrency: above 1, so many tasks run at a time, and results come in the order in which they are
                ready; 0: a task for each item at once.
            resources: the options of these tasks, such as ``{"num_cpus": 2}``.
        """
        shared = self.shared_metrics
        stage = _one_by_one(fn, shared) if max_concurrency == 1 else _in_tasks(fn, max_concurrency, resources or {})
        if hasattr(fn, self.ON_FETCH_START_HOOK_NAME):
            stage = _with_hook(stage, fn, shared)
        return self._then(stage, ".for_each()")

    def filter(self, fn: Callable[[T], bool]) -> LocalIterator[T]:
        """Keeps the items for which ``fn`` returns something true."""
        shared = self.shared_metrics

        def stage(stream: Stream) -> Stream:
            for item in stream:
                if isinstance(item, _NextValueNotReady) or _call(fn, item, shared):
                    yield item

        return self._then(stage, ".filter()")

    def batch(self, n: int) -> LocalIterator[list[T]]:
        """Makes lists of ``n`` items; the last one may be shorter."""

        def stage(stream: Stream) -> Stream:
            batch = []
            for item in stream:
                if isinstance(item, _NextValueNotReady):
                    yield item
                    continue
                batch.append(item)
                if len(batch) >= n:
                    yield batch
                    batch = []
            if batch:
                yield batch

        return self._then(stage, f".batch({n})")

    def flatten(self) -> LocalIterator[Any]:
        """Yields the members of each item."""

        def stage(stream: Stream) -> Stream:
            for item in stream:
                if isinstance(item, _NextValueNotReady):
                    yield item
                else:
                    yield from item

        return self._then(stage, ".flatten()")

    def combine(self, fn: Callable[[T], list[Any]]) -> LocalIterator[Any]:
        """Applies ``fn`` to each item, and yields the members of what it returns."""
        combined = self.for_each(fn).flatten()
        combined.name = self.name + ".combine()"
        return combined

    def shuffle(self, shuffle_buffer_size: int, seed: int | None = None) -> LocalIterator[T]:
        """Draws each item from a buffer of ``shuffle_buffer_size`` items. ``seed``: makes the order repeatable."""
        draw = random.Random(seed)

        def stage(stream: Stream) -> Stream:
            buffer = []
            for item in stream:
                if isinstance(item, _NextValueNotReady):
                    yield item
                    continue
                buffer.append(item)
                if len(buffer) >= shuffle_buffer_size:
                    yield buffer.pop(draw.randrange(len(buffer)))
            while buffer:
                yield buffer.pop(draw.randrange(len(buffer)))

        return self._then(stage, f".shuffle(shuffle_buffer_size={shuffle_buffer_size}, seed={seed})")

    def zip_with_source_actor(self) -> LocalIterator[Any]:
        """Yields pairs of an actor and the item that came from it. Follows ``gather_async``."""

        def pair(item: Any) -> tuple[Any, Any]:
            actor = LocalIterator.get_metrics().current_actor
            if actor is None:
                raise ValueError("Could not identify source actor of item")
            return actor, item

        zipped = self.for_each(pair)
        zipped.name = self.name + ".zip_with_source_actor()"
        return zipped

    # ------------------------------------------------------------------ ends and combinations

    def take(self, n: int) -> list[T]:
        """Returns the first ``n`` items, or fewer if there are no more."""
        taken: list[T] = []
        for item in self:
            taken.append(item)
            if len(taken) >= n:
                break
        return taken

    def show(self, n: int = 20) -> None:
        """Prints the first ``n`` items."""
        for item in self.take(n):
            print(item)

    def duplicate(self, n: int) -> list[LocalIterator[T]]:
        """Returns ``n`` iterators over the same items.

        One that is ahead of another yields ``_NextValueNotReady`` until the other has caught up: read them together, as
        ``union`` does.

        Raises:
            ValueError: ``n`` is below 2.
        """
        if n < 2:
            raise ValueError("Number of copies must be >= 2")
        queues: list[collections.deque[Any]] = [collections.deque() for _ in range(n)]

        def copy_of(own: collections.deque[Any]) -> Callable[[Any], Stream]:
            def stream(timeout: float | None) -> Stream:
                while True:
                    if len(own) < max(map(len, queues)):
                        yield _NextValueNotReady()
                        continue
                    if not own:
                        self.timeout = timeout
                        try:
                            item = next(self)
                        except StopIteration:
                            return
                        for queue in queues:
                            queue.append(item)
                    yield own.popleft()

            return stream

        return [
            LocalIterator(copy_of(queue), self.shared_metrics, name=f"{self.name}.duplicate[{index}]")
            for index, queue in enumerate(queues)
        ]

    def union(
        self,
        *others: LocalIterator[T],
        deterministic: bool = False,
        round_robin_weights: Sequence[Any] | None = None,
    ) -> LocalIterator[T]:
        """Yields the items of this iterator and of the others.

        Args:
            others: other iterators.
            deterministic: take items in turns; otherwise as they are ready.
            round_robin_weights: how many items a turn takes from each, for instance ``[2, 1]``; "*": those that are
                ready.

        Raises:
            ValueError: one of ``others`` is not a LocalIterator, or there is not one weight for each.
        """
        for other in others:
            if not isinstance(other, LocalIterator):
                raise ValueError(f"other must be of type LocalIterator, got {type(other)}")
        parents = [self, *others]
        weights = list(round_robin_weights or [1] * len(parents))
        if len(weights) != len(parents):
            raise ValueError("Length of round robin weights must equal number of iterators total.")
        shared = SharedMetrics(parents=[parent.shared_metrics for parent in parents])
        if round_robin_weights:
            timeouts = [0 if weight == "*" else None for weight in weights]
        else:
            timeouts = [None if deterministic else 0] * len(parents)
        streams: list[LocalIterator[Any]] = [
            LocalIterator(parent.base_iterator, shared, parent.local_transforms, timeout)
            for parent, timeout in zip(parents, timeouts, strict=True)
        ]
        name = f"LocalUnion[{self}, {', '.join(map(str, others))}]"
        return LocalIterator(_in_turns(list(zip(weights, streams, strict=True))), shared, name=name)


# ---- the stages


def _call(fn: Callable[[Any], Any], item: Any, shared: SharedMetrics) -> Any:
    _current.metrics = shared.get()
    return fn(item)


def _one_by_one(fn: Callable[[Any], Any], shared: SharedMetrics) -> Stage:
    def stage(stream: Stream) -> Stream:
        for item in stream:
            if isinstance(item, _NextValueNotReady):
                yield item
                continue
            while isinstance(result := _call(fn, item, shared), _NextValueNotReady):
                yield result
            yield result

    return stage


def _in_tasks(fn: Callable[[Any], Any], most: int, options: dict[str, Any]) -> Stage:
    def stage(stream: Stream) -> Stream:
        function = remote(fn).options(**options)
        pending: list[Any] = []
        for item in stream:
            if isinstance(item, _NextValueNotReady):
                yield item
                continue
            if most and len(pending) >= most:
                ready, pending = wait(pending)
                yield from get(ready)
            pending.append(function.remote(item))
        while pending:
            ready, pending = wait(pending)
            yield from get(ready)

    return stage


def _with_hook(stage: Stage, fn: Any, shared: SharedMetrics) -> Stage:
    def hooked(stream: Stream) -> Stream:
        results = stage(stream)
        is_new = True
        while True:
            if is_new:
                _current.metrics = shared.get()
                fn._on_fetch_start()
            try:
                item = next(results)
            except StopIteration:
                return
            is_new = not isinstance(item, _NextValueNotReady)
            yield item

    return hooked


def _in_turns(weighted: list[tuple[Any, LocalIterator[Any]]]) -> Callable[[Any], Stream]:
    def stream(timeout: float | None) -> Stream:
        active = list(weighted)
        while active:
            for weight, each in list(active):
                try:
                    for _ in range(MAX_PULL if weight == "*" else _rounded(weight)):
                        item = next(each)
                        if not isinstance(item, _NextValueNotReady):
                            yield item
                            continue
                        if timeout is not None:
                            yield item
                        break
                except StopIteration:
                    active.remove((weight, each))

    return stream


def _rounded(weight: float) -> int:
    """Returns a number that is ``weight`` on average."""
    whole = int(weight)
    return whole + (random.random() < weight - whole)
