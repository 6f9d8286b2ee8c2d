"""zray's plugin for pytest: a cluster for tests, and a check that tests leave nothing behind in it.

pytest loads this module in each run of an environment that has zray. So it is not in the package ``zray``, and imports
nothing of it before a test asks for a fixture.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from zray.testing.leaks import Left

MARK = "zray_leaves"
BEFORE: pytest.StashKey[Left] = pytest.StashKey()
FAILED = pytest.StashKey[bool]()
LAST = pytest.StashKey[pytest.Item]()
"""The last test, while its fixtures are taken down: that of the cluster is the last one."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the settings."""
    parser.addini("zray_num_cpus", "CPUs of the cluster of the fixture zray_cluster", default="2")
    parser.addini(
        "zray_leaks", "whether a test fails that leaves work or objects in zray_cluster", "bool", default=True
    )


def pytest_configure(config: pytest.Config) -> None:
    """Registers the marker."""
    config.addinivalue_line(
        "markers", f"{MARK}(*kinds): the test may leave these in zray_cluster: actors, tasks, objects; default: all"
    )


@pytest.fixture(scope="session")
def zray_init_arguments(pytestconfig: pytest.Config) -> dict[str, Any]:
    """The arguments of ``zray.init`` for ``zray_cluster``. Define this fixture in conftest.py to change them."""
    return {"num_cpus": int(pytestconfig.getini("zray_num_cpus"))}


@pytest.fixture(scope="session")
def zray_cluster(pytestconfig: pytest.Config, zray_init_arguments: dict[str, Any]) -> Iterator[Any]:
    """A local cluster for all tests of this process: the result of ``zray.init``."""
    import zray

    with zray.init(**{"address": "local", **zray_init_arguments}) as context:
        yield context
        if (last := pytestconfig.stash.get(LAST, None)) is not None:
            _check(last)


@pytest.fixture
def zray_namespace(zray_cluster: Any) -> Iterator[str]:
    """A namespace of the test's own. Actors that are left in it, detached ones too, are killed at the end."""
    import uuid

    from zray.testing.leaks import kill_actors_in

    namespace = f"test-{uuid.uuid4().hex[:12]}"
    yield namespace
    kill_actors_in(namespace)


# ------------------------------------------------------------------ the check


def _is_checked(item: pytest.Item) -> bool:
    return "zray_cluster" in getattr(item, "fixturenames", ()) and bool(item.config.getini("zray_leaks"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, object, object]:
    """Notes what is there after the fixtures of a test: they may live longer than the test."""
    result = yield
    if _is_checked(item):
        from zray.testing.leaks import look

        item.stash[BEFORE] = look()
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Notes that a test has failed: its traceback holds what the test had."""
    report = yield
    if report.when == "call" and not report.passed:
        item.stash[FAILED] = True
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None, object, object]:
    """Fails a test that has left something behind."""
    if nextitem is None:
        item.config.stash[LAST] = item
    result = yield
    _check(item)
    return result


def _check(item: pytest.Item) -> None:
    before = item.stash.get(BEFORE, None)
    if before is None or item.stash.get(FAILED, False):
        return
    del item.stash[BEFORE]
    from zray.testing.leaks import KINDS, left_behind

    allowed = {kind for mark in item.iter_markers(MARK) for kind in (mark.args or KINDS)}
    if unknown := allowed - set(KINDS):
        pytest.fail(f"@pytest.mark.{MARK} takes {', '.join(KINDS)}, not {', '.join(sorted(unknown))}", pytrace=False)
    if report := left_behind(before, allowed):
        pytest.fail(report, pytrace=False)
