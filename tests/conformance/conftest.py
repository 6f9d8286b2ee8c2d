"""Runs the scenarios on zray, or with ``--impl ray`` on Ray itself, to prove each expectation."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

from .helpers import make_gate

RAY_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "0",
    "PYTHONUNBUFFERED": "1",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--impl", choices=["zray", "ray"], default="zray", help="what the conformance scenarios run on")


def impl_of(config: pytest.Config) -> str:
    # The option is unknown if pytest was started above this directory.
    return str(config.getoption("--impl", default="zray"))


def pytest_configure(config: pytest.Config) -> None:
    if impl_of(config) == "ray":  # warnings of Ray itself are ignored
        config.addinivalue_line("filterwarnings", "ignore")


@pytest.fixture(scope="session")
def impl(pytestconfig: pytest.Config) -> str:
    """``"zray"`` or ``"ray"``."""
    return impl_of(pytestconfig)


@pytest.fixture(scope="session")
def ray_module(impl: str) -> ModuleType:
    """The module under test, not initialised."""
    if impl == "ray":
        os.environ.update(RAY_SETTINGS)
    return importlib.import_module(impl)


@pytest.fixture(scope="session")
def init_options(impl: str) -> dict[str, Any]:
    """The arguments of ``init`` for every cluster of these scenarios."""
    quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
    return {"num_cpus": 2, **(quiet if impl == "ray" else {})}


@pytest.fixture(scope="module")
def ray(ray_module: ModuleType, init_options: dict[str, Any]) -> Iterator[ModuleType]:
    """The module under test, initialised with two CPUs and two units of the resource ``slot``."""
    ray_module.init(**init_options, resources={"slot": 2})
    yield ray_module
    ray_module.shutdown()


@pytest.fixture
def gate(ray: ModuleType) -> Any:
    """An actor at which tasks wait until the test opens it."""
    return make_gate(ray)
