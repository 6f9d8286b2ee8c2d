"""The catalogue of errors (docs/errors.md) has each public exception, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

from zray import exceptions

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "errors.md").read_text()
ENTRIES = re.findall(r"^### (\w+)\n(.*?)(?=^##|\Z)", PAGE, re.DOTALL | re.MULTILINE)
PARTS = ["What happened", "Whose fault", "What to do"]
KINDS = {
    name: value
    for name, value in vars(exceptions).items()
    if isinstance(value, type) and issubclass(value, BaseException) and value.__module__ == exceptions.__name__
}


def test_each_exception_has_one_entry() -> None:
    own = sorted(name for name, kind in KINDS.items() if kind.__name__ == name)
    assert sorted(name for name, _ in ENTRIES) == own


def test_each_entry_says_what_happened_whose_fault_it_is_and_what_to_do() -> None:
    parts = {name: re.findall(r"^\*\*([A-Z][a-z ]+)\.\*\*", text, re.MULTILINE) for name, text in ENTRIES}
    assert parts == {name: PARTS for name, _ in ENTRIES}


def test_each_alias_is_listed() -> None:
    aliases = {name: kind.__name__ for name, kind in KINDS.items() if kind.__name__ != name}
    listed = dict(re.findall(r"^\| `(\w+)` \| `(\w+)` \|$", PAGE, re.MULTILINE))
    assert listed == aliases
