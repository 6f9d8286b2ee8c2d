"""``zray logs`` lists log files, and shows what workers have printed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import Any

from .helpers import Process, by_hand, driver, eventually

COMMAND = [sys.executable, "-m", "zray.cli.main", "logs"]
PROGRAM = """
ray.init(%r, num_cpus=1)

@ray.remote
def talk(n):
    print('line', n, flush=True)
    print('error', n, file=sys.stderr, flush=True)
    return os.getpid()

@ray.remote(num_cpus=0)
class Keeper:
    def say(self, text):
        print(text, flush=True)

    def pid(self):
        return os.getpid()

keeper = Keeper.options(name='keeper').remote()
pid = ray.get([talk.remote(n) for n in range(3)])[0]
ray.get(keeper.say.remote('hello'))
print('up', pid, ray.get(keeper.pid.remote()), flush=True)
for line in sys.stdin:
    ray.get(keeper.say.remote(line.strip()))
"""


def logs(*arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == code, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return done


def listed(*arguments: str) -> list[dict[str, Any]]:
    rows = json.loads(logs("--json", *arguments).stdout)
    assert isinstance(rows, list)
    return rows


def written(text: str, *arguments: str) -> str:
    """What the command shows, once it shows the text: a host writes a moment after a worker has printed."""
    return eventually(lambda: text in (shown := logs(*arguments).stdout) and shown)


def test_what_workers_have_printed(sandbox):
    with driver(PROGRAM % "local") as program:
        talker, keeper = program.expect("up").split()[1:]
        assert written("line 2", "--pid", talker, "--out") == "line 0\nline 1\nline 2\n"
        assert written("error 2", "--task", "talk", "--err", "--tail", "1") == "error 2\n"
        both = written("error 2", "--task", "talk")
        assert both.count("==> ") == 2 and both.index("line 0") < both.index("error 0")
        assert written("hello", "--actor", "keeper") == "hello\n"

        (row,) = [row for row in listed() if row["actor"]]
        assert (row["pid"], row["kind"], row["actor"]) == (int(keeper), "worker's stdout", "actor Keeper 'keeper'")
        assert listed("--worker", row["worker_id"]) == listed("--worker", row["worker_id"][:8]) == [row]
        assert logs(row["name"]).stdout == logs(row["path"]).stdout == "hello\n"
        assert listed("--host", row["host_id"][:8]) == listed("--host", row["host"]) == listed()
        shown = logs().stdout
        assert row["name"] in shown and f"pid {keeper}, actor Keeper 'keeper'" in shown and "\x1b" not in shown
        program.popen.kill()


def test_what_there_is_not(sandbox):
    with driver(PROGRAM % "local") as program:
        program.expect("up")
        (row,) = eventually(lambda: [row for row in listed() if row["actor"]])
        done = logs("--actor", "keeper", "--err")
        assert done.stdout == "" and "nothing was printed: there is no worker-" in done.stderr
        for arguments, error in (
            (("--actor", "nosuch"), "--actor 'nosuch': no actor is known"),
            (("--task", "nosuch"), "`zray list tasks` shows what there is"),
            (("--pid", "1"), "--pid 1: no worker is known"),
            (("--worker", "nosuch"), "--worker 'nosuch': no worker is known"),
            (("--host", "nosuch"), f"it has {row['host']} ({row['host_id'][:8]})"),
            (("nosuch*",), "no log file here fits nosuch*"),
        ):
            assert error in logs(*arguments, code=1).stderr
        program.popen.kill()


def test_following_until_the_cluster_ends(sandbox):
    with driver(PROGRAM % "local") as program:
        program.expect("up")
        with Process([*COMMAND, "--actor", "keeper", "--out", "--follow"]) as follower:
            follower.expect("hello")
            program.say("later\n")
            follower.expect("later")
            assert program.popen.stdin is not None
            program.popen.stdin.close()
            program.wait()
            follower.expect("the cluster has ended", stream="err")
            assert follower.wait() == 0
            assert follower.out.splitlines() == ["hello", "later"]


def test_following_until_it_is_interrupted(sandbox):
    with driver(PROGRAM % "local") as program:
        program.expect("up")
        with Process([*COMMAND, "--actor", "keeper", "--out", "-f", "--tail", "0"]) as follower:

            def told() -> bool:
                program.say("later\n")
                return "later" in follower.out

            eventually(told, pause_s=0.2)
            follower.signal(signal.SIGINT)
            assert follower.wait() == 0
            assert follower.err == "" and "hello" not in follower.out
        program.popen.kill()


def test_sessions_that_have_ended(sandbox):
    with driver(PROGRAM % "local") as program:
        program.expect("up")
        worker = eventually(lambda: [row for row in listed() if row["actor"] and row["bytes"]])[0]["worker_id"]
        assert program.popen.stdin is not None
        program.popen.stdin.close()
        program.wait()
    done = logs()
    assert f"worker-{worker[:12]}.out" in done.stdout and "have ended here" in done.stderr
    assert logs("--worker", worker).stdout == "hello\n"
    assert "no cluster of yours runs" in logs("--actor", "keeper", code=2).stderr


def test_brokers_and_hosts(sandbox):
    with by_hand() as (address, _, _):
        rows = listed("--address", address)
        assert {row["kind"] for row in rows} == {"broker's log", "host's log"}
        assert address in logs("host.log").stdout
        assert len(logs("broker.log", "--tail", "1").stdout.splitlines()) == 1


def test_a_host_on_another_machine(sandbox, monkeypatch):
    monkeypatch.setenv("ZRAY_TEST_MACHINE", "mine")
    with (
        by_hand(environ={"ZRAY_TEST_MACHINE": "far"}) as (address, _, _),
        driver(PROGRAM.replace(", num_cpus=1", "") % address) as program,
    ):
        program.expect("up")
        done = logs("--actor", "keeper", code=1)
        assert "run `zray logs` there" in done.stderr and f"{os.sep}logs{os.sep}" in done.stderr
        assert "not shown: the files of host " in logs().stderr
        program.popen.kill()


def test_options_that_exclude_each_other(sandbox):
    assert "give only one of" in logs("--task", "a", "--actor", "b", code=2).stderr
    assert "--out and --err exclude each other" in logs("--out", "--err", code=2).stderr
    assert "--follow and --tail need one of" in logs("--follow", code=2).stderr
    assert "--tail" in logs("--tail", "-1", code=2).stderr
