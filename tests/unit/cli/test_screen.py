"""Output on a terminal, and in a pipe."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys

import pytest
from rich.console import Console
from rich.text import Text

from zray.cli.screen import Column, clean, console, show_lines, table, wrapped

COLUMNS = (Column("NAME", cut=True), Column("ID"), Column("CPUS", right=True))
ROWS = [["x" * 70, "01234567", "12.5/64"], ["漢字", "1", "2"]]
PROGRAM = """
from rich.text import Text
from zray.cli.screen import Column, console, show_lines, table
on = console()
show_lines(["a line of others' words [red] :smile: \\x1b[2J", Text("bad", "bold red")], on)
show_lines(table(on, [Column("HEAD", cut=True), Column("LAST", right=True)], [["x" * 300, "1"]]), on)
"""


def terminal(width: int) -> Console:
    return Console(width=width, force_terminal=True, markup=False, emoji=False, highlight=False)


def plain(width: int, columns: tuple[Column, ...] = COLUMNS, rows: list[list[str]] = ROWS) -> list[str]:
    return [line.plain for line in table(terminal(width), columns, rows)]


def on_a_terminal(width: int, program: str = PROGRAM, **environ: str) -> str:
    """Returns what a program writes to a terminal of this width."""
    ours, theirs = pty.openpty()
    inherited = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
    environ = {**inherited, "TERM": "xterm-256color", "COLUMNS": str(width), **environ}
    process = subprocess.Popen([sys.executable, "-c", program], stdout=theirs, stderr=theirs, env=environ)
    os.close(theirs)
    output = b""
    try:
        while chunk := os.read(ours, 65536):
            output += chunk
    except OSError:  # the end of a terminal
        assert process.wait(60) == 0
    finally:
        os.close(ours)
    return output.decode()


class TestTables:
    def test_what_fits_takes_what_it_needs(self) -> None:
        assert plain(120) == [
            "  NAME" + " " * 68 + "ID           CPUS",
            "  " + "x" * 70 + "  01234567  12.5/64",
            "  漢字" + " " * 68 + "1               2",
        ]

    def test_one_column_shrinks(self) -> None:
        assert plain(40) == [
            "  NAME                 ID           CPUS",
            "  xxxxxxxxxxxxxxxxxx…  01234567  12.5/64",
            "  漢字                 1               2",
        ]

    def test_amounts_are_never_cut(self) -> None:
        assert plain(10)[1] == "  xxxxxxx…  01234567  12.5/64"

    def test_a_column_that_wraps(self) -> None:
        columns = (Column("NAME"), Column("MEANING", wraps=True))
        assert plain(24, columns, [["one", "several words in a row"], ["two", "-"]]) == [
            "  NAME  MEANING",
            "  one   several words in",
            "        a row",
            "  two   -",
        ]

    def test_a_column_with_a_limit(self) -> None:
        columns = (Column("NAME"), Column("PLACE", most=10), Column("MEANING", wraps=True))
        assert plain(40, columns, [["one", "/a/long/path", "several words in a row"]]) == [
            "  NAME  PLACE       MEANING",
            "  one   /a/long/pa  several words in a",
            "        th          row",
        ]

    def test_without_a_column_that_shrinks_a_table_stays_whole(self) -> None:
        assert plain(10, (Column("KEY"),), [["k" * 40]]) == ["  KEY", "  " + "k" * 40]

    def test_no_rows(self) -> None:
        assert plain(80, rows=[]) == ["  NAME  ID  CPUS"]

    def test_styles_of_cells_are_kept(self) -> None:
        _, line = table(terminal(80), COLUMNS, [["a", Text("b", "red"), "c"]])
        assert line.plain == "  a     b      c" and any("red" in str(span.style) for span in line.spans)


def test_wrapped_text() -> None:
    lines = [line.plain for line in wrapped(terminal(14), "some words in-between", indent=2)]
    assert lines == ["  some words", "    in-between"]
    assert wrapped(terminal(12), "") == []


def test_control_characters_are_replaced() -> None:
    assert clean("a\x1b[2Jb\x07\x9bc\n") == "a?[2Jb??c?"


def test_a_pipe_gets_whole_lines_without_control_sequences() -> None:
    environ = {**os.environ, "COLUMNS": "20", "TERM": "xterm-256color"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, env=environ)
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "a line of others' words [red] :smile: ?[2J",
        "bad",
        "  HEAD" + " " * 298 + "LAST",
        "  " + "x" * 300 + "     1",
    ]


def test_a_terminal_gets_colours_and_what_fits() -> None:
    output = on_a_terminal(40)
    assert "\x1b[1;31mbad\x1b[0m" in output
    assert "x" * 31 + "…" in output and "x" * 32 not in output


@pytest.mark.parametrize("environ", [{"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=["NO_COLOR", "dumb"])
def test_colours_can_be_switched_off(environ: dict[str, str]) -> None:
    output = on_a_terminal(40, **environ)
    assert "31m" not in output and "bad" in output


PROGRESS = """
import sys
from zray.cli.screen import progress, waiting
with waiting("waiting until all have ended"):
    pass
with progress("starting workers", 3) as advance:
    for name in ("one", "two", "three"):
        print(name, flush=True)
        advance()
"""


def test_a_terminal_shows_progress_and_lines_above_it() -> None:
    output = on_a_terminal(80, PROGRESS)
    assert "waiting until all have ended" in output and "starting workers" in output and "3/3" in output
    lines = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", output).replace("\r", "\n").split("\n")
    assert [line for line in lines if line in ("one", "two", "three")] == ["one", "two", "three"]


def test_a_pipe_gets_no_progress() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRESS], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("one\ntwo\nthree\n", "")


def test_stderr_is_checked_separately() -> None:
    assert console(stderr=True).stderr and not console().stderr


def test_lines_are_not_broken(capsys: pytest.CaptureFixture[str]) -> None:
    show_lines(["word " * 100])
    assert capsys.readouterr().out == "word " * 100 + "\n"
