"""What type checkers see of zray: the types that they infer in users' programs, and the mistakes that they find."""

from __future__ import annotations

import json
import os
import re
import shutil
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
    cache = ROOT / ".mypy_cache" / f"users-{program.stem}"  # of its own: two runs at a time would spoil each other's
    command = [sys.executable, "-m", "mypy", *options, "--cache-dir", str(cache), str(program)]
    environ = {**os.environ, "MYPYPATH": str(ROOT)}
    done = subprocess.run(command, env=environ, cwd=HERE, capture_output=True, text=True, timeout=100)
    assert not done.stderr, done.stderr
    return done.stdout


def pyright(tmp_path: Path, program: Path) -> set[tuple[int, str]]:
    """The errors that pyright's strict mode finds: their lines and texts."""
    command = shutil.which("basedpyright", path=str(Path(sys.executable).parent)) or shutil.which("pyright")
    if command is None:
        pytest.skip("neither basedpyright nor pyright is installed")
    project = {"include": [str(program)], "extraPaths": [str(ROOT)], "typeCheckingMode": "strict"}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(project))
    options = ["-p", str(tmp_path), "--pythonpath", sys.executable, "--outputjson"]
    done = subprocess.run([command, *options], capture_output=True, text=True, timeout=200)
    found = json.loads(done.stdout)["generalDiagnostics"]
    return {(each["range"]["start"]["line"] + 1, each["message"]) for each in found if each["severity"] == "error"}


def wrong_lines(*marks: str) -> set[int]:
    lines = (HERE / "refused.py").read_text().splitlines()
    return {number for number, line in enumerate(lines, 1) if line.endswith(marks)}


def test_types_are_inferred():
    assert mypy(HERE / "accepted.py") == ""


def test_mistakes_are_found():
    output = mypy(HERE / "refused.py")
    found = {int(number) for number in re.findall(r"^refused\.py:(\d+): error: ", output, re.MULTILINE)}
    assert found == wrong_lines("  # wrong", "  # wrong for mypy"), output


@pytest.mark.timeout(240)
def test_types_are_inferred_by_pyright(tmp_path):
    assert pyright(tmp_path, HERE / "accepted.py") == set()


@pytest.mark.timeout(240)
def test_mistakes_are_found_by_pyright(tmp_path):
    found = pyright(tmp_path, HERE / "refused.py")
    assert {line for line, _ in found} == wrong_lines("  # wrong"), sorted(found)


def test_what_is_accepted_runs():
    done = subprocess.run([sys.executable, str(HERE / "accepted.py")], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "fine\n"), done.stderr
