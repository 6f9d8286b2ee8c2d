"""Each example runs in its short form, as a user would start it, and prints what it promises."""

from __future__ import annotations

import csv
import importlib
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
LIMIT_S = 100


def run(name: str, *arguments: str) -> str:
    command = [sys.executable, str(EXAMPLES / f"{name}.py"), "--short", *arguments]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 0, done.stderr
    return done.stdout


def number(pattern: str, output: str) -> float:
    found = re.search(pattern, output)
    assert found, output
    return float(found[1].replace(",", ""))


def test_quickstart_finds_with_zray_what_it_finds_serially() -> None:
    output = run("quickstart")
    assert number(r"library: ([\d,]+) files", output) > 100
    assert number(r"all \d+ packages +([\d,]+)", output) > 100
    assert "longest functions" in output
    assert "the same result" in output


def test_parameter_server_learns_both_ways() -> None:
    pytest.importorskip("numpy")
    synchronous, asynchronous = run("parameter_server").split("asynchronous")
    for output in (synchronous, asynchronous):
        assert max(map(float, re.findall(r"([\d.]+)%", output))) > 70
        assert number(r"([\d,]+) gradients per second", output) > 0


def test_cartpole_plays_learns_and_draws_its_curve(tmp_path: Path) -> None:
    for module in ("numpy", "gymnasium", "matplotlib"):
        pytest.importorskip(module)
    output = run("cartpole", "--out", str(tmp_path / "out"))
    assert number(r"trained for (\d+) iterations", output) == 5
    assert number(r"mean reward ([\d.]+); see", output) > 9  # no CartPole episode is shorter than 8 steps
    assert (tmp_path / "out" / "cartpole.png").read_bytes().startswith(b"\x89PNG")


def test_pong_learns_the_same_from_the_same_seed_and_records_it(tmp_path: Path) -> None:
    for module in ("numpy", "gymnasium", "ale_py"):
        pytest.importorskip(module)
    curves = []
    for _ in range(2):
        assert number(r"trained for (\d+) iterations", run("pong", "--seed", "3", "--out", str(tmp_path))) == 4
        with (tmp_path / "pong.csv").open(newline="") as file:
            curves.append([{**row, "seconds": ""} for row in csv.DictReader(file)])
    assert curves[0] == curves[1]
    for row in curves[0]:
        assert int(row["won"]) + int(row["lost"]) == 6  # three actors play two points each
        assert float(row["gradient"]) > 0
    steps = [int(row["steps"]) for row in curves[0]]
    assert steps == sorted(set(steps))
    if importlib.util.find_spec("matplotlib"):
        assert (tmp_path / "pong.png").read_bytes().startswith(b"\x89PNG")


def test_pong_learns_from_what_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("numpy", "gymnasium", "ale_py"):
        pytest.importorskip(module)
    import numpy as np

    monkeypatch.syspath_prepend(str(EXAMPLES))
    pong = importlib.import_module("pong")
    assert pong.returns_of([0, 0, 1, 0, -1]).tolist() == [pong.DISCOUNT**2, pong.DISCOUNT, 1, -pong.DISCOUNT, -1]
    learner, seen = pong.Learner(seed=1), np.random.default_rng(1).normal(size=(200, pong.SEEN))
    above = (seen[:, 1] > 0).astype(float)  # a move upwards wins where this number is positive, else it loses
    rng = np.random.default_rng(2)
    for _ in range(100):
        moves = (rng.random(200) < pong.up(learner.policy, seen)[1]).astype(float)
        won = np.where(moves == above, 1.0, -1.0)
        learner.learn([pong.gradient_of(learner.policy, seen, moves, won)])
    assert np.mean((pong.up(learner.policy, seen)[1] > 0.5) == above) > 0.95


def test_tree_of_tasks_waits_at_every_level_on_one_cpu() -> None:
    output = run("tree_of_tasks")
    assert number(r"([\d,]+) tasks, \d+ deep", output) >= 5
    assert number(r"tasks, (\d+) deep", output) >= 2
    assert number(r"(\d+) of them unfinished at the same time", output) >= 2
    assert "on 1 CPU" in output


def test_durable_graph_ends_although_its_driver_is_killed() -> None:
    output = run("durable_graph")
    assert number(r"(\d+) steps, \d+ kills", output) == 11
    assert number(r"steps, (\d+) kills", output) >= 1
    assert "the workflow is RESUMABLE" in output
    assert re.search(r"the most frequent words: \w+ \d+, ", output)
