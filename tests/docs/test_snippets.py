"""The programs in README.md run as they stand there, and print what is printed there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

README = Path(__file__).resolve().parents[2] / "README.md"
LIMIT_S = 60
SNIPPET = re.compile(
    r"^```python\n(?P<program>.*?)^```\n(?:\n```text\n(?P<output>.*?)^```\n)?", re.DOTALL | re.MULTILINE
)


def snippets() -> list[tuple[str, str | None]]:
    """The programs, each with its output if the README shows one."""
    return [(found["program"], found["output"]) for found in SNIPPET.finditer(README.read_text())]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Clusters of these tests have a directory of their own, so that ``address="auto"`` finds the one below."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("ZRAY_")}
    return {**others, "ZRAY_TMPDIR": str(tmp_path_factory.mktemp("z"))}


@pytest.fixture(scope="module")
def cluster_by_hand(environment: dict[str, str]) -> Iterator[None]:
    """What the README starts by hand."""
    commands = (["broker"], ["worker", "--num-cpus", "2", "--resources", '{"x": 2}'])
    running = []
    try:
        for name, *options in commands:
            command = [sys.executable, "-m", f"zray.cli.{name}", *options]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
            running.append(process)
            assert process.stdout is not None
            assert "is ready" in process.stdout.readline()
        yield
    finally:
        for process in reversed(running):
            process.terminate()
            process.communicate(timeout=LIMIT_S)


@pytest.mark.parametrize(("program", "output"), snippets())
def test_program_of_the_readme(
    program: str, output: str | None, environment: dict[str, str], request: pytest.FixtureRequest
) -> None:
    if "numpy" in program:
        pytest.importorskip("numpy")
    if '"auto"' in program:
        request.getfixturevalue("cluster_by_hand")
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=LIMIT_S
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert output is None or done.stdout == output


def test_the_readme_has_programs() -> None:
    assert len(snippets()) >= 4
