"""Clusters that are started with ``zray-broker`` and ``zray-worker``."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import time

import pytest

from .helpers import Process, alive, by_hand, cli, driver, error_of, eventually, free_port

FAST = {"ZRAY_SILENCE_S": "2", "ZRAY_HEARTBEAT_S": "0.5"}


def wait_for_hosts(ray, number: int) -> None:
    eventually(lambda: sum(node["Alive"] for node in ray.nodes()) == number)


@pytest.mark.parametrize("name", ["broker", "worker"])
def test_help(name):
    done = cli(name, "--help")
    assert done.returncode == 0 and "Usage" in done.stdout and "--insecure" in done.stdout


@pytest.mark.parametrize("how", ["argument", "auto", "ZRAY_ADDRESS", "ZRAY_ADDRESS=auto", "RAY_ADDRESS", "nothing"])
def test_joining(how, monkeypatch):
    import zray as ray

    with by_hand() as (address, _, _):
        assert address.startswith("ipc://")
        if how in ("ZRAY_ADDRESS", "RAY_ADDRESS"):
            monkeypatch.setenv(how, address)
            ray.init()
        elif how == "nothing":
            ray.init()
        elif how == "ZRAY_ADDRESS=auto":
            monkeypatch.setenv("ZRAY_ADDRESS", "auto")
            ray.init()
        else:
            ray.init(address if how == "argument" else "auto")
        assert ray.get(ray.remote(lambda: 6 * 7).remote(), timeout=8) == 42
        assert len(ray.get(ray.put(b"x" * 1_000_000))) == 1_000_000
        ray.shutdown()


def test_local_means_local(monkeypatch):
    import zray as ray

    monkeypatch.setenv("ZRAY_ADDRESS", "ipc:///nowhere")
    assert "session_dir" in ray.init("local", num_cpus=1)


def test_local_means_local_where_a_cluster_runs():
    import zray as ray

    with by_hand() as (address, _, _):
        assert ray.init("local", num_cpus=1)["address"] != address
        ray.shutdown()


def test_a_driver_reports_which_cluster_it_joins():
    with by_hand() as (address, _, _):
        with driver("ray.init()") as said:
            said.succeed()
        assert said.err.splitlines() == [f"zray: joining the cluster that runs on this machine, at {address}"]
        with driver(f"ray.init({address!r})") as told:
            told.succeed()
        with driver("ray.init(logging_level='WARNING')") as quiet:
            quiet.succeed()
        assert told.err + quiet.err == ""


def test_options_that_only_a_new_cluster_can_have(monkeypatch):
    """As on Ray, a program that sets the number of CPUs does not join by accident."""
    import zray as ray

    expected = r"num_cpus cannot be set .* \(at ipc://.*\).* address='local' to start"
    with by_hand(), pytest.raises(ValueError, match=expected):
        ray.init(num_cpus=1)
    ray.init(num_cpus=1)  # there is no cluster any more
    assert ray.cluster_resources()["CPU"] == 1


@pytest.mark.parametrize("variable", ["ZRAY_ADDRESS", "RAY_ADDRESS"])
def test_a_malformed_address_in_the_environment(variable, monkeypatch):
    import zray as ray

    monkeypatch.setenv(variable, "gopher://head:10001")
    with pytest.raises(ray.exceptions.ConfigError, match=f"{variable}: address 'gopher://head:10001' is not"):
        ray.init()


def test_zrays_variable_comes_before_rays(monkeypatch):
    import zray as ray

    with by_hand() as (address, _, _):
        monkeypatch.setenv("RAY_ADDRESS", "ipc:///nowhere")
        monkeypatch.setenv("ZRAY_ADDRESS", address)
        assert ray.init()["address"] == address
        ray.shutdown()


def test_where_a_node_can_be_reached():
    """Programs ask for a node by its address, as a resource."""
    import zray as ray

    ray.init(num_cpus=1)
    (node,) = ray.nodes()
    assert node["NodeManagerAddress"] == "127.0.0.1"
    assert node["NodeManagerHostname"] == socket.gethostname()
    where = ray.remote(lambda: ray.get_runtime_context().get_node_id())
    assert ray.get(where.options(resources={"node:127.0.0.1": 0.001}).remote()) == node["NodeID"]


def test_the_socket_is_its_users_alone(sandbox):
    with by_hand() as (address, _, _):
        path = address.removeprefix("ipc://")
        assert os.path.exists(path)
        assert stat.S_IMODE(sandbox.root.stat().st_mode) == 0o1700  # sticky: cleaners keep away
        assert path.startswith(str(sandbox.root))


def test_tcp_with_insecure():
    import zray as ray

    port = free_port()
    with by_hand("--bind", f"tcp://127.0.0.1:{port}", "--insecure") as (address, _, _):
        assert address == f"tcp://127.0.0.1:{port}"
        ray.init(address, insecure=True)
        assert ray.get(ray.remote(lambda: 6 * 7).remote(), timeout=8) == 42
        ray.shutdown()


def test_insecure_warns_at_every_start(caplog):
    import zray as ray

    with by_hand("--bind", f"tcp://127.0.0.1:{free_port()}", "--insecure") as (address, broker, (host,)):
        for process in (broker, host):
            assert address in process.expect("warning: insecure: no keys are used", stream="err")
        for _ in range(2):
            caplog.clear()
            ray.init(address, insecure=True)
            (warning,) = [record.getMessage() for record in caplog.records if "insecure" in record.getMessage()]
            assert address in warning and "zray keys" in warning
            ray.shutdown()


def test_where_no_keys_are_needed_nothing_warns(caplog):
    import zray as ray

    with by_hand() as (address, broker, (host,)):
        ray.init(address, insecure=True)
        ray.shutdown()
        assert "insecure" not in broker.err + host.err + caplog.text


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:{port}", "ipc:///tmp/zray-nobody-is-here.sock"])
def test_nobody_answers(address):
    import zray as ray

    address = address.format(port=free_port())
    started = time.monotonic()
    with pytest.raises(ray.exceptions.ClusterUnavailableError, match=address):
        ray.init(address, insecure=True)
    assert time.monotonic() - started < 7
    assert not ray.is_initialized()
    ray.init(num_cpus=1)


@pytest.mark.parametrize("address", ["nonsense", "tcp://", "ipc://", "tcp://127.0.0.1:notaport", "udp://1.2.3.4:5", ""])
def test_malformed_addresses(address):
    import zray as ray

    if not address:
        ray.init(address, num_cpus=1)
        return
    started = time.monotonic()
    with pytest.raises((ray.exceptions.RayError, ValueError), match=r"address|broker"):
        ray.init(address)
    assert time.monotonic() - started < 7 and not ray.is_initialized()


def test_auto_without_a_broker():
    import zray as ray

    with pytest.raises(ray.exceptions.ClusterUnavailableError, match="zray start"):
        ray.init("auto")
    done = cli("worker")
    assert done.returncode == 2 and "zray-broker" in done.stderr and "Traceback" not in done.stderr


def test_a_worker_that_reaches_no_broker_ends(sandbox):
    done = cli("worker", "--address", f"ipc://{sandbox.directory}/nobody.sock", timeout_s=12)
    assert done.returncode != 0 and "nobody.sock" in done.stderr and "Traceback" not in done.stderr


def test_two_brokers_on_one_port():
    address = f"tcp://127.0.0.1:{free_port()}"
    with by_hand("--bind", address, "--insecure", hosts=0):
        done = cli("broker", "--bind", address, "--insecure")
        assert done.returncode == 2 and address in done.stderr and "Traceback" not in done.stderr


def test_two_brokers_on_one_socket(sandbox):
    import zray as ray

    address = f"ipc://{sandbox.directory}/b"
    with by_hand("--bind", address) as (_, _, _):
        done = cli("broker", "--bind", address)
        assert done.returncode == 2 and address in done.stderr and "Traceback" not in done.stderr
        ray.init(address)
        assert ray.get(ray.remote(lambda: 1).remote(), timeout=8) == 1
        ray.shutdown()


@pytest.mark.parametrize("mode", [0o700, 0o777, 0o1777])
def test_a_socket_is_its_users_alone(sandbox, mode):
    import zray as ray

    directory = sandbox.directory / "open"
    directory.mkdir()
    directory.chmod(mode)
    umask = os.umask(0)
    try:
        with by_hand("--bind", f"ipc://{directory}/b") as (address, _, _):
            assert stat.S_IMODE((directory / "b").stat().st_mode) == 0o600
            ray.init(address)
            assert ray.get(ray.remote(lambda: 1).remote(), timeout=8) == 1
            ray.shutdown()
    finally:
        os.umask(umask)


JOIN_AS_SOMEBODY_ELSE = """
import os, sys
from zray.transport.connection import connect
from zray.config import Config
from zray.exceptions import ClusterUnavailableError
from zray.protocol.records import JoinInfo
os.setgroups([])
os.setgid(12345)
os.setuid(12345)
try:
    connect(sys.argv[1], "driver", bytes(16), JoinInfo(), Config(connect_timeout_s=3.0))
except ClusterUnavailableError as error:
    print("refused:", error)
"""
only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


def join_as_somebody_else(address):
    command = [sys.executable, "-c", JOIN_AS_SOMEBODY_ELSE, address]
    return subprocess.run(command, capture_output=True, text=True, timeout=30).stdout


@only_root
def test_another_user_is_kept_out_whatever_the_mode(sandbox):
    sandbox.directory.chmod(0o755)
    with by_hand("--bind", f"ipc://{sandbox.directory}/b", hosts=0) as (address, _, _):
        assert "refused: no zray broker answered" in join_as_somebody_else(address)
        os.chmod(f"{sandbox.directory}/b", 0o777)  # the kernel would let the user connect now
        assert "refused: no zray broker answered" in join_as_somebody_else(address)


@only_root
def test_a_broker_of_another_user_is_not_joined(sandbox):
    import zray as ray

    path = sandbox.directory / "s"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        os.chown(path, 12345, 12345)
        with pytest.raises(ray.exceptions.ClusterUnavailableError, match="belongs to user 12345, not to you"):
            ray.init(f"ipc://{path}")
        done = cli("broker", "--bind", f"ipc://{path}")
        assert done.returncode == 2 and "belongs to user 12345" in done.stderr
        assert path.exists()
        path.unlink()
    assert not ray.is_initialized()


def test_a_file_in_the_place_of_the_socket_is_kept(sandbox):
    path = sandbox.directory / "thesis"
    path.write_text("text")
    done = cli("broker", "--bind", f"ipc://{path}")
    assert done.returncode == 2 and "not a socket" in done.stderr and "Traceback" not in done.stderr
    assert path.read_text() == "text"


def test_bad_bind_addresses():
    for address in ("tcp://256.1.1.1:80", "tcp://127.0.0.1:99999", "ipc:///no/such/directory/socket"):
        done = cli("broker", "--bind", address, "--insecure")
        assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr


@pytest.mark.parametrize(
    "option, value",
    [("--resources", "{"), ("--resources", '{"CPU": 1}'), ("--num-cpus", "-1"), ("--resources", '{"x": -1}')],
)
def test_bad_options_of_a_worker(option, value):
    done = cli("worker", option, value)
    assert done.returncode == 2 and option in done.stderr and "Traceback" not in done.stderr


def test_resources_of_hosts(sandbox):
    import zray as ray

    with by_hand(hosts=0) as (address, _, _):
        command = [sys.executable, "-m", "zray.cli.worker", "--num-cpus", "1", "--resources", '{"x": 2}']
        with Process(command) as one, Process([*command[:-1], '{"y": 1}']) as other:
            ray.init(address)
            wait_for_hosts(ray, 2)
            assert ray.cluster_resources()["x"] == 2 and ray.cluster_resources()["CPU"] == 2
            where = ray.remote(lambda: ray.get_runtime_context().get_node_id())
            at = {name: ray.get(where.options(resources={name: 1}).remote(), timeout=8) for name in "xy"}
            assert at["x"] != at["y"]
            ray.shutdown()
            for process in (one, other):
                process.signal(signal.SIGTERM)
                assert process.wait(8) == 0


@pytest.mark.usefixtures("hangups")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_orderly_ends(number):
    with by_hand() as (_, broker, (host,)):
        host.signal(number)
        assert host.wait(8) == 0, host.report()
        broker.signal(number)
        assert broker.wait(8) == 0, broker.report()


def test_a_host_ends_with_its_broker(sandbox):
    with by_hand(environ=FAST) as (_, broker, (host,)):
        broker.signal(signal.SIGKILL)
        broker.wait(5)
        assert host.wait(10) == 1
        assert "broker" in host.out
        eventually(lambda: not sandbox.processes())


def test_kill_the_broker_under_a_joined_driver(monkeypatch):
    import zray as ray

    with by_hand(environ=FAST) as (address, broker, _):
        for name, value in FAST.items():
            monkeypatch.setenv(name, value)
        ray.init(address)
        ref = ray.remote(time.sleep).remote(1000)
        broker.signal(signal.SIGKILL)
        started = time.monotonic()
        assert isinstance(error_of(ray, ref, 9), ray.exceptions.ClusterUnavailableError)
        assert time.monotonic() - started < 6
        ray.shutdown()


def test_kill_a_host_by_hand(monkeypatch, tmp_path):
    import zray as ray

    with by_hand(hosts=2, cpus=1, environ=FAST) as (address, _, hosts):
        ray.init(address)
        wait_for_hosts(ray, 2)

        @ray.remote(max_retries=0)
        def stay():
            (tmp_path / str(os.getpid())).touch()
            time.sleep(1000)

        @ray.remote
        class Place:
            def pid(self):
                return os.getpid()

        here = ray.remote(lambda: ray.get_runtime_context().get_node_id())
        refs = [stay.remote(), stay.remote()]
        place = Place.options(num_cpus=0).remote()
        pid = ray.get(place.pid.remote(), timeout=8)
        eventually(lambda: len(list(tmp_path.iterdir())) == 2)  # one on each host
        hosts[0].signal(signal.SIGKILL)
        ready, waiting = ray.wait(refs, timeout=9)
        error = error_of(ray, ready[0])
        assert isinstance(error, (ray.exceptions.NodeDiedError, ray.exceptions.WorkerCrashedError)), error
        assert "host" in str(error)
        wait_for_hosts(ray, 1)
        ray.cancel(waiting[0], force=True)
        assert ray.get(here.remote(), timeout=8) == ray.nodes()[0]["NodeID"]
        if not alive(pid):
            assert isinstance(error_of(ray, place.pid.remote()), ray.exceptions.ActorDiedError)
        ray.shutdown()


def test_a_task_is_retried_on_another_host(monkeypatch, sandbox):
    import zray as ray

    with by_hand(hosts=2, cpus=1, environ=FAST) as (address, _, hosts):
        ray.init(address)
        wait_for_hosts(ray, 2)
        gate = sandbox.directory / "gate"
        started = sandbox.directory / "started"

        @ray.remote
        def wait():
            with started.open("a") as file:
                file.write(f"{os.getpid()}\n")
            while not gate.exists():
                time.sleep(0.02)
            return os.getpid()

        refs = [wait.remote(), wait.remote()]
        eventually(lambda: started.exists() and len(started.read_text().split()) == 2)
        hosts[0].signal(signal.SIGKILL)
        wait_for_hosts(ray, 1)
        gate.touch()
        pids = ray.get(refs, timeout=9)
        assert len(started.read_text().split()) == 3 and len(set(pids)) >= 1
        ray.shutdown()


DETACHED = """
    ray.init({address!r}, namespace="shop")

    @ray.remote(num_cpus=0)
    class Counter:
        value = 0
        def add(self):
            self.value += 1
            return self.value, os.getpid()
"""


@pytest.mark.parametrize("ending", ["ray.shutdown()", "os._exit(0)", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_detached_actors_outlive_their_driver(ending):
    import zray as ray

    with by_hand(environ=FAST) as (address, _, _):
        creator = (
            DETACHED.format(address=address)
            + f"""
    kept = Counter.options(name="kept", lifetime="detached").remote()
    lost = Counter.options(name="lost").remote()
    print("made", ray.get(kept.add.remote())[1], ray.get(lost.add.remote())[1])
    {ending}
    """
        )
        with driver(creator, environ=FAST) as process:
            kept_pid, lost_pid = (int(word) for word in process.expect("made").split()[1:])
            process.wait()
        eventually(lambda: not alive(lost_pid))
        assert alive(kept_pid)
        user = (
            DETACHED.format(address=address)
            + """
    kept = ray.get_actor("kept")
    print("value", *ray.get(kept.add.remote(), timeout=8))
    try:
        ray.get_actor("lost")
    except ValueError:
        print("lost is gone")
    """
        )
        with driver(user) as process:
            output = process.succeed()
            assert f"value 2 {kept_pid}" in output and "lost is gone" in output
        ray.init(address, namespace="other")
        with pytest.raises(ValueError):
            ray.get_actor("kept")
        kept = ray.get_actor("kept", namespace="shop")
        assert ray.get(kept.add.remote(), timeout=8)[0] == 3
        ray.kill(kept)
        eventually(lambda: not alive(kept_pid))
        with pytest.raises(ValueError):
            ray.get_actor("kept", namespace="shop")
        ray.shutdown()


def test_a_driver_that_dies_takes_its_tasks_and_not_the_cluster(sandbox):
    import zray as ray

    with by_hand(environ=FAST) as (address, _, _):
        source = f"""
    ray.init({address!r})
    @ray.remote
    def stay():
        time.sleep(1000)
    refs = [stay.remote() for _ in range(10)]
    data = ray.put(b"x" * 2_000_000)
    print("pid", ray.get(ray.remote(num_cpus=0)(os.getpid).remote()))
    sys.stdin.read()
    """
        with driver(source, environ=FAST) as process:
            process.expect("pid")
            process.signal(signal.SIGKILL)
            process.wait()
        ray.init(address)
        eventually(lambda: ray.available_resources().get("CPU") == 2)
        assert ray.get(ray.remote(lambda: 1).remote(), timeout=8) == 1
        ray.shutdown()


def test_drivers_of_one_cluster_do_not_see_each_others_output():
    with by_hand() as (address, _, _):
        source = f"""
    ray.init({address!r})
    ray.get(ray.remote(lambda: print("from", sys.argv[0], os.environ["WHO"])).options().remote()) if False else None
    who = os.environ["WHO"]
    ray.get(ray.remote(lambda: print("hello of", who)).remote())
    sys.stdin.readline()
    """
        with driver(source, environ={"WHO": "one"}) as one, driver(source, environ={"WHO": "two"}) as two:
            one.expect("hello of one")
            two.expect("hello of two")
            for process in (one, two):
                process.say("\n")
            assert "two" not in one.succeed() and "one" not in two.succeed()


def test_a_named_actor_that_no_broker_answers_for():
    import zray as ray

    with by_hand(hosts=0, environ=FAST) as (address, broker, _), pytest.MonkeyPatch.context() as patch:
        for name, value in FAST.items():
            patch.setenv(name, value)
        ray.init(address)
        broker.signal(signal.SIGSTOP)
        with pytest.raises(ray.exceptions.ClusterUnavailableError):
            ray.remote(Exception).options(name="nobody").remote()
        broker.signal(signal.SIGCONT)
        ray.shutdown()


def test_unreachable_addresses_have_distinct_errors(tmp_path, monkeypatch):
    import zray as ray

    monkeypatch.setenv("ZRAY_CONNECT_TIMEOUT_S", "0.3")
    left, file = tmp_path / "left", tmp_path / "file"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(left))
    file.touch()
    port = free_port()
    for address, why in {
        "tcp://no-such-host.invalid:6380": "the name 'no-such-host.invalid' cannot be resolved",
        f"tcp://127.0.0.1:{port}": f"nothing listens at port {port} of 127.0.0.1",
        f"ipc://{tmp_path}/none": f"there is no such file: {tmp_path}/none",
        f"ipc://{tmp_path}/none/none": f"there is no such directory: {tmp_path}/none/none",
        f"ipc://{left}": f"the socket {left} is left over",
        f"ipc://{file}": f"{file} is a file, not a socket",
        "ipc://@nobody": "nothing listens at the abstract socket @nobody",
    }.items():
        with pytest.raises(ray.exceptions.ClusterUnavailableError) as caught:
            ray.init(address, insecure=address.startswith("tcp"))
        assert why in str(caught.value) and f"{address!r} within 0.3 s" in str(caught.value)


def test_of_two_brokers_the_last_one_is_chosen_with_a_warning(sandbox):
    with by_hand(hosts=0) as (first, _, _), by_hand(hosts=0) as (second, _, _):
        warning = f"2 brokers of yours run on this machine: this goes to the one that was started last, at {second}"
        with driver("print(ray.init('auto')['address'])") as program:
            assert program.succeed() == second and warning in program.err and first in program.err
        with Process([sys.executable, "-m", "zray.cli.worker", "--num-cpus", "1"]) as worker:
            worker.expect("host is ready")
            assert warning in worker.err and worker.err.count("2 brokers") == 1
            worker.stop()
        with driver(f"print(ray.init({first!r})['address'])") as program:
            assert program.succeed() == first and "2 brokers" not in program.err
        listed = cli("main", "status").stdout
        assert listed.startswith("2 clusters of yours run on this machine; ") and first in listed and second in listed
