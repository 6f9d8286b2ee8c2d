"""The situation of a task or actor that does not go on: its state, why, and what would have to change.

``zray.explain`` and ``zray why`` show these. The functions are pure: they read what owners and the broker answered.
"""

from __future__ import annotations

from zray.named_tuples import NamedTuple
from zray.protocol import questions as q
from zray.protocol import state_questions as sq


class Situation(NamedTuple):
    """The fields of the same names of ``zray.api.explanations.Explanation``."""

    state: str
    where: str = ""
    seconds: float | None = None
    why: str = ""
    remedy: str = ""


UNDER_WAY = "UNDER WAY"
"""The state of what is between two states, or whose state is not known."""


def of_missing_argument(why: str) -> Situation:
    """The situation of a task that waits for an argument."""
    return Situation("WAITING FOR ARGUMENTS", why=why, remedy=_of_awaited(why))


def of_task(found: q.Explanation, task_id: bytes, why: str) -> Situation:
    """The situation of a task that has its arguments. ``why``: the sentence of ``zray.client.explain.Inquiry``."""
    if found.state == q.QUEUED:
        return Situation("QUEUED", why=why, remedy=_of_place(found.why))
    if found.state != q.AT_WORKER:
        return Situation(UNDER_WAY, why=why)
    remedy = "the task before it must end; if that takes long, this one moves on"
    return _at_process(found, task_id, why) or Situation("AT WORKER", _where(found), None, why, remedy)


def of_call(found: q.Explanation, task_id: bytes, why: str) -> Situation:
    """The situation of a call of an actor that has its arguments. ``found``: about the actor."""
    if found.state == q.UNPLACED:
        return Situation("WAITING FOR ACTOR", why=why, remedy=_of_place(found.why))
    if found.state == q.STARTING:
        return Situation("WAITING FOR ACTOR", _where(found), None, why, "the actor's process must start")
    if found.state != q.AT_WORKER:
        return Situation(UNDER_WAY, why=why)
    remedy = "a call that runs must end, or the actor needs more max_concurrency"
    return _at_process(found, task_id, why) or Situation("AT WORKER", _where(found), None, why, remedy)


def actor_label(record: sq.ActorRecord) -> str:
    """An actor, for people."""
    label = f"actor {record.class_name.rpartition('.')[2]}{f' {record.name!r}' if record.name else ''}"
    if record.restarts:
        label += f" (restarted {record.restarts} time{'s' if record.restarts > 1 else ''})"
    return label


def of_actor(record: sq.ActorRecord, found: q.Explanation | None) -> Situation:
    """The situation of an actor. ``found``: the broker's answer; it is not read if the actor is dead."""
    if record.state == "DEAD" or found is None:
        return Situation("DEAD", why=record.reason, remedy="create a new one; max_restarts restarts actors")
    if found.state == q.UNPLACED:
        return Situation(record.state, why=found.why, remedy=_of_place(found.why))
    where = _where(found) if found.pid else ""
    if found.state == q.STARTING:
        return Situation(record.state, where, None, "its process starts", "it must start")
    if found.activity is None:
        remedy = "the process must go on; kill() ends it"
        return Situation(record.state, where, None, "its process does not answer", remedy)
    running = sorted(found.activity.running, key=lambda call: -call.seconds)
    if not running:
        return Situation(record.state, where, why="it runs no call")
    calls = ", ".join(f"`{call.name}` for {call.seconds:.1f} s" for call in running[:3])
    more = f" and {len(running) - 3} others" if len(running) > 3 else ""
    return Situation(record.state, where, running[0].seconds, f"it runs {calls}{more}")


def of_group(row: q.GroupRow) -> Situation:
    """The situation of a placement group."""
    if not row.why:
        return Situation(row.state)
    return Situation(row.state, "", row.waited_s, row.why, _of_room(row.can_be_placed))


def _where(found: q.Explanation) -> str:
    return f"pid {found.pid} on {found.host}"


def _at_process(found: q.Explanation, task_id: bytes, why: str) -> Situation | None:
    """The situation if the worker does not answer, or runs the task; else None."""
    if found.activity is None:
        remedy = "the process must go on; cancel(force=True) ends a task, kill() an actor"
        return Situation("NOT ANSWERING", _where(found), None, why, remedy)
    runs = next((call for call in found.activity.running if call.task_id == task_id), None)
    if runs is None:
        return None
    waits = " and waits for " in why
    remedy = _of_awaited(why) if waits else "it must end: cancel() or the option timeout_s ends it"
    return Situation("RUNNING", _where(found), runs.seconds, why if waits else "", remedy)


def _of_awaited(why: str) -> str:
    if why.endswith("this never ends"):
        return "a deadlock: cancel one of them, and do not let them wait for each other"
    return "what it waits for must be made"


def _of_place(why: str) -> str:
    if "waits for arguments" in why:
        return "what it waits for must be made"
    if "environment" in why:
        return "the environment must be installed"
    return _of_room("cannot be scheduled" not in why)


def _of_room(can_be_placed: bool) -> str:
    if not can_be_placed:
        return "a host that has all of this must join, or it must ask for less"
    return "what holds these resources must end, or hosts must join; the option priority decides who is next"
