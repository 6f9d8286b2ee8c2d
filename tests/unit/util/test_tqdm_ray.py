"""Progress bars as lines."""

from __future__ import annotations

import pytest

from zray.experimental import tqdm_ray
from zray.experimental.tqdm_ray import tqdm


def states(capsys):
    return capsys.readouterr().err.split("\r")[1:]


def test_a_bar_advances_with_its_iterable(capsys):
    assert list(tqdm([7, 8], desc="load", flush_interval_s=0)) == [7, 8]
    first, *_, last = states(capsys)
    assert first.startswith("load:   0% 0/2 [")
    assert last.startswith("load: 100% 2/2 [")
    assert last.endswith("it/s]\n")


def test_a_bar_advances_by_hand(capsys):
    with tqdm(total=4, flush_interval_s=0) as bar:
        bar.update(3)
        bar.set_description("more")
    bar.close()
    assert bar.n == 3
    assert [state.split(" [")[0] for state in states(capsys)] == [
        "  0% 0/4",
        " 75% 3/4",
        "more:  75% 3/4",
        "more:  75% 3/4",
    ]


def test_without_a_total_the_elements_are_counted(capsys):
    assert list(tqdm(iter("abc"), unit="letters", flush_interval_s=0)) == ["a", "b", "c"]
    assert states(capsys)[-1].startswith("3letters [")


def test_states_are_not_shown_more_often_than_asked(capsys):
    list(tqdm(range(100), flush_interval_s=60))
    assert len(states(capsys)) == 2


def test_a_bar_without_an_iterable_cannot_be_iterated():
    with pytest.raises(ValueError, match="No iterable"):
        next(iter(tqdm(total=1)))


def test_print_beside_bars(capsys):
    tqdm_ray.safe_print("a", "b")
    assert capsys.readouterr().out == "a b\n"
