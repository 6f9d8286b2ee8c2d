"""``benchmarks/slopes.py`` measures every row, in small, and leaves nothing behind. What it measures is not judged."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.host_figures import aligned
from benchmarks.processes import cpu_s
from benchmarks.slopes import Row, Slope, measure, rows, used

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.timeout(300)
def test_a_quick_run_has_every_row(tmp_path: Path) -> None:
    page = ROOT / "benchmarks" / "README.md"
    before = page.read_bytes()
    out = tmp_path / "figures.json"
    command = [sys.executable, "-m", "benchmarks.slopes", "--quick", "--json", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode in (0, 1), done.stderr  # 1: a slope is above its target, which may be noise in small
    assert out.exists(), done.stderr
    figures = json.loads(out.read_text())
    titles = [row.title for row in rows(1, 0.0)]
    assert list(figures) == titles
    assert all(row["n"] >= 1 and row["cost_s"] > 0 and row["cost_of_10n_s"] > 0 for row in figures.values())
    assert all(math.isclose(row["slope"], math.log10(row["cost_of_10n_s"] / row["cost_s"])) for row in figures.values())
    assert [line for line in done.stdout.splitlines() if line.startswith(tuple(titles))] == done.stdout.splitlines()[3:]
    assert page.read_bytes() == before


def test_the_lowest_cost_of_each_size_counts() -> None:
    asked: list[int] = []
    costs = {7: [3.0, 1.0, 2.0], 70: [30.0, 50.0, 10.0]}

    def cost(n: int) -> float:
        asked.append(n)
        return costs[n].pop(0)

    slope = measure(Row("things", 7, cost), 7, 3)
    assert asked == [7, 70] * 3
    assert (slope.cost, slope.cost_of_decade, slope.slope, slope.met) == (1.0, 10.0, 1.0, True)


@pytest.mark.parametrize(
    ("cost_of_decade", "text", "slope", "word"),
    [(0.005, "5.00 ms", "0.70", "met"), (0.1, "100 ms", "2.00", "MISSED"), (1.2345, "1,234 ms", "3.09", "MISSED")],
)
def test_what_a_row_of_the_table_says(cost_of_decade: float, text: str, slope: str, word: str) -> None:
    cells = Slope("things", 1_000, 0.001, cost_of_decade).cells()
    assert cells == ("things", "1,000", "1.00 ms", text, slope, "<= 1.1", word)


def test_the_cpu_time_of_a_process_is_that_of_all_its_threads() -> None:
    before, told, after = time.process_time(), cpu_s(os.getpid()), time.process_time()
    assert before <= told <= after
    with pytest.raises(OSError):
        cpu_s((1 << 22) + 1)  # more than any process has


def test_a_process_that_has_ended_meanwhile_is_left_out() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert cpu_s(child.pid) >= 0
    assert used(lambda: child.communicate(b"\n"), [child.pid]) == 0


def test_columns_are_aligned() -> None:
    assert aligned([("", "n"), ("one", "10"), ("two", "")], {1}) == "      n\none  10\ntwo"
