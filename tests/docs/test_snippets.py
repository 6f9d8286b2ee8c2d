"""The programs in README.md and in the guide run as they stand there, and print what is printed there.

Each block of Python is a program of its own. A block with a title is a file: the files of a page lie in one directory,
where pytest is run. What a program writes to stderr is shown in a block of that title.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = ["README.md", *sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("docs/guide/*.md"))]
LIMIT_S = 60
SNIPPET = re.compile(
    r'^```python(?: title="(?P<title>[^"]+)")?\n(?P<program>.*?)^```\n(?:\n```text\n(?P<output>.*?)^```\n)?'
    r'(?:\n```text title="stderr"\n(?P<errors>.*?)^```\n)?',
    re.DOTALL | re.MULTILINE,
)


class Snippet(NamedTuple):
    """A block of Python on a page. ``title``: its file's name; ``output``: what it prints, if the page shows that;
    ``errors``: what it writes to stderr.
    """

    page: str
    title: str | None
    program: str
    output: str | None
    errors: str


def snippets_of(page: str) -> list[Snippet]:
    """The programs and files of a page, in order."""
    found = SNIPPET.finditer((ROOT / page).read_text())
    return [Snippet(page, match["title"], match["program"], match["output"], match["errors"] or "") for match in found]


def programs() -> list[object]:
    """The programs of all pages, with names by page and number."""
    return [
        pytest.param(snippet, id=f"{page}-{number}")
        for page in PAGES
        for number, snippet in enumerate(snippets_of(page), 1)
        if snippet.title is None
    ]


def surroundings(directory: Path) -> dict[str, str]:
    """An environment in which clusters have a directory of their own, so that ``init`` finds no others."""
    others = {
        name: value for name, value in os.environ.items() if not name.startswith("ZRAY_") or name == "ZRAY_CI_RUN"
    }
    return {**others, "ZRAY_TMPDIR": str(directory)}


@contextlib.contextmanager
def short_directory() -> Iterator[Path]:
    """For sockets, whose paths may not be as long as those of pytest's directories get."""
    with tempfile.TemporaryDirectory(prefix="z") as path:
        yield Path(path)


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    with short_directory() as path:
        yield surroundings(path)


@pytest.fixture(scope="module")
def short_path() -> Iterator[Path]:
    with short_directory() as path:
        yield path


@pytest.fixture(scope="module")
def cluster_by_hand(short_path: Path) -> Iterator[dict[str, str]]:
    """What the guide starts by hand; gives the environment of programs that find it."""
    environment = surroundings(short_path)
    commands = (["broker"], ["worker", "--num-cpus", "2", "--resources", '{"x": 2}'])
    running = []
    try:
        for name, *options in commands:
            command = [sys.executable, "-m", f"zray.cli.{name}", *options]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
            running.append(process)
            assert process.stdout is not None
            assert "is ready" in process.stdout.readline()
        yield environment
    finally:
        for process in reversed(running):
            process.terminate()
            process.communicate(timeout=LIMIT_S)


@pytest.mark.parametrize("snippet", programs())
def test_program(snippet: Snippet, environment: dict[str, str], request: pytest.FixtureRequest, tmp_path: Path) -> None:
    if "numpy" in snippet.program:
        pytest.importorskip("numpy")
    if '"auto"' in snippet.program:
        environment = request.getfixturevalue("cluster_by_hand")
    done = subprocess.run(
        [sys.executable, "-c", snippet.program],
        env=environment,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == snippet.errors
    assert snippet.output is None or done.stdout == snippet.output


def files_of(page: str) -> dict[str, str]:
    """The files of a page by name."""
    return {snippet.title: snippet.program for snippet in snippets_of(page) if snippet.title is not None}


@pytest.mark.parametrize("page", [page for page in PAGES if files_of(page)])
def test_files(page: str, environment: dict[str, str], tmp_path: Path) -> None:
    for name, text in files_of(page).items():
        (tmp_path / name).write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "."],
        env=environment,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_pages_have_programs() -> None:
    assert len(programs()) >= 20
