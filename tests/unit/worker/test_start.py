"""What processes are told when they are started comes out as it went in."""

from __future__ import annotations

import dataclasses
import math

from zray.config import Config
from zray.local_cluster.settings import Settings
from zray.protocol.codec import unpack
from zray.worker.start import WorkerStart

CONFIG = dataclasses.replace(
    Config(), heartbeat_s=math.inf, labels={"zone": "a"}, resources={"x": 2.5}, num_cpus=None,
    disabled_optimizations=["warm-up"], spill_dir="/tmp/\u00e4",
)  # fmt: skip


def test_a_worker() -> None:
    template = WorkerStart("ipc:///tmp/broker", CONFIG, b"h" * 16, "/tmp/session")
    start = template._replace(worker_id=b"w" * 16, log_secret="secret", spans="/tmp/spans")
    assert WorkerStart.from_bytes(start.to_bytes()) == start
    assert WorkerStart.from_bytes(template.to_bytes()) == template


def test_a_worker_is_told_only_the_settings_that_differ() -> None:
    start = WorkerStart("ipc:///tmp/broker", CONFIG, b"h" * 16, "/tmp/session")
    assert set(unpack(start.to_bytes())[1]) == {
        "heartbeat_s", "labels", "resources", "disabled_optimizations", "spill_dir"
    }  # fmt: skip


def test_a_local_cluster() -> None:
    settings = Settings("abcdef12", "/tmp/zray-0", [3, 4, 5], 6, {"CPU": 20_000}, 1 << 40, CONFIG)
    assert Settings.from_json(settings.to_json()) == settings
