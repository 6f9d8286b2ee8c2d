"""Output of the commands: tables, wrapped text, progress.

On a terminal there are colours, and everything fits its width. In a pipe or a file the same text has no control
sequences, and no line depends on a width: programs such as ``grep`` see each row whole. ``NO_COLOR`` and
``FORCE_COLOR`` work as usual, since rich supports them.

This module imports rich, and the commands that print and end import this module. Brokers, hosts and workers import
neither.
"""

from __future__ import annotations

import contextlib
import dataclasses
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

INDENT = 2
GAP = 2
"""Blanks between two columns."""
MIN_WIDTH = 8
"""The least width in characters of a column that shrinks."""
UNBOUNDED = 10_000
"""The width of an output that is not a terminal."""


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of a table.

    On a terminal that is too narrow, cells of a ``cut`` column end in an ellipsis, and cells of a column that ``wraps``
    continue below. Cells that are wider than ``most`` continue below on any terminal. Other columns keep their widths.
    """

    head: str
    right: bool = False
    cut: bool = False
    wraps: bool = False
    most: int = UNBOUNDED

    @property
    def shrinks(self) -> bool:
        """Whether the column takes the width that the others leave."""
        return self.cut or self.wraps


def console(stderr: bool = False) -> Console:
    """Returns stdout or stderr to print on. Text is printed unchanged: brackets and colons are not markup."""
    made = Console(stderr=stderr, markup=False, emoji=False, highlight=False)
    if not made.is_terminal:
        made.width = UNBOUNDED
    return made


def show_lines(lines: Iterable[str | Text], on: Console | None = None) -> None:
    """Prints lines neither wrapped nor cut. Lines without styles may contain foreign text."""
    on = on or console()
    for line in lines:
        on.print(line if isinstance(line, Text) else clean(line), soft_wrap=True)


def table(
    on: Console, columns: Sequence[Column], rows: Iterable[Sequence[str | Text]], indent: int = INDENT
) -> list[Text]:
    """Returns the lines of a table, the header first. A row is one line, unless a column wraps."""
    cells = [[cell if isinstance(cell, Text) else Text(clean(cell)) for cell in row] for row in rows]
    made = Table(box=None, padding=(0, 0, 0, GAP), pad_edge=False, header_style="bold")
    for column in columns:
        made.add_column(
            column.head,
            justify="right" if column.right else "left",
            no_wrap=not column.wraps and column.most == UNBOUNDED,
            overflow="ellipsis" if column.cut else "fold",
            max_width=column.most if on.is_terminal else None,
            ratio=1 if column.shrinks else None,
        )
    for row in cells:
        made.add_row(*row)
    heads = [Text(column.head) for column in columns]
    widths = [max(text.cell_len for text in texts) for texts in zip(heads, *cells, strict=True)]
    if on.is_terminal:
        widths = [min(width, column.most) for width, column in zip(widths, columns, strict=True)]
    natural, room = _width(widths), on.width - indent
    made.expand = natural > room  # else it takes what it needs
    # If even this does not fit, the terminal breaks the lines.
    least = _width(MIN_WIDTH if column.shrinks else width for column, width in zip(columns, widths, strict=True))
    options = on.options.update(width=max(least, min(natural, room)))
    return [
        _without_padding(Text(" " * indent).append_tokens((part.text, part.style) for part in line))
        for line in on.render_lines(made, options, pad=False)
    ]


def _width(widths: Iterable[int]) -> int:
    widths = list(widths)
    return sum(widths) + GAP * (len(widths) - 1)


def _without_padding(line: Text) -> Text:
    line.rstrip()
    return line


def wrapped(on: Console, text: str, style: str = "", indent: int = INDENT) -> list[Text]:
    """Returns text as lines that fit; lines after the first are indented more. Returns none if there is no text."""
    space = " " * indent
    lines = textwrap.wrap(
        clean(text), on.width, initial_indent=space, subsequent_indent=space + " " * INDENT, break_on_hyphens=False
    )
    return [Text(line, style) for line in lines]


def clean(text: str) -> str:
    """Replaces control characters, which a terminal would obey: names and labels are foreign text."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


@contextlib.contextmanager
def progress(doing: str, total: int) -> Iterator[Callable[[], None]]:
    """Shows on stderr, on a terminal, how many of ``total`` are done while the block runs.

    Call the yielded function for each one. Lines that are printed meanwhile appear above. Nothing is shown if stderr is
    not a terminal.
    """
    on = console(stderr=True)
    if not on.is_terminal:
        yield lambda: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    shown = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        console=on, transient=True, redirect_stdout=console().is_terminal,
    )  # fmt: skip
    with shown:
        task = shown.add_task(doing, total=total)
        yield lambda: shown.advance(task)


@contextlib.contextmanager
def waiting(doing: str) -> Iterator[None]:
    """Shows on stderr, on a terminal, that the block is running."""
    on = console(stderr=True)
    with on.status(doing) if on.is_terminal else contextlib.nullcontext():
        yield
