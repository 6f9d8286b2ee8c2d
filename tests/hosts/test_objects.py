"""Large objects between machines of a network: by channels, around what blocks them, and never for intruders."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from ..e2e.helpers import eventually
from .network import ip

pytest.importorskip("numpy")

SIZE = 48 << 20
READ = """
import hashlib, json
import numpy as np

address, size, rounds = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
ray.init(address)
on = lambda name: ray.remote(num_cpus=0, resources={name: 1}, max_retries=0)
make = lambda: np.random.default_rng(7).integers(0, 255, size, dtype=np.uint8)
digest = lambda refs: hashlib.sha256(ray.get(refs[0])).hexdigest()
expected = hashlib.sha256(make()).hexdigest()
for source, readers in rounds:
    ref = on(source)(make).remote()
    ray.wait([ref])
    print("made by", source)
    if sys.argv[4:] == ["wait"]:
        sys.stdin.readline()
    assert ray.get([on(name)(digest).remote([ref]) for name in readers], timeout=100) == [expected] * len(readers)
    print("read by", *readers)
ray.shutdown()
"""


ZEROS = """
import numpy as np
address, size = sys.argv[1], int(sys.argv[2])
ray.init(address)
on = lambda name: ray.remote(num_cpus=0, resources={name: 1}, max_retries=0)
ref = on("a")(lambda: np.zeros(size, np.uint8)).remote()
assert ray.get(on("b")(lambda array: int(array.sum()) + array.nbytes).remote(ref), timeout=50) == size
ray.shutdown()
"""


def start(network, *names: str, **settings: object):
    """A broker and a driver's machine, and a host on each of the others, with keys; yields the head."""
    head = network.machine("head")
    hosts = [network.machines.get(name) or network.machine(name) for name in names]
    network.share_keys(head)
    head.start_broker().expect("ready at")
    for host in hosts:
        start_host(head, host, **settings)
    return head, *hosts


def start_host(head, machine, **settings: object) -> None:
    resources = json.dumps({machine.name: 10})
    options = ("--resources", resources, "--object-store-memory", str(256 << 20))
    # All of these share one kernel, but must not find each other's stores.
    worker = machine.start_worker(head.endpoint, *options, test_machine=machine.name, **settings)
    worker.expect("host is ready")


def read(head, *rounds: tuple[str, list[str]], size: int = SIZE, wait: bool = False):
    arguments = (head.endpoint, str(size), json.dumps(rounds), *(["wait"] if wait else []))
    return head.start_driver(READ, *arguments, test_machine="head")


def sent_by(machine) -> int:
    """Bytes that have left a machine."""
    command = ["ip", "netns", "exec", machine.namespace, "cat", "/sys/class/net/eth0/statistics/tx_bytes"]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def test_hosts_talk_directly_and_pass_on_what_they_get(network):
    head, *hosts = start(network, "a", "b", "c", "d", "e")
    assert all(host.sockets("0A") == [] for host in hosts)  # no port is open before somebody wants to dial
    before = {machine.name: sent_by(machine) for machine in (head, *hosts)}
    read(head, ("a", ["b", "c", "d", "e"])).succeed(100)
    sent = {machine.name: sent_by(machine) - before[machine.name] for machine in (head, *hosts)}
    assert sent["head"] < SIZE // 4, sent  # at most what was asked for before the channels were there
    assert sent["a"] < 2.5 * SIZE, sent  # it does not feed all four
    assert sum(sent.values()) >= 4 * SIZE


@pytest.mark.parametrize("how", ["no route", "off"])
def test_what_cannot_go_directly_goes_through_the_broker(network, how):
    if how == "off":
        head, a, b = start(network, "a", "b", transfer_address="off")
    else:
        head, a, b = start(network, "a", "b")
    if how == "no route":
        ip(f"-n {b.namespace} route add blackhole {a.address}/32")
    before = sent_by(head)
    read(head, ("a", ["b"]), ("a", ["b"])).succeed(100)
    relayed = sent_by(head) - before
    assert relayed > 2 * SIZE
    assert (a.sockets("0A") == []) == (how == "off")


def test_a_slow_link_carries_what_compresses_in_less(network):
    """100 Mbit/s, by ``tc``: what would take more than four seconds is compressed, and noise is not."""
    head, a, _ = start(network, "a", "b")
    command = f"tc -n {a.namespace} qdisc add dev eth0 root tbf rate 100mbit burst 64kb latency 50ms"
    done = subprocess.run(command.split(), capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"this kernel limits no bandwidth: {done.stderr.strip()}")
    before = sent_by(a)
    head.start_driver(ZEROS, head.endpoint, str(SIZE), test_machine="head").succeed(60)
    assert sent_by(a) - before < SIZE // 2


def test_a_link_that_breaks_in_the_middle(network, on_a_wire):
    """The way between two hosts is cut while an object travels, and the one to the broker is not."""
    slow = on_a_wire("slow")
    head, a, _ = start(network, "a", "slow")
    slow.wire.delay_s = 0.03  # a window a round trip: some seconds for all of it
    driver = read(head, ("a", ["slow"]), size=200 << 20, wait=True)
    driver.expect("made by a", 30)
    driver.say("go\n")
    before = sent_by(a)
    eventually(lambda: sent_by(a) - before > 20 << 20, 30)
    ip(
        f"-n {slow.namespace} route add blackhole {a.address}/32",
        f"-n {a.namespace} route add blackhole {slow.address}/32",
    )
    relayed = sent_by(head)
    driver.succeed(100)
    assert sent_by(head) - relayed > 20 << 20


def test_hosts_behind_nat(network, behind_nat):
    """Nobody can dial them; they can dial, and what is theirs goes through the broker."""
    hidden = behind_nat("hidden")
    head, _ = start(network, "a")
    network.share_keys(head)
    start_host(head, hidden)
    before = sent_by(head)
    read(head, ("a", ["hidden"])).succeed(60)
    direct = sent_by(head) - before
    read(head, ("hidden", ["a"])).succeed(100)
    assert direct < SIZE // 2 < SIZE < sent_by(head) - before


BROWSER = """
import contextlib, socket, sys
connection = socket.create_connection((sys.argv[1], int(sys.argv[2])), 5)
with connection, contextlib.suppress(ConnectionResetError):
    connection.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
    connection.settimeout(8)
    while connection.recv(100):
        pass
"""
INTRUDER = """
import sys, zmq
from zray.transport.security.keys import KeyDirectory
from zray.protocol.messages import ChannelHello, Pull
from zray.protocol.rows import encode_row
import msgpack
address, how, server = sys.argv[1:4]
context = zmq.Context()
dealer = context.socket(zmq.DEALER)
dealer.linger = 0
if how != "no key":
    public, secret = zmq.curve_keypair()
    if how == "driver's key":
        key = KeyDirectory().client("driver")
        public, secret = key.public, key.secret
    if how == "host's key":
        key = KeyDirectory().client("host")
        public, secret = key.public, key.secret
    dealer.curve_publickey, dealer.curve_secretkey = public, secret
    dealer.curve_serverkey = server.encode()
dealer.connect(address)
for message in (ChannelHello(b"p" * 16, b"t" * 16), Pull(b"o" * 28, 1, 0, 1 << 20, False)):
    dealer.send(msgpack.packb(encode_row(message)))
dealer.send_multipart([b"garbage", b"more"])
print("answered" if dealer.poll(1500) else "not answered")
context.destroy()
"""


def test_intruders_on_channels(network):
    """With no key, a wrong one, a driver's, or a host's that was not invited: nobody comes in, and all are counted."""
    head, a, _ = start(network, "a", "b")
    read(head, ("a", ["b"])).succeed(60)
    (row,) = eventually(lambda: a.sockets("0A"))
    port = int(row.split()[0].rpartition(":")[2], 16)
    address = f"tcp://{a.address}:{port}"
    server = head.keys.client("host").public.decode()
    head.run(sys.executable, "-c", BROWSER, a.address, str(port)).succeed(20)
    for how in ("no key", "wrong key", "driver's key", "host's key"):
        intruder = head.run(sys.executable, "-c", INTRUDER, address, how, server)
        assert "not answered" in intruder.succeed(20), how

    def refused() -> dict[str, int]:
        status = head.run(sys.executable, "-m", "zray.cli.main", "status", "--json")
        hosts = json.loads(status.succeed(20))["hosts"]
        return {reason: count for host in hosts for reason, count in host["refused"].items()}

    # Two with keys that are no host's of this cluster, the browser, and the one without a key: if he is the first to
    # notice that the two sides do not fit, libzmq does not tell the listener why he has gone.
    def all_counted() -> bool:
        found = refused()
        return found.get("unknown key", 0) >= 2 and sum(found.values()) >= 4

    eventually(all_counted, 20, 0.3)
    read(head, ("a", ["b"])).succeed(60)  # service goes on


def test_a_transfer_address_that_cannot_be_used(network):
    head = network.machine("head")
    network.share_keys(head)
    head.start_broker().expect("ready at")
    for wrong, hint in (
        ("10.77.0.1:5000", "transfer_address '10.77.0.1:5000' cannot be used"),
        ("tcp://0.0.0.0:5000", "other hosts can dial"),
        ("tcp://10.77.0.99:5000", "cannot listen for channels at 'tcp://10.77.0.99:5000'"),
    ):
        worker = head.start_worker(head.endpoint, transfer_address=wrong)
        assert worker.wait() == 2
        assert hint in worker.err and "Traceback" not in worker.err, worker.err
    worker = head.start_worker(head.endpoint, transfer_address="tcp://10.77.0.1:5000")
    worker.expect("host is ready")
    assert any(":1388 " in row for row in head.sockets("0A"))
