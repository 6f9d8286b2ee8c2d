"""Small functions that need no cluster."""

from __future__ import annotations

import asyncio
import importlib
import os
import random
import string
from collections.abc import Coroutine
from typing import Any, TypeVar

from zray.system.processes import memory_limit_bytes

__all__ = [
    "binary_to_hex",
    "decode",
    "env_bool",
    "env_float",
    "env_integer",
    "get_default_ray_temp_dir",
    "get_default_system_temp_dir",
    "get_or_create_event_loop",
    "get_random_alphanumeric_string",
    "get_system_memory",
    "hex_to_binary",
    "import_attr",
    "load_class",
    "reset_ray_address",
    "run_background_task",
    "try_to_create_directory",
]

T = TypeVar("T")
_background: set[asyncio.Task[Any]] = set()
"""Tasks under way: an event loop alone would let go of them."""


def binary_to_hex(identifier: bytes) -> str:
    """An identifier in hexadecimal."""
    return identifier.hex()


def hex_to_binary(hex_identifier: str) -> bytes:
    """The identifier that is shown in hexadecimal."""
    return bytes.fromhex(hex_identifier)


def decode(byte_str: bytes | None, allow_none: bool = False, encode_type: str = "utf-8") -> str:
    """Bytes as a text; None as an empty text if ``allow_none``.

    Raises:
        ValueError: ``byte_str`` is something else.
    """
    if byte_str is None and allow_none:
        return ""
    if not isinstance(byte_str, bytes):
        raise ValueError(f"The argument {byte_str} must be a bytes object.")
    return byte_str.decode(encode_type)


def env_integer(key: str, default: int) -> int:
    """The integer in an environment variable, ``default`` if it is not set or is no number."""
    value = os.environ.get(key, "")
    return int(value) if value.lstrip("-").isdigit() else default


def env_float(key: str, default: float) -> float:
    """The number in an environment variable, ``default`` if it is not set or is no number."""
    try:
        return float(os.environ[key])
    except (KeyError, ValueError):
        return default


def env_bool(key: str, default: bool) -> bool:
    """Whether an environment variable is "true" or "1"; ``default`` if it is not set."""
    return os.environ[key].lower() in ("true", "1") if key in os.environ else default


def import_attr(full_path: str) -> Any:
    """What ``module.name`` or ``module:name`` names.

    Raises:
        ValueError: ``full_path`` has neither a dot nor a colon.
        ImportError: there is no such module.
        AttributeError: it has no such name.
    """
    module, separator, name = full_path.rpartition(":" if ":" in full_path else ".")
    if not separator:
        raise ValueError(f"{full_path!r} must be of the form module.name or module:name")
    return getattr(importlib.import_module(module), name)


load_class = import_attr


def get_or_create_event_loop() -> asyncio.AbstractEventLoop:
    """The running event loop; otherwise the one that is set for this thread, or a new one that is set then."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        pass
    policy = asyncio.get_event_loop_policy()
    try:
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            return policy.get_event_loop()
    except RuntimeError:  # this thread has none
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        return loop


def run_background_task(coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """Starts a coroutine in the event loop, and keeps the task until it ends."""
    task = get_or_create_event_loop().create_task(coroutine)
    _background.add(task)
    task.add_done_callback(_background.discard)
    return task


def get_system_memory() -> int:
    """The memory that this process may use, in bytes: the machine's, or the limit of its control group."""
    return memory_limit_bytes()


def get_random_alphanumeric_string(length: int) -> str:
    """A text of ``length`` random digits and small letters. It is no secret."""
    return "".join(random.choices(string.ascii_lowercase + string.digits, k=length))


def get_default_system_temp_dir() -> str:
    """The directory for temporary files: ``RAY_TMPDIR``, ``TMPDIR`` or ``/tmp``."""
    return os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"


def get_default_ray_temp_dir() -> str:
    """The directory in which Ray keeps its sessions. Sessions of zray are elsewhere, see ``worker.node``."""
    return os.path.join(get_default_system_temp_dir(), "ray")


def reset_ray_address(temp_dir: str | None = None) -> None:
    """Forgets the cluster that was started last, as Ray's tests do after each one.

    Nothing is left to forget after ``shutdown``: a cluster is found by its session's directory, which goes with it.
    """


def try_to_create_directory(directory_path: str) -> None:
    """Makes a directory, and those above it, if it is not there. ``~`` is this user's home.

    Raises:
        OSError: it cannot be made.
    """
    os.makedirs(os.path.expanduser(directory_path), exist_ok=True)
