"""Explains why an object does not exist yet, for ``GetTimeoutError`` and ``zray.explain``.

The owner knows whether a call waits for arguments. The broker knows where the call is, and which calls can never be
placed. Workers know what they run, and what that waits for. So one question leads to the next, until there is an answer
or a cycle.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol

from zray.client.core.states import LIVE, PENDING, READY, WAITING
from zray.client.core.tasks import Task
from zray.exceptions import ClusterUnavailableError
from zray.ids import task_of
from zray.named_tuples import NamedTuple
from zray.protocol.questions import AT_WORKER, QUEUED, STARTING, UNPLACED, ExplainActor, ExplainTask, Explanation
from zray.protocol.records import Activity

if TYPE_CHECKING:
    from zray.client.core.client_core import ClientCore
    from zray.client.shell import ClientShell

MAX_EXPLAINED = 3
MAX_LOOKED_AT = 20
"""At most ``MAX_LOOKED_AT`` missing objects are looked at, until there are ``MAX_EXPLAINED`` different sentences. Each
object takes a question."""
MAX_STEPS = 8
PATIENCE_S = 1.0
"""The time for all questions together, in seconds."""


class Asker(Protocol):
    """The part of a session that asks the broker."""

    core: ClientCore
    shell: ClientShell

    def ask(self, send: Callable[[Callable[[Any], None]], None], timeout_s: float = 30.0) -> Any:
        """Calls ``send(on_answer)`` under the lock, and waits for the answer."""


def explain(session: Asker, object_ids: Iterable[bytes]) -> str:
    """Explains why the first of these objects are missing: a sentence for each; "" if none is missing any more.

    Takes milliseconds. Takes ``PATIENCE_S`` if a process does not answer.
    """
    inquiry = Inquiry(OwnFacts(session))
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


class Known(NamedTuple):
    """What the owner of a task knows of it.

    ``called``: the task, for people; ``actor_id``: empty for a task that is no call; ``argument``: the first argument
    that is not there yet, or empty; ``unsent``: why it is not sent, or empty.
    """

    called: str
    actor_id: bytes
    argument: bytes
    unsent: str


class Facts(Protocol):
    """Where an inquiry gets its facts from."""

    def known(self, task_id: bytes) -> Known | None:
        """What the owner knows of a task; None if the owner cannot be asked, or does not know it any more."""

    def answer(self, question: Callable[[int], ExplainTask | ExplainActor], timeout_s: float) -> Explanation | None:
        """The broker's answer; None if there is none in time."""


class OwnFacts:
    """Facts for a process about the tasks that it owns."""

    def __init__(self, session: Asker) -> None:
        self._session = session

    def known(self, task_id: bytes) -> Known | None:
        core = self._session.core
        with self._session.shell.lock:
            task = core.tasks.tasks.get(task_id)
            if task is None:
                return None
            called, unsent = _called(task), ""
            argument = next((ref for _, ref in task.arguments.refs if not self._is_here(ref)), b"")
            view = core.actors.views.get(task.route.actor_id)
            if task.state is WAITING and not task.missing:
                unsent = f"{called} {core.tasks.pauses.why(task_id)}, and is tried again after a pause"
            if task.state is READY and view is not None and view.state is LIVE:
                unsent = f"{called} has not been sent: {view.pending_calls:,} calls of this process are pending"
            return Known(called, task.route.actor_id, argument, unsent)

    def _is_here(self, object_id: bytes) -> bool:
        entry = self._session.core.references.entries.get(object_id)
        return entry is None or entry.status is not PENDING

    def answer(self, question: Callable[[int], ExplainTask | ExplainActor], timeout_s: float) -> Explanation | None:
        session = self._session
        try:
            answer = session.ask(lambda on_answer: session.core.query(question, on_answer), timeout_s)
        except ClusterUnavailableError:
            return None
        return answer if isinstance(answer, Explanation) else None


class Inquiry:
    """Questions about what is missing. Each is asked once: all sentences are about the same moment.

    ``patience_s``: the time for all questions together, in seconds.
    """

    def __init__(self, facts: Facts, patience_s: float = PATIENCE_S) -> None:
        self._facts = facts
        self._deadline = time.monotonic() + patience_s
        self._answers: dict[tuple[type, bytes], Explanation] = {}

    @property
    def is_over(self) -> bool:
        """Whether no time is left for another question."""
        return time.monotonic() >= self._deadline

    def ask(self, kind: type[ExplainTask] | type[ExplainActor], identifier: bytes) -> Explanation:
        """The broker's answer about a task or actor; ``UNANSWERED`` if there is none in time."""
        answer = self._answers.get((kind, identifier))
        if answer is None:
            left_s = self._deadline - time.monotonic()
            found = self._facts.answer(lambda request: kind(request, identifier), left_s) if left_s > 0 else None
            answer = self._answers[kind, identifier] = UNANSWERED if found is None else found
        return answer

    def why(self, object_id: bytes, name: str, actor_id: bytes, path: dict[bytes, str]) -> str:
        """Explains why an object is missing. ``name``, ``actor_id``: of the call that makes it, as another process has
        reported them. ``path``: the actors and tasks that were asked about on the way here, with their descriptions."""
        if len(path) >= MAX_STEPS:
            return ""
        task_id = task_of(object_id)
        called, argument, unsent = f"`{name}`" if name else "", b"", ""
        known = self._facts.known(task_id)
        if known is not None:
            called, actor_id, argument, unsent = known
        if argument:
            before = self.why(argument, "", b"", {**path, task_id: called})
            return f"{called} waits for an argument{': ' if before else ''}{before}"
        key = actor_id or task_id
        if key in path:
            return _circle(list(path.values()), path[key])
        return (self._at_actor if actor_id else self._at_worker)(key, task_id, called, path) or unsent

    def _at_worker(self, key: bytes, task_id: bytes, called: str, path: dict[bytes, str]) -> str:
        found = self.ask(ExplainTask, task_id)
        called = called or f"`{found.name or 'a task'}`"
        if found.state == QUEUED:
            return f"{called} has not been started: {found.why}"
        if found.state != AT_WORKER:
            return ""
        where, activity = f"pid {found.pid} on {found.host}", found.activity
        if activity is None:
            return f"{called} is with {where}, {_MUTE}"
        runs = next((call for call in activity.running if call.task_id == task_id), None)
        if runs is None:
            behind = f" behind `{activity.running[0].name}`" if activity.running else ""
            return f"{called} is with {where} and has not begun{behind}"
        return f"{called} runs for {runs.seconds:.1f} s ({where}){self._waits(activity, key, called, path)}"

    def _at_actor(self, key: bytes, task_id: bytes, call: str, path: dict[bytes, str]) -> str:
        found = self.ask(ExplainActor, key)
        called = f"actor {found.name or 'of ' + call}"
        if found.state == UNPLACED:
            return f"{call} waits for its {called}, which has not been started: {found.why}"
        where, activity = f"pid {found.pid} on {found.host}", found.activity
        if found.state == STARTING:
            return f"{call} waits for its {called}, whose process starts ({where})"
        if found.state != AT_WORKER:
            return ""
        if activity is None:
            return f"{call} waits for its {called} ({where}), {_MUTE}"
        waits = self._waits(activity, key, called, path)
        runs = next((each for each in activity.running if each.task_id == task_id), None)
        if runs is not None:
            return f"{call} runs for {runs.seconds:.1f} s ({called}, {where}){waits}"
        if not activity.running:
            return ""
        longest = max(activity.running, key=lambda each: each.seconds)
        others = f" and {len(activity.running) - 1} other calls" if len(activity.running) > 1 else ""
        return f"{called} is busy with `{longest.name}` for {longest.seconds:.1f} s{others} ({where}){waits}"

    def _waits(self, activity: Activity, key: bytes, called: str, path: dict[bytes, str]) -> str:
        """Explains what the running calls of a worker wait for."""
        for object_id, name, actor_id in activity.awaited[:1]:
            further = self.why(object_id, name, actor_id or b"", {**path, key: called})
            return f" and waits for {f'`{name}`' if name else 'an object'}{': ' if further else ''}{further}"
        return ""


UNANSWERED = Explanation(0, "unanswered")
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
