"""Which parts of runtime environments a host installs, when, and what becomes of them."""

from __future__ import annotations

from typing import Any

import pytest

from zray.protocol.contract import BROKER
from zray.protocol.messages import KillWorker, StartWorker, WorkerDied
from zray.protocol.records import EnvironmentPart, EnvironmentSpec
from zray.worker.host.core import Death, Fork, HostCore
from zray.worker.host.installations import UNUSED_S, Install, StopInstaller, Uninstall

ONE, TWO = b"1" * 16, b"2" * 16


def part(uri: str) -> EnvironmentPart:
    return EnvironmentPart(uri, "package", "", b"", b"", b"", 0)


FOLDER, OTHER = part("gcs://folder.zip"), part("pip://other")
BOTH = EnvironmentSpec("both", b"", [FOLDER, OTHER], 60.0)
FIRST = EnvironmentSpec("first", b"", [FOLDER], 60.0)
VARIABLES = EnvironmentSpec("variables")


class Host:
    """A host core whose effects and messages are collected."""

    def __init__(self) -> None:
        self.core = HostCore("node7")
        self.now = 0.0

    def take(self, *kinds: Any) -> list[Any]:
        self.core.check()
        output = self.core.take_output()
        everything = [*output.effects, *(message for sent in output.sends.values() for message in sent)]
        return [each for each in everything if isinstance(each, kinds)]

    def receive(self, message: Any) -> None:
        self.core.receive(BROKER, message, self.now)

    def start(self, worker_id: bytes, environment: EnvironmentSpec) -> None:
        self.receive(StartWorker(worker_id, environment))

    def ended(self, number: int, failure: str = "") -> None:
        self.core.installer_ended(number, failure, self.now)

    def die(self, worker_id: bytes) -> None:
        self.core.exited(worker_id, Death("exit code 0", 0, 0, b"", "", []), self.now)

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.core.tick(self.now)


@pytest.fixture
def host() -> Host:
    return Host()


def test_variables_need_no_installation(host):
    host.start(ONE, VARIABLES)
    assert host.take(Fork, Install) == [Fork(ONE, VARIABLES, [])]


def test_a_worker_is_forked_when_all_parts_are_installed(host):
    host.start(ONE, BOTH)
    assert host.take(Fork, Install) == [Install(1, FOLDER, "both"), Install(2, OTHER, "both")]
    host.ended(2)
    assert host.take(Fork) == []
    host.ended(1)
    assert host.take(Fork) == [Fork(ONE, BOTH, [1, 2])]


def test_parts_are_shared(host):
    host.start(ONE, BOTH)
    host.start(TWO, FIRST)
    assert len(host.take(Install)) == 2
    host.ended(1)
    assert host.take(Fork) == [Fork(TWO, FIRST, [1])]
    host.ended(2)
    assert host.take(Fork) == [Fork(ONE, BOTH, [1, 2])]
    host.start(b"3" * 16, BOTH)
    assert host.take(Fork, Install) == [Fork(b"3" * 16, BOTH, [1, 2])]


def test_a_failure_is_that_of_the_workers_that_wait_for_it(host):
    host.start(ONE, BOTH)
    host.start(TWO, FIRST)
    host.take()
    host.ended(2, "no such package")
    (died,) = host.take(WorkerDied)
    assert (died.worker_id, died.kind) == (ONE, "RuntimeEnvSetupError")
    assert "node7" in died.message
    assert "no such package" in died.message
    host.ended(1)
    assert host.take(Fork) == [Fork(TWO, FIRST, [1])]


def test_what_has_failed_is_removed_and_tried_again(host):
    host.start(ONE, FIRST)
    host.take()
    host.ended(1, "no network")
    assert host.take(Uninstall) == [Uninstall(1)]
    host.start(TWO, FIRST)
    assert host.take(Install) == [Install(2, FOLDER, "first")]


def test_an_installation_that_takes_too_long_is_stopped(host):
    host.start(ONE, FIRST)
    host.take()
    host.wait(59.0)
    assert host.take(StopInstaller) == []
    host.wait(2.0)
    assert host.take(StopInstaller) == [StopInstaller(1)]
    host.wait(2.0)
    assert host.take(StopInstaller) == []
    host.ended(1, "was killed by SIGKILL")
    (died,) = host.take(WorkerDied)
    assert "setup_timeout_seconds" in died.message


def test_an_installation_that_ends_as_it_is_stopped_has_failed(host):
    host.start(ONE, FIRST)
    host.wait(61.0)
    host.take()
    host.ended(1)
    assert host.take(Fork, Uninstall) == [Uninstall(1)]


def test_without_a_limit_it_may_take_any_time(host):
    host.start(ONE, FIRST._replace(timeout_s=0.0))
    host.wait(1e6)
    assert host.take(StopInstaller) == []


def test_what_is_not_used_is_removed_after_a_while(host):
    host.start(ONE, FIRST)
    host.ended(1)
    host.core.forked(ONE, 7, host.now)
    host.wait(10 * UNUSED_S)
    assert host.take(Uninstall) == []
    host.die(ONE)
    host.wait(UNUSED_S - 1)
    host.start(TWO, FIRST)
    assert host.take(Fork)[-1:] == [Fork(TWO, FIRST, [1])]
    host.core.forked(TWO, 8, host.now)
    host.die(TWO)
    host.wait(UNUSED_S + 1)
    assert host.take(Uninstall) == [Uninstall(1)]
    host.start(ONE, FIRST)
    assert host.take(Install) == [Install(2, FOLDER, "first")]


def test_a_worker_that_is_killed_while_it_waits(host):
    host.start(ONE, FIRST)
    host.take()
    host.receive(KillWorker(ONE, "its job has ended"))
    (died,) = host.take(WorkerDied)
    assert (died.worker_id, died.kind) == (ONE, "WorkerCrashedError")
    host.ended(1)
    assert host.take(Fork) == []
    host.wait(UNUSED_S + 1)
    assert host.take(Uninstall) == [Uninstall(1)]


def test_a_directory_that_has_been_removed_is_installed_again(host):
    host.start(ONE, FIRST)
    host.ended(1)
    host.core.forked(ONE, 7, host.now)
    host.take()
    host.start(TWO, FIRST)
    assert host.take(Fork) == [Fork(TWO, FIRST, [1])]
    host.core.directories_gone(TWO, [1], host.now)
    assert host.take(Fork, Install) == [Install(2, FOLDER, "first")]
    host.ended(2)
    assert host.take(Fork) == [Fork(TWO, FIRST, [2])]
    host.die(ONE)
    host.wait(2 * UNUSED_S)
    assert host.take(Uninstall) == []


def test_workers_that_wait_die_with_the_zygote(host):
    host.start(ONE, FIRST)
    host.take()
    host.core.zygote_gone("killed", host.now)
    assert [died.worker_id for died in host.take(WorkerDied)] == [ONE]
