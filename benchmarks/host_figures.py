"""A figure of ``make bench-hosts``, and the table of all of them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    name: str
    value: str
    target: str
    met: bool | None
    number: float


def table(figures: list[Figure]) -> str:
    """The figures for a person."""
    words = {None: "", True: "met", False: "MISSED"}
    rows = [("", "measured", "target", ""), *((f.name, f.value, f.target, words[f.met]) for f in figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join(
        f"{row[0]:<{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:<{widths[2]}}  {row[3]}".rstrip() for row in rows
    )
