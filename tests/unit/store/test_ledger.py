"""The store's decisions: size classes, the ledger of bytes, and the choice of segments that make room."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zray.store.ledger import (
    PAGE_BYTES,
    SMALLEST_CLASS_BYTES,
    TRAILER_BYTES,
    Candidate,
    Ledger,
    Place,
    choose,
    segment_bytes,
)

MIB = 1 << 20


@given(st.integers(0, 1 << 42))
def test_a_class_holds_object_and_trailer_in_whole_pages_and_wastes_a_quarter_at_most(size):
    segment = segment_bytes(size)
    assert segment >= size + TRAILER_BYTES
    assert segment % PAGE_BYTES == 0
    assert segment <= max(1.25 * size, SMALLEST_CLASS_BYTES) + 2 * PAGE_BYTES


@given(st.integers(0, 1 << 42), st.integers(0, 1 << 20))
def test_classes_grow_with_sizes(size, more):
    assert segment_bytes(size) <= segment_bytes(size + more)


def test_there_are_four_classes_to_a_doubling_and_a_round_size_with_its_pickle_fits_its_own():
    assert len({segment_bytes(size) for size in range(MIB, 2 * MIB, 1000)}) == 5  # 1 MiB's, and four up to 2 MiB's
    assert segment_bytes(MIB + 4032) == MIB + PAGE_BYTES
    assert segment_bytes(MIB + 4033) == MIB * 5 // 4 + PAGE_BYTES


@st.composite
def transitions(draw):
    places = [Place.WRITING, Place.LIVE, Place.DOOMED, Place.FREE]
    return draw(
        st.lists(
            st.tuples(st.sampled_from(["enter", "move", "leave"]), st.integers(1, 60), st.sampled_from(places)),
            max_size=60,
        )
    )


@given(transitions())
def test_the_ledger_agrees_with_the_files_and_returns_to_zero(steps):
    ledger = Ledger(100, [0] * len(Place))
    files: list[tuple[int, Place]] = []
    for action, number, place in steps:
        if action == "enter":
            if ledger.shortage(number):
                assert sum(size for size, _ in files) + number > ledger.capacity
                continue
            ledger.enter(place, number)
            files.append((number, place))
        elif files:
            size, source = files.pop(number % len(files))
            if action == "leave":
                ledger.leave(source, size)
            else:
                ledger.move(size, source, place)
                files.append((size, place))
        assert ledger.used == sum(size for size, _ in files) <= ledger.capacity
        assert all(ledger.held[p] == sum(size for size, at in files if at is p) for p in Place)
    for size, place in files:
        ledger.leave(place, size)
    assert ledger.used == 0
    assert not any(ledger.held)


def test_a_change_that_would_break_the_ledger_is_refused():
    ledger = Ledger(100, [0] * len(Place))
    with pytest.raises(AssertionError, match="capacity"):
        ledger.enter(Place.WRITING, 101)
    with pytest.raises(AssertionError, match="live"):
        ledger.leave(Place.LIVE, 1)


def test_spilled_objects_are_outside_of_the_capacity():
    ledger = Ledger(100, [0] * len(Place))
    ledger.enter(Place.SPILLED, 1000)
    assert (ledger.used, ledger.shortage(100), ledger.usage().spilled) == (0, 0, 1000)


candidates = st.lists(
    st.builds(Candidate, st.text("abc", max_size=3), st.integers(1, 50), st.integers(0, 9), st.booleans()),
    unique_by=lambda c: c.path,
)


@given(st.integers(0, 200), candidates)
def test_as_few_as_cover_the_shortage_are_chosen_and_never_a_pinned_one(shortage, among):
    chosen = choose(shortage, among)
    covered = sum(c.size for c in chosen)
    assert not any(c.pinned for c in chosen)
    assert len(set(chosen)) == len(chosen) and set(chosen) <= set(among)
    if covered < shortage:
        assert set(chosen) == {c for c in among if not c.pinned}
    else:
        assert all(covered - c.size < shortage for c in chosen)


def test_the_least_recently_used_goes_first():
    among = [Candidate("new", 10, 3, False), Candidate("old", 10, 1, False), Candidate("middle", 10, 2, False)]
    assert [c.path for c in choose(15, among)] == ["old", "middle"]
    assert choose(0, among) == []
