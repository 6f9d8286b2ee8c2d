"""Measures zray and its peers side by side: every figure of `figures.py`, on two workers and two cores.

Each implementation measures each group of rows in a fresh process; the implementations take turns, all of it is
repeated, and the best value of each row counts, since noise only ever makes things slower. A complete run also writes
the table and the plot to `README.md` beside this file. The exit code is 0 when no target was missed.

    python benchmarks/run.py                                            # everything, some ten minutes
    python benchmarks/run.py --quick --impl zray                        # under a minute
    python benchmarks/run.py --rows tasks_together,put_small --impl zray,ray --ray-python ~/ray/bin/python
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import processes
import report
from figures import IMPLEMENTATIONS, ROWS, Row

HERE = Path(__file__).resolve().parent
LIMIT_S = {"backlog": 900.0, "beside": 900.0}
DEFAULT_LIMIT_S = 240.0
ENVIRON = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
"""As users have it. Without bytecode on disk, each process compiles what it imports, which takes time and memory."""


@dataclass
class Results:
    """All that was measured: values by row and implementation, one per repetition; and versions."""

    values: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    def add(self, implementation: str, figures: dict[str, float], version: str) -> None:
        for row, value in figures.items():
            self.values.setdefault(row, {}).setdefault(implementation, []).append(value)
        if version:
            self.versions[implementation] = version

    def best(self, row: Row) -> dict[str, float]:
        return {implementation: row.best(values) for implementation, values in self.values.get(row.name, {}).items()}


def run_child(python: str, implementation: str, rows: list[Row], quick: bool) -> dict[str, Any]:
    """Measures rows of one group in a fresh process; what fails is told on stderr and missing in the result."""
    group = rows[0].group
    with tempfile.TemporaryDirectory() as directory:
        out, log = Path(directory, "out.json"), Path(directory, "log")
        names = ",".join(row.name for row in rows)
        command = [python, str(HERE / "child.py"), "--impl", implementation, "--group", group, "--rows", names]
        command += ["--out", str(out)] + ["--quick"] * quick
        with log.open("wb") as sink:
            try:
                limit_s = LIMIT_S.get(group, DEFAULT_LIMIT_S)
                done = subprocess.run(
                    command, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, timeout=limit_s, env=ENVIRON
                )
                ended = f"exit code {done.returncode}"
            except subprocess.TimeoutExpired:
                ended = "took too long"
        left = processes.end_descendants(patience_s=10)
        result: dict[str, Any] = {"figures": {}, "version": "", "errors": {}}
        if out.exists():
            result = json.loads(out.read_text())
        for row, text in result["errors"].items():
            tell(f"{implementation} failed in {row}: {text}")
        if ended != "exit code 0":
            tell(f"{implementation} {group}: {ended}\n{log.read_text(errors='replace')[-2000:]}")
        if left:
            tell(f"{implementation} {group}: {left} processes were left behind")
        return result


def tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def pythons(wanted: list[str], ray_python: str | None) -> dict[str, str]:
    """The interpreter for each implementation; those that are not installed are left out, and named."""
    found = {}
    for name in wanted:
        if name == "ray" and ray_python:
            found[name] = ray_python
        elif name == "ppe" or importable(name):
            found[name] = sys.executable
        else:
            tell(f"{name} is not installed here: left out" + (" (see --ray-python)" if name == "ray" else ""))
    return found


def importable(name: str) -> bool:
    """Whether there is such a module; a mere directory of that name is none."""
    spec = importlib.util.find_spec(name)
    return spec is not None and spec.origin is not None


def run(rows: list[Row], interpreters: dict[str, str], rounds: int, quick: bool) -> Results:
    results = Results()
    groups = {row.group: [other for other in rows if other.group == row.group] for row in rows}
    for number in range(1, rounds + 1):
        for group, members in groups.items():
            for implementation, python in interpreters.items():
                apply = [row for row in members if implementation in row.implementations]
                if apply:
                    tell(f"round {number} of {rounds}: {group}, {implementation}")
                    result = run_child(python, implementation, apply, quick)
                    results.add(implementation, result["figures"], result["version"])
    return results


def names(kind: str, allowed: tuple[str, ...]) -> Callable[[str], list[str]]:
    """A type for argparse: a list of names with commas between them."""

    def parse(text: str) -> list[str]:
        given = text.split(",")
        for name in given:
            if name not in allowed:
                raise argparse.ArgumentTypeError(f"unknown {kind} {name!r}; there are {', '.join(allowed)}")
        return given

    return parse


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    all_rows = tuple(row.name for row in ROWS)
    parser.add_argument("--rows", type=names("row", all_rows), default=list(all_rows), metavar="ROW,...")
    parser.add_argument(
        "--impl", type=names("implementation", IMPLEMENTATIONS), default=list(IMPLEMENTATIONS), metavar="NAME,..."
    )
    parser.add_argument("--ray-python", metavar="PATH", help="an interpreter that has Ray and numpy, if this has not")
    parser.add_argument("--rounds", type=int, default=None, help="repetitions, of which the best counts (default: 3)")
    parser.add_argument("--quick", action="store_true", help="one round of short loops, to try; small backlog")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all values there")
    options = parser.parse_args()

    processes.become_subreaper()
    rows = [row for row in ROWS if row.name in options.rows]
    interpreters = pythons(options.impl, options.ray_python)
    results = run(rows, interpreters, options.rounds or (1 if options.quick else 3), options.quick)
    best = {row.name: results.best(row) for row in rows}
    print(report.table(rows, best))
    if options.json:
        options.json.write_text(json.dumps({"values": results.values, "versions": results.versions}, indent=1))
    if not options.quick and len(rows) == len(ROWS) and {"zray", "ray"} <= set(results.versions):
        report.write(HERE, rows, best, results.versions)
        tell(f"written to {HERE / 'README.md'}")
    missing = [row.name for row in rows if "zray" in interpreters and "zray" not in best[row.name]]
    return int(bool(missing) or any(row.met(best[row.name]) is False for row in rows))


if __name__ == "__main__":
    sys.exit(main())
