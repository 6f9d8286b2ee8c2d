"""The settings of ``zray-worker``, from its options, the environment and a file, take effect."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from .helpers import Process, by_hand, driver, eventually

WORKER = [sys.executable, "-m", "zray.cli.worker"]


def test_each_source_of_settings(sandbox, tmp_path, monkeypatch):
    import zray as ray

    file = tmp_path / "config.toml"
    file.write_text('num_cpus = 3\nlabels = {zone = "file"}\nresources = {x = 1}\nnum_gpus = 2\n')
    environ = {**os.environ, "ZRAY_CONFIG": str(file), "ZRAY_NUM_CPUS": "2", "ZRAY_LABELS": "zone=a,disk=ssd"}
    with by_hand(hosts=0) as (address, _, _), Process([*WORKER, "--num-cpus", "1"], env=environ) as host:
        host.expect("host is ready: 1 CPUs")
        ray.init(address)
        (node,) = ray.nodes()
        assert node["Labels"] == {"zone": "a", "disk": "ssd", "ray.io/node-id": node["NodeID"]}
        assert node["Resources"]["CPU"] == 1 and node["Resources"]["GPU"] == 2 and node["Resources"]["x"] == 1
        ray.shutdown()


def test_a_local_cluster_has_them_too(sandbox):
    source = """
    ray.init(resources={"x": 3})
    print("has", ray.nodes()[0]["Labels"]["zone"], ray.cluster_resources()["CPU"], ray.cluster_resources()["x"])
    """
    environ = {"ZRAY_NUM_CPUS": "1", "ZRAY_LABELS": "zone=a", "ZRAY_RESOURCES": '{"x": 2}'}
    with driver(source, environ=environ) as process:
        assert "has a 1.0 3.0" in process.succeed()


def test_unknown_names_are_warned_of_once(sandbox):
    environ = {**os.environ, "ZRAY_NUM_CPU": "1"}
    with by_hand(hosts=0) as (_, _, _), Process(WORKER, env=environ) as host:
        host.expect("host is ready")
        assert host.err.count("did you mean ZRAY_NUM_CPUS?") == 1


def test_idle_timeout(sandbox):
    import zray as ray

    with by_hand(hosts=0) as (address, _, _), Process([*WORKER, "--num-cpus", "1", "--idle-timeout", "0.1"]) as host:
        host.expect("host is ready")
        ray.init(address)

        @ray.remote
        def pids(depth):
            return [os.getpid()] + (ray.get(pids.remote(depth - 1)) if depth else [])

        used = ray.get(pids.remote(3), timeout=20)
        assert len(set(used)) == 4
        eventually(lambda: sum(Path(f"/proc/{pid}").exists() for pid in used) <= 1, timeout_s=4)
        ray.shutdown()


def test_spill_dir_and_object_store_memory(sandbox, tmp_path):
    import zray as ray

    options = ["--spill-dir", str(tmp_path / "spilled"), "--object-store-memory", str(4 << 20)]
    with by_hand(hosts=0) as (address, _, _), Process([*WORKER, "--num-cpus", "1", *options]) as host:
        host.expect("host is ready")
        ray.init(address)
        refs = [ray.put(bytes([number]) * (1 << 20)) for number in range(8)]
        assert [path for path in (tmp_path / "spilled").rglob("*") if path.is_file()]
        assert [ray.get(ref)[0] for ref in refs] == list(range(8))
        ray.shutdown()
    assert not list((tmp_path / "spilled").iterdir())
