"""``zray timeline`` writes when tasks ran."""

from __future__ import annotations

import json
import subprocess
import sys

from .helpers import by_hand, driver, eventually

COMMAND = [sys.executable, "-m", "zray.cli.main", "timeline"]
PROGRAM = """
ray.init(%r)

@ray.remote
def fit(n):
    return n

ray.get([fit.remote(n) for n in range(3)])
print('up', flush=True)
sys.stdin.read()
"""


def timeline(*arguments: str, code: int = 0, cwd: str | None = None) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=60, cwd=cwd)
    assert done.returncode == code, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return done


def test_a_trace(sandbox, tmp_path):
    with driver(PROGRAM % "local") as program:
        program.expect("up")
        events = json.loads(timeline("--json").stdout)
        assert [(event["name"], event["ph"], event["args"]["state"]) for event in events] == [
            ("fit", "X", "FINISHED")
        ] * 3
        path = tmp_path / "trace.json"
        assert f"3 events are written to {path}" in timeline("-o", str(path)).stdout
        assert json.loads(path.read_text()) == events == json.loads(timeline("-o", "-").stdout)
        timeline(cwd=str(tmp_path))
        assert [json.loads(each.read_text()) for each in tmp_path.glob("zray-timeline-*.json")] == [events]
        assert "'/nosuch/file' cannot be written" in timeline("-o", "/nosuch/file", code=1).stderr
        assert "--json prints to stdout" in timeline("--json", "-o", "x", code=2).stderr
        program.popen.kill()


def test_what_workers_have_recorded(sandbox, monkeypatch):
    monkeypatch.setenv("ZRAY_PROFILING", "1")
    with driver(PROGRAM % "local") as program:
        program.expect("up")
        events = eventually(lambda: len(found := json.loads(timeline("--json").stdout)) == 3 and found)
        assert {event["name"] for event in events} == {"fit"}
        program.popen.kill()


def test_nothing_has_run(sandbox):
    with driver("ray.init('local')\nprint('up', flush=True)\nsys.stdin.read()\n") as program:
        program.expect("up")
        done = timeline("--json")
        assert done.stdout == "[]\n" and "no task has ended yet" in done.stderr


def test_a_host_on_another_machine(sandbox, monkeypatch):
    monkeypatch.setenv("ZRAY_TEST_MACHINE", "mine")
    with by_hand(environ={"ZRAY_TEST_MACHINE": "far"}) as (address, _, _), driver(PROGRAM % address) as program:
        program.expect("up")
        done = timeline("--json")
        assert len(json.loads(done.stdout)) == 3 and "of hosts on other machines (" in done.stderr
        program.popen.kill()


def test_no_cluster(sandbox):
    assert "no cluster of yours runs on this machine" in timeline(code=2).stderr
