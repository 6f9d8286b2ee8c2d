"""``as_completed`` and ``map_unordered``: results as they are ready, in chunks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from zray.api.objects import get, wait
from zray.object_ref import ObjectRef

CHUNK_SIZE = 10
"""How many results are waited for together, by default."""
BACKPRESSURE_SIZE = 100
"""How many tasks of ``map_unordered`` may be unfinished, by default."""


def as_completed(
    refs: Sequence[ObjectRef], *, chunk_size: int = CHUNK_SIZE, yield_obj_refs: bool = False, **kwargs: Any
) -> Iterator[Any]:
    """Yields the values of references as they become ready, a chunk at a time.

    Within a chunk, values come in the order of ``refs``. With ``chunk_size=1`` the order is the one in which they are
    ready.

    Args:
        refs: distinct references.
        chunk_size: how many references to wait for before the first of them is yielded.
        yield_obj_refs: yield the ready references instead of their values.
        kwargs: further arguments of ``zray.wait``: ``timeout`` (seconds for each chunk), ``fetch_local``.

    Raises:
        ValueError: ``chunk_size`` is below 1, or ``num_returns`` was given.
        TaskError: a task raised. It is raised in the place of its chunk.
    """
    _check(chunk_size, kwargs)
    return _completed(list(refs), chunk_size, yield_obj_refs, kwargs)


def map_unordered(
    fn: Any,
    items: Iterable[Any],
    *,
    backpressure_size: int | None = BACKPRESSURE_SIZE,
    chunk_size: int = CHUNK_SIZE,
    yield_obj_refs: bool = False,
    **kwargs: Any,
) -> Iterator[Any]:
    """Calls ``fn.remote(item)`` for each item, and yields the results as they become ready, a chunk at a time.

    Args:
        fn: a remote function, or a method of an actor.
        items: anything that can be iterated over, also without end. An item is taken when there is room for its task.
        backpressure_size: how many tasks may be unfinished before it waits; None: no limit.
        chunk_size: how many results to wait for together.
        yield_obj_refs: yield the ready references instead of their values.
        kwargs: further arguments of ``zray.wait``: ``timeout`` (seconds for each chunk), ``fetch_local``.

    Raises:
        ValueError: ``chunk_size`` or ``backpressure_size`` is below 1, or ``num_returns`` was given.
        TaskError: a task raised. It is raised in the place of its chunk.
    """
    if backpressure_size is not None and backpressure_size < 1:
        raise ValueError(f"backpressure_size must be positive, or None for no limit; got {backpressure_size!r}")
    _check(chunk_size, kwargs)
    return _mapped(fn, items, backpressure_size, chunk_size, yield_obj_refs, kwargs)


def _check(chunk_size: int, kwargs: dict[str, Any]) -> None:
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, got {chunk_size!r}")
    if "num_returns" in kwargs:
        raise ValueError("num_returns is not an argument here: give chunk_size instead")


def _completed(refs: list[ObjectRef], chunk_size: int, yield_obj_refs: bool, options: dict[str, Any]) -> Iterator[Any]:
    while refs:
        ready, refs = wait(refs, num_returns=min(chunk_size, len(refs)), **options)
        yield from ready if yield_obj_refs else get(ready)


def _mapped(
    fn: Any, items: Iterable[Any], most: int | None, chunk_size: int, yield_obj_refs: bool, options: dict[str, Any]
) -> Iterator[Any]:
    refs: list[ObjectRef] = []
    for item in items:
        refs.append(fn.remote(item))
        if most is not None and len(refs) >= most:
            ready, refs = wait(refs, num_returns=min(chunk_size, len(refs)), **options)
            yield from ready if yield_obj_refs else get(ready)
    yield from _completed(refs, chunk_size, yield_obj_refs, options)
