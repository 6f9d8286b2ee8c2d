"""The names of ``zray.util``: loaded when they are first used."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

import zray
from zray import util


@pytest.mark.parametrize("name", util.__all__)
def test_every_name_is_there_and_says_what_it_is_for(name: str) -> None:
    assert getattr(util, name).__doc__
    assert name in dir(util)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = util.no_such_name


def test_modules_under_their_other_names() -> None:
    assert zray.util.pdb.__name__ == "zray.util.rpdb"
    assert zray.util.ray_debugpy.__name__ == "zray.util.debugpy"


def test_importing_zray_loads_none_of_them() -> None:
    source = "import zray, sys; print([name for name in sys.modules if name.startswith('zray.util.')])"
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["collective", "tracing"])
def test_what_stays_out_says_so_when_imported(name: str) -> None:
    with pytest.raises(ImportError, match="zray"):
        importlib.import_module(f"zray.util.{name}")


def test_a_breakpoint_of_ray_is_refused() -> None:
    for module in (zray.util.pdb, zray.util.ray_debugpy):
        with pytest.raises(NotImplementedError, match="breakpoint_uuid"):
            module.set_trace(b"number")


def test_addresses_have_host_and_port() -> None:
    assert util.get_node_ip_address("127.0.0.1:1") == "127.0.0.1"
    with pytest.raises(ValueError, match="host:port"):
        util.get_node_ip_address("nowhere")
