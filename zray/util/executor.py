"""``Executor``: an executor of ``concurrent.futures`` whose processes may be on any machine of the cluster.

Its futures are those of ``concurrent.futures``. So ``as_completed`` and ``wait`` work with them, and ``asyncio``'s
``run_in_executor`` with the executor.
"""

from __future__ import annotations

import atexit
import concurrent.futures
import functools
import itertools
import operator
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from zray.api.cluster import init, is_initialized
from zray.api.nodes import cluster_resources
from zray.exceptions import ActorError
from zray.util.process_group.group import ProcessGroup
from zray.util.process_group.jobs import Job
from zray.util.process_group.waiting import lending_cpus
from zray.util.process_group.worker import CALL_ONCE, UNPACK_EACH

T = TypeVar("T")


class Executor(concurrent.futures.Executor):
    """Calls functions in processes of the cluster.

    As with the standard executors, a program that ends waits for the calls that it has submitted.

    Args:
        max_workers: the number of processes; default: the CPUs of the cluster. They start when they are needed.
        initializer: called with ``initargs`` in each process before its first call.
        initargs: the arguments of ``initializer``.
        max_tasks_per_child: the number of calls after which a process is replaced; None: never.
        remote_args: options of the actors that the processes are, as ``zray.remote`` takes them, for example
            ``{"num_cpus": 1}``. By default a process holds no CPU.

    Raises:
        ValueError: ``max_workers`` or ``max_tasks_per_child`` is below 1; an option is unknown.
        TypeError: one of these is not an integer, or ``initializer`` cannot be called.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        *,
        max_tasks_per_child: int | None = None,
        remote_args: dict[str, Any] | None = None,
    ) -> None:
        if initializer is not None and not callable(initializer):
            raise TypeError(f"Executor(): initializer must be callable, got {initializer!r}")
        quota = None if max_tasks_per_child is None else _positive(max_tasks_per_child, "max_tasks_per_child")
        size = None if max_workers is None else _positive(max_workers, "max_workers")
        if not is_initialized():
            init()
        self._group = ProcessGroup(
            size or max(1, int(cluster_resources().get("CPU", 1))),
            initializer=initializer,
            initargs=initargs,
            quota=quota,
            restart=False,
            ahead=False,
            remote_args=remote_args,
        )
        self._is_shut_down = False
        # An executor that is dropped finishes its calls, and then its processes end.
        finalizer = weakref.finalize(self, self._group.close)
        finalizer.atexit = False
        _finish_at_exit(self._group)

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Calls ``fn(*args, **kwargs)`` in a process.

        Returns:
            The future of the result. It can be cancelled while the call waits for a process. Its error is what ``fn``
            raised, with the traceback as ``__cause__``, or a SerializationError if something cannot be pickled.

        Raises:
            RuntimeError: the executor is shut down.
            BrokenProcessPool: a process has died, or an initializer has raised.
        """
        return self._submit(_Call(self._group.functions.once(fn), [(args, kwargs)]))

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[T]:
        """Returns an iterator over ``fn(*items)`` for the items of all iterables at the same place, in their order.

        Args:
            timeout: seconds after which the iterator raises TimeoutError, from now on; None: never.
            chunksize: how many calls a process gets at a time.
            buffersize: how many chunks may be submitted whose results have not been taken; the next are taken from the
                iterables when results are. None: all are submitted now.

        Raises:
            ValueError: ``chunksize`` or ``buffersize`` is below 1.
            RuntimeError, BrokenProcessPool: see ``submit``.
        """
        chunksize = _positive(chunksize, "chunksize")
        if buffersize is not None:
            buffersize = _positive(buffersize, "buffersize")
        deadline = None if timeout is None else time.monotonic() + timeout
        function = self._group.functions.shared(fn)
        calls = zip(*iterables)  # noqa: B905  # as map(): the shortest iterable ends it
        chunks = iter(lambda: list(itertools.islice(calls, chunksize)), [])
        futures = (self._submit(_Chunk(function, chunk, UNPACK_EACH)) for chunk in chunks)
        under_way = deque(itertools.islice(futures, buffersize))
        return _results(futures, under_way, deadline)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """No more calls are accepted.

        Args:
            wait: whether to wait until all calls and processes have ended.
            cancel_futures: cancel the futures of calls that wait for a process.
        """
        self._is_shut_down = True
        if cancel_futures:
            for job in self._group.take_queued():
                assert isinstance(job, _FutureJob)
                if job.future.cancel():
                    job.future.set_running_or_notify_cancel()  # tells those who wait for it
        self._group.close()
        if wait:
            with lending_cpus():
                self._group.join()

    def _submit(self, job: _FutureJob) -> Future[Any]:
        if self._is_shut_down:
            raise RuntimeError("cannot schedule new futures after shutdown")
        if self._group.error is not None:
            raise _broken(self._group.error)
        self._group.submit(job)
        return job.future


class _FutureJob(Job):
    """A job whose outcome is a future's."""

    __slots__ = ("_has_begun", "future")

    def __init__(self, function: Any, items: Sequence[Any], form: int = CALL_ONCE) -> None:
        super().__init__(function, items, form)
        self.future: Future[Any] = Future()
        self._has_begun = False

    def begin(self) -> bool:
        self._has_begun = self._has_begun or self.future.set_running_or_notify_cancel()
        return self._has_begun

    def failed(self, error: BaseException) -> None:
        if self.begin():
            self.future.set_exception(_broken(error) if isinstance(error, ActorError) else error)


class _Call(_FutureJob):
    """One call."""

    __slots__ = ()

    def succeeded(self, results: list[Any], errors: dict[int, BaseException]) -> None:
        if errors:
            self.future.set_exception(errors[0])
        else:
            self.future.set_result(results[0])


class _Chunk(_FutureJob):
    """Several calls of ``map``: the result is the results and the exceptions by position."""

    __slots__ = ()

    def succeeded(self, results: list[Any], errors: dict[int, BaseException]) -> None:
        self.future.set_result((results, errors))


def _results(futures: Iterator[Future[Any]], under_way: deque[Future[Any]], deadline: float | None) -> Iterator[Any]:
    """Yields the results of chunks in order, and submits the next for each that has been taken."""
    try:
        while under_way:
            left_s = None if deadline is None else deadline - time.monotonic()
            with lending_cpus():
                results, errors = under_way[0].result(left_s)
            del under_way[0]
            under_way.extend(itertools.islice(futures, 1))
            for index, result in enumerate(results):
                if index in errors:
                    raise errors[index]
                yield result
    finally:
        for future in under_way:
            future.cancel()


def _broken(error: BaseException) -> BrokenProcessPool:
    """The error of ``concurrent.futures`` for a pool that has lost a process."""
    broken = BrokenProcessPool(f"a process of the executor has died, or its initializer has raised: {error}")
    broken.__cause__ = error
    return broken


def _positive(number: Any, name: str) -> int:
    value = operator.index(number)
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")
    return value


_groups: weakref.WeakSet[ProcessGroup] = weakref.WeakSet()


def _finish_at_exit(group: ProcessGroup) -> None:
    _groups.add(group)
    _register_at_exit()


@functools.cache
def _register_at_exit() -> None:
    atexit.register(_finish_all)  # after init() has registered the end of the cluster, so it runs before that


def _finish_all() -> None:
    for group in list(_groups):
        group.close()
        group.join()
