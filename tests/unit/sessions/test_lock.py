"""Which sessions are dead: only those that are proven dead."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from zray.sessions import directories as sessions
from zray.sessions.lock import SessionLock, claim_if_dead, locked_root, protect
from zray.system.processes import SESSION_VARIABLE


@pytest.fixture
def root(tmp_path: Path) -> str:
    root = f"{tmp_path}/root"
    os.mkdir(root, 0o700)
    return root


def age(path: str) -> None:
    os.utime(path, (1, 1))


class TestProof:
    def test_free_locks_prove_it(self, root: str) -> None:
        paths, lock = sessions.new_session(root)
        assert claim_if_dead(paths.directory) is None
        lock.close()
        claimed = claim_if_dead(paths.directory)
        assert claimed is not None
        assert claim_if_dead(paths.directory) is None  # the process that has claimed it has its lock
        claimed.close()

    def test_a_cleaner_has_removed_the_lock_file_of_a_living_session(self, root: str) -> None:
        paths, lock = sessions.new_session(root)
        os.unlink(paths.lock)
        age(paths.directory)
        assert sessions.sweep_dead_sessions(root) == []
        assert sessions.session_is_alive(paths)
        lock.close()
        assert sessions.sweep_dead_sessions(root) == [paths.name]

    def test_one_that_locks_the_file_alone(self, root: str) -> None:
        """Like versions that had no lock on the directory."""
        paths, lock = sessions.new_session(root)
        lock.close()
        with open(paths.lock, "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            assert claim_if_dead(paths.directory) is None
        assert sessions.sweep_dead_sessions(root) == [paths.name]

    def test_without_a_lock_its_processes_decide(self, root: str) -> None:
        paths, lock = sessions.new_session(root)
        lock.close()
        os.unlink(paths.lock)
        assert claim_if_dead(paths.directory) is None  # young: it may be in the making
        age(paths.directory)
        with subprocess.Popen(
            [sys.executable, "-c", "print(1, flush=True); input()"],
            env={**os.environ, SESSION_VARIABLE: paths.name},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            assert sessions.sweep_dead_sessions(root) == []
            process.communicate(b"\n")
        age(paths.directory)
        assert sessions.sweep_dead_sessions(root) == [paths.name]

    @pytest.mark.parametrize(
        "maker, dead",
        [
            ({"machine": "another", "boot": "another"}, False),
            ({"machine": "{machine}", "boot": "before"}, True),
            ({"machine": "a container", "boot": "{boot}"}, True),
            ({"machine": "another", "boot": ""}, False),
            ([], True),
        ],
    )
    def test_of_another_machine(self, root: str, maker: object, dead: bool) -> None:
        """On a shared file system its locks may not be visible here."""
        paths, lock = sessions.new_session(root)
        lock.close()
        here = json.loads(Path(paths.lock).read_text())
        text = json.dumps(maker)
        for name, value in here.items():
            text = text.replace("{" + name + "}", value)
        Path(paths.lock).write_text(text)
        assert (sessions.sweep_dead_sessions(root) == [paths.name]) is dead

    def test_directories_that_cannot_be_locked(self, root: str, monkeypatch: pytest.MonkeyPatch) -> None:
        real = fcntl.flock

        def flock(fd: int, kind: int) -> None:
            if os.path.isdir(f"/proc/self/fd/{fd}"):
                raise OSError(errno.EBADF, "as NFS says")
            real(fd, kind)

        monkeypatch.setattr(fcntl, "flock", flock)
        paths, lock = sessions.new_session(root)
        assert sessions.sweep_dead_sessions(root) == []
        assert lock.is_whole()
        lock.close()
        assert sessions.sweep_dead_sessions(root) == [paths.name]

    def test_files_that_cannot_be_locked(self, root: str, monkeypatch: pytest.MonkeyPatch) -> None:
        paths, lock = sessions.new_session(root)
        lock.close()

        def flock(fd: int, kind: int) -> None:
            raise OSError(errno.ENOLCK, "no locks available")

        monkeypatch.setattr(fcntl, "flock", flock)
        assert claim_if_dead(paths.directory) is None


class TestHolding:
    def test_forked_child_inherits_it(self, root: str) -> None:
        paths, lock = sessions.new_session(root)
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(write)
            os.read(read, 1)
            os._exit(0)
        lock.close()
        assert sessions.session_is_alive(paths)
        os.close(write)
        os.waitpid(pid, 0)
        os.close(read)
        assert not sessions.session_is_alive(paths)

    def test_is_handed_on_to_a_program(self, root: str) -> None:
        paths, lock = sessions.new_session(root)
        with subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=lock.filenos()) as process:
            lock.close()
            assert sessions.session_is_alive(paths)
            process.communicate()
        assert not sessions.session_is_alive(paths)

    def test_leaves_standard_descriptors_free(self, root: str) -> None:
        pid = os.fork()
        if pid == 0:
            for fd in range(3):
                os.close(fd)
            _, lock = sessions.new_session(root)
            os._exit(min(lock.filenos()) < 3)
        assert os.waitpid(pid, 0)[1] == 0

    @pytest.mark.parametrize("removed", ["lock", "directory", "root"])
    def test_is_taken_again(self, root: str, removed: str) -> None:
        paths, lock = sessions.new_session(root)
        assert lock.is_whole()
        if removed == "lock":
            os.unlink(paths.lock)
        else:
            shutil.rmtree(paths.directory if removed == "directory" else root)
        assert not lock.is_whole()
        os.makedirs(root, exist_ok=True)
        sessions.make_directories(paths)
        with locked_root(root):
            assert lock.renew()
        assert lock.is_whole()
        assert len(lock.filenos()) == 3
        assert sessions.session_is_alive(paths)
        lock.close()
        assert not sessions.session_is_alive(paths)

    def test_cleaners_find_the_directories_locked(self, root: str) -> None:
        """What systemd-tmpfiles does before it looks into a directory."""
        paths, lock = sessions.new_session(root)
        for directory in (root, paths.directory):
            fd = os.open(directory, os.O_RDONLY)
            with pytest.raises(BlockingIOError):
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.close(fd)
        lock.close()

    def test_a_cleaner_at_work_is_waited_for(self, root: str) -> None:
        directory = f"{root}/0badcafe"
        os.mkdir(directory)
        cleaner = os.open(directory, os.O_RDONLY)
        fcntl.flock(cleaner, fcntl.LOCK_EX)
        locks: list[SessionLock | None] = []
        thread = threading.Thread(target=lambda: locks.append(SessionLock.take(directory)))
        thread.start()
        os.close(cleaner)
        thread.join()
        assert locks[0] is not None
        locks[0].close()


class TestRootsLock:
    def test_a_forked_child_does_not_keep_it(self, root: str) -> None:
        read, write = os.pipe()
        with locked_root(root):
            pid = os.fork()
            if pid == 0:
                os.close(write)
                os.read(read, 1)
                os._exit(0)
        with locked_root(root):  # would wait for ever
            os.close(write)
        os.waitpid(pid, 0)
        os.close(read)

    def test_removed_while_another_process_waits(self, root: str) -> None:
        order: list[str] = []

        def second() -> None:
            with locked_root(root):
                order.append("second")

        with locked_root(root):
            thread = threading.Thread(target=second)
            thread.start()
            os.unlink(f"{root}/lock")
            with locked_root(root):
                order.append("first")
        thread.join()
        assert sorted(order) == ["first", "second"]


def test_protected_files_look_used(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch(mode=0o600)
    os.utime(file, (1, 2))
    protect(str(file))
    status = file.stat()
    assert status.st_mode & 0o7777 == 0o1600
    assert status.st_atime > 1e9
    assert status.st_mtime == 2
    protect(f"{tmp_path}/nothing")
