"""Machines, made of network namespaces: each with an address, a configuration and a session directory of its own.

A switch, which is a bridge in a namespace, joins them; a router does NAT for those behind it. Names hold the ID of the
process that made them, so what a killed test run has left is swept by the next. All processes of a machine share this
machine's kernel: its shared memory, too.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from zray.transport.security.keys import KeyDirectory

from ..e2e.helpers import Process, Sandbox, program
from .wire import Wire

PREFIX = "zray-test"
PORT = 6380
SSH = """#!/bin/sh
# ssh MACHINE COMMAND, into a namespace.
machine=$1; shift
exec env XDG_CONFIG_HOME="{base}/$machine/config" ip netns exec "{prefix}-$machine" sh -c "$*"
"""


def ip(*lines: str) -> None:
    """Runs ``ip`` with each line; raises OSError with what it says."""
    for line in lines:
        done = subprocess.run(["ip", *line.split()], capture_output=True, text=True)
        if done.returncode:
            raise OSError(f"ip {line}: {done.stderr.strip()}")


def obstacle() -> str:
    """Why this machine cannot have such networks; empty if it can."""
    if os.geteuid() != 0:
        return "network namespaces are made by root only"
    if shutil.which("ip") is None:
        return "there is no ip command (iproute2)"
    name = f"{PREFIX}{os.getpid()}-probe"
    try:
        ip(f"netns add {name}", f"-n {name} link add br0 type bridge", f"-n {name} link add v0 type veth peer name v1")
    except OSError as error:
        return f"the kernel or its rights do not allow namespaces, bridges or veth pairs: {error}"
    finally:
        subprocess.run(["ip", "netns", "del", name], capture_output=True)
    return ""


def sweep() -> None:
    """Removes the namespaces of test runs that are no more."""
    for path in Path("/run/netns").glob(f"{PREFIX}*"):
        found = re.match(rf"{PREFIX}(\d+)-", path.name)
        if found and not os.path.exists(f"/proc/{found[1]}"):
            subprocess.run(["ip", "netns", "del", path.name], capture_output=True)


class Machine:
    """A machine: starts programs in it. ``port``: its socket of the switch; ``wire``: if its cable is one."""

    def __init__(self, network: Network, name: str, address: str) -> None:
        self.name = name
        self.address = address
        self.namespace = f"{network.prefix}-{name}"
        self.port = ""
        self.wire: Wire | None = None
        self.directory = network.base / name
        self.directory.mkdir()
        self.sandbox = Sandbox(self.directory)
        self.keys = KeyDirectory(self.directory / "config" / "zray" / "keys")
        self._network = network

    @property
    def endpoint(self) -> str:
        """Where its broker listens, as others say it."""
        return f"tcp://{self.address}:{PORT}"

    def run(self, *argv: str, **settings: object) -> Process:
        """Starts a program; ``settings`` are zray's. It is dead when the network is taken down."""
        environ = {name: value for name, value in os.environ.items() if not name.startswith("ZRAY_")}
        environ |= {name: str(value) for name, value in self._network.settings.items()}
        environ |= {f"ZRAY_{name.upper()}": str(value) for name, value in settings.items()}
        environ |= {"ZRAY_TMPDIR": str(self.directory), "XDG_CONFIG_HOME": str(self.directory / "config")}
        return self._network.keep(Process(["ip", "netns", "exec", self.namespace, *argv], env=environ))

    def start_broker(self, *options: str, **settings: object) -> Process:
        bind = () if "--bind" in options else ("--bind", f"tcp://0.0.0.0:{PORT}")
        return self.run(sys.executable, "-m", "zray.cli.broker", *bind, *options, **settings)

    def start_worker(self, address: str, *options: str, cpus: int = 1, **settings: object) -> Process:
        command = [sys.executable, "-m", "zray.cli.worker", "--address", address, "--num-cpus", str(cpus), *options]
        return self.run(*command, **settings)

    def start_driver(self, source: str, *arguments: str, **settings: object) -> Process:
        """Runs ``source``, with ``ray`` imported; ``arguments`` are its ``sys.argv[1:]``."""
        return self.run(sys.executable, "-u", "-c", program(source), *arguments, **settings)

    def set_link(self, up: bool) -> None:
        """Turns its own end of the cable on or off."""
        ip(f"-n {self.namespace} link set eth0 {'up' if up else 'down'}")

    def sockets(self, state: str) -> list[str]:
        """Its TCP sockets in a state ("0A": listening, "01": established), as (local, remote) in hexadecimal."""
        rows = [line.split() for table in ("tcp", "tcp6") for line in self._table(table)]
        return [f"{row[1]} {row[2]}" for row in rows if row[3] == state]

    def _table(self, name: str) -> list[str]:
        command = ["ip", "netns", "exec", self.namespace, "cat", f"/proc/net/{name}"]
        done = subprocess.run(command, capture_output=True, text=True)
        return done.stdout.splitlines()[1:]


class Network:
    """A switch and what is plugged into it. ``settings``: environment of every process."""

    def __init__(self) -> None:
        sweep()
        self.prefix = f"{PREFIX}{os.getpid()}"
        self.base = Path(tempfile.mkdtemp(prefix="zray-hosts-"))
        self.settings: dict[str, object] = {}
        self.machines: dict[str, Machine] = {}
        self._namespaces: list[str] = []
        self._processes: list[Process] = []
        self.switch = self._namespace("switch")
        ip(f"-n {self.switch} link add br0 type bridge", f"-n {self.switch} link set br0 up")
        self._tools = self.base / "bin"
        self._tools.mkdir()
        (self._tools / "ssh").write_text(SSH.format(base=self.base, prefix=self.prefix))
        (self._tools / "ssh").chmod(0o755)

    def _namespace(self, name: str) -> str:
        namespace = f"{self.prefix}-{name}"
        ip(f"netns add {namespace}", f"-n {namespace} link set lo up")
        self._namespaces.append(namespace)
        return namespace

    def machine(self, name: str, *, wire: bool = False) -> Machine:
        """A new machine at the switch; ``wire``: by a cable that can be disturbed (raises OSError without TAP)."""
        self._namespace(name)
        number = len(self.machines) + 1
        machine = self.machines[name] = Machine(self, name, f"10.77.0.{number}")
        machine.port = f"p{number}"
        here, there = f"-n {self.switch}", f"-n {machine.namespace}"
        if wire:
            machine.wire = Wire((machine.namespace, "eth0"), (self.switch, machine.port))
        else:
            ip(f"{here} link add {machine.port} type veth peer name eth0 netns {machine.namespace}")
        ip(
            f"{here} link set {machine.port} master br0 up",
            f"{there} addr add {machine.address}/24 dev eth0",
            f"{there} link set eth0 up",
        )
        return machine

    def machine_behind_nat(self, name: str) -> Machine:
        """A machine that only a router reaches, which gives what comes from it an address of its own.

        Raises OSError if the kernel does no NAT.
        """
        router = self.machine(f"{name}-router")
        inside = self._namespace(name)
        machine = self.machines[name] = Machine(self, name, "192.168.77.2")
        outside = router.namespace
        ip(
            f"-n {outside} link add eth1 type veth peer name eth0 netns {inside}",
            f"-n {outside} addr add 192.168.77.1/24 dev eth1",
            f"-n {outside} link set eth1 up",
            f"-n {inside} addr add {machine.address}/24 dev eth0",
            f"-n {inside} link set eth0 up",
            f"-n {inside} route add default via 192.168.77.1",
        )
        nat = [sys.executable, str(Path(__file__).with_name("nat.py"))]
        for command in (["sysctl", "-qw", "net.ipv4.ip_forward=1"], nat):
            done = subprocess.run(["ip", "netns", "exec", outside, *command], capture_output=True, text=True)
            if done.returncode:
                raise OSError(done.stderr.strip())
        return machine

    def keep(self, process: Process) -> Process:
        self._processes.append(process)
        return process

    def shell(self, line: str) -> None:
        """Runs a shell line, in which ``ssh MACHINE`` leads to one of these."""
        environ = {**os.environ, "PATH": f"{self._tools}:{os.environ['PATH']}"}
        done = subprocess.run(["sh", "-c", line], env=environ, capture_output=True, text=True, timeout=20)
        assert done.returncode == 0, done.stderr

    def share_keys(self, head: Machine) -> None:
        """Copies the keys of the broker's machine to all others, as its user would."""
        head.keys.create()
        for machine in self.machines.values():
            if machine is not head:
                self.shell(head.keys.copy_command(machine.name))

    def take_down(self) -> None:
        """Ends every process, and removes every trace."""
        with contextlib.ExitStack() as stack:
            stack.callback(shutil.rmtree, self.base, ignore_errors=True)
            for namespace in self._namespaces:
                stack.callback(subprocess.run, ["ip", "netns", "del", namespace], capture_output=True)
            for machine in self.machines.values():
                stack.callback(self._clear, machine)
            for process in self._processes:
                stack.callback(process.__exit__)

    @staticmethod
    def _clear(machine: Machine) -> None:
        machine.sandbox.kill_all()
        for segment in machine.sandbox.segments():
            shutil.rmtree(segment, ignore_errors=True)
        if machine.wire is not None:
            machine.wire.close()


@contextlib.contextmanager
def network_of_machines() -> Iterator[Network]:
    """A network for the length of a ``with`` block. Raises OSError where ``obstacle()`` says why."""
    network = Network()
    try:
        yield network
    finally:
        network.take_down()
