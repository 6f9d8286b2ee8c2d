from __future__ import annotations

import os
import pwd
import re
import stat
import subprocess
import threading
from pathlib import Path

import pytest
import zmq

from zray.exceptions import ConfigError
from zray.transport.security.keys import AllowList, KeyDirectory, KeyFile, KeyMissing, default_directory


@pytest.fixture
def keys(tmp_path: Path) -> KeyDirectory:
    return KeyDirectory(tmp_path / "config" / "keys")


def modes(path: Path) -> set[int]:
    return {stat.S_IMODE(entry.stat().st_mode) for entry in path.iterdir()}


def file_of(keys: KeyDirectory, name: str) -> KeyFile:
    return next(key for key in keys.held() if key.name == name)


# ---- where


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"XDG_CONFIG_HOME": "/x", "HOME": "/h"}, "/x/zray/keys"),
        ({"XDG_CONFIG_HOME": "relative", "HOME": "/h"}, "/h/.config/zray/keys"),
        ({"HOME": "/h"}, "/h/.config/zray/keys"),
    ],
)
def test_default_place(environ: dict[str, str], expected: str) -> None:
    assert default_directory(environ) == Path(expected)
    assert KeyDirectory("", environ).path == Path(expected)


def test_without_home_the_password_database_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    home = pwd.getpwuid(os.geteuid()).pw_dir
    assert default_directory({}) == default_directory({"HOME": ""}) == Path(home, ".config/zray/keys")

    def unknown(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    with pytest.raises(ConfigError, match="--keys DIR or ZRAY_KEYS"):
        default_directory({})


# ---- making


def test_made_on_first_use_for_the_user_alone(keys: KeyDirectory) -> None:
    server = keys.server()
    assert keys.server() == server
    assert zmq.curve_public(server.secret) == server.public
    for role in ("host", "driver"):
        client = keys.client(role)
        assert zmq.curve_public(client.secret) == client.public
        assert client.server == server.public
    assert stat.S_IMODE(keys.path.stat().st_mode) == 0o700
    assert modes(keys.path) == {0o600}
    assert [(row.role, row.name, row.revoked) for row in keys.allowed()] == [
        ("host", "host", ""),
        ("driver", "driver", ""),
    ]


def test_concurrent_calls_make_keys_once(keys: KeyDirectory) -> None:
    together = threading.Barrier(8)
    made = []

    def make() -> None:
        together.wait()
        made.append(keys.server())

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 8 and len(set(made)) == 1
    assert len(keys.allowed()) == 2


@pytest.mark.parametrize("lost", [["allowed"], ["allowed", "driver.key"], ["allowed", "driver.key", "host.key"]])
def test_making_keys_resumes_after_a_crash(keys: KeyDirectory, lost: list[str]) -> None:
    server = keys.server()
    for name in lost:
        (keys.path / name).unlink()
    (keys.path / "allowed.new").write_text("half a li")
    assert keys.server() == server
    assert {row.public for row in keys.allowed()} == {keys.client("host").public, keys.client("driver").public}


def test_joining_makes_no_keys(keys: KeyDirectory) -> None:
    with pytest.raises(ConfigError, match="`zray keys show` prints the line"):
        keys.client("host")
    assert not keys.path.exists()


def test_secrets_are_not_shown(keys: KeyDirectory) -> None:
    shown = repr(keys.server()) + repr(keys.client("host")) + repr(keys.held())
    for key in keys.held():
        assert key.secret.decode() not in shown
        assert key.public.decode() in shown


# ---- files that are refused


@pytest.mark.parametrize("mode", [0o701, 0o710, 0o750, 0o770, 0o755, 0o777])
def test_open_directory_is_refused(keys: KeyDirectory, mode: int) -> None:
    keys.create()
    keys.path.chmod(mode)
    for use in (keys.server, keys.held, keys.allowed, lambda: keys.client("host")):
        with pytest.raises(ConfigError, match=rf"{keys.path} \(mode {mode:04o}\): run `chmod 700 {keys.path}"):
            use()


@pytest.mark.parametrize("file", ["broker.key", "host.key"])
@pytest.mark.parametrize("mode", [0o604, 0o620, 0o640, 0o644, 0o666])
def test_open_file_is_refused(keys: KeyDirectory, file: str, mode: int) -> None:
    keys.create()
    (keys.path / file).chmod(mode)
    with pytest.raises(ConfigError, match=rf"{file} \(mode {mode:04o}\): run `chmod 600 .*{file}"):
        keys.held()


def test_files_of_another_user_are_refused(keys: KeyDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    keys.create()
    uid = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: uid + 1)
    with pytest.raises(ConfigError, match=f"belongs to user {uid}, not to you"):
        keys.client("host")


def test_symbolic_links_are_refused(keys: KeyDirectory, tmp_path: Path) -> None:
    keys.create()
    other = KeyDirectory(tmp_path / "link")
    other.path.symlink_to(keys.path)
    for use in (other.server, other.held):
        with pytest.raises(ConfigError, match="cannot be used"):
            use()
    (keys.path / "host.key").rename(keys.path.parent / "elsewhere")
    (keys.path / "host.key").symlink_to(keys.path.parent / "elsewhere")
    with pytest.raises(ConfigError, match=r"host.key cannot be read"):
        keys.client("host")


def test_other_kinds_of_files_are_refused(keys: KeyDirectory) -> None:
    keys.create()
    (keys.path / "host.key").unlink()
    os.mkfifo(keys.path / "host.key", 0o600)
    with pytest.raises(ConfigError, match="not a regular file"):
        keys.client("host")
    (keys.path / "host.key").unlink()
    (keys.path / "host.key").mkdir()
    with pytest.raises(ConfigError, match="not a regular file"):
        keys.client("host")


@pytest.mark.parametrize("damage", ["", "public x\n", "\0\xff\n", "role host\n" * 3, "secret a b\n"])
def test_damaged_key_is_refused_without_showing_it(keys: KeyDirectory, damage: str) -> None:
    keys.create()
    secret = file_of(keys, "host").secret.decode()
    path = keys.path / "host.key"
    path.write_text(damage + path.read_text().replace("server ", "other "))
    with pytest.raises(ConfigError, match=r"host.key is damaged") as caught:
        keys.client("host")
    assert secret not in str(caught.value) and caught.value.__cause__ is None


def test_key_of_another_secret_is_refused(keys: KeyDirectory) -> None:
    keys.create()
    path = keys.path / "host.key"
    path.write_text(path.read_text().replace(file_of(keys, "host").public.decode(), zmq.curve_keypair()[0].decode()))
    with pytest.raises(ConfigError, match="damaged"):
        keys.client("host")


def test_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot be used: File exists \(.*file\)"):
        KeyDirectory(tmp_path / "file" / "keys").server()


# ---- adding, rotating, revoking


def test_key_by_name(keys: KeyDirectory) -> None:
    row = keys.add("host", "lab3")
    assert keys.client("host", "lab3").public == row.public
    assert keys.client("host").public != row.public
    with pytest.raises(ConfigError, match="rotate lab3"):
        keys.add("driver", "lab3")
    with pytest.raises(ConfigError, match="called 'lab4'"):
        keys.client("host", "lab4")
    for role, name in (("host", "broker"), ("host", "driver"), ("host", "../x"), ("host", ""), ("boss", "x")):
        with pytest.raises(ConfigError):
            keys.add(role, name)


def test_the_only_key_of_a_role_is_used(keys: KeyDirectory) -> None:
    row = keys.add("host", "lab3")
    keys.revoke("host")
    assert keys.client("host").public == row.public
    keys.add("host", "lab4")
    with pytest.raises(ConfigError, match="several host keys"):
        keys.client("host")


def test_rotated_key(keys: KeyDirectory) -> None:
    keys.create()
    old = keys.client("host")
    assert keys.rotate("host") == keys.client("host").public != old.public
    assert [bool(row.revoked) for row in keys.allowed() if row.name == "host"] == [True, False]
    with pytest.raises(ConfigError, match="'nobody'"):
        keys.rotate("nobody")


def test_rotated_broker(keys: KeyDirectory) -> None:
    old, client = keys.server(), keys.client("host")
    assert keys.rotate("broker") == keys.server().public != old.public
    assert keys.client("host") == client._replace(server=keys.server().public)


def test_a_missing_key_may_still_come_until_the_directory_is_complete(keys: KeyDirectory) -> None:
    with pytest.raises(KeyMissing, match="no host key"):
        keys.client("host")
    keys.create()
    (keys.path / "allowed").rename(keys.path / "later")
    (keys.path / "host.key").rename(keys.path / "later.kept")
    with pytest.raises(KeyMissing, match="no host key"):
        keys.client("host")
    (keys.path / "later").rename(keys.path / "allowed")
    (keys.path / "later.kept").unlink()
    with pytest.raises(ConfigError, match="no host key") as final:
        keys.client("host")
    assert not isinstance(final.value, KeyMissing)


def test_revoked_key(keys: KeyDirectory) -> None:
    keys.create()
    keys.revoke("driver")
    assert next(row for row in keys.allowed() if row.name == "driver").revoked
    assert not (keys.path / "driver.key").exists()
    keys.create()
    with pytest.raises(ConfigError, match="no driver key"):
        keys.client("driver")
    with pytest.raises(ConfigError, match="'driver' that is allowed"):
        keys.revoke("driver")
    with pytest.raises(ConfigError, match="rotate broker"):
        keys.revoke("broker")


def test_allow_list_follows_the_file(keys: KeyDirectory, caplog: pytest.LogCaptureFixture) -> None:
    keys.create()
    allowed, host = AllowList(keys), keys.client("host").public
    found = allowed.find(host)
    assert found is not None and found.role == "host" and not found.revoked
    assert allowed.find(b"x" * 40) is None
    lab3 = keys.add("host", "lab3")
    assert allowed.find(lab3.public) == lab3
    keys.revoke("lab3")
    revoked = allowed.find(lab3.public)
    assert revoked is not None and revoked.revoked
    (keys.path / "allowed").chmod(0o644)
    assert allowed.find(host) == found and "stay allowed" in caplog.text
    (keys.path / "allowed").unlink()
    assert allowed.find(host) == found


def test_damaged_allow_list(keys: KeyDirectory) -> None:
    keys.create()
    (keys.path / "allowed").write_text("host host\n")
    with pytest.raises(ConfigError, match="damaged at 'host host'"):
        keys.allowed()


# ---- other machines


def run_copy(line: str, tmp_path: Path, home: Path) -> subprocess.CompletedProcess[str]:
    """Runs the line with a fake ssh: a shell on this machine, for a user with another home and a lax umask."""
    stub = tmp_path / "bin" / "ssh"
    stub.parent.mkdir(exist_ok=True)
    stub.write_text(
        f'#!/bin/sh\n[ "$1" = me@there ] || exit 9\nshift; umask 000; cd / && HOME="{home}" exec sh -c "$*"\n'
    )
    stub.chmod(0o755)
    environ = {"PATH": f"{stub.parent}:{os.environ['PATH']}"}
    return subprocess.run(["sh", "-c", line], env=environ, capture_output=True, text=True, timeout=30)


def test_copied_to_another_machine(keys: KeyDirectory, tmp_path: Path) -> None:
    server = keys.server()
    home = tmp_path / "another home"
    home.mkdir()
    there = KeyDirectory("", {"HOME": str(home)})
    for _ in range(2):  # the second time over existing files
        done = run_copy(keys.copy_command("me@there"), tmp_path, home)
        assert done.returncode == 0, done.stderr
        assert there.client("host") == keys.client("host")
        assert there.client("driver") == keys.client("driver")
        keys.rotate("host")
    assert sorted(path.name for path in there.path.iterdir()) == ["driver.key", "host.key"]
    assert modes(there.path) == {0o600} and stat.S_IMODE(there.path.stat().st_mode) == 0o700
    copied = "".join(path.read_text() for path in there.path.iterdir())
    assert server.secret.decode() not in copied and server.public.decode() in copied
    with pytest.raises(ConfigError, match="copied from another broker's machine"):
        there.server()
    with pytest.raises(ConfigError, match="broker's machine only"):
        there.rotate("host")


def test_copying_spares_the_keys_of_another_broker(keys: KeyDirectory, tmp_path: Path) -> None:
    keys.create()
    there = KeyDirectory("", {"HOME": str(tmp_path / "home")})
    there.create()
    before = there.held()
    done = run_copy(keys.copy_command("me@there"), tmp_path, tmp_path / "home")
    assert done.returncode == 1 and "belongs to a broker" in done.stderr
    assert there.held() == before


def test_copies_only_what_is_asked_for(keys: KeyDirectory, tmp_path: Path) -> None:
    keys.add("host", "lab3")
    line = keys.copy_command("me@there", ["lab3"])
    assert run_copy(line, tmp_path, tmp_path / "home").returncode == 0
    there = KeyDirectory("", {"HOME": str(tmp_path / "home")})
    assert there.client("host") == keys.client("host", "lab3")
    assert "\n" not in line
    assert re.search(r"ssh USER@MACHINE ", keys.copy_command())
    for name in ("broker", "nobody"):
        with pytest.raises(ConfigError, match=f"no key called {name}"):
            keys.copy_command(names=[name])


class _Crash(Exception):
    pass


@pytest.mark.parametrize("name", ["driver", "broker"])
def test_a_rotation_that_crashed_half_way_is_finished(tmp_path, monkeypatch, name):
    keys = KeyDirectory(tmp_path / "keys")
    keys.create()
    writes = []

    def crash(self, files, *rest):
        writes.append(rest)
        raise _Crash

    before = {row.public for row in keys.allowed()}
    original = KeyDirectory._write_key
    with monkeypatch.context() as patch:
        if name == "broker":
            patch.setattr(KeyDirectory, "_write_key", lambda *a: crash(*a) if a[2].name != "broker" else original(*a))
        else:
            patch.setattr(KeyDirectory, "_write_allowed", crash)
        with pytest.raises(_Crash):
            keys.rotate(name)
    assert writes
    keys.create()
    server = keys.server().public
    for role in ("host", "driver"):
        credentials = keys.client(role)
        assert credentials.server == server
        (row,) = [row for row in keys.allowed() if row.name == role and not row.revoked]
        assert row.public == credentials.public
    if name == "driver":
        assert any(row.public in before and row.revoked for row in keys.allowed() if row.name == "driver")


def test_faults_of_another_key_do_not_matter(tmp_path):
    keys = KeyDirectory(tmp_path / "keys")
    keys.create()
    keys.add("driver", "alice")
    (tmp_path / "keys" / "alice.key").chmod(0o644)
    assert keys.client("host").server == keys.client("driver").server
    with pytest.raises(ConfigError, match="alice"):
        keys.client("driver", "alice")


def test_a_damaged_key_stops_no_broker_and_can_be_replaced(keys: KeyDirectory) -> None:
    keys.add("driver", "alice")
    keys.add("driver", "bob")
    (keys.path / "alice.key").write_text("nonsense\n")
    (keys.path / "bob.key").chmod(0o644)
    assert keys.server()
    for name in ("alice", "bob"):
        assert keys.rotate(name) == keys.client("driver", name).public


def test_a_key_of_another_broker_is_not_allowed(tmp_path):
    ours, theirs = KeyDirectory(tmp_path / "ours"), KeyDirectory(tmp_path / "theirs")
    ours.create()
    foreign = theirs.add("driver", "foreign").public
    (tmp_path / "ours" / "foreign.key").write_bytes((tmp_path / "theirs" / "foreign.key").read_bytes())
    (tmp_path / "ours" / "foreign.key").chmod(0o600)
    ours.create()
    assert foreign not in {row.public for row in ours.allowed()}
