"""Hosts of one machine and user that do not see the same files, as in containers: their objects are transferred.

A container's own ``/dev/shm`` and temporary files are mounts in a Linux namespace. Where the kernel forbids namespaces,
the tests are skipped and say so.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

import pytest

from .helpers import Process, free_port
from .test_machine import IN_NAMESPACES, namespaces  # noqa: F401  (a fixture)

OWN_SHARED_MEMORY = "mount -t tmpfs -o size=256m none /dev/shm"
OWN_TEMPORARY_FILES = "mount -t tmpfs -o size=512m none $ZRAY_TMPDIR"
KEEPER = """
    set -e
    {mounts}
    "$@" &
    trap 'kill -TERM $!' TERM
    wait $! || wait $!
"""


@contextlib.contextmanager
def containers(*mounts: str) -> Iterator[str]:
    """Starts a broker and a host for each of ``mounts``, with a resource of its own, ``c0`` and so on.

    Yields the address.
    """
    bind = f"tcp://127.0.0.1:{free_port()}"
    with contextlib.ExitStack() as stack:
        broker = stack.enter_context(Process([sys.executable, "-m", "zray.cli.broker", "--bind", bind, "--insecure"]))
        address = broker.expect("ready at").split()[-1]
        hosts = []
        for number, mount in enumerate(mounts):
            command = [sys.executable, "-m", "zray.cli.worker", "--address", address, "--num-cpus", "1", "--insecure",
                       "--resources", f'{{"c{number}": 100}}', "--object-store-memory", str(128 << 20)]  # fmt: skip
            inside = [*IN_NAMESPACES, "--kill-child=SIGTERM", "sh", "-c", KEEPER.format(mounts=mount), "keeper"]
            hosts.append(stack.enter_context(Process([*inside, *command] if mount else command)))
        for host in hosts:
            host.expect("host is ready")
        yield address
        for process in (*hosts, broker):
            process.signal(15)
        for process in (*hosts, broker):
            process.wait(10)


@pytest.mark.parametrize(
    "mounts",
    [
        [OWN_SHARED_MEMORY],
        ["", OWN_SHARED_MEMORY],
        [OWN_SHARED_MEMORY, OWN_SHARED_MEMORY],
        ["", OWN_TEMPORARY_FILES],
        [OWN_TEMPORARY_FILES, OWN_SHARED_MEMORY + "; " + OWN_TEMPORARY_FILES],
    ],
    ids=["driver outside", "one outside", "two", "only files of their own", "all of it"],
)
def test_objects_travel_between_containers(sandbox, mounts):
    import zray as ray

    with containers(*mounts) as address:
        ray.init(address, insecure=True)
        try:
            check(ray, len(mounts))
        finally:
            ray.shutdown()


def check(ray, n_hosts: int) -> None:
    """Checks puts, large arguments, results and errors in all directions; they exceed the store, so that some spill."""
    size = 8 << 20

    def on(number):
        return ray.remote(num_cpus=0, resources={f"c{number}": 1})

    def make(number):
        return bytes([number]) * size

    def look(data):
        return data[0], len(data)

    def put(number):
        return [ray.put(make(number))]

    mine = ray.put(make(9))
    for number in range(n_hosts):
        assert ray.get(on(number)(look).remote(mine), timeout=30) == (9, size)
        assert ray.get(on(number)(look).remote(make(8)), timeout=30) == (8, size)
        made = [on(number)(make).remote(n) for n in range(20)]  # more than its store has room for
        (inner,) = ray.get(on(number)(put).remote(7), timeout=30)
        for other in range(n_hosts):
            assert ray.get([on(other)(look).remote(ref) for ref in made], timeout=60) == [(n, size) for n in range(20)]
            assert ray.get(on(other)(look).remote(inner), timeout=30) == (7, size)
        assert [look(ray.get(ref, timeout=30)) for ref in made] == [(n, size) for n in range(20)]
        assert look(ray.get(inner, timeout=30)) == (7, size)
        assert look(ray.get(mine)) == (9, size)
