"""What a forked worker does first: connects, opens the store, serves."""

from __future__ import annotations

import mmap
import os

import msgpack

from zray import object_ref
from zray.client import session as sessions
from zray.client.connection import connect
from zray.client.session import Session
from zray.config import Config
from zray.exceptions import ZrayError
from zray.protocol.messages import WORKER
from zray.worker.process.worker import Worker


def worker_main(payload: bytes, fds: list[int]) -> None:
    """Runs in the child that the zygote forked. ``fds``: the flight recorder."""
    start = msgpack.unpackb(payload)
    recorder = mmap.mmap(fds[0], 0)
    os.close(fds[0])
    config = Config(**start["config"])
    worker_id, host_id = start["worker_id"], start["host_id"]
    info = {"pid": os.getpid(), "host_id": host_id}
    try:
        connection = connect(start["address"], WORKER, worker_id, info, config)
    except ZrayError:
        return  # the cluster is going down, or does not want this worker any more
    session = Session(connection, worker_id, host_id, "", config)
    sessions.set_current(session)
    object_ref.set_tracker(session)
    Worker(session, recorder, start["log_secret"]).serve()
