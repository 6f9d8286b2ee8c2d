from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from zray.exceptions import ConfigError, SystemFailure
from zray.sessions import directories as sessions
from zray.sessions.directories import Current
from zray.system.processes import SESSION_VARIABLE


@pytest.fixture
def root(tmp_path: Path) -> str:
    root = f"{tmp_path}/root"
    os.mkdir(root, 0o700)
    return root


def dead_session(root: str) -> sessions.SessionPaths:
    paths, lock = sessions.new_session(root)
    lock.close()
    return paths


class TestRoot:
    @pytest.fixture
    def short(self) -> Iterator[Path]:
        """A directory with a short path, as real ones have; pytest's are too long for sockets."""
        import tempfile

        with tempfile.TemporaryDirectory(prefix="z") as directory:
            yield Path(directory)

    def test_given_directory(self, short: Path) -> None:
        root = sessions.runtime_root(str(short / "a"), {"XDG_RUNTIME_DIR": "/nowhere"})
        assert root == f"{short}/a/zray-{os.geteuid()}"
        assert os.stat(root).st_mode & 0o777 == 0o700
        assert sessions.runtime_root(str(short / "a"), {}) == root

    def test_given_directory_that_only_the_kernel_can_resolve(
        self, short: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """``link/..`` is not the directory that contains the link."""
        (short / "far" / "away").mkdir(parents=True)
        (short / "link").symlink_to(short / "far" / "away")
        monkeypatch.chdir(short)
        root = sessions.runtime_root("link/../here", {})
        assert os.path.samefile(root, short / "far" / "here" / f"zray-{os.geteuid()}")
        assert os.path.isabs(root)

    def test_given_directory_too_long(self, short: Path) -> None:
        with pytest.raises(ConfigError, match=r"too long.*107 bytes.*ZRAY_TMPDIR"):
            sessions.runtime_root(str(short / ("x" * 60)), {})

    def test_given_directory_that_cannot_be_made(self) -> None:
        with pytest.raises(ConfigError, match="cannot be made"):
            sessions.runtime_root("/dev/null/x", {})

    def test_runtime_directory_of_the_login(self, short: Path) -> None:
        assert sessions.runtime_root("", {"XDG_RUNTIME_DIR": str(short)}) == f"{short}/zray"

    @pytest.mark.parametrize("runtime", ["", "relative", "/dev/null/x", "/" + "x" * 80])
    def test_falls_back_to_tmpdir(self, short: Path, runtime: str) -> None:
        environ = {"XDG_RUNTIME_DIR": runtime, "TMPDIR": str(short)}
        assert sessions.runtime_root("", environ) == f"{short}/zray-{os.geteuid()}"

    @pytest.mark.parametrize("tmpdir", ["/dev/null/x", "/proc/x"])
    def test_unusable_tmpdir_falls_back_to_tmp(self, tmpdir: str) -> None:
        assert sessions.runtime_root("", {"TMPDIR": tmpdir}) == f"/tmp/zray-{os.geteuid()}"

    def test_long_tmpdir_falls_back_to_tmp(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sessions, "private_directory", lambda path: path)
        assert sessions.runtime_root("", {"TMPDIR": "/tmp/" + "x" * 90}) == f"/tmp/zray-{os.geteuid()}"

    @pytest.fixture
    def squatted(self, short: Path, monkeypatch: pytest.MonkeyPatch) -> set[str]:
        """Paths that the system reports as another user's."""
        foreign: set[str] = set()
        owner = sessions._other_owner
        monkeypatch.setattr(sessions, "_other_owner", lambda path: 12345 if path in foreign else owner(path))
        return foreign

    def test_a_directory_of_another_user_is_reported_and_replaced(
        self, short: Path, squatted: set[str], caplog: pytest.LogCaptureFixture
    ) -> None:
        name = f"zray-{os.geteuid()}"
        environ = {"TMPDIR": str(short), "XDG_CACHE_HOME": str(short / "cache")}
        squatted |= {f"{short}/{name}", f"/var/tmp/{name}"}
        root = sessions.runtime_root("", environ)
        assert root == f"{short}/cache/zray-{socket.gethostname()}"
        assert os.stat(root).st_mode & 0o777 == 0o700
        assert sessions.runtime_root("", environ) == root  # the same for every process
        (record,) = caplog.records  # told once
        assert f"{short / name} belongs to user 12345" in record.getMessage() and root in record.getMessage()

    def test_the_home_directory_comes_from_the_environment(self, short: Path, squatted: set[str]) -> None:
        name = f"zray-{os.geteuid()}"
        squatted |= {f"{short}/{name}", f"/var/tmp/{name}"}
        root = sessions.runtime_root("", {"TMPDIR": str(short), "HOME": str(short)})
        assert root == f"{short}/.cache/zray-{socket.gethostname()}"

    def test_the_error_names_the_remedy_when_all_directories_are_another_users(
        self, short: Path, squatted: set[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        name = f"zray-{os.geteuid()}"
        squatted |= {f"{short}/{name}", f"/var/tmp/{name}"}
        (short / name).touch()
        with pytest.raises(ConfigError, match="set ZRAY_TMPDIR"):
            sessions.runtime_root("", {"TMPDIR": str(short)})

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
    @pytest.mark.parametrize("kind", ["directory", "link", "file"])
    def test_a_directory_of_any_other_user_counts(self, short: Path, kind: str) -> None:
        name = f"zray-{os.geteuid()}"
        path = short / name
        if kind == "directory":
            path.mkdir(mode=0o777)
        elif kind == "link":
            path.symlink_to(short)
        else:
            path.touch()
        os.chown(path, 12345, 12345, follow_symlinks=False)
        assert sessions._other_owner(str(path)) == 12345
        with pytest.raises(ConfigError, match=r"12345|not a directory"):
            sessions.runtime_root(str(short), {})  # a given directory is not replaced

    def test_others_may_not_enter(self, short: Path) -> None:
        root = sessions.runtime_root(str(short), {})
        os.chmod(root, 0o750)
        with pytest.raises(ConfigError, match=r"is accessible to other users \(mode 0750"):
            sessions.runtime_root(str(short), {})

    def test_may_not_be_another_users(self, short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        uid = os.geteuid()
        (short / f"zray-{uid + 1}").mkdir(mode=0o700)
        monkeypatch.setattr(os, "geteuid", lambda: uid + 1)
        with pytest.raises(ConfigError, match=f"belongs to user {uid}"):
            sessions.runtime_root(str(short), {})

    def test_may_not_be_a_link(self, short: Path) -> None:
        (short / "elsewhere").mkdir(mode=0o700)
        (short / f"zray-{os.geteuid()}").symlink_to(short / "elsewhere")
        with pytest.raises(ConfigError, match="is not a directory"):
            sessions.runtime_root(str(short), {})

    def test_socket_paths_fit(self) -> None:
        longest = "/" + "r" * (sessions.MAX_ROOT_BYTES - 1)
        directory = sessions.session_paths(longest, "0" * 8).directory
        socket = f"{directory}/{'s' * sessions.MAX_SOCKET_NAME_BYTES}"
        assert len(os.fsencode(socket)) == sessions.MAX_SOCKET_PATH_BYTES


class TestLife:
    def test_one_guardian(self, root: str) -> None:
        paths, lock = sessions.new_session(root)
        assert sessions.session_is_alive(paths)
        with pytest.raises(SystemFailure, match="held by another"):
            sessions.new_session(root, paths.name)
        lock.close()
        lock.close()
        assert not sessions.session_is_alive(paths)

    def test_no_place_for_it(self, root: str) -> None:
        Path(root, "logs").write_text("in the way")
        with pytest.raises(ConfigError, match="ZRAY_TMPDIR"):
            sessions.new_session(root)

    def test_names_are_checked(self, root: str) -> None:
        with pytest.raises(ConfigError):
            sessions.session_paths(root, "../x")


class TestSweep:
    def test_dead_sessions_are_swept_and_living_ones_stay(self, root: str, tmp_path: Path) -> None:
        (living, lock), dead = sessions.new_session(root), dead_session(root)
        store = tmp_path / f"store-{dead.name}"
        sessions.add_store(dead, str(store))
        (store / "x").mkdir(parents=True)
        Path(dead.logs, "worker.out").write_text("log")
        assert sessions.sweep_dead_sessions(root) == [dead.name]
        assert not os.path.exists(dead.directory)
        assert not store.exists()
        assert Path(dead.logs, "worker.out").read_text() == "log"
        assert os.path.isdir(living.directory)
        assert sessions.sweep_dead_sessions(root) == []
        lock.close()

    def test_removes_only_directories_with_its_name(self, root: str, tmp_path: Path) -> None:
        dead = dead_session(root)
        precious = tmp_path / "precious"
        precious.mkdir()
        sessions.add_store(dead, str(precious))
        sessions.sweep_dead_sessions(root)
        assert precious.is_dir()

    def test_touches_nothing_else(self, root: str) -> None:
        os.mkdir(f"{root}/keys")
        Path(root, "00000000").write_text("a file")
        os.symlink(f"{root}/keys", f"{root}/00000001")
        assert sessions.sweep_dead_sessions(root) == []
        assert sorted(os.listdir(root)) == ["00000000", "00000001", "keys", "lock"]

    def test_kills_what_is_left(self, root: str) -> None:
        paths = dead_session(root)
        left = subprocess.Popen(
            [sys.executable, "-c", "print(1, flush=True); import signal; signal.pause()"],
            env={**os.environ, SESSION_VARIABLE: paths.name},
            stdout=subprocess.PIPE,
        )
        assert left.stdout is not None
        left.stdout.readline()
        sessions.sweep_dead_sessions(root)
        left.communicate()
        assert left.returncode == -signal.SIGKILL

    def test_two_at_once(self, root: str) -> None:
        names = sorted(dead_session(root).name for _ in range(20))
        with multiprocessing.get_context("fork").Pool(3) as pool:
            swept = pool.map(sessions.sweep_dead_sessions, [root] * 3, chunksize=1)
        assert sorted(name for names in swept for name in names) == names
        assert sorted(os.listdir(root)) == ["lock", "logs"]

    def test_logs_are_pruned(self, root: str) -> None:
        living, lock = sessions.new_session(root)
        ended = [dead_session(root) for _ in range(sessions.KEPT_LOGS + 3)]
        for age, paths in enumerate(ended):
            os.utime(paths.logs, (1000 - age, 1000 - age))
        os.utime(living.logs, (1, 1))
        sessions.sweep_dead_sessions(root)
        kept = set(os.listdir(f"{root}/logs"))
        assert kept == {living.name} | {paths.name for paths in ended[: sessions.KEPT_LOGS]}
        lock.close()

    def test_orderly_end(self, root: str) -> None:
        paths, lock = sessions.new_session(root)
        sessions.write_current(root, Current("ipc://x", paths.name, os.getpid()))
        sessions.remove_session(paths)
        assert sorted(os.listdir(root)) == ["lock", "logs"]
        assert not sessions.session_is_alive(paths)
        sessions.remove_session(paths)
        lock.close()


class TestCurrent:
    def test_none(self, root: str) -> None:
        assert sessions.read_current(root) is None
        sessions.clear_current(root, "0")

    def test_living_broker(self, root: str) -> None:
        current = Current("ipc:///x", "01234567", os.getpid())
        sessions.write_current(root, current)
        assert sessions.read_current(root) == current
        sessions.clear_current(root, "another")
        assert sessions.read_current(root) == current
        sessions.clear_current(root, "01234567")
        assert sessions.read_current(root) is None
        assert os.listdir(root) == []

    def test_dead_broker(self, root: str) -> None:
        process = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
        sessions.write_current(root, Current("ipc:///x", "01234567", process.pid))
        assert sessions.read_current(root) is not None
        process.communicate()
        assert sessions.read_current(root) is None

    def test_reused_pid(self, root: str) -> None:
        sessions.write_current(root, Current("ipc:///x", "01234567", os.getpid()))
        current = Path(root, "current")
        text = current.read_text()
        current.write_text(text.replace('"start_time": ', '"start_time": 1'))
        assert sessions.read_current(root) is None

    def test_brokers_of_all_kinds(self, root: str) -> None:
        by_hand, hand_lock = sessions.new_session(root)
        local, local_lock = sessions.new_session(root)
        host, host_lock = sessions.new_session(root)
        dead = dead_session(root)
        for paths in (local, dead):
            Path(paths.broker_socket).touch()
        current = Current("tcp://x:1", by_hand.name, os.getpid())
        sessions.write_broker(by_hand, current)
        assert sessions.brokers(root) == [current]
        assert sessions.brokers(root, local=True) == [Current(f"ipc://{local.broker_socket}", local.name, 0), current]
        for lock in (hand_lock, local_lock, host_lock):
            lock.close()
        assert not os.path.exists(host.broker_socket)

    def test_one_of_several_brokers_is_chosen_with_a_warning(self, root: str) -> None:
        assert sessions.choose_broker(root) == (None, "")
        first, first_lock = sessions.new_session(root)
        second, second_lock = sessions.new_session(root)
        for paths, address in ((first, "ipc:///first"), (second, "ipc:///second")):
            current = Current(address, paths.name, os.getpid())
            sessions.write_broker(paths, current)
            sessions.write_current(root, current)
            chosen, warning = sessions.choose_broker(root)
            assert chosen == current
            assert bool(warning) == (paths is second)
        assert "2 brokers of yours" in warning and "at ipc:///second. Give" in warning
        assert warning.endswith("the others are at ipc:///first")
        for lock in (first_lock, second_lock):
            lock.close()

    @pytest.mark.parametrize("text", ["", "[]", "{", '{"address": 1}', '{"address": "a", "session": "s", "pid": []}'])
    def test_garbage(self, root: str, text: str) -> None:
        Path(root, "current").write_text(text)
        assert sessions.read_current(root) is None


class TestRemovalThatIsKilled:
    """The zygote removes the session of a killed host, and ``zray stop --force`` kills the zygote."""

    @pytest.mark.parametrize("moment", ["before", "within"])
    def test_the_session_is_dead_and_the_next_sweep_removes_it(
        self, root: str, moment: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        paths = dead_session(root)

        def killed(directory: str) -> None:
            if moment == "within":
                for entry in Path(directory).rglob("*"):
                    if entry.is_file():
                        entry.unlink()  # the lock file among them
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(sessions, "remove_tree", killed)
            with pytest.raises(KeyboardInterrupt):
                sessions.remove_session(paths)
        assert not sessions.session_is_alive(paths)
        sessions.sweep_dead_sessions(root)
        assert sorted(os.listdir(root)) == ["lock", "logs"]

    def test_what_only_looks_like_one_stays(self, root: str) -> None:
        for name in ("mine.removed", "abcdef12.removed.txt"):
            os.mkdir(f"{root}/{name}")
        sessions.sweep_dead_sessions(root)
        assert {"mine.removed", "abcdef12.removed.txt"} <= set(os.listdir(root))
