"""The search for modules that import each other."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("grimp", reason="of the extra lint")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def circles_of() -> Callable[[dict[str, set[str]]], list[list[str]]]:
    spec = importlib.util.spec_from_file_location("cycles", ROOT / ".ci" / "cycles.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["cycles"] = module
    spec.loader.exec_module(module)
    found: Callable[[dict[str, set[str]]], list[list[str]]] = module.circles_of
    return found


def test_circles_are_found(circles_of: Callable[[dict[str, set[str]]], list[list[str]]]) -> None:
    imports = {"a": {"b", "z"}, "b": {"c"}, "c": {"a"}, "d": {"a", "e"}, "e": {"d"}, "f": {"f", "a"}}
    assert circles_of(imports) == [["a", "b", "c"], ["d", "e"]]


def test_a_chain_is_no_circle(circles_of: Callable[[dict[str, set[str]]], list[list[str]]]) -> None:
    assert circles_of({"a": {"b", "c"}, "b": {"c"}, "c": {"elsewhere"}}) == []
