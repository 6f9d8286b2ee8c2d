"""The files in ``deploy/``, as far as they can be tested without their systems. Slurm: ``test_slurm``."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from zray.cli.up import read_hosts

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"


@pytest.mark.parametrize("name", ["zray-broker", "zray-worker"])
def test_systemd_units(name: str, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("there is no systemd-analyze on this machine")
    unit = (DEPLOY / "systemd" / f"{name}.service").read_text()
    (command,) = re.findall(r"^ExecStart=/opt/zray/bin/(.*)$", unit, re.MULTILINE)
    program, *options = command.split()
    assert program == name
    # The program has to exist to be verified. Its options are tested together with --help.
    here = tmp_path / f"{name}.service"
    here.write_text(unit.replace("/opt/zray/bin/", f"{shutil.which('true')} "))
    done = subprocess.run(["systemd-analyze", "verify", here], capture_output=True, text=True)
    assert done.returncode == 0 and str(here) not in done.stderr, done.stderr
    module = name.replace("-", ".cli.")
    subprocess.run([sys.executable, "-m", module, *options, "--help"], check=True, stdout=subprocess.DEVNULL)


def resources() -> list[dict[str, Any]]:
    """Returns what the Kubernetes manifest declares."""
    yaml = pytest.importorskip("yaml")
    return list(yaml.safe_load_all((DEPLOY / "kubernetes" / "zray.yaml").read_text()))


def test_kubernetes_manifest_fits_the_schemas() -> None:
    validator = pytest.importorskip("kubernetes_validate")
    declared = resources()
    assert [each["kind"] for each in declared] == ["Service", "StatefulSet", "Deployment"]
    for each in declared:
        validator.validate(each, validator.latest_version(), strict=True)


def test_kubernetes_manifest_fits_together() -> None:
    service, broker, workers = resources()
    for each in (broker, workers):
        template = each["spec"]["template"]
        assert each["spec"]["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
        pod = template["spec"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        for container in (*pod["initContainers"], *pod["containers"]):
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
    selected = service["spec"]["selector"].items()
    assert selected <= broker["spec"]["template"]["metadata"]["labels"].items()
    assert not selected <= workers["spec"]["template"]["metadata"]["labels"].items()
    address = f"tcp://{service['metadata']['name']}:{service['spec']['ports'][0]['port']}"
    (worker,) = workers["spec"]["template"]["spec"]["containers"]
    assert worker["command"] == ["zray-worker", "--address", address]
    (shm,) = (volume for volume in workers["spec"]["template"]["spec"]["volumes"] if volume["name"] == "shm")
    assert shm["emptyDir"]["medium"] == "Memory"


def test_list_of_machines() -> None:
    one, two = read_hosts(str(DEPLOY / "ssh" / "hosts.toml"))
    assert one.environment == {"OMP_NUM_THREADS": "1", "ZRAY_LABELS": "zone=a"}
    assert two.environment["ZRAY_LABELS"] == "zone=b" and two.ssh == ("-p", "2222")


def test_tasks_do_not_run_as_the_user_of_the_broker() -> None:
    """Tasks cannot read the files in the broker's home, such as its keys, even on its own machine."""
    units = {}
    for name in ("zray-broker", "zray-worker"):
        lines = (DEPLOY / "systemd" / f"{name}.service").read_text().splitlines()
        units[name] = dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    broker, worker = units["zray-broker"], units["zray-worker"]
    assert broker["User"] == broker["StateDirectory"] == "zray-broker" and broker["StateDirectoryMode"] == "0700"
    assert worker["ExecStart"].endswith("zray-worker --user zray") and "User" not in worker
    assert worker["ExecStartPre"].endswith("-m 0700 -o zray -g zray /var/lib/zray")


def test_keys_of_workers_are_not_in_the_home_of_their_user() -> None:
    unit = (DEPLOY / "systemd" / "zray-worker.service").read_text()
    variables = dict(
        entry.split("=", 1) for line in re.findall(r"^Environment=(.*)$", unit, re.MULTILINE) for entry in line.split()
    )
    assert variables == {
        "ZRAY_KEYS": "/etc/zray/keys",
        "ZRAY_CONFIG": "/etc/zray/config.toml",
        "ZRAY_TMPDIR": "/var/lib/zray",
    }


def test_slurm_job_without_a_program() -> None:
    done = subprocess.run(["bash", DEPLOY / "slurm" / "zray.sbatch"], capture_output=True, text=True)
    assert done.returncode == 2 and "usage: sbatch" in done.stderr
