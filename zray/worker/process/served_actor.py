"""The actor that a worker serves: its instance, its methods, and the threads or event loops that run its calls."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import TYPE_CHECKING, Any

from zray.methods import method_of
from zray.protocol.records import ActorSpec
from zray.system.streams import say
from zray.worker.process.runner import CallOptions

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

    from zray.worker.process.event_loop import Calls, EventLoop


class ServedActor:
    """The actor of one worker. Until it is constructed, and in a worker of tasks, there is none.

    Without ``pool`` and ``loop``, the main thread runs its calls. ``concurrency``: how many may run at once.
    """

    def __init__(self) -> None:
        self.instance: Any = None
        self.class_name = ""
        self.concurrency = 1
        self.pool: ThreadPoolExecutor | None = None
        self.loop: EventLoop | None = None
        self.group_pools: dict[str, ThreadPoolExecutor] = {}  # by concurrency group; calls in none use ``pool``
        self.group_loops: dict[str, EventLoop] = {}  # likewise
        self._methods: dict[str, Any] = {}  # those that have been called, bound

    def method(self, options: CallOptions) -> Any:
        """Returns the actor's method that a call names."""
        method = self._methods.get(options.method)
        if method is None:
            method = self._methods[options.method] = method_of(self.instance, options.method)
        return method

    def construct(
        self,
        spec: ActorSpec,
        kind: Any,
        args: list[Any],
        kwargs: dict[str, Any],
        async_calls: Callable[[], Calls],
        watch: Callable[[list[EventLoop]], None],
    ) -> None:
        """Makes the instance, and what will run its calls. Raises what the constructor raises.

        ``async_calls`` makes what runs calls for event loops. ``watch`` has event loops checked from time to time.
        """
        if spec.has_coroutines:
            # Imported here: asyncio is 3 MB, which workers without an async actor save. Likewise threads below.
            from zray.worker.process.event_loop import EventLoop

            calls = async_calls()
            loop = self.loop = EventLoop(calls)
            self.instance = loop.construct(kind, args, kwargs)
            self.group_loops = {group: EventLoop(calls) for group in spec.groups}
            watch(self.loops())
        else:
            self.instance = kind(*args, **kwargs)
        concurrency, groups = max(1, spec.max_concurrency), spec.groups
        self.concurrency = concurrency + sum(groups.values())
        if self.loop is None and self.concurrency > 1:
            from concurrent.futures import ThreadPoolExecutor

            self.pool = ThreadPoolExecutor(concurrency, thread_name_prefix="zray-actor")
            self.group_pools = {
                group: ThreadPoolExecutor(limit, thread_name_prefix=f"zray-actor-{group}")
                for group, limit in groups.items()
            }

    def loops(self) -> list[EventLoop]:
        """The event loops of an async actor: one for each concurrency group, and one for all other calls."""
        return [self.loop, *self.group_loops.values()] if self.loop is not None else []

    def forget(self) -> None:
        """Lets go of the instance, at the end of the process."""
        self.instance = self.pool = None
        self.group_pools.clear()
        self._methods.clear()


def label_of(actor: Any, class_name: str) -> str:
    """Returns the name of an actor's output.

    This is the first line of its ``repr``, if its class defines one, else the class.
    """
    own = type(actor).__repr__
    if not isinstance(own, FunctionType):  # else object's or a container's, which may be very long
        return class_name
    try:
        text = own(actor)
        return text.strip().partition("\n")[0] or class_name
    except BaseException as error:  # the user's code may raise anything
        say(f"zray: output of {class_name} is named by its class, as its __repr__ raised {type(error).__name__}")
        return class_name
