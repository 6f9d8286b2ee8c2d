"""The options of a call that travel to the worker, besides the function and the arguments."""

from __future__ import annotations

from typing import Any

from zray.protocol.codec import pack
from zray.serialization import serialize


def retried_types(retry_exceptions: Any) -> bool | bytes:
    """Returns the encoded option ``retry_exceptions``: True for any exception, False for none, or a pickle of types."""
    if isinstance(retry_exceptions, bool):
        return retry_exceptions
    return serialize(tuple(retry_exceptions)).to_bytes() if retry_exceptions else False


def pack_options(
    name: str, n_returns: int, method: str, retried: bool | bytes, max_calls: int = 0, generator: bool = False,
    captures: bool = False,
) -> bytes:  # fmt: skip
    """Returns the packed options of a call. ``generator``: the function is a generator; ``captures``: what the task or
    actor creates runs in its placement group."""
    options = {"name": name, "num_returns": n_returns, "method": method, "max_calls": max_calls}
    if retried:
        options["retry_exceptions"] = retried
    if generator and n_returns == 1:  # with more values, the type of the returned value tells the worker
        options["generator"] = True
    if captures:
        options["captures"] = True
    return pack(options)
