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
    EvictionQueue,
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


def test_the_first_are_chosen_and_no_more_are_looked_at():
    among = [Candidate("a", 10, 1, False), Candidate("pinned", 10, 2, True), Candidate("b", 10, 3, False)]
    rest = iter([*among, Candidate("c", 10, 4, False)])
    assert [c.path for c in choose(15, rest)] == ["a", "b"]
    assert [c.path for c in rest] == ["c"]
    assert choose(0, among) == []


class World:
    """Segments of one place, which counts how many are looked at."""

    def __init__(self) -> None:
        self.segments: dict[str, Candidate] = {}
        self.now = self.made = self.looked_at = 0
        self.queue = EvictionQueue(self.look)

    def look(self, path: str) -> Candidate | None:
        self.looked_at += 1
        return self.segments.get(path)

    def make(self, size: int = 10) -> str:
        self.made += 1
        path = f"{self.made:06}"
        self.segments[path] = Candidate(path, size, self.tick(), False)
        return path

    def change(self, path: str, pinned: bool) -> None:
        """A use, which pins or not."""
        before = self.segments[path]
        self.segments[path] = Candidate(path, before.size, before.last_use_ns if pinned else self.tick(), pinned)

    def tick(self) -> int:
        self.now += 1
        return self.now

    def take(self, shortage: int, portion: int = 0):
        victims = self.queue.take(shortage, portion)
        if not victims.cover(shortage):
            self.looked_at += len(self.segments)
            self.queue.refill((each.last_use_ns, each.path) for each in self.segments.values())
            victims = self.queue.take(shortage, portion)
        return victims

    def evict(self, shortage: int, portion: int = 0) -> list[str]:
        victims = self.take(shortage, portion)
        gone = [each.path for each in victims.needed + victims.ahead]
        for path in gone:
            del self.segments[path]
        return gone


@given(
    st.lists(
        st.tuples(st.sampled_from(["make", "make", "use", "pin", "free", "take", "evict"]), st.integers(1, 60)),
        max_size=100,
    )
)
def test_a_queue_chooses_as_if_it_looked_at_all_segments_each_time(steps):
    world = World()
    for action, number in steps:
        paths = sorted(world.segments)
        path = paths[number % len(paths)] if paths else ""
        if action == "make":
            world.make(number)
        elif action in ("take", "evict"):
            in_order = sorted(world.segments.values(), key=lambda each: each.last_use_ns)
            assert world.take(number).needed == choose(number, in_order)
            if action == "evict":
                world.evict(number)
        elif path and action == "free":
            del world.segments[path]
        elif path and not world.segments[path].pinned:
            world.change(path, pinned=action == "pin")


@pytest.mark.parametrize("n_segments", [500, 2_000, 16_000])
def test_looks_do_not_grow_with_the_number_of_segments(n_segments):
    world = World()
    for _ in range(n_segments):
        world.make()
    steps = 2 * n_segments
    for _ in range(steps):
        assert len(world.evict(10)) == 1
        world.make()
    assert world.looked_at <= 12 * steps


def test_segments_in_use_are_looked_at_once_until_the_next_look_at_all():
    world = World()
    paths = [world.make() for _ in range(100)]
    for path in paths[:50]:
        world.change(path, pinned=True)
    for expected in paths[50:]:
        assert world.evict(10) == [expected]
    assert world.looked_at <= 100 + 50 + 2 * 50
    assert world.evict(10) == []
    world.change(paths[7], pinned=False)
    assert world.evict(10) == [paths[7]]


def test_what_could_not_be_evicted_comes_again():
    world = World()
    path = world.make()
    assert [each.path for each in world.take(10).needed] == [path]
    assert world.evict(10) == [path]


def test_some_leave_ahead_but_with_the_needed_ones_no_more_than_a_portion():
    world = World()
    paths = [world.make(10) for _ in range(9)]
    victims = world.take(5, 35)
    assert [each.path for each in victims.needed] == paths[:1]
    assert [each.path for each in victims.ahead] == paths[1:3]
    assert world.evict(35, 35) == paths[:4]
    assert world.evict(1, 10) == paths[4:5]
    assert world.evict(0, 35) == []
    assert world.evict(1, 1000) == paths[5:]
