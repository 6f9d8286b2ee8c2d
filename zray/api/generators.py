"""The values of a remote generator: one reference for each, as they come (``num_returns="streaming"``)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, NoReturn, Protocol

from zray.client.streams import Reader
from zray.object_ref import ObjectRef, T_co

if TYPE_CHECKING:
    import concurrent.futures
    from collections.abc import Sequence


class Source(Protocol):
    """What a generator object takes its references from: the runtime in which it was made."""

    def wait(
        self, refs: list[ObjectRef], num_returns: int, timeout_s: float | None, fetch_local: bool
    ) -> tuple[list[ObjectRef], list[ObjectRef]]:
        """See ``zray.wait``."""

    def when_ready(self, object_id: bytes) -> concurrent.futures.Future[None]:
        """Returns a future that ends when the object has a value or an error."""

    def is_end(self, ref: ObjectRef) -> bool:
        """Whether a reference is ready and stands for the end of its stream."""

    def advance(self, reader: Reader) -> ObjectRef | None:
        """Returns the next reference of a stream, and sets the one behind it; None if it is not ready.

        Raises StopIteration at the end.
        """


class ObjectRefGenerator(Generic[T_co]):
    """The references to the values, of type ``T_co``, that a generator yields elsewhere, as soon as each exists.

    Returned by ``remote`` of a generator function or generator method. ``for`` and ``next`` wait for the next value;
    ``async for`` awaits it. If the generator raises, ``get`` of the last reference raises that. ``zray.wait`` takes
    generators among references: one is ready when ``next`` would not wait. ``zray.cancel`` takes one, too.

    The generator object cannot be pickled: pass its references to other tasks. When it is garbage collected, values
    that were not taken are freed.
    """

    def __init__(self, source: Source, refs: Sequence[ObjectRef]) -> None:
        """``refs``: the completion, the handle of the stream, and the first item."""
        self._source = source
        self._generator_ref, self._handle, self.next_ref = refs

    def __iter__(self) -> ObjectRefGenerator[T_co]:
        return self

    def __next__(self) -> ObjectRef[T_co]:
        while (ref := self._source.advance(self)) is None:
            self._source.wait([self.next_ref], 1, None, False)
        return ref

    def _next_sync(self, timeout_s: float | None = None) -> ObjectRef[T_co]:
        """As ``next``; returns ``ObjectRef.nil()`` if there is no value within ``timeout_s`` seconds.

        Private in Ray, too, but programs use it.
        """
        ref = self._source.advance(self)
        if ref is None:
            self._source.wait([self.next_ref], 1, timeout_s, False)
            ref = self._source.advance(self)
        return ObjectRef.nil() if ref is None else ref

    def __aiter__(self) -> ObjectRefGenerator[T_co]:
        return self

    async def __anext__(self) -> ObjectRef[T_co]:
        import asyncio  # large, and loaded already where a coroutine runs

        try:
            while (ref := self._source.advance(self)) is None:
                await asyncio.wrap_future(self._source.when_ready(self.next_ref.binary()))
        except StopIteration:
            raise StopAsyncIteration from None
        return ref

    def completed(self) -> ObjectRef[None]:
        """Returns a reference whose value is None once the generator has ended. ``get`` raises if its task failed."""
        return self._generator_ref

    def next_ready(self) -> bool:
        """Whether ``next`` would return a reference without waiting; False at the end."""
        ready, _ = self._source.wait([self.next_ref], 1, 0, False)
        return bool(ready) and not self._source.is_end(self.next_ref)

    def is_finished(self) -> bool:
        """Whether all references were taken, and the generator has ended."""
        ready, _ = self._source.wait([self.next_ref], 1, 0, False)
        return bool(ready) and self._source.is_end(self.next_ref)

    def send(self, value: Any) -> NoReturn:
        """Not supported: values cannot be sent to a remote generator."""
        raise NotImplementedError("gen.send() is not supported: the generator runs in another process")

    def throw(self, *error: Any) -> NoReturn:
        """Not supported; ``zray.cancel`` interrupts the generator."""
        raise NotImplementedError("gen.throw() is not supported: use zray.cancel(gen) to interrupt the generator")

    def close(self) -> NoReturn:
        """Not supported; ``zray.cancel`` interrupts the generator."""
        raise NotImplementedError("gen.close() is not supported: use zray.cancel(gen) to interrupt the generator")

    async def asend(self, value: Any) -> NoReturn:
        """Not supported: values cannot be sent to a remote generator."""
        raise NotImplementedError("gen.asend() is not supported: the generator runs in another process")

    async def athrow(self, *error: Any) -> NoReturn:
        """Not supported; ``zray.cancel`` interrupts the generator."""
        raise NotImplementedError("gen.athrow() is not supported: use zray.cancel(gen) to interrupt the generator")

    async def aclose(self) -> NoReturn:
        """Not supported; ``zray.cancel`` interrupts the generator."""
        raise NotImplementedError("gen.aclose() is not supported: use zray.cancel(gen) to interrupt the generator")

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "an ObjectRefGenerator cannot be passed to, or returned by, a task, or stored: pass the references that it "
            "yields"
        )

    def __repr__(self) -> str:
        return f"ObjectRefGenerator({self._generator_ref.task_id().hex()})"
