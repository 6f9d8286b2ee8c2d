"""The owner's table of copies: to which holder it sends a process."""

from __future__ import annotations

import random

from zray.client.core.locations import MAX_SOURCES, LocationTable

OBJECT, KEEPER = b"o" * 28, b"keeper"


def ask(table: LocationTable, asker: bytes, *lost: bytes, serves: bool = True) -> list[bytes]:
    return table.sources(OBJECT, KEEPER, asker, serves, list(lost))


def test_the_first_is_sent_to_the_keeper_and_all_others_to_one_that_feeds_none():
    table = LocationTable()
    chain = [ask(table, bytes([n])) for n in range(5)]
    assert chain == [[KEEPER], [b"\0"], [b"\1"], [b"\2"], [b"\3"]]


def test_a_complete_holder_goes_before_an_incomplete_one():
    table = LocationTable()
    ask(table, b"a")
    ask(table, b"b")
    table.made(OBJECT, b"a")
    assert ask(table, b"c") == [KEEPER]  # it feeds no process any more; a feeds b
    assert table.complete(OBJECT) == [b"a"]


def test_several_complete_ones_are_named_together():
    table = LocationTable()
    for host in b"abcdef":
        table.made(OBJECT, bytes([host]))
    assert ask(table, b"z") == [KEEPER, b"a", b"b"]
    assert ask(table, b"y") == [b"c", b"d", b"e"]
    assert len(ask(table, b"x")) == 1 <= MAX_SOURCES
    assert len(ask(table, b"w")) == 1


def test_holders_that_cannot_serve_get_copies_but_are_never_named():
    table = LocationTable()
    assert ask(table, b"driver", serves=False) == [KEEPER]
    assert ask(table, b"a") == [KEEPER]
    assert ask(table, b"b") == [b"a"]


def test_no_holder_is_sent_to_its_own_descendants():
    table = LocationTable()
    for host in (b"a", b"b", b"c"):
        ask(table, host)
    # a has lost the keeper. a feeds b, and b feeds c: there is no other holder.
    assert ask(table, b"a", KEEPER) == []
    # a has given up, so b loses it too.
    assert ask(table, b"b", b"a") == [KEEPER]


def test_a_lost_copy_is_named_no_more_and_a_lost_keeper_only_to_others():
    table = LocationTable()
    table.made(OBJECT, b"a")
    ask(table, b"b")
    assert ask(table, b"c", b"a") == [b"b"]  # the keeper feeds b already
    assert table.complete(OBJECT) == []
    assert ask(table, b"d", KEEPER) == [b"c"]


def test_the_end_of_an_object_and_of_a_host():
    table = LocationTable()
    table.made(OBJECT, b"a")
    ask(table, b"b")
    table.gone(OBJECT, b"unknown")
    assert table.forget(OBJECT) == [b"a", b"b"]
    assert table.forget(OBJECT) == []
    table.made(OBJECT, b"a")
    table.on_process_died(b"a")
    table.on_process_died(b"a")
    assert table.complete(OBJECT) == []
    table.gone(OBJECT, b"a")


def test_there_is_never_a_cycle():
    rng = random.Random(1)
    for _ in range(300):
        table = LocationTable()
        parents: dict[bytes, list[bytes]] = {}
        hosts = [bytes([n]) for n in range(8)]
        for _ in range(60):
            host = rng.choice(hosts)
            action = rng.random()
            if action < 0.6:
                lost = [h for h in (*hosts, KEEPER) if h in parents.get(host, ()) and rng.random() < 0.7]
                parents[host] = ask(table, host, *lost)
            elif action < 0.8:
                table.made(OBJECT, host)
                parents[host] = []
            elif action < 0.9:
                table.gone(OBJECT, host)
                parents[host] = []
            else:
                table.on_process_died(host)
                parents[host] = []
            for start in hosts:
                seen, ahead = set(), list(parents.get(start, ()))
                while ahead:
                    at = ahead.pop()
                    assert at != start, "it would wait for itself"
                    if at not in seen:
                        seen.add(at)
                        ahead.extend(parents.get(at, ()))
