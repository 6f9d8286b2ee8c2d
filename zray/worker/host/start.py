"""Starts a host on this machine: session, store, zygote, connection. Used by ``zray-worker`` and local clusters."""

from __future__ import annotations

import dataclasses
import math
import os
import resource
import socket
import sys
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from zray.config import OFF, ON, Config
from zray.protocol.messages import HOST
from zray.protocol.records import HostInfo, JoinInfo
from zray.sessions.directories import SessionPaths, absolute, remove_session
from zray.sessions.lock import SessionLock
from zray.sessions.upkeep import SessionUpkeep
from zray.store import Store, default_store_location
from zray.store.location import default_capacity
from zray.system.accelerators import vendor_of
from zray.system.machine import host_labels, ip_address, machine_id
from zray.system.processes import kill_session, memory_limit_bytes, raise_descriptor_limit
from zray.transfer.shell import Transfers, listening_address
from zray.transport.connection import Connection, connect
from zray.transport.relay import Relay
from zray.worker.host.installers import Places
from zray.worker.host.pinning import PinningClaim
from zray.worker.host.shell import HostShell
from zray.worker.host.zygote import ZygoteClient, start_zygote
from zray.worker.process.main import worker_main
from zray.worker.start import WorkerStart

if TYPE_CHECKING:
    from zray.system.demotion import Demotion
    from zray.transport.security.keys import ClientCredentials


@dataclasses.dataclass(frozen=True)
class HostOptions:
    """What a host offers. ``resources``: all of them, in ten-thousandths. ``host_id``: its identifier."""

    address: str
    resources: dict[str, int]
    store_bytes: int
    credentials: ClientCredentials | None = None
    host_id: bytes = dataclasses.field(default_factory=lambda: os.urandom(16))


def prepare_zygote(
    paths: SessionPaths,
    kept: list[int],
    resources: dict[str, int],
    demotion: Demotion | None = None,
    disabled: Collection[str] = (),
) -> ZygoteClient:
    """Forks the zygote. It is also the guardian of the session: it cleans up after this process, however that ends.

    It keeps a process ready for each CPU of ``resources``, counting workers that run. ``kept``: descriptors that the
    zygote keeps and workers do not, such as the session's lock. ``demotion``: already begun; the zygote completes it.
    ``disabled``: optimizations that are not used.
    """
    host = os.getpid()
    machine_id()  # looked up once here, so that no worker has to

    def clean_up() -> None:
        kill_session(paths.name, exclude={os.getpid(), host})
        remove_session(paths)

    def begin() -> None:
        if demotion is not None:
            demotion.complete(visible=True)

    # Each waiting process takes a descriptor of the zygote.
    cpus = min(resources.get("CPU", 0) // 10_000, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4)
    return start_zygote(worker_main, clean_up, kept, cpus, begin, disabled)


def run_host(
    options: HostOptions,
    config: Config,
    paths: SessionPaths,
    lock: SessionLock,
    zygote: ZygoteClient,
    watched: list[int],
    on_ready: Any,
) -> str:
    """Connects to the broker and serves until there is a reason to end; returns the reason."""
    raise_descriptor_limit()  # three for each worker; workers keep the limit that they were forked with
    requested = options.store_bytes or config.object_store_memory or default_capacity(memory_limit_bytes())
    location, capacity, warning = default_store_location(f"zray-{paths.name}", requested)
    if warning:
        print(f"zray: {warning}", file=sys.stderr, flush=True)
    pinning = PinningClaim(config.pin_cpus, options.resources.get("CPU", 0))
    if pinning.warning:
        print(f"zray: {pinning.warning}", file=sys.stderr, flush=True)
    upkeep = SessionUpkeep(paths, lock)
    upkeep.add_store(location)
    spill = paths.spill
    if config.spill_dir:
        spill = os.path.join(absolute(config.spill_dir), f"zray-spill-{paths.name}")
        upkeep.add_store(spill)
    host_id = options.host_id
    store = Store.create(location, spill, capacity, config.store_wait_s, host_id)
    tcp = options.address.startswith("tcp://")
    address = (ip_address(options.address) if tcp else "") or "127.0.0.1"  # a broker without TCP is on this machine
    info = HostInfo(
        hostname=socket.gethostname(),
        ip=address,
        pid=os.getpid(),
        machine_id=machine_id(),
        store=location,
        fetch=paths.fetch_socket,
        session=paths.name,
        labels=host_labels(host_id, config.labels, os.environ, options.resources),
        idle_timeout_s=config.idle_timeout_s,
        pins_cpus=pinning.pins,
    )
    connection: Connection | None = None
    relay: Relay | None = None
    transfers: Transfers | None = None
    try:
        # A broker on another machine may start later than this host.
        patience_s = config.join_timeout_s if tcp else config.connect_timeout_s
        dialling = dataclasses.replace(config, connect_timeout_s=patience_s)
        listen = listening_address(options.address, config.transfer_address)
        transfers = Transfers(host_id, store, paths.fetch_socket, listen, config, options.credentials)
        connection = connect(options.address, HOST, host_id, JoinInfo(info.pid), dialling, options.credentials)
        # Settings of any size that only the host uses stay with it. The host has a heartbeat for all its workers, and
        # they end with it. A thousand workers with heartbeats of their own would be a load, and would declare peers
        # dead too soon.
        pin = ON if pinning.pins else OFF
        workers_config = dataclasses.replace(
            config, labels={}, resources={}, heartbeat_s=math.inf, silence_s=math.inf, pin_cpus=pin
        )
        if tcp:
            relay = Relay(f"ipc://{paths.relay_socket}", connection.socket, config)
        reached = options.address if relay is None else relay.address
        gpus = vendor_of(options.resources, os.environ)
        spans = paths.logs if config.profiling else ""
        worker_start = WorkerStart(reached, workers_config, host_id, paths.directory, gpus=gpus, spans=spans)
        places = Places(paths.environments, paths.logs, location, paths.fetch_socket)
        shell = HostShell(connection, host_id, zygote, store, paths.logs, worker_start, config, watched, transfers,
                          relay, upkeep.check, places)  # fmt: skip
        resources = {**options.resources, f"node:{address}": 10_000, "object_store_memory": capacity * 10_000}
        return shell.serve(resources, info, on_ready)
    finally:
        pinning.close()
        if transfers is not None:
            transfers.close()
        if relay is not None:
            relay.close()
        if connection is not None:
            connection.close()
        store.close()
        zygote.close()
        zygote.wait(5.0)
        # The zygote has just done this, unless the zygote itself has died.
        kill_session(paths.name, exclude={os.getpid()})
        remove_session(paths)
