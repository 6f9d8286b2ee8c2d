"""Warnings point at the line of the user's program that causes them."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import zray
from zray import user_warnings
from zray.dag import InputNode
from zray.util import placement_group
from zray.util.metrics import Counter
from zray.util.state.common import ListApiOptions

SOURCES = Path(zray.__file__).parent


def f() -> int:
    return 1


def items() -> Iterator[int]:
    yield 1


class Counting:
    def items(self) -> Iterator[int]:
        yield 1


def bundle() -> None:
    with pytest.raises(Exception, match="local mode"):
        placement_group([{"CPU": 1, "object_store_memory": 1}])


def graph() -> Any:
    with InputNode() as given:
        node = zray.remote(f).bind()
    return node.execute(given)


CAUSES: list[Callable[[], Any]] = [
    lambda: zray.remote(num_returns="dynamic")(items),
    lambda: zray.remote(items).options(num_returns="dynamic"),
    lambda: zray.method(num_returns="dynamic")(Counting.items),
    lambda: Counter("not a name", "described"),
    lambda: Counter("with:colon", "described"),
    lambda: ListApiOptions(filters=[("a", "=", "1"), ("a", "=", "2")]).has_conflicting_filters(),
    bundle,
    graph,
    lambda: zray.get_runtime_context().job_id,
    lambda: zray.get_runtime_context().get(),
]


@pytest.fixture(scope="module", autouse=True)
def local_mode():
    zray.init(local_mode=True)
    yield
    zray.shutdown()


@pytest.mark.parametrize("cause", CAUSES, ids=range(len(CAUSES)))
def test_the_line_of_the_user(cause: Callable[[], Any]) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        cause()
    lines, first = inspect.getsourcelines(cause)
    assert caught, "no warning"
    for warning in caught:
        assert warning.filename == __file__
        assert first <= warning.lineno < first + len(lines)


def test_a_warning_without_a_line_of_the_user_has_some_line():
    code = compile("warn_user('text')", "<zray>", "exec")
    with pytest.warns(UserWarning, match="text"):
        exec(code, {"__name__": "zray.anything", "warn_user": user_warnings.warn_user})


def test_a_warning_is_shown_once_for_a_line():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(3):
            zray.remote(items).options(num_returns="dynamic")
    assert len(caught) == 1


def test_no_module_gives_warnings_in_another_way():
    others = [path for path in SOURCES.rglob("*.py") if "warnings.warn(" in path.read_text()]
    assert others == []
