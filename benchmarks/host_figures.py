"""A figure of ``make bench-hosts`` and ``make bench-scale``, the table of all of them, and its place in README.md."""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import zmq

from zray import version

WORDS = {None: "", True: "met", False: "MISSED"}


@dataclass(frozen=True)
class Figure:
    name: str
    value: str
    target: str
    met: bool | None
    number: float


def table(figures: list[Figure]) -> str:
    """The figures for a person."""
    return aligned([("", "measured", "target", ""), *((f.name, f.value, f.target, WORDS[f.met]) for f in figures)], {1})


def aligned(rows: Sequence[Sequence[str]], right: Collection[int]) -> str:
    """Rows of equal length as lines. ``right``: the columns that are aligned to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def circumstances() -> str:
    """The day, the versions and the machine, in a line."""
    return (
        f"{datetime.date.today():%Y-%m-%d}; zray {version.VERSION}, pyzmq {zmq.__version__}, "
        f"libzmq {zmq.zmq_version()}; "
        f"Python {platform.python_version()}, {platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    )


def record(begin: str, end: str, head: str, lines: str) -> None:
    """Puts a table between two marks in README.md; the rest of the page is kept."""
    page = Path(__file__).with_name("README.md")
    before, _, rest = page.read_text().partition(begin)
    _, _, after = rest.partition(end)
    page.write_text(f"{before}{begin}\n\n{head}\n\n```text\n{lines}\n```\n\n{end}{after}")
