"""What a worker has to know of a call besides function and arguments, as it travels."""

from __future__ import annotations

from typing import Any

from zray.protocol.codec import pack
from zray.serialization import serialize


def retried_types(retry_exceptions: Any) -> bool | bytes:
    """The option ``retry_exceptions`` as it travels: for any, for none, or a pickle of the types."""
    if isinstance(retry_exceptions, bool):
        return retry_exceptions
    return serialize(tuple(retry_exceptions)).to_bytes() if retry_exceptions else False


def pack_options(
    name: str, n_returns: int, method: str, retried: bool | bytes, max_calls: int = 0, generator: bool = False
) -> bytes:
    """What a worker has to know of a call besides function and arguments. ``generator``: it calls a generator."""
    options = {"name": name, "num_returns": n_returns, "method": method, "max_calls": max_calls}
    if retried:
        options["retry_exceptions"] = retried
    if generator and n_returns == 1:  # else it is the value that tells
        options["generator"] = True
    return pack(options)
