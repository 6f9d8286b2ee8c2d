"""``zray why`` says what waits, and for what."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from .helpers import driver, eventually, free_port

PROGRAM = """
ray.init('local', num_cpus=1)

@ray.remote
def fit():
    print('runs', flush=True)
    time.sleep(600)

@ray.remote
def merge(x):
    return x

@ray.remote(num_cpus=0)
class Keeper:
    def slow(self):
        print('slow', flush=True)
        time.sleep(600)

@ray.remote(num_cpus=7)
class Big:
    pass

from zray.util.placement_group import placement_group

keeper = Keeper.options(name='keeper').remote()
calls = [keeper.slow.remote() for _ in range(3)]
fits = [fit.remote(), fit.options(num_cpus=64).remote()]
merged = [merge.remote(fits[0]) for _ in range(2)]
big = Big.remote()
group = placement_group([{'CPU': 9}], name='grid')
print('up', fits[0].task_id().hex(), flush=True)
sys.stdin.read()
"""


def why(*arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "zray.cli.main", "why", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, "COLUMNS": "20"})
    assert done.returncode == code, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return done


def look(*arguments: str) -> dict[tuple[str, str], dict[str, Any]]:
    rows = json.loads(why("--json", *arguments).stdout)
    return {(row["kind"], row["what"]): row for row in rows}


def test_all_that_waits(sandbox):
    with driver(PROGRAM) as program:
        identifier = program.expect("up").split()[1]
        program.expect("runs")
        program.expect("slow")
        # The broker learns of the last calls and of the group by other ways than this command's question.
        found = eventually(lambda: len(now := look()) == 5 and now)
        assert {key: (row["count"], row["state"]) for key, row in found.items()} == {
            ("task", "`fit`"): (1, "QUEUED"),
            ("task", "`merge`"): (2, "WAITING FOR ARGUMENTS"),
            ("call", "`Keeper.slow`"): (2, "AT WORKER"),
            ("actor", "Big"): (1, "PENDING_CREATION"),
            ("placement group", "'grid'"): (1, "PENDING"),
        }
        assert "each asks for {CPU: 64}, and no host of the cluster has that much" in found["task", "`fit`"]["why"]
        assert "`merge` waits for an argument: `fit` runs for " in found["task", "`merge`"]["why"]
        assert "actor Keeper 'keeper' is busy with `Keeper.slow`" in found["call", "`Keeper.slow`"]["why"]
        assert "do not fit into the cluster" in found["placement group", "'grid'"]["why"]
        assert all(row["remedy"] for row in found.values())

        shown = why().stdout
        assert "2 tasks `merge`: WAITING FOR ARGUMENTS\n  why: `merge` waits" in shown and "\x1b" not in shown
        assert "... and 4 more, which --limit 5 shows" in why("--limit", "1").stdout
        assert look(identifier)["task", "`fit`"]["state"] == "RUNNING"
        assert look("keeper")["actor", "Keeper 'keeper'"]["state"] == "ALIVE"
        failed = why("nosuch", code=1)
        assert "is called 'nosuch'" in failed.stderr and "zray list tasks" in failed.stderr
        program.popen.kill()


def test_nothing_waits(sandbox):
    with driver("ray.init('local', num_cpus=1)\nprint('up', flush=True)\nsys.stdin.read()\n") as program:
        program.expect("up")
        assert why().stdout == "nothing waits\n"
        assert why("--json").stdout == "[]\n"


def test_no_cluster(sandbox, monkeypatch):
    assert "no cluster of yours runs on this machine" in why(code=2).stderr
    monkeypatch.setenv("ZRAY_CONNECT_TIMEOUT_S", "0.5")
    silent = f"tcp://127.0.0.1:{free_port()}"
    assert f"no zray broker answered at {silent!r}" in why("--address", silent, "--insecure", code=2).stderr
    assert "not of the form" in why("--address", "nowhere", code=2).stderr
    assert "--limit" in why("--limit", "0", code=2).stderr
