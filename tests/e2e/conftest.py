"""Each test has a directory, sessions and processes of its own, and must leave none of them behind."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import zray
from zray.system.machine import machine_id

from .helpers import Sandbox


@pytest.fixture(autouse=True)
def sandbox(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    """The test's own directory. Its name is short, since paths of sockets are limited."""
    directory = Path(tempfile.mkdtemp(prefix="zray-e2e-"))
    monkeypatch.setenv("ZRAY_TMPDIR", str(directory))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(directory / "config"))  # keys, without the user's settings
    monkeypatch.delenv("ZRAY_ADDRESS", raising=False)
    monkeypatch.setenv("PYTHONFAULTHANDLER", "")
    machine_id.cache_clear()  # tests of many machines give this process's another name
    box = Sandbox(directory)
    try:
        yield box
        zray.shutdown()
        if not box.failed:  # else the test itself has reported it
            box.assert_clean()
    finally:
        zray.shutdown()
        box.kill_all()
        for segment in box.segments():
            shutil.rmtree(segment, ignore_errors=True)
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def ray(sandbox: Sandbox) -> Iterator[ModuleType]:
    """zray, with a cluster of two CPUs."""
    zray.init(num_cpus=2)
    yield zray
    zray.shutdown()
