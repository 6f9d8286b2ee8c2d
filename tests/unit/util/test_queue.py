"""The actor behind a queue; what callers see is in the conformance scenarios."""

from __future__ import annotations

import asyncio

import pytest

from zray.util.queue import Empty, Full, _QueueActor


@pytest.mark.parametrize("timeout", [None, 0, 5.0])
def test_what_need_not_wait_makes_no_task(monkeypatch, timeout):
    monkeypatch.setattr(asyncio, "wait_for", None)

    async def use() -> list[int]:
        actor = _QueueActor(2)
        for number in range(2):
            await actor.put(number, timeout)
        return [await actor.get(timeout) for _ in range(2)]

    assert asyncio.run(use()) == [0, 1]


def test_what_waits_is_served_in_order():
    async def use() -> list[int]:
        actor = _QueueActor(1)
        getters = [asyncio.create_task(actor.get()) for _ in range(2)]
        await asyncio.sleep(0)
        for number in range(2):
            await actor.put(number)
        return await asyncio.gather(*getters)

    assert asyncio.run(use()) == [0, 1]


def test_an_end_of_the_wait():
    async def use() -> None:
        actor = _QueueActor(1)
        with pytest.raises(Empty):
            await actor.get(0.001)
        await actor.put(1)
        with pytest.raises(Full):
            await actor.put(2, 0.001)
        assert await actor.get() == 1

    asyncio.run(use())
