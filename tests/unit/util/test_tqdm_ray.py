"""``tqdm_ray`` writes lines about a loop."""

from __future__ import annotations

import pytest

from zray.experimental.tqdm_ray import safe_print, tqdm


def test_a_loop(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(tqdm([1, 2], desc="read", flush_interval_s=0)) == [1, 2]
    assert capsys.readouterr().err == "read: 1 of 2 it (50 %)\nread: 2 of 2 it (100 %)\n"


def test_lines_are_not_written_more_often_than_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    bar = tqdm(total=100, unit="files", position=3, flush_interval_s=3600)
    for _ in range(4):
        bar.update(10)
    assert (bar.n, bar.total) == (40, 100)
    bar.close()
    bar.close()
    bar.update()
    assert capsys.readouterr().err == "10 of 100 files (10 %)\n40 of 100 files (40 %)\n"


def test_without_a_total(capsys: pytest.CaptureFixture[str]) -> None:
    bar = tqdm(iter("ab"), flush_interval_s=0)
    bar.set_description("letters")
    assert bar.total is None and list(bar) == ["a", "b"]
    assert capsys.readouterr().err.splitlines() == [f"letters: {n} it" for n in (0, 1, 2)]
    with pytest.raises(ValueError, match="No iterable provided"):
        next(iter(tqdm(total=1)))


def test_safe_print_prints(capsys: pytest.CaptureFixture[str]) -> None:
    safe_print("a", "b", sep="-")
    assert capsys.readouterr().out == "a-b\n"
