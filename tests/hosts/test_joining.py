"""Machines that join: in any order, from anywhere, and told plainly when they cannot."""

from __future__ import annotations

import subprocess

from ..e2e.helpers import eventually
from .network import PORT

WORK = """
address = sys.argv[1]
ray.init(address)

@ray.remote
def square(n):
    time.sleep(0.01)
    return n * n

@ray.remote
def outer(n):
    return sum(ray.get([square.remote(i) for i in range(n)]))

@ray.remote
class Counter:
    def __init__(self):
        self.n = 0
    def add(self, k):
        self.n += k
        return self.n

@ray.remote
def add_by_name(k):
    return ray.get(ray.get_actor("counter").add.remote(k))

counter = Counter.options(name="counter").remote()
assert ray.get([square.remote(n) for n in range(100)], timeout=30) == [n * n for n in range(100)]
assert ray.get([outer.remote(n) for n in range(6)], timeout=30) == [0, 0, 1, 5, 14, 30]
assert ray.get([counter.add.remote(1) for _ in range(20)], timeout=30) == list(range(1, 21))
assert max(ray.get([add_by_name.remote(10) for _ in range(5)], timeout=30)) == 70
assert len(ray.get(ray.remote(lambda data: data[::-1]).remote(b"x" * 90_000), timeout=30)) == 90_000
print("nodes", sum(node["Alive"] for node in ray.nodes()))
ray.shutdown()
"""
FIRST_ANSWER = "ray.init(sys.argv[1]); print('answer', ray.get(ray.remote(lambda: 42).remote(), timeout=15))"


def test_a_broker_two_workers_and_a_driver_on_four_machines(network):
    head, one, other, laptop = (network.machine(name) for name in ("head", "one", "other", "laptop"))
    broker = head.start_broker()
    line = broker.expect("tar ")
    for machine in (one, other, laptop):
        network.shell(line.replace("USER@MACHINE", machine.name))
        assert not (machine.keys.path / "broker.key").exists()
    hosts = [machine.start_worker(head.endpoint) for machine in (one, other)]
    for host in hosts:
        host.expect("host is ready")
    assert "nodes 2" in laptop.start_driver(WORK, head.endpoint).succeed(40)
    for process in (*hosts, broker):
        process.stop()
    for machine in network.machines.values():
        machine.sandbox.assert_clean()


def test_a_worker_behind_nat_needs_one_connection_and_no_port(network, behind_nat):
    head, laptop = network.machine("head"), network.machine("laptop")
    hidden = behind_nat("hidden")
    network.share_keys(head)
    head.start_broker().expect("ready at")
    hidden.start_worker(head.endpoint, cpus=2).expect("host is ready")
    assert "nodes 1" in laptop.start_driver(WORK, head.endpoint).succeed(40)
    assert hidden.sockets("0A") == []
    assert len(hidden.sockets("01")) == 1
    (seen,) = head.sockets("01")
    assert not seen.split()[1].startswith("024DA8C0"), "the broker sees the router's address, not 192.168.77.2"


def test_a_worker_that_starts_before_the_broker(network):
    head, early, laptop = (network.machine(name) for name in ("head", "early", "laptop"))
    network.share_keys(head)
    worker = early.start_worker(head.endpoint)
    eventually(lambda: early.sockets("02") or early.sandbox.processes("zray: host"))
    driver = laptop.start_driver(FIRST_ANSWER, head.endpoint, connect_timeout_s=1.2)
    assert driver.wait() == 1
    assert f"no zray broker answered at '{head.endpoint}' within 1.2 s" in driver.err
    patient = laptop.start_driver(FIRST_ANSWER, head.endpoint, connect_timeout_s=15)
    head.start_broker().expect("ready at")
    worker.expect("host is ready")
    patient.expect("answer 42")
    patient.succeed()


def test_addresses_that_a_broker_cannot_have(network):
    head = network.machine("head")
    elsewhere = head.start_broker("--bind", f"tcp://10.77.0.99:{PORT}")
    assert elsewhere.wait() == 2
    assert "it is not an address of this machine" in elsewhere.err and f"tcp://10.77.0.99:{PORT}" in elsewhere.err
    broker = head.start_broker()
    broker.expect("ready at")
    second = head.start_broker("--bind", head.endpoint)
    assert second.wait() == 2 and "the address is in use" in second.err
    third = head.start_broker()
    assert third.wait() == 2 and "the address is in use" in third.err
    assert "Traceback" not in elsewhere.err + second.err + third.err
    broker.stop()


def test_brokers_that_cannot_be_reached(network):
    """An address nobody has, a port nobody listens at, a port with somebody else: what was tried, for how long."""
    head, laptop = network.machine("head"), network.machine("laptop")
    network.share_keys(head)
    head.start_broker().expect("ready at")
    web = head.run("python3", "-m", "http.server", "8000")
    eventually(lambda: any(":1F40 " in row for row in head.sockets("0A")))
    for address, hint in (
        ("tcp://10.77.0.250:6380", "Is one running there"),
        (f"tcp://{head.address}:6381", "Is one running there"),
        (f"tcp://{head.address}:8000", "not a zray broker"),
    ):
        driver = laptop.start_driver(FIRST_ANSWER, address, connect_timeout_s=1.2)
        worker = laptop.start_worker(address, join_timeout_s=1.3)
        assert driver.wait() == 1 and worker.wait() == 2
        assert f"'{address}' within 1.2 s" in driver.err and hint in driver.err, driver.err
        assert "ZRAY_CONNECT_TIMEOUT_S" in driver.err
        assert f"'{address}' within 1.3 s" in worker.err and hint in worker.err, worker.err
        assert "ZRAY_JOIN_TIMEOUT_S" in worker.err and "Traceback" not in worker.err
    web.popen.kill()


def test_names_of_machines_in_addresses(network):
    """A name that cannot be resolved is told as such."""
    laptop, head = network.machine("laptop"), network.machine("head")
    network.share_keys(head)
    driver = laptop.start_driver(FIRST_ANSWER, "tcp://no-such-machine.invalid:6380", connect_timeout_s=1.2)
    assert driver.wait() == 1 and "no-such-machine.invalid" in driver.err
    assert subprocess.run(["ip", "netns", "pids", head.namespace], capture_output=True).stdout == b""
