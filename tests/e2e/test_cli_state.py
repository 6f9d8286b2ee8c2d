"""``zray list``, ``get``, ``summary`` and ``memory`` show the records of a cluster; ``health-check`` asks for it."""

from __future__ import annotations

import json
import subprocess
import sys

from .helpers import driver

PROGRAM = """
ray.init('local', num_cpus=2)

@ray.remote(num_cpus=0)
class Known:
    def ping(self):
        return 1

actor = Known.options(name='known').remote()
ray.get(actor.ping.remote())
kept = ray.put(bytes(1 << 20))
print('up', actor._actor_id.hex(), kept.hex())
sys.stdin.read()
"""


def zray(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "zray.cli.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_the_records_of_a_programs_cluster(sandbox):
    with driver(PROGRAM) as program:
        actor_id = program.expect("up").split()[1]
        listed = zray("list", "actors", "--filter", "state=ALIVE")
        assert listed.returncode == 0, listed.stderr
        first, head, row = listed.stdout.splitlines()
        assert first == "1 actors" and head.split()[:3] == ["ACTOR_ID", "CLASS_NAME", "STATE"]
        assert row.split()[:3] == [actor_id, "Known", "ALIVE"] and "known" in row
        assert zray("list", "actors", "--filter", "state!=ALIVE").stdout == "0 actors\n"
        (node,) = json.loads(zray("list", "nodes", "--format", "json", "--detail").stdout)
        assert node["state"] == "ALIVE" and node["resources_total"]["CPU"] == 2
        assert json.loads(zray("get", "actors", actor_id).stdout)["name"] == "known"
        counts = json.loads(zray("summary", "actors").stdout)["cluster"]
        assert counts["total_actors"] == 1


def test_what_cannot_be_shown(sandbox):
    assert "there is no cluster to ask" in zray("list", "actors").stderr
    with driver(PROGRAM) as program:
        program.expect("up")
        assert "there is no record of actors with the ID 00" in zray("get", "actors", "00").stderr
        assert "needed: KEY=VALUE" in zray("list", "actors", "--filter", "state").stderr
        failed = zray("list", "actors", "--filter", "no_such_field=1")
        assert failed.returncode == 1 and "no_such_field" in failed.stderr and "Traceback" not in failed.stderr


def test_the_references_of_a_cluster(sandbox):
    with driver(PROGRAM) as program:
        kept = program.expect("up").split()[2]
        listed = zray("memory", "--units", "kb", "--sort-by", "PID")
        assert listed.returncode == 0, listed.stderr
        (line,) = (line for line in listed.stdout.splitlines() if line.endswith(kept))
        assert "LOCAL_REFERENCE" in line and " KB " in line
        counts = zray("memory", "--stats-only").stdout
        assert kept not in counts and "objects" in counts
    failed = zray("memory")
    assert failed.returncode == 1 and "there is no cluster to ask" in failed.stderr
    assert zray("memory", "--sort-by", "AGE").returncode == 2


def test_whether_a_cluster_answers(sandbox):
    with driver(PROGRAM) as program:
        program.expect("up")
        healthy = zray("health-check")
        assert healthy.returncode == 0, healthy.stderr
    failed = zray("health-check")
    assert failed.returncode == 1 and "no cluster of yours runs" in failed.stderr
