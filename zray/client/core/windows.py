"""How much of a process's work is under way at a time. What is beyond waits in the process that submitted it.

So brokers and workers hold a bounded part of a million calls, and the owner, which keeps each call until its outcome
for retries anyway, holds the rest. A window must not stop a program that would run without it. Hence one rule: *a call
is held only while it could not start either if it were sent.*

* Calls of an actor. A call counts from sent to outcome. It is held only while as many calls of the same caller are
  under way as the actor runs at once. These arrived before it, and a worker takes calls in the order of their arrival:
  either all its places are taken, or one of these has ended, and its outcome lets the next one go.
* Plain tasks. A task counts until its outcome, or until its worker says that it has begun (``Started``), which is said
  of tasks that run for long or wait. It is held only behind tasks of the same resources, which the broker starts in
  their order: while one of them finds no place, no other does. ``all_task_bytes`` is the one exception.

Sizes are those of payloads. The one that passes a limit is still sent, so a window is exceeded by one payload at most.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Windows:
    """Limits of one process. Those in bytes are compared with what is under way before another one is sent."""

    calls: int = 2000
    """Calls to one actor; twice as many as it runs at once, if that is more."""
    call_bytes: int = 32 << 20
    """Of calls to one actor; as many calls as it runs at once are sent whatever they weigh."""
    all_call_bytes: int = 256 << 20
    """Of calls to all actors; with the same exception."""
    task_bytes: int = 256 << 20
    """Of tasks that ask for the same resources."""
    all_task_bytes: int = 1 << 30
    """Of all tasks."""
    started_bytes: int = 4096
    """A worker tells that it has begun with a task whose payload has so many bytes; smaller ones would need to run by
    the ten thousand at once to fill a window."""


WINDOWS = Windows()
