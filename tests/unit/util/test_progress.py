"""``progress``: what it shows on a terminal and elsewhere. A list of steps plays the cluster."""

from __future__ import annotations

import io
from typing import Any

import pytest

from zray.util import progress_bar
from zray.util.bars import LINE_S
from zray.util.progress_bar import progress


class Cluster:
    """``wait`` for references of which a given number becomes ready at each look. Time goes on by ``step_s``."""

    def __init__(self, patch: pytest.MonkeyPatch, steps: list[int], step_s: float = 1.0) -> None:
        self.steps = steps
        self.step_s = step_s
        self.now = 0.0
        patch.setattr(progress_bar, "wait", self.wait)
        patch.setattr("zray.util.progress_bar.time.monotonic", lambda: self.now)

    def wait(self, refs: list[Any], num_returns: int, timeout: float, fetch_local: bool) -> tuple[list[Any], list[Any]]:
        assert num_returns == len(refs)
        self.now += self.step_s
        n_ready = self.steps.pop(0)
        return refs[:n_ready], refs[n_ready:]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_in_a_file_it_writes_lines_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    Cluster(monkeypatch, [1, 0, 1, 1, 1], step_s=LINE_S / 2)
    file = io.StringIO()
    refs: list[Any] = ["a", "b", "c", "d"]
    assert progress(refs, desc="work", file=file) == refs
    assert file.getvalue() == "work: 2 of 4 ready\nwork: 4 of 4 ready\n"


def test_on_a_terminal_it_draws_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    Cluster(monkeypatch, [1, 1])
    file = Terminal()
    refs: list[Any] = ["a", "b"]
    progress(refs, desc="work", file=file)
    assert "work" in file.getvalue()
    assert "2/2" in file.getvalue()


def test_the_same_reference_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    Cluster(monkeypatch, [2])
    file = io.StringIO()
    refs: list[Any] = ["a", "b", "a"]
    assert progress(refs, file=file) == refs
    assert file.getvalue() == "2 of 2 ready\n"


def test_no_references() -> None:
    file = io.StringIO()
    assert progress([], file=file) == []
    assert file.getvalue() == "0 of 0 ready\n"


def test_it_is_closed_if_the_wait_ends_with_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")

    def wait(*args: Any, **kwargs: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(progress_bar, "wait", wait)
    file = Terminal()
    refs: list[Any] = ["a"]
    with pytest.raises(KeyboardInterrupt):
        progress(refs, file=file)
    assert file.getvalue().endswith("\n") and "0/1" in file.getvalue()
