"""What ``wait`` need not check again, and what it has to."""

from __future__ import annotations

import contextlib
import functools
from types import SimpleNamespace
from typing import Any, cast

import pytest

from zray.api import objects
from zray.client import session as sessions
from zray.client.checked import MANY, CheckedRefs
from zray.client.objects import Objects
from zray.ids import make_task_id, return_id
from zray.object_ref import ObjectRef

ME = b"me".ljust(16, b"\0")
N = 4 * MANY


def made(count: int) -> list[ObjectRef]:
    ids = [return_id(make_task_id(ME, number), 1) for number in range(count)]
    return [ObjectRef._make(object_id, cast(Any, None)) for object_id in ids]


class Uncomparable:
    def __eq__(self, other: object) -> bool:
        raise ArithmeticError

    __hash__ = None  # type: ignore[assignment]


def test_what_was_kept_is_known() -> None:
    checked, refs = CheckedRefs(), made(N)
    assert not checked.has(refs) and not checked.has([])
    checked.keep(refs)
    assert checked.has(refs) and checked.has(list(refs))
    checked.forget()
    assert not checked.has(refs)


def test_few_are_not_kept() -> None:
    checked, refs = CheckedRefs(), made(N)
    checked.keep(refs)
    checked.keep(refs[: MANY - 1])
    assert checked.has(refs) and not checked.has(refs[: MANY - 1])
    checked.keep(refs[:MANY])
    assert checked.has(refs[:MANY]) and not checked.has(refs)


@pytest.mark.parametrize("other", [5, None, Uncomparable(), made(1)[0]], ids=["int", "None", "uncomparable", "ref"])
@pytest.mark.parametrize("place", [0, N // 2, N - 1])
def test_a_list_that_was_changed_is_not_known(other: object, place: int) -> None:
    checked, refs = CheckedRefs(), made(N)
    checked.keep(refs)
    refs[place] = cast(Any, other)
    assert not checked.has(refs)


def test_another_order_or_length_is_not_known() -> None:
    checked, refs = CheckedRefs(), made(N)
    checked.keep(refs)
    assert not checked.has(refs[::-1]) and not checked.has(refs[1:]) and not checked.has([*refs, refs[0]])


# ---------------------------------------------------------------------- in zray.wait


class Waits:
    """All objects exist."""

    def wait(self, refs: list[ObjectRef], num_returns: int, timeout_s: float | None, local: bool) -> list[ObjectRef]:
        return refs[:num_returns]


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> Any:
    session = SimpleNamespace(checked=CheckedRefs(), waits=Waits())
    monkeypatch.setattr(sessions, "_current", session)
    values = SimpleNamespace(_checked=session.checked, _check_usable=lambda: None, _waits=session.waits)
    runtime = SimpleNamespace(wait=functools.partial(Objects.wait, cast(Any, values)))
    monkeypatch.setattr(objects, "runtime", lambda: runtime)
    return session


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of references in each list that was checked."""
    counts: list[int] = []
    check = objects._are_distinct_refs

    def counted(given: list[Any]) -> bool:
        counts.append(len(given))
        return check(given)

    monkeypatch.setattr(objects, "_are_distinct_refs", counted)
    return counts


@pytest.mark.parametrize("num_returns", [1, 3])
def test_a_loop_checks_the_references_once(session: Any, checks: list[int], num_returns: int) -> None:
    pending, order = made(N), []
    expected = list(pending)
    while pending:
        ready, pending = objects.wait(pending, num_returns=min(num_returns, len(pending)))
        order += ready
    assert order == expected
    assert checks[0] == N and all(count < MANY for count in checks[1:])


def test_a_loop_that_gets_nothing_checks_the_references_once(session: Any, checks: list[int]) -> None:
    session.waits.wait = lambda *_: []
    pending = made(N)
    for _ in range(10):
        ready, rest = objects.wait(pending, timeout=0)
        assert ready == [] and rest == pending and rest is not pending
        pending = rest
    assert checks == [N]


def test_a_changed_list_is_checked_again(session: Any, checks: list[int]) -> None:
    _, pending = objects.wait(made(N))
    for error, change in (
        (ValueError, lambda: pending.__setitem__(3, pending[4])),
        (ValueError, lambda: pending.append(pending[0])),
        (TypeError, lambda: pending.__setitem__(3, cast(Any, 5))),
        (TypeError, lambda: pending.__setitem__(3, cast(Any, Uncomparable()))),
    ):
        before = list(pending)
        change()
        with pytest.raises(error, match="duplicates" if error is ValueError else "list containing a"):
            objects.wait(pending)
        pending[:] = before
    assert objects.wait(pending) == ([pending[0]], pending[1:])
    assert checks == [N, N - 1, N, N - 1, N - 1]


def test_what_the_program_does_to_its_list_is_not_done_to_what_is_known(session: Any, checks: list[int]) -> None:
    _, pending = objects.wait(made(N))
    removed = pending.pop()
    with contextlib.suppress(ValueError):
        pending.remove(removed)
    assert objects.wait(pending, num_returns=N - 2) == (pending, [])
    assert checks == [N, N - 2]


def test_other_arguments_are_checked_each_time(session: Any) -> None:
    _, pending = objects.wait(made(N))
    for options in ({"num_returns": 0}, {"num_returns": N}, {"timeout": -1}):
        with pytest.raises(ValueError):
            objects.wait(pending, **cast(Any, options))
