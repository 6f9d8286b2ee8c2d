"""Progress bars: their text, and what is on the terminal."""

from __future__ import annotations

import builtins
import io
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zray.api import driver_output
from zray.experimental import tqdm_ray
from zray.logs import bar_lines
from zray.util import bar_manager
from zray.util.bars import LINE_S, Bar, Bars, columns, cut


class Terminal(io.StringIO):
    """A terminal that shows the lines that are not erased."""

    def isatty(self) -> bool:
        return True

    @property
    def lines(self) -> list[str]:
        """What a person sees."""
        shown: list[str] = []
        for part in self.getvalue().split("\x1b[J"):
            text, move, up = part.rpartition("\x1b[")
            text, count = (text, int(up.removesuffix("A\r"))) if move and up.endswith("A\r") else (part, 0)
            shown += text.split("\n")[:-1]
            del shown[len(shown) - count :]
        return shown


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "81")
    return Terminal()


# ------------------------------------------------------------------ one bar


def bar(done: float, total: float | None, description: str = "work", seconds: float = 10.0) -> str:
    shown = Bar(0.0)
    shown.description, shown.done, shown.total = description, done, total
    return shown.text(seconds, 80)


def test_the_text_of_a_bar():
    assert bar(50, 100).startswith("work:  50% |████")
    assert bar(50, 100).endswith("| 50/100 [00:10<00:10 5.0 it/s]")


def test_a_bar_without_a_total():
    assert bar(50, None) == "work: 50 it [00:10 5.0 it/s]"


def test_a_bar_that_is_full():
    assert "100% " in bar(100, 100) and "<00:00" in bar(100, 100)


def test_a_description_cannot_control_the_terminal():
    assert "\x1b" not in bar(1, 2, "\x1b[2J\n")


@given(st.text(max_size=100), st.integers(0, 10**9), st.none() | st.integers(0, 10**9), st.integers(1, 200))
def test_a_bar_fits_its_line(description, done, total, width):
    shown = Bar(0.0)
    shown.description, shown.done, shown.total = description, done, total
    text = shown.text(5.0, width)
    assert columns(text) <= width and "\n" not in text


def test_wide_characters():
    assert columns("日本") == 4
    assert cut("日本", 3) == "日"


# ------------------------------------------------------------------ several bars


def test_bars_are_below_each_other(terminal, clock):
    bars = Bars(terminal, clock)
    bars.update(1, "one", 1, 10)
    bars.update(2, "two", 2, 10)
    assert [line.split(":")[0] for line in terminal.lines] == ["one", "two"]


def test_a_closed_bar_stays_above_the_others(terminal, clock):
    bars = Bars(terminal, clock)
    for key in (1, 2, 3):
        bars.update(key, f"bar {key}", 1, 10)
    bars.update(2, "bar 2", 10, 10)
    bars.close(2)
    assert [line[:11] for line in terminal.lines] == ["bar 2: 100%", "bar 1:  10%", "bar 3:  10%"]


def test_other_output_is_above(terminal, clock):
    bars = Bars(terminal, clock)
    bars.update(1, "one", 1, 10)
    bars.hide_bars()
    terminal.write("a line\n")
    bars.update(1, "one", 9, 10)
    bars.unhide_bars()
    assert [line[:9] for line in terminal.lines] == ["a line", "one:  90%"]


def test_a_bar_is_drawn_now_and_then(terminal, clock):
    bars = Bars(terminal, clock)
    bars.update(1, "one", 1, 1000)
    before = terminal.getvalue()
    for done in range(500):
        bars.update(1, "one", done, 1000)
    assert terminal.getvalue() == before


def test_lines_in_a_file(clock):
    file = io.StringIO()
    bars = Bars(file, clock)
    bars.update(1, "one", 1, 10)
    clock.now += LINE_S
    bars.update(1, "one", 4, 10)
    bars.update(1, "one", 10, 10)
    bars.close(1)
    bars.close(1)
    assert file.getvalue() == "one: 4 of 10 it\none: 10 of 10 it\n"


# ------------------------------------------------------------------ tqdm_ray


@pytest.fixture
def manager(monkeypatch: pytest.MonkeyPatch) -> Iterator[bar_manager.BarManager]:
    monkeypatch.setattr(bar_manager, "_manager", None)
    monkeypatch.setattr(bar_lines, "shown", None)
    yield tqdm_ray.instance()
    assert builtins.print is bar_manager._print


def test_a_bar_of_the_driver(manager, terminal, monkeypatch):
    monkeypatch.setattr("sys.stderr", terminal)
    assert list(tqdm_ray.tqdm(range(3), desc="mine", flush_interval_s=0)) == [0, 1, 2]
    assert [line[:10] for line in terminal.lines] == ["mine: 100%"]


def test_a_loop_that_raises_closes_its_bar(manager, terminal, monkeypatch):
    monkeypatch.setattr("sys.stderr", terminal)
    with pytest.raises(KeyError):
        for number in tqdm_ray.tqdm(range(3), desc="mine", flush_interval_s=0):
            raise KeyError(number)
    assert manager.bars.is_empty()


def test_a_state_behind_a_line_without_an_end(manager, terminal, monkeypatch):
    monkeypatch.setattr("sys.stderr", terminal)
    state = {"x": 1, "pos": 0, "desc": "far", "total": 2, "unit": "it", "ip": "10.0.0.1", "pid": 7, "uuid": "u"}
    line = "half a line" + bar_lines.encode({**state, "closed": True})
    assert driver_output._without_bars(["one", line, "two"]) == ["one", "half a line", "two"]
    assert "far:  50%" in terminal.lines[0]


def test_a_bar_of_a_worker(manager, terminal, monkeypatch):
    monkeypatch.setattr("sys.stderr", terminal)
    state = {"x": 1, "pos": 0, "desc": "far", "total": 2, "unit": "it", "ip": "10.0.0.1", "pid": 7, "uuid": "u"}
    line = bar_lines.encode({**state, "closed": False})
    assert line.startswith(bar_lines.BEGIN)
    manager.process_state_update(bar_lines.decode(line))
    assert builtins.print is tqdm_ray.safe_print
    assert terminal.lines[0].startswith("(pid=7, ip=10.0.0.1) far:  50%")
    manager.end_remote()
    assert manager.bars.is_empty()


@pytest.mark.parametrize("line", [bar_lines.BEGIN, bar_lines.BEGIN + '"}', "[1]", "x"])
def test_lines_that_are_no_states(line):
    assert bar_lines.decode(line) is None


def test_print_can_be_left_alone(manager, terminal, monkeypatch):
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("RAY_TQDM_PATCH_PRINT", "0")
    bar: tqdm_ray.tqdm[int] = tqdm_ray.tqdm(total=3)
    with bar as shown:
        shown.update(2)
        shown.set_description("text")
        shown.refresh()
        assert builtins.print is not tqdm_ray.safe_print
        assert (shown.n, shown.total) == (2, 3)


def test_a_bar_without_an_iterable_cannot_be_iterated():
    with pytest.raises(ValueError, match="no iterable"):
        next(iter(tqdm_ray.tqdm(total=3)))
