"""Large objects between hosts: machines made of network namespaces, joined by veth pairs and a bridge.

One transfer: a host has an object of 1 GiB, incompressible, and a task on another times its ``get``. Beside it, between
the same namespaces in the same run, what one plain TCP stream moves and what ZeroMQ with CURVE moves (see
``streams.py``). They take turns, and the median of each counts; the first transfer, into pages that the host has never
had, is told by itself. Broadcast: both ends of every cable send no
more than 1 Gbit/s (``tc tbf``), and one task on each of eight hosts reads the same object at the same time.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import subprocess
import sys
from pathlib import Path

from benchmarks.host_figures import Figure
from tests.hosts.network import Machine, Network, network_of_machines

GIB = 1 << 30
LEAST_PART = 0.5
MOST_TIMES = 2.5
LINK_RATE = "1gbit"
STREAMS = str(Path(__file__).with_name("streams.py"))

ROUND = """
import json, os
import numpy as np

address, size, names = sys.argv[1], int(sys.argv[2]), sys.argv[3].split(",")
ray.init(address, insecure=sys.argv[4] == "insecure")

@ray.remote(resources={"source": 1}, num_cpus=0)
class Source:
    def make(self):
        block = np.frombuffer(os.urandom(1 << 24), dtype=np.uint8)
        self.ref = ray.put(np.tile(block, size // block.size))
        return [self.ref]

@ray.remote(num_cpus=0)
def read(refs, at):
    import numpy  # what unpickling an array would do in a new worker is no part of the transfer
    time.sleep(max(0, at - time.time()))
    began = time.time()
    array = ray.get(refs[0])
    ended = time.time()
    assert array.nbytes == size and array[-1] == array[(1 << 24) - 1]
    return began, ended

source = Source.remote()
refs = ray.get(source.make.remote())
at = time.time() + 0.5
times = ray.get([read.options(resources={name: 1}).remote(refs, at) for name in names])
print("took", max(ended for _, ended in times) - min(began for began, _ in times))
ray.shutdown()
"""


@dataclasses.dataclass
class Cluster:
    """A broker and a driver on ``head``, and a host on each of ``machines``, the first of which has the object."""

    network: Network
    head: Machine
    machines: list[Machine]
    insecure: bool

    def start(self) -> None:
        """Starts broker and hosts."""
        options = ("--insecure",) if self.insecure else ()
        self.head.start_broker(*options).expect("ready at")
        hosts = []
        for number, machine in enumerate(self.machines):
            name = "source" if number == 0 else machine.name
            resources = json.dumps({name: 10})
            hosts.append(machine.start_worker(
                self.head.endpoint, "--resources", resources, "--object-store-memory", str(int(1.6 * GIB)), *options,
                test_machine=machine.name,
            ))  # fmt: skip
        for host in hosts:
            host.expect("host is ready")

    def transfer(self, size: int, readers: int = 1) -> float:
        """Has an object made, and read by the first ``readers`` hosts at once; seconds until the last has it."""
        names = ",".join(machine.name for machine in self.machines[1 : readers + 1])
        keys = "insecure" if self.insecure else "keys"
        driver = self.head.start_driver(ROUND, self.head.endpoint, str(size), names, keys, test_machine="head")
        return float(driver.succeed(180).rsplit("took", 1)[1])


def stream(kind: str, source: Machine, target: Machine, size: int) -> float:
    """Bytes a second that a bare stream moves from one machine to another."""
    receiver = target.run(sys.executable, STREAMS, kind, "receive", target.address, str(size))
    receiver.expect("listens")
    source.run(sys.executable, STREAMS, kind, "send", target.address, str(size)).succeed(60)
    return float(receiver.succeed(60).rsplit("rate", 1)[1])


def limit(machine: Machine, network: Network) -> None:
    """Both ends of a machine's cable send no more than ``LINK_RATE``."""
    for namespace, device in ((machine.namespace, "eth0"), (network.switch, machine.port)):
        command = f"tc -n {namespace} qdisc add dev {device} root tbf rate {LINK_RATE} burst 1mb latency 20ms"
        subprocess.run(command.split(), check=True)


def one_transfer(rounds: int, size: int) -> list[Figure]:
    """1 GiB from host to host, without and with CURVE, beside the bare streams."""
    figures = []
    for insecure, kind, what in ((True, "tcp", "plain TCP"), (False, "curve", "CURVE")):
        rates: dict[str, list[float]] = {"zray": [], kind: []}
        with network_of_machines() as network:
            machines = [network.machine(name) for name in ("head", "a", "b")]
            if not insecure:
                network.share_keys(machines[0])
            cluster = Cluster(network, machines[0], machines[1:], insecure)
            cluster.start()
            first = size / cluster.transfer(size)
            for _ in range(rounds):
                rates["zray"].append(size / cluster.transfer(size))
                rates[kind].append(stream(kind, machines[1], machines[2], size))
        ours, bare = statistics.median(rates["zray"]), statistics.median(rates[kind])
        part = ours / bare
        figures += [
            Figure(f"one stream of {what}", f"{bare / 1e9:.2f} GB/s", "", None, bare),
            Figure(f"an object, by {what}", f"{ours / 1e9:.2f} GB/s", "", None, ours),
            Figure(f"... the first, into fresh pages, by {what}", f"{first / 1e9:.2f} GB/s", "", None, first),
            Figure(
                f"... as a part of that stream, {what}", f"{part:.2f}", f">= {LEAST_PART}", part >= LEAST_PART, part
            ),
        ]
    return figures


def broadcast(size: int, readers: int, rounds: int) -> list[Figure]:
    """One object to many hosts over channels of 1 Gbit/s, with CURVE, beside one transfer over the same channels."""
    with network_of_machines() as network:
        machines = [network.machine(name) for name in ("head", "source", *(f"r{n}" for n in range(readers)))]
        for machine in machines:
            limit(machine, network)
        network.share_keys(machines[0])
        cluster = Cluster(network, machines[0], machines[1:], insecure=False)
        cluster.start()
        one = statistics.median(cluster.transfer(size) for _ in range(rounds))
        first = cluster.transfer(size, readers)
        later = statistics.median(cluster.transfer(size, readers) for _ in range(rounds))
    figures = [Figure(f"one transfer, {LINK_RATE}", f"{one:.2f} s", "", None, one)]
    for seconds, what in ((first, "the first, into fresh pages"), (later, "later ones")):
        times = seconds / one
        figures += [
            Figure(f"broadcast to {readers} hosts, {LINK_RATE} each: {what}", f"{seconds:.2f} s", "", None, seconds),
            Figure(f"... as a multiple of one: {what}", f"{times:.2f}", f"<= {MOST_TIMES}", times <= MOST_TIMES, times),
        ]
    return figures
