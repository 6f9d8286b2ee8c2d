"""Pages that name what proves them: every file and test that they name is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NAMED = re.compile(r"`((?:tests|zray|deploy|docs|examples)/[A-Za-z0-9_./-]+)`")
LINKED = re.compile(r"\]\(([A-Za-z0-9_./-]+)(?:#[a-z0-9-]+)?\)")


@pytest.mark.parametrize(
    "page", ["docs/security.md", "docs/hard-cases.md", "docs/architecture.md", "docs/states.md", "README.md"]
)
def test_what_a_page_names_is_there(page: str) -> None:
    text = (ROOT / page).read_text()
    missing = [name for name in NAMED.findall(text) if not (ROOT / name).exists()]
    missing += [link for link in LINKED.findall(text) if not (ROOT / page).parent.joinpath(link).exists()]
    assert missing == []


def test_every_promise_names_its_proof() -> None:
    """Of what the page on security promises, and of who can do what: each item names a file."""
    text = (ROOT / "docs" / "security.md").read_text()
    promised = text.split("## What is promised")[1].split("\n## ")[0]
    for item in promised.split("\n- ")[1:]:
        assert NAMED.search(item), item
