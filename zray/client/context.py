"""The context of the running code: a task, an actor's method, or a driver."""

from __future__ import annotations

import contextvars
from collections.abc import Mapping
from types import MappingProxyType

from zray.named_tuples import NamedTuple


class TaskContext(NamedTuple):
    """The running task.

    ``resources``: in ten-thousandths; in a placement group under its names (``zray.bundles``).
    ``accelerators``: their numbers, or names from a variable such as ``CUDA_VISIBLE_DEVICES``; ``resources`` says of
    which family they are.
    """

    task_id: bytes = b""
    name: str = ""
    attempt: int = 0
    resources: Mapping[str, int] = MappingProxyType({})
    accelerators: tuple[int | str, ...] = ()
    captures: bool = False
    """Whether what it creates runs in its placement group."""


DRIVER_CONTEXT = TaskContext()
current_task: contextvars.ContextVar[TaskContext] = contextvars.ContextVar("zray_task", default=DRIVER_CONTEXT)
