"""Functions that are shipped through the store, since they captured something large."""

from __future__ import annotations

import pytest

from .helpers import by_hand, driver

PROGRAM = """
    ray.init({address!r})
    table = bytes(range(256)) * 8192  # 2 MiB, the same in every driver

    @ray.remote
    def entry(i):
        return table[i]

    @ray.remote
    class Reader:
        def entry(self, i):
            return table[i]

    def both(i):
        return ray.get([entry.remote(i), Reader.remote().entry.remote(i)], timeout=10)

    print("ready", both(7), flush=True)
    input()
    print("again", both(8), flush=True)
"""


@pytest.mark.parametrize("first_leaves", [True, False])
def test_the_same_one_of_two_drivers(sandbox, first_leaves):
    """Each has stored it by itself, so neither needs the other to stay."""
    with by_hand() as (address, _, _):
        source = PROGRAM.format(address=address)
        with driver(source) as one:
            one.expect("ready [7, 7]")
            with driver(source) as two:
                two.expect("ready [7, 7]")
                leaver, stayer = (one, two) if first_leaves else (two, one)
                leaver.say("go\n")
                leaver.succeed()
                stayer.say("go\n")
                assert "again [8, 8]" in stayer.succeed()


def test_shipped_once_from_many_threads(ray):
    from concurrent.futures import ThreadPoolExecutor

    table = bytes(2 << 20)

    @ray.remote
    def size():
        return len(table)

    with ThreadPoolExecutor(8) as pool:
        refs = list(pool.map(lambda _: size.remote(), range(32)))
    assert ray.get(refs, timeout=20) == [len(table)] * 32
