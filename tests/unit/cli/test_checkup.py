"""What facts about a machine mean: the rules of ``zray doctor``."""

from __future__ import annotations

import pytest

from zray.cli import checkup
from zray.cli.checkup import FAIL, GIB, MIB, OK, WARN, Check

REQUIRED = ["rich>=13.7", "tomli>=2; python_version < '3.11'", "py-spy>=0.4; extra == 'stack'"]


@pytest.mark.parametrize(("check", "state", "text"), [
    (checkup.python((3, 11, 7)), OK, "3.11.7; all machines of a cluster need 3.11"),
    (checkup.python((3, 9, 1)), FAIL, "too old"),
    (checkup.libraries(REQUIRED, {"rich": "15.0.0"}), OK, "rich 15.0.0"),
    (checkup.libraries(REQUIRED, {"rich": "13.10.1+local"}), OK, "rich 13.10.1"),
    (checkup.libraries(REQUIRED, {"rich": "13.6.9"}), FAIL, "rich 13.6.9 (needed: 13.7) too old"),
    (checkup.libraries(REQUIRED, {}), FAIL, "rich missing"),
    (checkup.libraries([], {}), OK, "not known"),
    (checkup.encryption(True, "4.3.5"), OK, "CURVE"),
    (checkup.encryption(False, "4.3.5"), WARN, "without CURVE"),
    (checkup.kernel("6.1", []), OK, "6.1"),
    (checkup.kernel("3.10", ["pidfd_open"]), FAIL, "refuses pidfd_open"),
    (checkup.cpus(2, 8), OK, "2 of 8"),
    (checkup.memory(8 * GIB, 8 * GIB, 4 * GIB), OK, "8.0 GiB; 4.0 GiB"),
    (checkup.memory(512 * MIB, 8 * GIB, 4 * GIB), WARN, "512.0 MiB may be used, by the limit of the container"),
    (checkup.memory(8 * GIB, 8 * GIB, 100 * MIB), FAIL, "100.0 MiB of the machine's memory are available"),
    (checkup.shared_memory("/s", 8 * GIB, 8 * GIB, 2 * GIB, 128 * MIB), OK, "/s has 8.0 GiB free of 8.0 GiB"),
    (checkup.shared_memory("/s", 8 * GIB, 1 * GIB, 2 * GIB, 128 * MIB), WARN, "objects go to disk earlier"),
    (checkup.shared_memory("/s", 64 * MIB, 64 * MIB, 2 * GIB, 128 * MIB), WARN, "so object stores lie on disk"),
    (checkup.shared_memory("/s", 64 * MIB, 64 * MIB, 32 * MIB, 128 * MIB), OK, "64.0 MiB free"),
    (checkup.shared_memory("/s", 0, 0, 2 * GIB, 128 * MIB, "is not writable"), WARN, "/s is not writable, so"),
    (checkup.space("sessions", "/t", 8 * GIB, 2 * GIB), OK, "/t has 2.0 GiB free of 8.0 GiB"),
    (checkup.space("sessions", "/t", 8 * GIB, 200 * MIB), WARN, "200.0 MiB free"),
    (checkup.space("sessions", "/t", 8 * GIB, 1 * MIB), FAIL, "1.0 MiB free"),
    (checkup.sockets("/r", 61), OK, "/r has 2 bytes; up to 61"),
    (checkup.open_files(1024, 4096), OK, "up to 4,096 for a process (now 1,024"),
    (checkup.open_files(4096, 4096), OK, "up to 4,096 for a process"),
    (checkup.open_files(-1, -1), OK, "no limit"),
    (checkup.open_files(1024, 1024), WARN, "up to 1,024"),
    (checkup.open_files(64, 64), FAIL, "up to 64"),
    (checkup.processes(-1), OK, "no limit"),
    (checkup.processes(512), OK, "up to 512"),
    (checkup.processes(100), WARN, "up to 100"),
    (checkup.keys("/k", []), OK, "none in /k"),
    (checkup.keys("/k", ["driver"]), OK, "driver in /k"),
    (checkup.keys("/k", [], "/k is accessible to others"), FAIL, "/k is accessible to others"),
    (checkup.clock(1.8e9), OK, "plausible"),
    (checkup.clock(0.0), WARN, "years behind"),
    (checkup.cluster("", "", ""), OK, "none of yours"),
    (checkup.cluster("tcp://a:1", "", "zray 0.1.0, 2 hosts"), OK, "tcp://a:1 answers: zray 0.1.0, 2 hosts"),
    (checkup.cluster("tcp://a:1", "no broker answered", ""), FAIL, "no broker answered"),
    (checkup.port("tcp://a:1", ""), OK, "could listen at tcp://a:1"),
    (checkup.port("tcp://a:1", "Address already in use"), FAIL, "tcp://a:1: Address already in use"),
])  # fmt: skip
def test_rules(check: Check, state: str, text: str) -> None:
    assert check.state == state
    assert text in check.finding
    assert bool(check.remedy) == (state != OK)
