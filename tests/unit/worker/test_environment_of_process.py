"""The search path of a worker whose runtime environment has an interpreter of its own."""

from __future__ import annotations

import os

import pytest

from zray.protocol.records import JobSettings
from zray.worker.process.runtime_env import Applied, search_path

LIBRARY = os.path.dirname(os.__file__)
DRIVER = ["/program", "/usr/lib/python311.zip", "/usr/lib/python3.11", "/usr/lib/python3.11/lib-dynload",
          "/driver/lib/python3.11/site-packages", "/home/me/python3-projects", "/checkout"]  # fmt: skip
OWN = [LIBRARY, "/environment/site-packages", "/host/site-packages"]


def applied(*places: str, owns_libraries: bool = True) -> Applied:
    return Applied(list(places), "", owns_libraries, "", b"")


def test_the_drivers_libraries_do_not_hide_those_of_the_environment():
    path = search_path(applied("/package"), JobSettings(sys_path=DRIVER), OWN)
    assert path == ["/package", "/program", "/home/me/python3-projects", "/checkout", *OWN]


@pytest.mark.parametrize("places", [(), ("/package", "/other")])
def test_without_an_interpreter_the_driver_is_followed(places):
    driver = [*DRIVER, LIBRARY]
    path = search_path(applied(*places, owns_libraries=False), JobSettings(sys_path=driver), OWN)
    assert path == [*places, *driver, *OWN[1:]]
