"""The table, in a terminal and in README.md, and the plot."""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Mapping
from pathlib import Path

from figures import IMPLEMENTATIONS, POOLS, Row, Times, Values

BEGIN, END = "<!-- results: written by run.py -->", "<!-- end of results -->"
COLOURS = {"zray": "#d55e00", "ray": "#0072b2", "loky": "#009e73", "ppe": "#cc79a7"}
MET = {True: "yes", False: "NO", None: ""}

Best = Mapping[str, Values]
"""By row."""


def cells(row: Row, values: Values) -> list[str]:
    figures = [row.show(values[name]) if name in values else "" for name in IMPLEMENTATIONS]
    ratios = [row.ratio(values), row.ratio(values, POOLS)]
    ratio = ", ".join(
        f"{ratio:.2g}x {name}" for ratio, name in zip(ratios, ("ray", "pools"), strict=True) if ratio is not None
    )
    return [row.title, *figures, ratio, row.target(), MET[row.met(values)]]


HEADER = ["row", *IMPLEMENTATIONS, "zray to others", "target", "met"]


def table(rows: list[Row], best: Best) -> str:
    """For a terminal, and valid Markdown too."""
    lines = [HEADER, *(cells(row, best[row.name]) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADER))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )


def write(directory: Path, rows: list[Row], best: Best, versions: Mapping[str, str]) -> None:
    """Puts the table between the marks in README.md, and the plot beside it. The rest of the page is kept."""
    plot(rows, best, directory / "results.png")
    tested = ", ".join(f"{name} {version}" for name, version in versions.items())
    judged = [row.met(best[row.name]) for row in rows if row.targets]
    section = [
        f"{datetime.date.today():%Y-%m-%d}; {tested}; Python {platform.python_version()}, "
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, of which 2 are used. "
        f"{judged.count(True)} of {len(judged)} targets are met.",
        table(rows, best),
        "![zray, loky and ProcessPoolExecutor as multiples of Ray](results.png)",
    ]
    page = directory / "README.md"
    before, _, rest = page.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(before + BEGIN + "\n\n" + "\n\n".join(section) + "\n\n" + END + after)


def plot(rows: list[Row], best: Best, path: Path) -> None:
    """Every row that Ray has too, as multiples of Ray, better to the right; a bar marks the target."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = [row for row in rows if {"zray", "ray"} <= set(best[row.name]) and row.targets][::-1]
    figure, axes = pyplot.subplots(figsize=(9, 0.34 * len(shown) + 1.4), layout="constrained")
    for name in ("loky", "ppe", "zray"):
        points = [(multiple(row, best[row.name], name), y) for y, row in enumerate(shown) if name in best[row.name]]
        if points:
            x, y = zip(*points, strict=True)
            axes.scatter(x, y, s=50 if name == "zray" else 25, color=COLOURS[name], label=name, zorder=3)
    targets = [
        (target.factor, y)
        for y, row in enumerate(shown)
        for target in row.targets
        if isinstance(target, Times) and target.peers == ("ray",)
    ]
    if targets:
        x, y = zip(*targets, strict=True)
        axes.scatter(x, y, marker="|", s=160, color="#555555", label="target", zorder=2)
    axes.axvline(1, color=COLOURS["ray"], linewidth=1, label="ray")
    axes.set_xscale("log")
    axes.set_yticks(range(len(shown)), [row.title for row in shown])
    axes.set_xlabel("times as good as Ray (log scale)")
    axes.grid(axis="y", color="#eeeeee", zorder=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.legend(frameon=False, ncols=5, loc="lower center", bbox_to_anchor=(0.5, 1))
    figure.savefig(path, dpi=110)


def multiple(row: Row, values: Values, name: str) -> float:
    ray, other = values["ray"], values[name]
    return ray / other if row.less_is_better else other / ray
