"""Faults of the network between machines: delay, loss, pulled cables, black holes.

Each task counts its runs by a file.
"""

from __future__ import annotations

import collections
import time

import pytest

from ..e2e.helpers import eventually

INTERRUPTION_S = 3.6

TASKS = """
address, record, count, retries = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
ray.init(address)

@ray.remote(max_retries=retries)
def task(n):
    time.sleep(0.03)
    with open(record, "a", buffering=1) as file:
        file.write(f"{n}\\n")
    return n * n

refs = [task.remote(n) for n in range(count)]
print("submitted")
assert ray.get(refs, timeout=60) == [n * n for n in range(count)]
print("nodes", sum(node["Alive"] for node in ray.nodes()))
ray.shutdown()
"""


def runs(record) -> collections.Counter[int]:
    return collections.Counter(map(int, record.read_text().split())) if record.exists() else collections.Counter()


@pytest.fixture
def cluster(network, on_a_wire):
    """(head, a machine on a wire, one that is not, a driver's machine), with keys; nothing runs yet."""
    machines = network.machine("head"), on_a_wire("windy"), network.machine("calm"), network.machine("laptop")
    network.share_keys(machines[0])
    return machines


def test_delay_and_loss(network, cluster):
    head, windy, _, laptop = cluster
    head.start_broker().expect("ready at")
    windy.wire.delay_s, windy.wire.loss = 0.02, 0.01
    host = windy.start_worker(head.endpoint, cpus=4)
    host.expect("host is ready")
    record = network.base / "record"
    laptop.start_driver(TASKS, head.endpoint, str(record), "300", "0").succeed(60)
    assert runs(record) == dict.fromkeys(range(300), 1)
    assert windy.wire.lost > 0
    assert host.popen.poll() is None


@pytest.mark.parametrize("how", ["link down", "black hole"])
def test_a_short_interruption(network, cluster, how):
    """Over half of the silence that counts as death: nothing is lost or run twice, nobody is declared dead.

    The kernel's own waits before it tries again, doubled each time, would leave a silence of more than six seconds.
    """
    head, windy, calm, laptop = cluster
    head.start_broker().expect("ready at")
    hosts = [machine.start_worker(head.endpoint, cpus=2) for machine in (windy, calm)]
    for host in hosts:
        host.expect("host is ready")
    record = network.base / "record"
    driver = laptop.start_driver(TASKS, head.endpoint, str(record), "300", "0")
    eventually(lambda: len(runs(record)) > 20, 20)
    interrupt(windy, how, True)
    time.sleep(INTERRUPTION_S)
    interrupt(windy, how, False)
    assert "nodes 2" in driver.succeed(40)
    assert runs(record) == dict.fromkeys(range(300), 1)
    assert [host.popen.poll() for host in hosts] == [None, None], hosts[0].report()


@pytest.mark.parametrize("how", ["link down", "black hole"])
def test_a_long_interruption(network, cluster, how):
    """The host is declared dead, its tasks run elsewhere; when it is back it ends, and says why."""
    head, windy, calm, laptop = cluster
    network.settings = {"ZRAY_SILENCE_S": 2, "ZRAY_HEARTBEAT_S": 0.4}
    broker = head.start_broker()
    broker.expect("ready at")
    lost, kept = (machine.start_worker(head.endpoint, cpus=2, silence_s=silence) for machine, silence in
                  ((windy, 12), (calm, 2)))  # fmt: skip
    for host in (lost, kept):
        host.expect("host is ready")
    record = network.base / "record"
    driver = laptop.start_driver(TASKS, head.endpoint, str(record), "150", "3")
    eventually(lambda: len(runs(record)) > 20, 20)
    interrupt(windy, how, True)
    assert "nodes 1" in driver.succeed(40)
    assert set(runs(record)) == set(range(150))
    interrupt(windy, how, False)
    assert lost.wait(40) == 1
    assert "declared this host dead" in lost.out, lost.report()
    eventually(lambda: not windy.sandbox.leftovers())
    assert kept.popen.poll() is None


def test_a_host_that_hears_nothing_ends_by_itself(network, cluster):
    head, windy, _, _ = cluster
    network.settings = {"ZRAY_SILENCE_S": 1.5, "ZRAY_HEARTBEAT_S": 0.3}
    head.start_broker().expect("ready at")
    host = windy.start_worker(head.endpoint)
    host.expect("host is ready")
    windy.wire.cut = True
    assert host.wait(15) == 1
    assert "the broker has not been heard for too long" in host.out
    eventually(lambda: not windy.sandbox.leftovers())


PET_OF_A_LAPTOP = """
ray.init(sys.argv[1])

@ray.remote
class Pet:
    def stroke(self):
        return "purr"

pet = Pet.options(name="pet", namespace="pets").remote()
assert ray.get(pet.stroke.remote()) == "purr"
print("here")
sys.stdin.readline()
assert ray.get(pet.stroke.remote()) == "purr"
"""
WATCHER = """
ray.init(sys.argv[1])
print("there", ray.get(ray.get_actor("pet", namespace="pets").stroke.remote(), timeout=20))
while True:
    try:
        ray.get_actor("pet", namespace="pets")
    except ValueError:
        break
    time.sleep(0.1)
"""


@pytest.mark.parametrize("how", ["link down", "black hole"])
def test_the_machine_of_a_driver_vanishes_without_a_word(network, on_a_wire, how):
    """Its job ends when its kernel has acknowledged nothing for ten times as long as a peer may be silent."""
    head, laptop = network.machine("head"), on_a_wire("laptop")
    network.share_keys(head)
    network.settings = {"ZRAY_SILENCE_S": 1, "ZRAY_HEARTBEAT_S": 0.2}
    head.start_broker().expect("ready at")
    head.start_worker(head.endpoint, cpus=2).expect("host is ready")
    driver = laptop.start_driver(PET_OF_A_LAPTOP, head.endpoint, silence_s=60)
    driver.expect("here")
    interrupt(laptop, how, True)
    watcher = head.start_driver(WATCHER, head.endpoint)
    watcher.expect("there purr")  # this takes longer than a peer may be silent
    watcher.succeed(60)
    interrupt(laptop, how, False)
    driver.say("go\n")
    assert driver.wait(60) != 0
    assert "declared this process dead" in driver.err or "owner has died: it had created Pet 'pet'" in driver.err


def interrupt(machine, how: str, interrupted: bool) -> None:
    if how == "link down":
        machine.set_link(not interrupted)
    else:
        machine.wire.cut = interrupted
