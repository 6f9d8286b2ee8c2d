"""What type checkers see of zray: the types that they infer in users' programs, and the mistakes that they find."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def mypy(program: Path) -> str:
    pytest.importorskip("mypy", reason="mypy is not installed")
    # As in a user's project: none of the settings of this one, and nothing said of what is wrong within zray.
    options = ["--strict", "--config-file=", "--follow-imports=silent", "--hide-error-context", "--no-error-summary"]
    command = [sys.executable, "-m", "mypy", *options, "--cache-dir", str(ROOT / ".mypy_cache" / "users"), str(program)]
    environ = {**os.environ, "MYPYPATH": str(ROOT)}
    return subprocess.run(command, env=environ, cwd=HERE, capture_output=True, text=True, timeout=100).stdout


def test_types_are_inferred():
    assert mypy(HERE / "accepted.py") == ""


def test_mistakes_are_found():
    lines = (HERE / "refused.py").read_text().splitlines()
    wrong = {number for number, line in enumerate(lines, 1) if line.endswith("  # wrong")}
    output = mypy(HERE / "refused.py")
    assert {int(number) for number in re.findall(r"^refused\.py:(\d+): error: ", output, re.MULTILINE)} == wrong, output


def test_what_is_accepted_runs():
    done = subprocess.run([sys.executable, str(HERE / "accepted.py")], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "fine\n"), done.stderr
