"""What waits for one object: few and many behave alike."""

from __future__ import annotations

import pytest

from zray.client.core.waiters import FEW, Waiters, Waiting, all_waiters, remove_waiter, with_waiter


class Other:
    def ready(self, object_id: bytes) -> None:
        return


def added(waiters: list[Waiting]) -> Waiters:
    result: Waiters | None = None
    for waiter in waiters:
        result = with_waiter(result, waiter)
    assert result is not None
    return result


@pytest.mark.parametrize("n", [1, 2, FEW, FEW + 1, 3 * FEW])
def test_each_is_told_in_order_as_often_as_it_waits(n: int) -> None:
    waiters: list[Waiting] = [Other() for _ in range(n)]
    assert list(all_waiters(added(waiters))) == waiters
    twice = list(all_waiters(added([*waiters, waiters[0]])))
    assert sorted(map(id, twice)) == sorted(map(id, [*waiters, waiters[0]]))


@pytest.mark.parametrize("n", [1, 2, FEW, FEW + 1, 3 * FEW])
def test_one_that_waits_twice_is_removed_once(n: int) -> None:
    first, *rest = waiters = [Other() for _ in range(n)]
    result = added([*waiters, first])
    remove_waiter(result, first)
    assert set(all_waiters(result)) == set(waiters) and len(list(all_waiters(result))) == n
    remove_waiter(result, first)
    remove_waiter(result, first)  # it is not there
    assert list(all_waiters(result)) == rest


def test_many_are_not_searched() -> None:
    class Compared(Other):
        compared = 0

        def __eq__(self, other: object) -> bool:
            Compared.compared += 1
            return self is other

        __hash__ = object.__hash__

    waiters: list[Waiting] = [Compared() for _ in range(1000)]
    result = added(waiters)
    for waiter in reversed(waiters):
        remove_waiter(result, waiter)
    assert not list(all_waiters(result)) and Compared.compared < len(waiters)
