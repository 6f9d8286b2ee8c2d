"""A broker with a journal is killed and started again."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from zray.config.reading import from_environment
from zray.sessions.directories import runtime_root, sweep_dead_sessions

from .helpers import Process, cli, driver, eventually

FAST = {"ZRAY_SILENCE_S": "2", "ZRAY_HEARTBEAT_S": "0.5"}


@contextmanager
def cluster(journal: Path, *options: str, **environ: str) -> Iterator[tuple[Process, Process, str]]:
    """A broker with a journal, and a host with two CPUs: their processes, and the address."""
    variables = {**os.environ, **FAST, **environ}
    command = [sys.executable, "-m", "zray.cli.broker", "--journal", str(journal), *options]
    with Process(command, env=variables) as broker:
        address = broker.expect("is ready at").partition("is ready at ")[2].split()[0]
        command = [sys.executable, "-m", "zray.cli.worker", "--address", address, "--num-cpus=2"]
        with Process(command, env=variables) as host:
            host.expect("ready")
            try:
                yield broker, host, address
            finally:  # in order, also after a failed test
                for process in (host, broker):
                    if process.popen.poll() is None:
                        process.signal(signal.SIGTERM)
                    process.wait(10.0)


def crash(broker: Process, host: Process) -> None:
    """The broker is killed. Its host ends, too, when it has noticed. The next cluster removes what the broker left."""
    broker.signal(signal.SIGKILL)
    broker.wait()
    host.wait()
    sweep_dead_sessions(runtime_root(from_environment().tmpdir))


MAKES = """
    ray.init({address!r}, namespace="n")

    @ray.remote(num_cpus=0)
    class Counter:
        def __init__(self, start):
            self.value = start

        def add(self):
            self.value += 1
            return self.value

    kept = Counter.options(name="kept", lifetime="detached", max_restarts=-1).remote(10)
    once = Counter.options(name="once", lifetime="detached").remote(20)
    mine = Counter.options(name="mine", max_restarts=-1).remote(30)
    group = ray.util.placement_group([{{"CPU": 1}}], name="group", lifetime="detached")
    ray.get(group.ready())
    ray.experimental.internal_kv._internal_kv_put(b"key", b"value")
    print([ray.get(each.add.remote()) for each in (kept, kept, once, mine)], flush=True)
"""
FINDS = """
    ray.init({address!r}, namespace="n")
    kept = ray.get_actor("kept")
    print(ray.get([kept.add.remote(), kept.add.remote()]))
    for name in ("once", "mine"):
        try:
            ray.get_actor(name)
        except ValueError:
            print("no", name)
    group = ray.util.get_placement_group("group")
    ray.get(group.ready())
    print(ray.util.placement_group_table(group)["state"])
    print(ray.experimental.internal_kv._internal_kv_get(b"key"))
    print(ray.util.list_named_actors())
"""
FOUND = "[11, 12]\nno once\nno mine\nCREATED\nb'value'\n['kept']"


@pytest.mark.parametrize("sync", ["normal", "full"])
def test_what_outlives_its_job_outlives_the_broker(tmp_path, sync):
    journal = tmp_path / "journal"
    with cluster(journal, ZRAY_JOURNAL_SYNC=sync) as (broker, host, address):
        with driver(MAKES.format(address=address)) as made:
            assert made.succeed() == "[11, 12, 21, 31]"
        crash(broker, host)
    for run in range(2):  # it is kept over any number of restarts
        with cluster(journal) as (broker, host, address):
            assert f"brought back {2 - run} detached actors, 1 placement groups, 1 values" in broker.err
            with driver(FINDS.format(address=address)) as found:
                assert found.succeed() == FOUND
            crash(broker, host)


def test_an_orderly_end_keeps_it_too(tmp_path):
    journal = tmp_path / "journal"
    with cluster(journal) as (broker, host, address):
        with driver(MAKES.format(address=address)) as made:
            made.succeed()
        broker.stop()
        host.wait()
    with cluster(journal) as (broker, _, address), driver(FINDS.format(address=address)) as found:
        assert found.succeed() == FOUND


def test_an_actor_that_was_created_last_is_not_lost(tmp_path):
    """A driver that ends at once has had its last work confirmed."""
    journal = tmp_path / "journal"
    source = """
        ray.init({address!r}, namespace="n")
        @ray.remote(num_cpus=0)
        class Late:
            def hello(self):
                return "hello"
        Late.options(name="late", lifetime="detached", max_restarts=1).remote()
    """
    with cluster(journal) as (broker, host, address):
        with driver(source.format(address=address)) as made:
            made.succeed()
        crash(broker, host)
    with cluster(journal) as (_, _, address):
        source = f"""
            ray.init({address!r}, namespace="n")
            print(ray.get(ray.get_actor("late").hello.remote()))
        """
        with driver(source) as found:
            assert found.succeed() == "hello"


def test_processes_of_the_earlier_run_are_told_at_once(tmp_path):
    """The broker is back before they have noticed that it was gone."""
    journal = tmp_path / "journal"
    bind = f"ipc://{tmp_path}/broker"
    source = f"""
        ray.init({bind!r})
        print("in", flush=True)
        try:
            ray.get(ray.remote(time.sleep).remote(1000))
        except ray.exceptions.ZrayError as error:
            print(error)
    """
    slow = {"ZRAY_SILENCE_S": "60", "ZRAY_HEARTBEAT_S": "0.5"}
    with cluster(journal, "--bind", bind, **slow) as (broker, host, _), driver(source, environ=slow) as waiting:
        waiting.expect("in")
        broker.signal(signal.SIGKILL)
        broker.wait()
        with cluster(journal, "--bind", bind, **slow):
            assert "the broker was started again" in waiting.succeed()
            host.wait()
            assert "the broker was started again" in host.err


@pytest.mark.parametrize(
    ("content", "expected"),
    [(b"nonsense " * 1000, "cannot be used"), (b"x", "is damaged"), (None, "in use by another")],
)
def test_a_journal_that_cannot_be_used(tmp_path, content, expected):
    journal = tmp_path / "journal"
    if content is None:
        with cluster(journal):
            done = cli("broker", "--journal", str(journal))
    else:
        journal.write_bytes(content)
        journal.chmod(0o600)
        done = cli("broker", "--journal", str(journal))
    assert done.returncode == 2 and expected in done.stderr and str(journal) in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and "ready" not in done.stdout
    assert content is None or journal.read_bytes() == content


def test_zray_start_keeps_a_journal(sandbox, tmp_path):
    from .test_cli_start import zray

    keys, journal = tmp_path / "keys", tmp_path / "journal"
    for options in (("--address=h:1",), ()):
        refused = zray("start", *options, f"--journal={journal}", keys=keys)
        assert refused.returncode == 2 and "--head" in refused.stderr
    for run in range(2):
        done = zray("start", "--head", "--port=0", "--num-cpus=1", f"--journal={journal}", keys=keys)
        assert done.returncode == 0, done.stderr
        source = """
            ray.init("auto")
            kv = ray.experimental.internal_kv
            print(kv._internal_kv_get(b"run"))
            kv._internal_kv_put(b"run", b"1")
        """
        with driver(source, environ={"ZRAY_KEYS": str(keys)}) as program:
            assert program.succeed() == ("b'1'" if run else "None")
        assert zray("stop", keys=keys).returncode == 0
        eventually(lambda: not sandbox.processes("zray: "))
