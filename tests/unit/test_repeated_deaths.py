"""When what has died again and again is started next, and when it is not."""

from __future__ import annotations

from zray.repeated_deaths import FREE, LONGEST_PAUSE_S, MOST, QUICK_S, RepeatedDeaths


def test_pauses_double_after_the_free_ones_up_to_the_longest():
    deaths, now, pauses = RepeatedDeaths(), 0.0, []
    for _ in range(MOST):
        assert not deaths.are_too_many
        pauses.append(deaths.add("SIGSEGV", now))
        now += pauses[-1]
    assert pauses[: FREE + 3] == [0, 0, 0, 0.1, 0.2, 0.4]
    assert max(pauses) == pauses[-1] == LONGEST_PAUSE_S
    assert deaths.are_too_many


def test_a_life_is_counted_from_its_beginning_and_not_from_the_queue():
    deaths, now = RepeatedDeaths(), 1000.0
    for count in range(1, 8):
        deaths.add("SIGSEGV", now)
        assert deaths.count == count
        now += 100.0  # it waits for a place
        deaths.begins(now)
        now += QUICK_S / 2


def test_a_long_life_ends_the_row():
    deaths = RepeatedDeaths()
    for _ in range(10):
        deaths.add("SIGSEGV", 5.0)
    assert deaths.add("SIGBUS", 1000.0) == 0.0
    assert deaths.count == 1 and "SIGSEGV" not in deaths.history()


def test_the_history_has_the_most_frequent_reasons_without_output():
    deaths = RepeatedDeaths()
    for number, times in enumerate([5, 4, 3, 1, 1]):
        for _ in range(times):
            deaths.add(f"reason {number}\nits last output", 0.0)
    assert deaths.history().splitlines() == [
        "It died 14 times in a row, each time within 10 s, so it is not started again:",
        "  5 x reason 0",
        "  4 x reason 1",
        "  3 x reason 2",
        "  and 2 other reasons",
    ]
