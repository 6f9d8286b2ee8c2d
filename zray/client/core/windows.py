"""Limits for how much of a process's work is under way at a time. The rest waits in the process that submitted it.

So brokers and workers hold a bounded part of a million calls. The owner holds the rest: it keeps each call until its
outcome anyway, for retries. A window must not stop a program that would run without it. Hence one rule: *a call is held
only while it could not start even if it were sent.*

* Calls of an actor. A call counts from when it is sent to its outcome. It is held only while as many calls of the same
  caller are under way as the actor runs at once. These arrived before it, and a worker takes calls in the order of
  arrival. So either all places of the actor are taken, or one of these calls has ended, and its outcome lets the next
  call go.
* Plain tasks. A task counts until its outcome, or until its worker reports that it has begun (``Started``), which
  workers report of tasks that run long or wait. A task is held only behind tasks of the same shape. The broker starts
  these in order: while one of them finds no place, no other does. ``all_task_bytes`` is the one exception.

Sizes are payload sizes. The payload that passes a limit is still sent, so a window is exceeded by one payload at most.
"""

from __future__ import annotations

from zray.named_tuples import NamedTuple


class Windows(NamedTuple):
    """The limits of one process. Limits in bytes are compared with what is under way before a payload is sent."""

    calls: int = 2000
    """The number of calls to one actor, or twice the number that it runs at once, if that is more."""
    call_bytes: int = 32 << 20
    """The bytes of calls to one actor. As many calls as it runs at once are sent whatever their size."""
    all_call_bytes: int = 256 << 20
    """The bytes of calls to all actors, with the same exception."""
    task_bytes: int = 256 << 20
    """The bytes of tasks of one shape."""
    all_task_bytes: int = 1 << 30
    """The bytes of all tasks."""
    started_bytes: int = 4096
    """A worker reports that it has begun a task if the payload has at least this many bytes. Ten thousands of smaller
    ones would have to run at once to fill a window."""


WINDOWS = Windows()
