"""Every file and test that a page names is there, and so is every name of the code on the page that shows the way."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from zray.config import OPTIMIZATIONS
from zray.protocol.messages import PROTOCOL_VERSION

ROOT = Path(__file__).resolve().parents[2]
NAMED = re.compile(r"`((?:tests|zray|deploy|docs|examples)/[A-Za-z0-9_./-]+)`")
LINKED = re.compile(r"\]\(([A-Za-z0-9_./-]+)(?:#[a-z0-9-]+)?\)")


PAGES = ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "zray/protocol/SPEC.md", "benchmarks/README.md"]
PAGES += sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("docs/**/*.md"))


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_names_is_there(page: str) -> None:
    text = (ROOT / page).read_text()
    missing = [name for name in NAMED.findall(text) if not (ROOT / name).exists()]
    missing += [link for link in LINKED.findall(text) if not (ROOT / page).parent.joinpath(link).exists()]
    assert missing == []


def test_each_optimization_has_a_row_and_a_file_that_names_it() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    section = text.split("### Optimizations that can be switched off")[1].split("\n### ")[0]
    files = dict(re.findall(r"^\| `([a-z-]+)` \| `(zray/[a-z/_]+\.py)` \|", section, re.MULTILINE))
    assert tuple(files) == OPTIMIZATIONS
    for name, file in files.items():
        source = (ROOT / file).read_text()
        docstring = ast.get_docstring(ast.parse(source)) or ""
        assert f"optimization ``{name}``" in docstring, file
        assert "Depends on:" in docstring and "Without it:" in docstring, file


def test_the_specification_is_that_of_the_protocol() -> None:
    title = (ROOT / "zray" / "protocol" / "SPEC.md").read_text().splitlines()[0]
    assert title == f"# The zray protocol, version {PROTOCOL_VERSION}"


def test_names_of_the_code_on_the_page_where_to_look_are_there() -> None:
    text = (ROOT / "docs" / "where.md").read_text()
    source = {word for path in ROOT.glob("zray/**/*.py") for word in re.findall(r"\w+", path.read_text())}
    named = {part for name in re.findall(r"`([A-Z]\w+(?:\.\w+)?)`", text) for part in name.split(".")}
    assert sorted(named - source) == []
    assert len(named) > 10


def test_every_promise_names_its_proof() -> None:
    """Of what the page on security promises, and of who can do what: each item names a file."""
    text = (ROOT / "docs" / "security.md").read_text()
    promised = text.split("## What is promised")[1].split("\n## ")[0]
    for item in promised.split("\n- ")[1:]:
        assert NAMED.search(item), item
