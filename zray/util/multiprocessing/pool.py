"""``Pool``: the standard library's ``multiprocessing.Pool``, whose processes may be on any machine of the cluster.

It replaces the standard pool. What Ray adds is there too: ``ray_address`` and ``ray_remote_args``. These things differ
from the standard pool, as they do in Ray: functions and values may be whatever zray can send, also lambdas and
closures; ``imap`` returns the errors of failed items instead of raising them; large arrays arrive read-only.
"""

from __future__ import annotations

import logging
import operator
import os
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

import zray
from zray.util.multiprocessing.results import (
    AsyncResult,
    Callbacks,
    ChunkJob,
    IMapIterator,
    OrderedIMapIterator,
    PoolTaskError,
    UnorderedIMapIterator,
)
from zray.util.process_group.group import ProcessGroup
from zray.util.process_group.worker import CALL_EACH, CALL_ONCE, UNPACK_EACH

__all__ = ["AsyncResult", "IMapIterator", "OrderedIMapIterator", "Pool", "PoolTaskError", "UnorderedIMapIterator"]

CHUNKS_PER_PROCESS = 4
"""The number of chunks for each process into which ``map`` divides its items."""

logger = logging.getLogger(__name__)


class Pool:
    """A pool of processes that call functions.

    Args:
        processes: the number of processes; default: the CPUs of the cluster. If zray is not initialised, a local
            cluster with as many CPUs is started.
        initializer: called with ``initargs`` in each process when it starts, and when it is restarted.
        initargs: the arguments of ``initializer``.
        maxtasksperchild: the number of chunks after which a process is replaced; None: never.
        context: accepted for programs that pass it; has no meaning here.
        ray_address: the address of a cluster, as ``zray.init`` takes it, if zray is not initialised.
        ray_remote_args: options of the actors that the processes are, as ``zray.remote`` takes them, for example
            ``{"num_cpus": 1}``. By default a process holds no CPU.

    Raises:
        ValueError: ``processes`` is below 1, or above the number of CPUs of the cluster; an option is unknown.
        TypeError: ``processes`` or ``maxtasksperchild`` is not an integer.
        ActorDiedError: the initializer raised.
    """

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] | None = None,
        maxtasksperchild: int | None = None,
        context: Any = None,
        ray_address: str | None = None,
        ray_remote_args: dict[str, Any] | None = None,
    ) -> None:
        if context is not None:
            logger.warning("Pool(context=...) has no meaning: zray starts the processes of its actors itself")
        if initializer is not None and not callable(initializer):
            raise TypeError(f"Pool(): initializer must be callable, got {initializer!r}")
        quota = _quota(maxtasksperchild)
        self._processes = _connect(None if processes is None else operator.index(processes), ray_address)
        self._group = ProcessGroup(
            self._processes,
            initializer=initializer,
            initargs=initargs or (),
            quota=quota,
            remote_args=ray_remote_args,
        )
        self._callbacks = Callbacks()
        self._iterators: weakref.WeakSet[IMapIterator] = weakref.WeakSet()
        self._is_closed = False
        self._group.start()
        # A pool that is dropped without an end finishes its work, and then its processes and threads end.
        self._finalizer = weakref.finalize(self, _end, self._group, self._callbacks)
        self._finalizer.atexit = False  # the end of the driver ends the processes

    # ------------------------------------------------------------------ one call

    def apply(
        self, func: Callable[..., Any], args: Iterable[Any] | None = None, kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Returns the result of ``func(*args, **kwargs)`` in a process. Raises what ``AsyncResult.get`` does."""
        self._check_running()
        result = AsyncResult(1, True, self._callbacks)
        call = (tuple(args or ()), dict(kwargs or {}))
        job = ChunkJob(result, 0, self._group.functions.once(func), [call], CALL_ONCE)
        self._group.submit(job, is_driven=True)
        self._group.drive([job])
        return result.get()

    def apply_async(
        self,
        func: Callable[..., Any],
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        callback: Callable[[Any], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> AsyncResult:
        """Calls ``func(*args, **kwargs)`` in a process.

        Args:
            callback: called with the result, before it counts as ready.
            error_callback: called with the error instead.

        Raises:
            ValueError: the pool is closed.
        """
        self._check_running()
        result = AsyncResult(1, True, self._callbacks, callback, error_callback)
        function = self._group.functions.once(func)
        call = (tuple(args or ()), dict(kwargs or {}))
        self._group.submit(ChunkJob(result, 0, function, [call], CALL_ONCE))
        return result

    # ------------------------------------------------------------------ many calls

    def map(self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int | None = None) -> list[Any]:
        """Returns the results of ``func`` for all items, in their order. Raises what ``AsyncResult.get`` does.

        Args:
            chunksize: how many items a process gets at a time; default: the number of items, divided by four times the
                number of processes, rounded up.
        """
        result: list[Any] = self._map(func, iterable, chunksize, CALL_EACH, is_driven=True).get()
        return result

    def map_async(
        self,
        func: Callable[[Any], Any],
        iterable: Iterable[Any],
        chunksize: int | None = None,
        callback: Callable[[list[Any]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> AsyncResult:
        """As ``map``, without waiting. See ``apply_async`` for the callbacks, which are called once."""
        return self._map(func, iterable, chunksize, CALL_EACH, callback, error_callback)

    def starmap(
        self, func: Callable[..., Any], iterable: Iterable[Iterable[Any]], chunksize: int | None = None
    ) -> list[Any]:
        """As ``map``; each item is the tuple of the positional arguments of one call."""
        result: list[Any] = self._map(func, iterable, chunksize, UNPACK_EACH, is_driven=True).get()
        return result

    def starmap_async(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Iterable[Any]],
        callback: Any = None,
        error_callback: Any = None,
        chunksize: Any = None,
    ) -> AsyncResult:
        """As ``map_async``; each item is the tuple of the positional arguments of one call.

        The parameters are in Ray's order. The standard pool has ``chunksize`` as its third: a number in that place
        counts as the size of chunks.
        """
        if isinstance(callback, int):
            chunksize, callback, error_callback = callback, error_callback, chunksize
        return self._map(func, iterable, chunksize, UNPACK_EACH, callback, error_callback)

    def imap(self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int | None = 1) -> IMapIterator:
        """Returns an iterator over the results, in the order of the items.

        The next items are taken from the iterable while results are taken from the iterator, so the iterable may be
        endless. ``close`` takes what is left of it.
        """
        return self._imap(OrderedIMapIterator, func, iterable, chunksize)

    def imap_unordered(
        self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int | None = 1
    ) -> IMapIterator:
        """As ``imap``, with the results in the order in which they arrive."""
        return self._imap(UnorderedIMapIterator, func, iterable, chunksize)

    def _map(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        chunksize: int | None,
        form: int,
        callback: Callable[[list[Any]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        is_driven: bool = False,
    ) -> AsyncResult:
        """``is_driven``: returns when the result is ready, or the group's thread receives the rest of it."""
        self._check_running()
        items = iterable if isinstance(iterable, (list, tuple)) else list(iterable)
        size = self._calculate_chunksize(items) if chunksize is None else _checked(chunksize)
        starts = range(0, len(items), size)
        result = AsyncResult(len(starts), False, self._callbacks, callback, error_callback)
        if starts:
            function = self._group.functions.shared(func)
            jobs = [
                ChunkJob(result, index, function, items[start : start + size], form)
                for index, start in enumerate(starts)
            ]
            for job in jobs:
                self._group.submit(job, is_driven=is_driven)
            if is_driven:
                self._group.drive(jobs)
        return result

    def _imap(
        self, kind: type[IMapIterator], func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int | None
    ) -> IMapIterator:
        self._check_running()
        iterator = kind(self._group, func, iterable, 1 if chunksize is None else _checked(chunksize))
        self._iterators.add(iterator)
        return iterator

    def _calculate_chunksize(self, items: list[Any] | tuple[Any, ...]) -> int:
        return max(1, -(-len(items) // (CHUNKS_PER_PROCESS * self._processes)))

    # ------------------------------------------------------------------ the end

    def close(self) -> None:
        """No more calls are accepted. The processes end when all calls have ended."""
        if not self._is_closed:
            self._is_closed = True
            for iterator in list(self._iterators):
                iterator._submit_all()
            self._finalizer()

    def terminate(self) -> None:
        """Kills the processes. Calls that have not ended fail with ActorDiedError."""
        self._is_closed = True
        self._group.terminate()
        self._finalizer()

    def join(self) -> None:
        """Waits until the processes have ended. Raises ValueError if the pool is neither closed nor terminated."""
        if not self._is_closed:
            raise ValueError("Pool is still running: call close() or terminate() first")
        self._group.join()

    def __enter__(self) -> Pool:
        self._check_running()
        return self

    def __exit__(self, *_: object) -> None:
        self.terminate()

    def __reduce__(self) -> NoReturn:
        raise NotImplementedError("pool objects cannot be passed between processes or pickled")

    def __repr__(self) -> str:
        state = "CLOSED" if self._is_closed else "RUN"
        return f"<{type(self).__module__}.{type(self).__qualname__} state={state} pool_size={self._processes}>"

    def _check_running(self) -> None:
        if self._is_closed:
            raise ValueError("Pool not running")


def _end(group: ProcessGroup, callbacks: Callbacks) -> None:
    group.close()
    callbacks.end()


def _quota(maxtasksperchild: int | None) -> int | None:
    """Returns the number of jobs per process. As in Ray, 0 and less mean no limit."""
    if maxtasksperchild is None:
        return None
    quota = operator.index(maxtasksperchild)
    return quota if quota > 0 else None


def _checked(chunksize: int) -> int:
    size = operator.index(chunksize)
    if size < 1:
        raise ValueError(f"chunksize must be at least 1, got {size}")
    return size


def _connect(processes: int | None, address: str | None) -> int:
    """Initialises zray if necessary. Returns the number of processes."""
    if processes is not None and processes < 1:
        raise ValueError(f"the number of processes in the pool must be at least 1, got {processes}")
    if not zray.is_initialized():
        address = address or os.environ.get("RAY_ADDRESS")
        if address:
            zray.init(address=address)
        else:
            zray.init(num_cpus=processes)
    cpus = int(zray.cluster_resources().get("CPU", 0))
    if processes is None:
        processes = max(1, cpus)
    if processes > cpus:
        raise ValueError(
            f"a pool of {processes} processes on a cluster with {cpus} CPUs: give processes={cpus} or less, or "
            f"start the cluster with zray.init(num_cpus={processes})"
        )
    return processes
