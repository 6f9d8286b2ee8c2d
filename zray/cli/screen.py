"""What the commands print: tables, wrapped text, progress.

On a terminal there are colours, and everything fits its width.  In a pipe or a file the same text has no control
sequences, and no line depends on any width: programs such as ``grep`` see each row whole.  ``NO_COLOR`` and
``FORCE_COLOR`` do what they do everywhere, as rich heeds them.

rich is imported by this module, and this module by the commands that print and end.  Brokers, hosts and workers do
without both.
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
"""Characters that a column has which makes do with what is left."""
UNBOUNDED = 10_000
"""Columns of what is no terminal."""


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of a table. On a terminal that is too narrow, the cells of one that is ``cut`` end in an ellipsis, and
    those of one that ``wraps`` go on below, as on any terminal those do that are wider than ``most``; the others keep
    their widths."""

    head: str
    right: bool = False
    cut: bool = False
    wraps: bool = False
    most: int = UNBOUNDED

    @property
    def shrinks(self) -> bool:
        """Whether it makes do with what the others leave."""
        return self.cut or self.wraps


def console(stderr: bool = False) -> Console:
    """stdout, or stderr, to print on. What is printed is taken as it is: brackets and colons are no markup."""
    made = Console(stderr=stderr, markup=False, emoji=False, highlight=False)
    if not made.is_terminal:
        made.width = UNBOUNDED
    return made


def show_lines(lines: Iterable[str | Text], on: Console | None = None) -> None:
    """Prints lines as they are, neither wrapped nor cut. Those without styles may have others' words in them."""
    on = on or console()
    for line in lines:
        on.print(line if isinstance(line, Text) else clean(line), soft_wrap=True)


def table(
    on: Console, columns: Sequence[Column], rows: Iterable[Sequence[str | Text]], indent: int = INDENT
) -> list[Text]:
    """The lines of a table, the header first. A row is one line, unless a column wraps."""
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
    # Where not even this fits, the terminal breaks the lines.
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
    """Text of several words as lines that fit; those behind the first are indented more. None, if there is no text."""
    space = " " * indent
    lines = textwrap.wrap(
        clean(text), on.width, initial_indent=space, subsequent_indent=space + " " * INDENT, break_on_hyphens=False
    )
    return [Text(line, style) for line in lines]


def clean(text: str) -> str:
    """Without what a terminal would obey: names and labels are others' words."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


@contextlib.contextmanager
def progress(doing: str, total: int) -> Iterator[Callable[[], None]]:
    """While the block runs, a terminal shows on stderr how many of ``total`` are done; call what is yielded for each.

    Lines that are printed meanwhile appear above. Where stderr is no terminal, nothing is shown.
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
    """While the block runs, a terminal shows on stderr that it does."""
    on = console(stderr=True)
    with on.status(doing) if on.is_terminal else contextlib.nullcontext():
        yield
