"""Small functions under the names of Ray's private module."""

from __future__ import annotations

import getpass
import os
import threading
from collections.abc import Mapping

from zray._common.utils import binary_to_hex, decode, get_or_create_event_loop, get_system_memory, hex_to_binary
from zray.system.processes import cpu_count

__all__ = [
    "binary_to_hex",
    "decode",
    "ensure_str",
    "get_num_cpus",
    "get_or_create_event_loop",
    "get_system_memory",
    "get_user",
    "hex_to_binary",
    "is_main_thread",
    "update_envs",
]


def get_num_cpus(override_docker_cpu_warning: bool = False) -> int:
    """How many CPUs this process may use, by its affinity and its control group.

    Args:
        override_docker_cpu_warning: has no meaning: there is no warning.
    """
    return cpu_count()


def ensure_str(s: str | bytes, encoding: str = "utf-8", errors: str = "strict") -> str:
    """Bytes as a text; a text as it is."""
    return s if isinstance(s, str) else s.decode(encoding, errors)


def is_main_thread() -> bool:
    """Whether this is the main thread."""
    return threading.current_thread() is threading.main_thread()


def get_user() -> str:
    """The name of the user."""
    return getpass.getuser()


def update_envs(env_vars: Mapping[str, str]) -> None:
    """Sets environment variables. ``$NAME`` and ``${NAME}`` in a value stand for the present value of a variable."""
    for name, value in env_vars.items():
        os.environ[name] = os.path.expandvars(value)
