"""The options of a call that travel to the worker, besides the function and the arguments."""

from __future__ import annotations

from typing import Any

from zray.client.core.streams import StreamSpec
from zray.exceptions import TaskTimeoutError
from zray.named_tuples import NamedTuple
from zray.options.checks import DYNAMIC, check_streams
from zray.protocol.codec import pack
from zray.serialization import serialize


class CallStream(NamedTuple):
    """The stream of a call's values. ``per_yield``: the number of objects that each yielded value is. ``most_untaken``:
    the number of objects of all streams of the actor that may not be taken yet; 0: any number."""

    spec: StreamSpec
    per_yield: int
    most_untaken: int


def stream_of(
    num_returns: int | str | None, is_generator: bool, backpressure: int, per_yield: int, what: str, of_actor: int = -1
) -> CallStream | None:
    """Returns the stream that a call's options ask for; None if they ask for return values.

    ``backpressure``: the number of objects that may not be taken yet; ``of_actor``: that of all streams of the actor
    together. -1: any number.

    Raises ValueError if only a generator can have them, and the function is none.
    """
    if not check_streams(num_returns, is_generator, what):
        return None
    collected = num_returns == DYNAMIC
    limits = [] if collected else [limit for limit in (backpressure, of_actor) if limit > 0]
    return CallStream(StreamSpec(collected, min(limits, default=0)), per_yield, 0 if collected else max(0, of_actor))


def retried_types(retry_exceptions: Any) -> bool | bytes:
    """Returns the encoded option ``retry_exceptions``: True for any exception, False for none, or a pickle of types."""
    if isinstance(retry_exceptions, bool):
        return retry_exceptions
    return serialize(tuple(retry_exceptions)).to_bytes() if retry_exceptions else False


def retries_timeouts(retry_exceptions: Any) -> bool:
    """Whether the option ``retry_exceptions`` includes ``TaskTimeoutError``."""
    if isinstance(retry_exceptions, bool):
        return retry_exceptions
    return issubclass(TaskTimeoutError, tuple(retry_exceptions))


def pack_options(
    name: str,
    n_returns: int,
    method: str,
    retried: bool | bytes,
    max_calls: int = 0,
    generator: bool = False,
    stream: CallStream | None = None,
    group: str = "",
    captures: bool = False,
    timeout_s: float | None = None,
    retries_timeouts: bool = False,
) -> bytes:
    """Returns the packed options of a call.

    ``generator``: the function is a generator. ``stream``: so are its values; then ``n_returns`` is 1, for the
    completion. ``group``: the concurrency group; empty: the default group. ``captures``: what the task or actor creates
    runs in its placement group. ``timeout_s``: how long it may run; None: without limit; ``retries_timeouts``: it is
    tried again if it runs longer.
    """
    options = {"name": name, "num_returns": n_returns, "method": method, "max_calls": max_calls}
    if stream is not None:
        options["per_yield"] = stream.per_yield
        options["dynamic"] = stream.spec.collected
        if stream.most_untaken:
            options["most_untaken"] = stream.most_untaken
        generator = False
    if retried:
        options["retry_exceptions"] = retried
    if generator and n_returns == 1:  # with more values, the type of the returned value tells the worker
        options["generator"] = True
    if captures:
        options["captures"] = True
    if group:
        options["group"] = group
    if timeout_s is not None:
        options["timeout"] = [timeout_s, retries_timeouts]
    return pack(options)
