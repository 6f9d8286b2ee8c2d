"""What the methods of a pool return: ``AsyncResult``, and the iterators of ``imap`` and ``imap_unordered``."""

from __future__ import annotations

import itertools
import queue
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing import TimeoutError
from typing import Any

from zray.util.process_group.group import ProcessGroup
from zray.util.process_group.jobs import Job
from zray.util.process_group.waiting import lending_cpus
from zray.util.process_group.worker import CALL_EACH

WINDOW = 16
"""The number of chunks for each process that an iterator has under way. ``imap`` takes the next from its iterable when
the user takes a result, so an iterable without end works."""


class PoolTaskError(Exception):
    """In the results of ``imap``: the function raised ``underlying`` for this item. The name is Ray's."""

    def __init__(self, underlying: BaseException) -> None:
        super().__init__(underlying)
        self.underlying = underlying
        self.__cause__ = underlying

    def __str__(self) -> str:
        return f"{type(self.underlying).__name__}: {self.underlying}"


class Callbacks:
    """The thread of a pool that calls the user's callbacks. It starts with the first one, and ends with the pool.

    A callback may wait for another result of the pool, so it cannot run in the thread that receives results.
    """

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def call(self, action: Callable[[], None]) -> None:
        """Calls ``action`` in the thread, after those that were given before."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="zray pool callbacks", daemon=True)
                self._thread.start()
        self._calls.put(action)

    def end(self) -> None:
        """Ends the thread after the last action."""
        with self._lock:
            self._thread = None
        self._calls.put(None)

    def _run(self) -> None:
        while (action := self._calls.get()) is not None:
            action()


class AsyncResult:
    """The result of ``apply_async``, ``map_async`` or ``starmap_async``, which exists now or later."""

    def __init__(
        self,
        n_chunks: int,
        is_single: bool,
        callbacks: Callbacks,
        callback: Callable[[Any], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> None:
        self._chunks: list[list[Any]] = [[]] * n_chunks
        self._first_error: tuple[int, BaseException] | None = None
        self._left = n_chunks
        self._is_single = is_single
        self._callbacks = callbacks
        self._callback = callback
        self._error_callback = error_callback
        self._lock = threading.Lock()
        self._ready = threading.Event()
        if not n_chunks:
            self._end()

    def wait(self, timeout: float | None = None) -> None:
        """Waits until the result is ready, or ``timeout`` seconds have passed."""
        if not self._ready.is_set():
            with lending_cpus():
                self._ready.wait(timeout)

    def get(self, timeout: float | None = None) -> Any:
        """Returns the result.

        Args:
            timeout: seconds to wait; None waits for ever.

        Raises:
            TimeoutError: the result is not ready in time. It is multiprocessing's.
            ActorUnavailableError: the process that ran the function died. It is restarted.
            ActorDiedError: the pool was terminated, or its processes cannot be started again.
            Exception: what the function raised; of several, the one of the first item. Its ``__cause__`` has the
                traceback.
        """
        self.wait(timeout)
        if not self._ready.is_set():
            raise TimeoutError(f"the result is not ready after {timeout} s")
        if self._first_error is not None:
            raise self._first_error[1]
        if self._is_single:
            return self._chunks[0][0]
        return list(itertools.chain.from_iterable(self._chunks))

    def ready(self) -> bool:
        """Whether the result exists, or the error."""
        return self._ready.is_set()

    def successful(self) -> bool:
        """Whether there was no error. Raises ValueError if the result is not ready."""
        if not self.ready():
            raise ValueError(f"{self!r} not ready")
        return self._first_error is None

    def _set_chunk(self, index: int, results: list[Any], error: BaseException | None) -> None:
        with self._lock:
            self._chunks[index] = results
            if error is not None and (self._first_error is None or index < self._first_error[0]):
                self._first_error = (index, error)
            self._left -= 1
            if self._left:
                return
        self._end()

    def _end(self) -> None:
        """All chunks have ended. As in the standard pool, the callback returns before the result counts as ready."""
        if (self._callback if self._first_error is None else self._error_callback) is None:
            self._ready.set()
        else:
            self._callbacks.call(self._call_back)

    def _call_back(self) -> None:
        try:
            if self._first_error is not None:
                assert self._error_callback is not None
                self._error_callback(self._first_error[1])
            elif self._callback is not None:
                chunks = self._chunks
                self._callback(chunks[0][0] if self._is_single else list(itertools.chain.from_iterable(chunks)))
        except Exception:
            traceback.print_exc()
        finally:
            self._ready.set()


class ChunkJob(Job):
    """A part of the items of an ``AsyncResult``."""

    __slots__ = ("_index", "_result")

    def __init__(self, result: AsyncResult, index: int, function: Any, items: Sequence[Any], form: int) -> None:
        super().__init__(function, items, form)
        self._result = result
        self._index = index

    def succeeded(self, results: list[Any], errors: dict[int, BaseException]) -> None:
        self._result._set_chunk(self._index, results, errors[min(errors)] if errors else None)

    def failed(self, error: BaseException) -> None:
        self._result._set_chunk(self._index, [], error)


class IMapIterator:
    """The results of ``imap`` or ``imap_unordered``.

    As in Ray, a failed item is a result too: ``PoolTaskError`` if the function raised, or the error of the process. The
    standard pool raises it instead.
    """

    _is_ordered = True

    def __init__(self, group: ProcessGroup, function: Any, iterable: Iterable[Any], chunksize: int) -> None:
        self._group = group
        self._function = group.functions.shared(function)
        self._items = iter(iterable)
        self._chunksize = chunksize
        self._window = WINDOW * group.size
        self._submitted = 0
        self._next_chunk = 0  # of an ordered iterator: the chunk whose results come next
        self._under_way = 0
        self._is_exhausted = False
        self._arrived: dict[int, list[Any]] = {}
        self._current: deque[Any] = deque()
        self._changed = threading.Condition()
        self._taking = threading.Lock()
        self._submit_some()

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return self.next()

    def next(self, timeout: float | None = None) -> Any:
        """Returns the next result.

        Args:
            timeout: seconds to wait; None waits for ever.

        Raises:
            StopIteration: there are no more results.
            TimeoutError: the next result is not there in time. It is multiprocessing's. A later call may succeed.
            Exception: what the iterable raised.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._taking:  # one thread takes results at a time
            while not self._current:
                self._submit_some()
                self._current.extend(self._wait_for_chunk(deadline))
            result = self._current.popleft()
        if isinstance(result, _OfIterable):
            raise result.error
        return result

    def _wait_for_chunk(self, deadline: float | None) -> list[Any]:
        with self._changed:
            while (index := self._ready_chunk()) is None:
                if self._is_exhausted and not self._under_way:
                    raise StopIteration
                left_s = None if deadline is None else deadline - time.monotonic()
                if left_s is not None and left_s <= 0:
                    raise TimeoutError("the next result is not ready")
                with lending_cpus():
                    self._changed.wait(left_s)
            self._next_chunk += 1
            self._under_way -= 1
            return self._arrived.pop(index)

    def _ready_chunk(self) -> int | None:
        if self._is_ordered:
            return self._next_chunk if self._next_chunk in self._arrived else None
        return next(iter(self._arrived), None)

    def _submit_some(self, *, all_of_it: bool = False) -> None:
        """Submits chunks until the window is full."""
        while not self._is_exhausted and (all_of_it or self._under_way < self._window):
            items: list[Any] = []
            failure: Exception | None = None
            try:
                items.extend(itertools.islice(self._items, self._chunksize))
            except Exception as error:  # the iterable's: it is raised after the results of the items before it
                failure = error
            self._is_exhausted = failure is not None or len(items) < self._chunksize
            if items:
                self._group.submit(_IteratorJob(self, self._new_chunk(), self._function, items, CALL_EACH))
            if failure is not None:
                self._arrive(self._new_chunk(), [_OfIterable(failure)])

    def _new_chunk(self) -> int:
        with self._changed:
            self._submitted += 1
            self._under_way += 1
            return self._submitted - 1

    def _submit_all(self) -> None:
        """The pool is closed: what is left of the iterable is submitted now."""
        with self._taking:
            self._submit_some(all_of_it=True)

    def _arrive(self, index: int, results: list[Any]) -> None:
        with self._changed:
            self._arrived[index] = results
            self._changed.notify_all()


class OrderedIMapIterator(IMapIterator):
    """The results of ``imap``, in the order of the items."""


class UnorderedIMapIterator(IMapIterator):
    """The results of ``imap_unordered``, in the order in which they arrive."""

    _is_ordered = False


class _OfIterable:
    """The error of the iterable that an iterator takes its items from."""

    def __init__(self, error: Exception) -> None:
        self.error = error


class _IteratorJob(Job):
    """A chunk of an iterator."""

    __slots__ = ("_index", "_iterator")

    def __init__(self, iterator: IMapIterator, index: int, function: Any, items: Sequence[Any], form: int) -> None:
        super().__init__(function, items, form)
        self._iterator = iterator
        self._index = index

    def succeeded(self, results: list[Any], errors: dict[int, BaseException]) -> None:
        for index, error in errors.items():
            results[index] = PoolTaskError(error)
        self._iterator._arrive(self._index, results)

    def failed(self, error: BaseException) -> None:
        self._iterator._arrive(self._index, [error] * len(self.items))
