"""Ray's ``ray.util.iter``: iterators whose items are made by actors. Ray has deprecated it, and programs still use it.

A ``ParallelIterator`` has shards, an actor for each. ``for_each`` and the other stages run in the actors.
``gather_sync``, ``gather_async`` and ``get_shard`` give a ``LocalIterator``, which fetches items as it is read.

The actors answer with lists of items. An empty list means that there are no more.
"""

from __future__ import annotations

import collections
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar

from zray.api.decorator import remote
from zray.api.objects import get, wait
from zray.exceptions import GetTimeoutError
from zray.util.iter_metrics import SharedMetrics
from zray.util.local_iterator import LocalIterator, Stream, _NextValueNotReady

__all__ = [
    "LocalIterator", "ParallelIterator", "ParallelIteratorWorker", "from_actors", "from_items", "from_iterators",
    "from_range",
]  # fmt: skip

T = TypeVar("T")
Transform = Callable[[LocalIterator[Any]], LocalIterator[Any]]


def from_items(items: Sequence[T], num_shards: int = 2, repeat: bool = False) -> ParallelIterator[T]:
    """Makes an iterator over ``items``, which are dealt out to ``num_shards`` actors. ``repeat``: without an end."""
    shards = [list(items[start::num_shards]) for start in range(num_shards)]
    kind = type(items[0]).__name__ if items else "None"
    name = f"from_items[{kind}, {len(items)}, shards={num_shards}{', repeat=True' if repeat else ''}]"
    return from_iterators(shards, repeat=repeat, name=name)


def from_range(n: int, num_shards: int = 2, repeat: bool = False) -> ParallelIterator[int]:
    """Makes an iterator over ``range(n)``: each of ``num_shards`` actors has a part. ``repeat``: without an end."""
    size = n // num_shards
    starts = [index * size for index in range(num_shards)]
    ranges = [range(start, end) for start, end in zip(starts, [*starts[1:], n], strict=True)]
    name = f"from_range[{n}, shards={num_shards}{', repeat=True' if repeat else ''}]"
    return from_iterators(ranges, repeat=repeat, name=name)


def from_iterators(generators: Sequence[Any], repeat: bool = False, name: str | None = None) -> ParallelIterator[Any]:
    """Makes an iterator over several iterables, with an actor for each.

    Args:
        generators: iterables, or functions without arguments that return one. A generator object cannot be sent to an
            actor; a function that makes it can.
        repeat: begin again when an iterable ends.
        name: a name for messages.
    """
    worker = remote(ParallelIteratorWorker)
    actors = [worker.remote(generator, repeat) for generator in generators]
    return from_actors(actors, name or f"from_iterators[shards={len(generators)}{', repeat=True' if repeat else ''}]")


def from_actors(actors: Sequence[Any], name: str | None = None) -> ParallelIterator[Any]:
    """Makes an iterator over what ``actors`` yield. Their classes derive from ``ParallelIteratorWorker``."""
    return ParallelIterator([_ActorSet(list(actors), [])], name or f"from_actors[shards={len(actors)}]", [])


class _ActorSet:
    """Actors with the same stages. After ``union`` an iterator has several."""

    def __init__(self, actors: list[Any], transforms: list[Transform]) -> None:
        self.actors = actors
        self.transforms = transforms

    def init_actors(self) -> None:
        get([actor.par_iter_init.remote(self.transforms) for actor in self.actors])

    def with_transform(self, transform: Transform) -> _ActorSet:
        return _ActorSet(self.actors, [*self.transforms, transform])


class ParallelIterator(Generic[T]):
    """An iterator over the items of actors. It can be passed to tasks; one process at a time may read a shard."""

    def __init__(self, actor_sets: list[_ActorSet], name: str, parent_iterators: list[ParallelIterator[Any]]) -> None:
        self.actor_sets = actor_sets
        self.name = name
        self.parent_iterators = parent_iterators  # their actors must live as long as this

    def __iter__(self) -> Iterator[T]:
        raise TypeError(
            "You must use it.gather_sync() or it.gather_async() to iterate over the results of a ParallelIterator."
        )

    def __repr__(self) -> str:
        return f"ParallelIterator[{self.name}]"

    # ------------------------------------------------------------------ stages

    def _then(self, transform: Transform, name: str) -> ParallelIterator[Any]:
        sets = [each.with_transform(transform) for each in self.actor_sets]
        return ParallelIterator(sets, self.name + name, self.parent_iterators)

    def transform(self, fn: Callable[[Iterable[T]], Iterable[Any]]) -> ParallelIterator[Any]:
        """Applies ``fn`` to the whole stream of each shard."""
        return self._then(lambda it: it.transform(fn), ".transform()")

    def for_each(
        self, fn: Callable[[T], Any], max_concurrency: int = 1, resources: dict[str, Any] | None = None
    ) -> ParallelIterator[Any]:
        """Applies ``fn`` to each item. See ``LocalIterator.for_each``."""
        assert max_concurrency >= 0, "max_concurrency must be non-negative."
        return self._then(lambda it: it.for_each(fn, max_concurrency, resources), ".for_each()")

    def filter(self, fn: Callable[[T], bool]) -> ParallelIterator[T]:
        """Keeps the items for which ``fn`` returns something true."""
        return self._then(lambda it: it.filter(fn), ".filter()")

    def batch(self, n: int) -> ParallelIterator[list[T]]:
        """Makes lists of ``n`` items of a shard."""
        return self._then(lambda it: it.batch(n), f".batch({n})")

    def flatten(self) -> ParallelIterator[Any]:
        """Yields the members of each item."""
        return self._then(lambda it: it.flatten(), ".flatten()")

    def combine(self, fn: Callable[[T], list[Any]]) -> ParallelIterator[Any]:
        """Applies ``fn`` to each item, and yields the members of what it returns."""
        combined = self.for_each(fn).flatten()
        combined.name = self.name + ".combine()"
        return combined

    def local_shuffle(self, shuffle_buffer_size: int, seed: int | None = None) -> ParallelIterator[T]:
        """Shuffles the items of each shard. See ``LocalIterator.shuffle``."""
        name = f".local_shuffle(shuffle_buffer_size={shuffle_buffer_size}, seed={seed})"
        return self._then(lambda it: it.shuffle(shuffle_buffer_size, seed), name)

    def repartition(self, num_partitions: int, batch_ms: int = 0) -> ParallelIterator[T]:
        """Deals the items out to ``num_partitions`` new actors.

        ``batch_ms``: how long an actor collects items before it hands them on, in milliseconds.
        """
        actors = self._start()
        streams = [_slices(actors, num_partitions, index, batch_ms) for index in range(num_partitions)]
        name = f"{self.name}.repartition[num_partitions={num_partitions}]"
        repartitioned = from_iterators(streams, name=name)
        repartitioned.parent_iterators = [self]
        return repartitioned

    def union(self, other: ParallelIterator[T]) -> ParallelIterator[T]:
        """Returns an iterator over the shards of both.

        Raises:
            TypeError: ``other`` is not a ParallelIterator.
        """
        if not isinstance(other, ParallelIterator):
            raise TypeError(f"other must be of type ParallelIterator, got {type(other)}")
        return ParallelIterator(
            [*self.actor_sets, *other.actor_sets],
            f"ParallelUnion[{self}, {other}]",
            self.parent_iterators + other.parent_iterators,
        )

    def select_shards(self, shards_to_keep: Sequence[int]) -> ParallelIterator[T]:
        """Returns an iterator over some of the shards, given by number.

        Raises:
            ValueError: no shard is named, or this is a union.
        """
        if len(self.actor_sets) > 1:
            raise ValueError("select_shards() is not allowed after union()")
        if not shards_to_keep:
            raise ValueError("at least one shard must be selected")
        (before,) = self.actor_sets
        kept = [actor for index, actor in enumerate(before.actors) if index in shards_to_keep]
        assert len(kept) == len(shards_to_keep), "Invalid actor index"
        name = f"{self}.select_shards({len(shards_to_keep)} total)"
        return ParallelIterator([_ActorSet(kept, before.transforms)], name, self.parent_iterators)

    # ------------------------------------------------------------------ reading

    def _start(self) -> list[Any]:
        """Starts the stream of each actor, and returns the actors."""
        for each in self.actor_sets:
            each.init_actors()
        return [actor for each in self.actor_sets for actor in each.actors]

    def gather_sync(self) -> LocalIterator[T]:
        """Yields the items in a fixed order: one of each shard, and again."""
        gathered = self.batch_across_shards().flatten()
        gathered.name = f"{self}.gather_sync()"
        return gathered

    def batch_across_shards(self) -> LocalIterator[list[T]]:
        """Yields lists with an item of each shard that has one left."""

        def stream(timeout: float | None) -> Stream:
            active = self._start()
            while active:
                refs = [actor.par_iter_next_batch.remote(0) for actor in active]
                while isinstance(batches := _fetch(refs, timeout), _NextValueNotReady):
                    yield batches
                active = [actor for actor, batch in zip(active, batches, strict=True) if batch]
                if items := [item for batch in batches for item in batch]:
                    yield items
                if timeout is not None:
                    yield _NextValueNotReady()

        return LocalIterator(stream, SharedMetrics(), name=f"{self}.batch_across_shards()")

    def gather_async(self, batch_ms: int = 0, num_async: int = 1) -> LocalIterator[T]:
        """Yields the items as they are ready.

        Args:
            batch_ms: how long an actor collects items before it sends them, in milliseconds.
            num_async: how many requests to each actor are under way.

        Raises:
            ValueError: ``num_async`` is below 1, or ``batch_ms`` below 0.
        """
        _check(num_async, batch_ms)
        shared = SharedMetrics()

        def stream(timeout: float | None) -> Stream:
            requests = [(actor, actor.par_iter_next_batch) for actor in self._start()]
            for actor, items in _as_ready(requests * num_async, (batch_ms,), timeout):
                shared.get().current_actor = actor
                yield from items

        return LocalIterator(stream, shared, name=f"{self}.gather_async()")

    def take(self, n: int) -> list[T]:
        """Returns the first ``n`` items of ``gather_sync``."""
        return self.gather_sync().take(n)

    def show(self, n: int = 20) -> None:
        """Prints the first ``n`` items of ``gather_sync``."""
        self.gather_sync().show(n)

    def num_shards(self) -> int:
        """Returns the number of shards."""
        return sum(len(each.actors) for each in self.actor_sets)

    def shards(self) -> list[LocalIterator[T]]:
        """Returns an iterator for each shard."""
        return [self.get_shard(index) for index in range(self.num_shards())]

    def get_shard(self, shard_index: int, batch_ms: int = 0, num_async: int = 1) -> LocalIterator[T]:
        """Returns the iterator over one shard. It can be passed to a task. See ``gather_async`` for the arguments.

        Raises:
            ValueError: there is no such shard, ``num_async`` is below 1, or ``batch_ms`` below 0.
        """
        _check(num_async, batch_ms)
        shards = [(actor, each.transforms) for each in self.actor_sets for actor in each.actors]
        if not 0 <= shard_index < len(shards):
            raise ValueError("Shard index out of range", shard_index, self.num_shards())
        actor, transforms = shards[shard_index]

        def stream(timeout: float | None) -> Stream:
            get(actor.par_iter_init.remote(transforms))
            refs = collections.deque(actor.par_iter_next_batch.remote(batch_ms) for _ in range(num_async))
            while True:
                while isinstance(batches := _fetch([refs[0]], timeout), _NextValueNotReady):
                    yield batches
                refs.popleft()
                if not batches[0]:
                    return
                refs.append(actor.par_iter_next_batch.remote(batch_ms))
                yield from batches[0]
                if timeout is not None:
                    yield _NextValueNotReady()

        return LocalIterator(stream, SharedMetrics(), name=f"{self.name}.shard[{shard_index}]")


def _check(num_async: int, batch_ms: int) -> None:
    if num_async < 1:
        raise ValueError("queue depth must be positive")
    if batch_ms < 0:
        raise ValueError("batch time must be positive")


def _fetch(refs: list[Any], timeout: float | None) -> Any:
    """Returns the values; ``_NextValueNotReady`` if they are not all there within ``timeout`` seconds."""
    try:
        return get(refs, timeout=timeout)
    except GetTimeoutError:
        return _NextValueNotReady()


def _as_ready(requests: list[tuple[Any, Any]], arguments: tuple[Any, ...], timeout: float | None) -> Iterator[Any]:
    """Calls methods again and again, and yields pairs of an actor and a list of items, as they are ready.

    ``requests``: pairs of an actor and its method. With a ``timeout`` it yields ``_NextValueNotReady`` after each wait.
    """
    pending = {method.remote(*arguments): (actor, method) for actor, method in requests}
    while pending:
        refs = list(pending)
        ready, _ = wait(refs, num_returns=len(refs), timeout=0 if timeout is None else timeout)
        if not ready and timeout is None:
            ready, _ = wait(refs, num_returns=1)
        for ref in ready:
            actor, method = pending.pop(ref)
            if items := get(ref):
                pending[method.remote(*arguments)] = (actor, method)
                yield actor, items
        if timeout is not None:
            yield None, [_NextValueNotReady()]


def _slices(actors: list[Any], step: int, start: int, batch_ms: int) -> Callable[[], Stream]:
    """Returns a function that makes the stream of every ``step``-th item of actors, from the one at ``start`` on."""

    def stream() -> Stream:
        requests = [(actor, actor.par_iter_slice_batch) for actor in actors]
        for _, items in _as_ready(requests, (step, start, batch_ms), None):
            yield from items

    return stream


class ParallelIteratorWorker:
    """The base of the classes of actors for ``from_actors``.

    Args:
        item_generator: an iterable, or a function without arguments that returns one.
        repeat: begin again when it ends.
    """

    def __init__(self, item_generator: Any, repeat: bool) -> None:
        self.item_generator = _repeated(item_generator) if repeat else _made(item_generator)
        self.local_it: Iterator[Any] = iter(())
        self.next_ith_buffer: dict[int, collections.deque[Any]] = collections.defaultdict(collections.deque)

    def par_iter_init(self, transforms: list[Transform]) -> None:
        """Starts the stream, with these stages."""
        stream: LocalIterator[Any] = LocalIterator(lambda timeout: self.item_generator, SharedMetrics())
        for transform in transforms:
            stream = transform(stream)
        self.local_it = iter(stream)

    def par_iter_next(self) -> Any:
        """Returns the next item. Raises StopIteration if there is none."""
        return next(self.local_it)

    def par_iter_next_batch(self, batch_ms: int) -> list[Any]:
        """Returns the items of the next ``batch_ms`` milliseconds, at least one; empty: there are no more."""
        return _batch(self.par_iter_next, batch_ms)

    def par_iter_slice(self, step: int, start: int) -> Any:
        """Returns the next item of those at ``start``, ``start + step``, ... Raises StopIteration if there is none."""
        own = self.next_ith_buffer[start]
        if not own:
            for index in range(step):
                for item in self.local_it:
                    self.next_ith_buffer[index].append(item)
                    break
        if not own:
            raise StopIteration
        return own.popleft()

    def par_iter_slice_batch(self, step: int, start: int, batch_ms: int) -> list[Any]:
        """As ``par_iter_next_batch``, of the items at ``start``, ``start + step``, ..."""
        return _batch(lambda: self.par_iter_slice(step, start), batch_ms)


def _batch(take: Callable[[], Any], batch_ms: int) -> list[Any]:
    batch = []
    end = time.monotonic() + batch_ms / 1000
    try:
        batch.append(take())
        while time.monotonic() < end:
            batch.append(take())
    except StopIteration:
        pass  # what was taken before is the last batch, or the answer that there is none
    return batch


def _made(source: Any) -> Any:
    return source() if callable(source) else source


def _repeated(source: Any) -> Iterator[Any]:
    while True:
        iterator = iter(_made(source))
        if iterator is source:
            raise ValueError(
                f"Cannot iterate over {source} multiple times: give the iterable that it comes from, or a function "
                "that makes it"
            )
        yield from iterator
