"""Why an object is not there yet: for ``GetTimeoutError``, as far as anybody knows.

The owner knows whether a call waits for arguments; the broker where it is, and what can never be placed; workers what
they run, and what that waits for.  So one question leads to the next, until there is an answer, or a circle.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from zray.client.core.states import LIVE, PENDING, READY
from zray.client.core.tasks import Task
from zray.exceptions import ClusterUnavailableError
from zray.ids import task_of

if TYPE_CHECKING:
    from zray.client.session import Session

MAX_EXPLAINED = 3
MAX_LOOKED_AT = 20
"""Of the objects that are missing, so many are explained, with as many different sentences; each takes a question."""
MAX_STEPS = 8
PATIENCE_S = 1.0


def explain(session: Session, object_ids: Iterable[bytes]) -> str:
    """What keeps the first of these objects from being there: a sentence for each, "" if none is missing any more.

    Takes ``PATIENCE_S`` at most: so long when somebody does not answer, else milliseconds.
    """
    inquiry = _Inquiry(session)
    texts: dict[str, None] = {}
    for object_id in itertools.islice(object_ids, MAX_LOOKED_AT):
        if inquiry.is_over:
            break
        entry = session.core.references.entries.get(object_id)
        if entry is None or entry.status is not PENDING:
            continue
        if text := inquiry.why(object_id, "", b"", {}):
            texts[text] = None
        if len(texts) == MAX_EXPLAINED:
            break
    return "; ".join(texts)


class _Inquiry:
    def __init__(self, session: Session) -> None:
        self._session = session
        self._deadline = time.monotonic() + PATIENCE_S

    @property
    def is_over(self) -> bool:
        """Whether there is no time left to ask anything."""
        return time.monotonic() >= self._deadline

    def _ask(self, **about: Any) -> dict[str, Any]:
        if self.is_over:
            return {"state": "unanswered"}
        try:
            session = self._session
            left_s = self._deadline - time.monotonic()
            answer = session.ask(lambda on_answer: session.core.query("explain", about, on_answer), left_s)
        except ClusterUnavailableError:
            return {"state": "unanswered"}
        return answer if isinstance(answer, dict) else {"state": "unanswered"}

    def why(self, object_id: bytes, name: str, actor_id: bytes, path: dict[bytes, str]) -> str:
        """Why an object is not there. ``name``, ``actor_id``: what others say of the call that makes it; ``path``: what
        has been asked on the way here, by actor or task, with what to call it."""
        if len(path) >= MAX_STEPS:
            return ""
        core = self._session.core
        task_id = task_of(object_id)
        called = f"`{name}`" if name else ""
        with self._session.shell.lock:
            task = core.tasks.tasks.get(task_id)
            argument, unsent = b"", ""
            if task is not None:
                called, actor_id = _called(task), task.route.actor_id
                argument = next((ref for _, ref in task.arguments.refs if not self._is_here(ref)), b"")
                view = core.actors.views.get(actor_id)
                if task.state is READY and view is not None and view.state is LIVE:
                    unsent = f"{called} has not been sent: {view.pending_calls:,} calls of this process are pending"
        if argument:
            before = self.why(argument, "", b"", {**path, task_id: called})
            return f"{called} waits for an argument{': ' if before else ''}{before}"
        key = actor_id or task_id
        if key in path:
            return _circle(list(path.values()), path[key])
        return (self._at_actor if actor_id else self._at_worker)(key, task_id, called, path) or unsent

    def _is_here(self, object_id: bytes) -> bool:
        entry = self._session.core.references.entries.get(object_id)
        return entry is None or entry.status is not PENDING

    def _at_worker(self, key: bytes, task_id: bytes, called: str, path: dict[bytes, str]) -> str:
        found = self._ask(task=task_id)
        state = found["state"]
        called = called or f"`{found.get('name') or 'a task'}`"
        if state == "queued":
            return f"{called} has not been started: {found['why']}"
        if state != "worker":
            return ""
        where = f"pid {found['pid']} on {found['host']}"
        if not found["answers"]:
            return f"{called} is with {where}, {_MUTE}"
        runs = next((row for row in found["running"] if row[2] == task_id), None)
        if runs is None:
            behind = f" behind `{found['running'][0][0]}`" if found["running"] else ""
            return f"{called} is with {where} and has not begun{behind}"
        return f"{called} runs for {runs[1]:.1f} s ({where}){self._waits(found, key, called, path)}"

    def _at_actor(self, key: bytes, task_id: bytes, call: str, path: dict[bytes, str]) -> str:
        found = self._ask(actor=key)
        state = found["state"]
        called = f"actor {found.get('name') or 'of ' + call}"
        if state == "unplaced":
            return f"{call} waits for its {called}, which has not been started: {found['why']}"
        if state == "starting":
            return f"{call} waits for its {called}, whose process starts (pid {found['pid']} on {found['host']})"
        if state != "worker":
            return ""
        where = f"pid {found['pid']} on {found['host']}"
        if not found["answers"]:
            return f"{call} waits for its {called} ({where}), {_MUTE}"
        waits = self._waits(found, key, called, path)
        runs = next((row for row in found["running"] if row[2] == task_id), None)
        if runs is not None:
            return f"{call} runs for {runs[1]:.1f} s ({called}, {where}){waits}"
        if not found["running"]:
            return ""
        longest = max(found["running"], key=lambda row: row[1])
        others = f" and {len(found['running']) - 1} other calls" if len(found["running"]) > 1 else ""
        return f"{called} is busy with `{longest[0]}` for {longest[1]:.1f} s{others} ({where}){waits}"

    def _waits(self, found: dict[str, Any], key: bytes, called: str, path: dict[bytes, str]) -> str:
        """What the calls of a worker wait for themselves."""
        for object_id, name, actor_id in found["waits"][:1]:
            further = self.why(object_id, name, actor_id, {**path, key: called})
            return f" and waits for {f'`{name}`' if name else 'an object'}{': ' if further else ''}{further}"
        return ""


_MUTE = "which does not answer: what it runs holds the interpreter's lock, or it is stopped"


def _called(task: Task) -> str:
    if not task.attempt:
        return f"`{task.name}`"
    return f"`{task.name}` ({task.attempt_text.partition(' of `')[0]})"


def _circle(path: list[str], back_to: str) -> str:
    round_ = path[path.index(back_to) :]
    if len(round_) == 1:
        return f"{back_to} waits for itself: this never ends"
    return f"{' and '.join(round_)} wait for each other: this never ends"
