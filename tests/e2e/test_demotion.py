"""``zray-worker --user``: root starts it, it runs as another user, and tasks cannot get its key."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import zray as ray
from zray.transport.security.keys import KeyDirectory

from .helpers import Process, Sandbox, by_hand, cli, eventually, free_port

USER = pwd.getpwnam("nobody")
by_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a host as another user")


def others_may_enter(directory: Path) -> bool:
    return bool(directory.stat().st_mode & 0o001)


def opened(*directories: Path) -> str:
    """Returns a shell script for a mount namespace that hides files from the user.

    In it, the user can access the interpreter, zray and ``directories``, also within directories of root's, and nothing
    else there.
    """
    needed = {Path(sys.base_prefix).resolve(), Path(sys.prefix), Path(ray.__file__).resolve().parents[1], *directories}
    closed = {
        path: above
        for path in needed
        if (above := next((parent for parent in reversed(path.parents) if not others_may_enter(parent)), None))
    }
    aside = {path: f"/mnt/{number}" for number, path in enumerate(closed)}
    lines = ["set -e", "mount -t tmpfs none /mnt"]
    lines += [f"mkdir {place}\nmount --bind {shlex.quote(str(path))} {place}" for path, place in aside.items()]
    lines += [f"mount -t tmpfs -o mode=755 none {shlex.quote(str(above))}" for above in set(closed.values())]
    for path, place in aside.items():
        here = shlex.quote(str(path))
        lines.append(f"mkdir -p {here}\nmount --bind {place} {here}")
    return "\n".join([*lines, 'exec "$@"'])


@contextlib.contextmanager
def demoted_host(sandbox: Sandbox, address: str) -> Iterator[Process]:
    root = sandbox.directory / f"zray-{USER.pw_uid}"
    root.mkdir(mode=0o700)
    os.chown(root, USER.pw_uid, USER.pw_gid)
    sandbox.directory.chmod(0o711)
    keys = sandbox.directory / "config" / "zray" / "keys"
    command = [sys.executable, "-m", "zray.cli.worker", "--address", address, "--user", USER.pw_name, "--num-cpus", "2"]
    with Process(
        ["unshare", "--mount", "sh", "-c", opened(sandbox.directory), "sh", *command, "--keys", str(keys)],
        cwd=sandbox.directory,
    ) as host:
        host.expect(f"host is ready as user {USER.pw_name}")
        yield host
        host.stop()
    assert not [entry for entry in root.iterdir() if entry.is_dir() and entry.name != "logs"]


@by_root
def test_tasks_cannot_read_the_key_of_their_host(sandbox: Sandbox) -> None:
    with (
        by_hand("--bind", f"tcp://127.0.0.1:{free_port()}", hosts=0) as (address, _, _),
        demoted_host(sandbox, address),
    ):
        keys = sandbox.directory / "config" / "zray" / "keys"
        secret = KeyDirectory(keys).client("host").secret
        ray.init(address)

        @ray.remote
        def who() -> tuple[list[int], list[int], list[int], str | None]:
            return list(os.getresuid()), list(os.getresgid()), os.getgroups(), os.environ.get("HOME")

        uids, gids, groups, home = ray.get(who.remote(), timeout=20)
        assert (uids, gids, groups) == ([USER.pw_uid] * 3, [USER.pw_gid] * 3, [USER.pw_gid])
        assert home == USER.pw_dir

        @ray.remote
        def opened_files(paths: list[str]) -> list[str]:
            found = []
            for path in paths:
                with contextlib.suppress(OSError), open(path, "rb") as file:
                    file.read(1)
                    found.append(path)
            return found

        @ray.remote
        def host() -> int:
            """Returns the host: the parent of the zygote, whose child this is."""
            zygote = os.getppid()
            text = Path(f"/proc/{zygote}/stat").read_text()
            return int(text.rpartition(")")[2].split()[1])

        @ray.remote
        def can_be_root() -> bool:
            try:
                os.setresuid(0, 0, 0)
            except PermissionError:
                return False
            return True

        pid = ray.get(host.remote(), timeout=20)
        assert (
            b"cli.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
            or "host" in Path(f"/proc/{pid}/comm").read_text()
        )
        secrets = [str(path) for path in keys.iterdir()]
        memory = [f"/proc/{pid}/{name}" for name in ("mem", "environ", "maps", "auxv")]
        assert ray.get(opened_files.remote(secrets + memory), timeout=20) == []
        assert not ray.get(can_be_root.remote(), timeout=20)
        status = ray.get(ray.remote(lambda: Path("/proc/self/status").read_text()).remote(), timeout=20)
        assert re.findall(r"^Cap(?:Prm|Eff|Amb):\s*(\w+)$", status, re.MULTILINE) == ["0" * 16] * 3

        @ray.remote
        def zygote_knows(turned_round: bytes) -> bool:
            """Whether the text is in the memory that this process was forked from; the text was passed reversed."""
            zygote = os.getppid()
            with open(f"/proc/{zygote}/maps") as maps, open(f"/proc/{zygote}/mem", "rb", 0) as memory:
                spans = [line.split()[0].split("-") for line in maps if line.split()[1].startswith("rw")]
                for start, end in ((int(start, 16), int(end, 16)) for start, end in spans):
                    memory.seek(start)
                    if turned_round[::-1] in memory.read(end - start):
                        return True
            return False

        assert not ray.get(zygote_knows.remote(secret[::-1]), timeout=20)
        assert ray.get(zygote_knows.remote(b"yarz"), timeout=20)
        ray.shutdown()


@by_root
def test_a_demoted_host_is_a_host_like_others(sandbox: Sandbox) -> None:
    """Objects, actors, output, deaths. The host dies as others do, with all its processes."""
    with (
        by_hand("--bind", f"tcp://127.0.0.1:{free_port()}", hosts=0) as (address, _, _),
        demoted_host(sandbox, address),
    ):
        ray.init(address)
        size = ray.remote(lambda data: len(data))
        assert ray.get(size.remote(ray.put(b"x" * 3_000_000)), timeout=20) == 3_000_000
        assert len(ray.get(ray.remote(lambda: b"y" * 3_000_000).remote(), timeout=20)) == 3_000_000

        @ray.remote
        class Counter:
            def __init__(self) -> None:
                self.n = 0

            def add(self) -> int:
                self.n += 1
                return self.n

        counter = Counter.remote()
        assert ray.get([counter.add.remote() for _ in range(3)], timeout=20) == [1, 2, 3]
        with pytest.raises(ray.exceptions.WorkerCrashedError):
            ray.get(ray.remote(lambda: os._exit(3)).options(max_retries=0).remote(), timeout=20)
        ray.shutdown()


@by_root
def test_a_demoted_host_that_is_killed(sandbox: Sandbox) -> None:
    with by_hand("--bind", f"tcp://127.0.0.1:{free_port()}", hosts=0) as (address, _, _):
        with contextlib.suppress(AssertionError), demoted_host(sandbox, address) as host:
            ray.init(address)
            assert ray.get(ray.remote(lambda: 1).remote(), timeout=20) == 1
            host.popen.kill()
            host.wait()
            root = sandbox.directory / f"zray-{USER.pw_uid}"
            eventually(lambda: not [entry for entry in root.iterdir() if entry.is_dir() and entry.name != "logs"])
            eventually(lambda: not sandbox.processes("zray-zygote"))
        ray.shutdown()


def test_unusable_options_are_refused(sandbox: Sandbox) -> None:
    done = cli("worker", "--address", "ipc:///tmp/nowhere", "--user", USER.pw_name)
    assert done.returncode == 2 and "only for an address on TCP" in done.stderr
    done = cli("worker", "--address", "tcp://127.0.0.1:9", "--insecure", "--user", USER.pw_name)
    assert done.returncode == 2 and "without --insecure" in done.stderr
    done = cli("worker", "--address", "tcp://127.0.0.1:9", "--user", "who-is-that")
    assert done.returncode == 2 and "user = 'who-is-that': this machine has no such user" in done.stderr
    done = cli("worker", "--address", "tcp://127.0.0.1:9", "--user", "0")
    assert done.returncode == 2 and ("that is root" if os.geteuid() == 0 else "only root can") in done.stderr


def test_only_root_can_start_it() -> None:
    source = (
        "import os; os.geteuid() or os.seteuid(65534)\n"
        "from zray.system.demotion import Demotion\nfrom zray.exceptions import ConfigError\n"
        "try: Demotion('nobody')\nexcept ConfigError as error: print(error)"
    )
    prepared = source.replace("import os;", "import os, pwd; import zray.system.demotion;", 1)
    done = subprocess.run([sys.executable, "-c", prepared], capture_output=True, text=True, timeout=20)
    assert "only root can start a host as another user" in done.stdout, done.stderr
