"""``Queue``: a first-in, first-out queue that all processes of a cluster can share.

The items are in an actor with an event loop. A caller that waits for an item, or for room, is a call of that actor that
has not returned. So the actor's death ends every wait with ActorDiedError, and the items are gone with it. The death of
a caller takes no item with it that it was not already given.
"""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Iterable
from typing import Any

from zray.api.decorator import remote
from zray.api.objects import get, kill, wait


class Empty(queue.Empty):
    """The queue has no item, or not as many as were asked for."""


class Full(queue.Full):
    """The queue has no room for the item, or for all of the items."""


class Queue:
    """A queue that may be passed to tasks and actors. It ends with the last copy of it.

    Args:
        maxsize: the number of items that it can hold; 0 or less: no limit.
        actor_options: options of the actor that holds the items, for instance ``{"num_cpus": 1}`` or a ``name``.
    """

    def __init__(self, maxsize: int = 0, actor_options: dict[str, Any] | None = None) -> None:
        self.maxsize = maxsize
        self.actor: Any = remote(_QueueActor).options(**(actor_options or {})).remote(maxsize)

    @property
    def _live(self) -> Any:
        if self.actor is None:
            raise AttributeError("this Queue was shut down: make a new one")
        return self.actor

    # ------------------------------------------------------------------ size

    def __len__(self) -> int:
        return self.size()

    def size(self) -> int:
        """The number of items."""
        n_items: int = get(self._live.qsize.remote())
        return n_items

    def qsize(self) -> int:
        """The number of items."""
        return self.size()

    def empty(self) -> bool:
        """Whether there is no item."""
        return bool(get(self._live.empty.remote()))

    def full(self) -> bool:
        """Whether there is no room."""
        return bool(get(self._live.full.remote()))

    # ------------------------------------------------------------------ put

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """Appends an item.

        Args:
            item: anything that can be pickled.
            block: wait for room if the queue is full.
            timeout: seconds to wait for room; None waits for ever. Ignored unless ``block``.

        Raises:
            Full: there is no room, or none within ``timeout``.
            ValueError: ``timeout`` is negative.
            ActorDiedError: the queue's actor is dead.
        """
        call = self._put(item, block, timeout)
        try:
            get(call)
        except queue.Full as error:
            raise Full(*error.args) from None

    async def put_async(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """As ``put``, for coroutines."""
        try:
            await self._put(item, block, timeout)
        except queue.Full as error:
            raise Full(*error.args) from None

    def _put(self, item: Any, block: bool, timeout: float | None) -> Any:
        return self._live.put.remote(item, _patience(block, timeout))

    def put_nowait(self, item: Any) -> None:
        """As ``put(item, block=False)``."""
        self.put(item, block=False)

    def put_nowait_batch(self, items: Iterable[Any]) -> None:
        """Appends several items in one call, or none of them.

        Raises:
            Full: there is no room for all of them.
            TypeError: ``items`` cannot be iterated over.
            ActorDiedError: the queue's actor is dead.
        """
        if not isinstance(items, Iterable):
            raise TypeError(f"items must be an Iterable, not {type(items).__name__}")
        try:
            get(self._live.put_nowait_batch.remote(list(items)))
        except queue.Full as error:
            raise Full(*error.args) from None

    # ------------------------------------------------------------------ get

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Removes the first item and returns it.

        Args:
            block: wait for an item if the queue is empty.
            timeout: seconds to wait for an item; None waits for ever. Ignored unless ``block``.

        Raises:
            Empty: there is no item, or none within ``timeout``.
            ValueError: ``timeout`` is negative.
            ActorDiedError: the queue's actor is dead.
        """
        call = self._live.get.remote(_patience(block, timeout))
        try:
            return get(call)
        except queue.Empty as error:
            raise Empty(*error.args) from None

    async def get_async(self, block: bool = True, timeout: float | None = None) -> Any:
        """As ``get``, for coroutines."""
        call = self._live.get.remote(_patience(block, timeout))
        try:
            return await call
        except queue.Empty as error:
            raise Empty(*error.args) from None

    def get_nowait(self) -> Any:
        """As ``get(block=False)``."""
        return self.get(block=False)

    def get_nowait_batch(self, num_items: int) -> list[Any]:
        """Removes the first ``num_items`` items in one call and returns them, in order.

        Raises:
            Empty: there are fewer. None is removed.
            TypeError: ``num_items`` is not an integer.
            ValueError: ``num_items`` is negative.
            ActorDiedError: the queue's actor is dead.
        """
        if not isinstance(num_items, int):
            raise TypeError(f"num_items must be an integer, got {num_items!r}")
        if num_items < 0:
            raise ValueError(f"num_items must not be negative, got {num_items!r}")
        try:
            items: list[Any] = get(self._live.get_nowait_batch.remote(num_items))
        except queue.Empty as error:
            raise Empty(*error.args) from None
        return items

    # ------------------------------------------------------------------ the end

    def shutdown(self, force: bool = False, grace_period_s: float = 5) -> None:
        """Ends the queue's actor. Calls that wait fail with ActorDiedError. Nothing happens at a second call.

        Args:
            force: kill the actor at once.
            grace_period_s: seconds that the actor may take to end by itself before it is killed.
        """
        actor, self.actor = self.actor, None
        if actor is None:
            return
        if not force:
            ended, _ = wait([actor.__ray_terminate__.remote()], timeout=grace_period_s)
            if ended:
                return
        kill(actor)


def _patience(block: bool, timeout: float | None) -> float | None:
    """The seconds that a call may wait in the actor; None: for ever."""
    if not block:
        return 0
    if timeout is not None and timeout < 0:
        raise ValueError(f"timeout must not be negative, got {timeout!r}")
    return timeout


class _QueueActor:
    """The actor behind a ``Queue``. ``timeout``: seconds to wait; None: for ever."""

    def __init__(self, maxsize: int) -> None:
        self.maxsize = maxsize
        self.queue: asyncio.Queue[Any] = asyncio.Queue(maxsize)

    def qsize(self) -> int:
        return self.queue.qsize()

    def empty(self) -> bool:
        return self.queue.empty()

    def full(self) -> bool:
        return self.queue.full()

    async def put(self, item: Any, timeout: float | None = None) -> None:
        try:
            if timeout == 0 or not self.queue.full():  # as below, but wait_for() makes a task if there is a timeout
                self.queue.put_nowait(item)
            else:
                await asyncio.wait_for(self.queue.put(item), timeout)
        except (asyncio.QueueFull, asyncio.TimeoutError):
            raise Full(f"the queue is full: it has {self.queue.qsize()} items") from None

    async def get(self, timeout: float | None = None) -> Any:
        try:
            if timeout == 0 or not self.queue.empty():
                return self.queue.get_nowait()
            return await asyncio.wait_for(self.queue.get(), timeout)
        except (asyncio.QueueEmpty, asyncio.TimeoutError):
            raise Empty("the queue is empty") from None

    def put_nowait(self, item: Any) -> None:
        self.queue.put_nowait(item)

    def get_nowait(self) -> Any:
        return self.queue.get_nowait()

    def put_nowait_batch(self, items: list[Any]) -> None:
        if self.maxsize > 0 and len(items) + self.qsize() > self.maxsize:
            raise Full(f"{len(items)} items do not fit: the queue has {self.qsize()} of at most {self.maxsize}")
        for item in items:
            self.queue.put_nowait(item)

    def get_nowait_batch(self, num_items: int) -> list[Any]:
        if num_items > self.qsize():
            raise Empty(f"the queue has only {self.qsize()} of {num_items} items")
        return [self.queue.get_nowait() for _ in range(num_items)]
