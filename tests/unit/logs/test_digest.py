"""Many similar lines are summed up in few."""

from __future__ import annotations

import math

from zray.logs.digest import LAST_OUTPUT, Digest, in_a_line


def test_the_first_event_is_told_at_once_and_the_following_in_one_line():
    digest = Digest("more died")
    assert digest.add(10.0, "f", "f died") == "f died"
    assert [digest.add(10.1, name, f"{name} died") for name in "ffg"] == [""] * 3
    assert digest.flush(14.9) == ""
    assert digest.flush(15.1) == "3 more died (f 2x, g 1x), the last: g died"
    assert digest.flush(30.0) == ""


def test_a_single_line_is_told_unchanged():
    digest = Digest("more died")
    digest.add(0.0, "f", "first")
    digest.add(1.0, "f", "second")
    assert digest.flush(5.0) == "second"


def test_after_a_summary_a_new_window_begins():
    digest = Digest("more died")
    digest.add(0.0, "f", "1")
    digest.add(0.0, "f", "2")
    digest.flush(5.0)
    assert digest.add(6.0, "f", "3") == ""
    assert digest.flush(10.0) == "3"
    assert digest.add(20.0, "f", "4") == "4"


def test_nothing_is_told_out_of_order():
    digest = Digest("more died")
    digest.add(0.0, "f", "1")
    digest.add(0.0, "f", "2")
    assert digest.add(6.0, "f", "3") == ""  # the window is over and the second line is untold
    assert digest.flush(6.0) == "2 more died (f 2x), the last: 3"


def test_of_many_names_the_most_frequent_are_shown():
    digest = Digest("more died")
    digest.add(0.0, "f", "f died")
    for name in "aabbcddee12":
        digest.add(0.0, name, f"{name} died")
    assert digest.flush(math.inf) == "11 more died (a 2x, b 2x, d 2x, e 2x, c 1x and 2 others), the last: 2 died"


def test_a_description_of_a_death_in_one_line():
    account = "the worker process was killed by SIGSEGV"
    assert in_a_line(account) == account
    assert in_a_line(f"{account}{LAST_OUTPUT}Fatal Python error\n  File 'x'") == account
    assert in_a_line(f"{account}\nhint: copy it") == account
