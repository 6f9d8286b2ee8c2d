"""What a test leaves behind in the cluster of its process, for the pytest plugin (``pytest_zray``)."""

from __future__ import annotations

import contextlib
import gc
import os
import time
from collections.abc import Collection, Mapping

from zray.api.cluster import is_initialized
from zray.api.runtime_context import get_runtime_context
from zray.named_tuples import NamedTuple
from zray.util.named_actors import list_named_actors
from zray.util.state import list_actors, list_objects, list_tasks

KINDS = ("actors", "tasks", "objects")
PATIENCE_S = 3.0
"""How long a test's actors and tasks may take to end after it, in seconds: handles are given back asynchronously."""
PAUSE_S = 0.02
LIMIT = 10_000
"""The most records of a kind that are looked at."""
MOST_NAMED = 10
ENDED = ("FINISHED", "FAILED")


class Left(NamedTuple):
    """What is in the cluster: descriptions by identifier."""

    actors: Mapping[str, str] = {}
    tasks: Mapping[str, str] = {}
    objects: Mapping[str, str] = {}


def look() -> Left:
    """Returns what is in the cluster now. Nothing if this process is in none."""
    if not is_initialized():
        return Left()
    ours = get_runtime_context().get_job_id()
    actors = {
        each.actor_id: f"{each.class_name}{f' {each.name!r}' if each.name else ''} ({each.state})"
        for each in list_actors(limit=LIMIT, raise_on_missing_output=False)
        if each.state != "DEAD" and each.job_id == ours
    }
    tasks = {
        each.task_id: f"{each.name} ({each.state})"
        for each in list_tasks(limit=LIMIT, raise_on_missing_output=False)
        if each.state not in ENDED and each.job_id == ours
    }
    objects = {
        each.object_id: f"{each.object_id} ({_size(each.object_size)})"
        for each in list_objects(limit=LIMIT, raise_on_missing_output=False)
        if each.pid == os.getpid() and each.reference_type != "ACTOR_HANDLE" and each.object_id[:48] not in tasks
    }
    return Left(actors, tasks, objects)


def _size(size_bytes: int) -> str:
    return "of unknown size" if size_bytes < 0 else f"{size_bytes:,} bytes"


def left_behind(before: Left, allowed: Collection[str] = (), patience_s: float = PATIENCE_S) -> str:
    """Describes what has come since ``before`` and does not end within ``patience_s``; empty if there is nothing.

    ``allowed``: the kinds, of ``KINDS``, that may be left.
    """
    deadline = time.monotonic() + patience_s
    is_first = True
    while more := _more(before, allowed):
        if is_first:
            gc.collect()  # references and handles in cycles
        elif time.monotonic() >= deadline:
            return "\n".join(["the test left behind in the cluster:", *more, ADVICE])
        is_first = False
        time.sleep(PAUSE_S)
    return ""


ADVICE = (
    "Kill or drop what the test creates, or wait for it. What a fixture creates is not counted. "
    "@pytest.mark.zray_leaves('actors') allows it for a test, `zray_leaks = false` in pytest's configuration for all."
)


def _more(before: Left, allowed: Collection[str]) -> list[str]:
    now = look()
    lines = []
    for kind in KINDS:
        known, found = getattr(before, kind), getattr(now, kind)
        new = [text for key, text in found.items() if key not in known]
        if new and kind not in allowed:
            more = f" and {len(new) - MOST_NAMED} more" if len(new) > MOST_NAMED else ""
            lines.append(f"  {len(new)} {kind if len(new) > 1 else kind[:-1]}: {', '.join(new[:MOST_NAMED])}{more}")
    return lines


def kill_actors_in(namespace: str) -> None:
    """Kills the named actors of a namespace."""
    from zray.api.objects import get_actor, kill

    if not is_initialized():
        return
    for each in list_named_actors(all_namespaces=True):
        if isinstance(each, dict) and each["namespace"] == namespace:
            with contextlib.suppress(ValueError):  # it has just died
                kill(get_actor(each["name"], namespace))
