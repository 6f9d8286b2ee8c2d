"""What holds for all tests: their names are the same in every process, or pytest-xdist could not share them out."""

from __future__ import annotations

import re

import pytest

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for mark in metafunc.definition.iter_markers("parametrize"):
        values = mark.args[1] if len(mark.args) > 1 else mark.kwargs.get("argvalues")
        if isinstance(values, (set, frozenset)):
            raise pytest.UsageError(f"{metafunc.definition.nodeid}: a set has no order, so sort its values")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if changing := [item.nodeid for item in items if _ADDRESS.search(item.nodeid)]:
        raise pytest.UsageError(f"these names change with each run, give them ids: {', '.join(changing)}")
