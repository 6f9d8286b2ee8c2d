"""The glossary (docs/glossary.md) defines each term once, and what it refers to is there."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "glossary.md").read_text()
TERMS = [term.lower() for term in re.findall(r"^### (.+)$", PAGE, re.MULTILINE)]
REFERRED = re.findall(r"(?<![*\w])\*([A-Za-z][\w -]*)\*(?!\*)", PAGE)


def test_each_term_is_defined_once() -> None:
    assert len(TERMS) == len(set(TERMS)) > 40


def test_each_term_has_a_definition() -> None:
    entries = re.split(r"^###? .+\n", PAGE, flags=re.MULTILINE)
    definitions = [entry for entry in entries[1:] if entry.strip()]
    assert len(definitions) == len(TERMS) + 1  # and the table at the end


def test_terms_in_italics_have_an_entry() -> None:
    known = {term + ending for term in TERMS for ending in ("", "s", "es")}
    assert [term for term in REFERRED if term.lower() not in known] == []
