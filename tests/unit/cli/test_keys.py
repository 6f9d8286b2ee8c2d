from __future__ import annotations

import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from zray.cli.main import COMMANDS, main
from zray.transport.security.keys import KeyDirectory


@pytest.fixture
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> KeyDirectory:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("ZRAY_KEYS", raising=False)
    return KeyDirectory()


def run(*arguments: str, code: int = 0) -> str:
    result: Result = CliRunner().invoke(main, ["keys", *arguments])
    assert result.exit_code == code, result.output
    return result.output


def test_from_nothing_to_another_machine(keys: KeyDirectory) -> None:
    assert "No keys" in run("show") and not keys.path.exists()
    assert "zray keys show" in run("create")
    shown = run("show")
    assert shown.splitlines()[0] == f"Keys in {keys.path}, given out by the broker of this machine:"
    for key in keys.held():
        assert key.public.decode() in shown
    assert f"  {keys.copy_command()}\n" in shown
    assert "host.key driver.key | ssh USER@MACHINE" in shown


def test_no_secret_is_ever_printed(keys: KeyDirectory) -> None:
    secrets = set()
    output = ""
    for arguments in (
        ["create"],
        ["create", "--role", "host", "--name", "lab3"],
        ["show"],
        ["show", "lab3"],
        ["rotate", "lab3"],
        ["rotate", "broker"],
        ["revoke", "driver"],
        ["show"],
    ):
        output += run(*arguments)
        secrets |= {key.secret.decode() for key in keys.held()}
    assert len(secrets) == 6
    assert not [secret for secret in secrets if secret in output]


def test_a_separate_key_and_its_revocation(keys: KeyDirectory) -> None:
    assert "lab3.key | ssh" in run("create", "--role", "host", "--name", "lab3")
    old = keys.client("host", "lab3").public.decode()
    assert keys.client("host", "lab3").public.decode() in run("rotate", "lab3") + run("show")
    assert old != keys.client("host", "lab3").public.decode()
    revoked = run("revoke", "lab3")
    assert "refused from now on" in revoked and "declares dead" in revoked and "disconnected" not in revoked
    rows = [line for line in run("show").splitlines() if " lab3 " in line]
    assert len(rows) == 2 and all("revoked" in row for row in rows)


def test_all_machines_need_new_copies_after_the_brokers_key_was_rotated(keys: KeyDirectory) -> None:
    run("create")
    assert "Restart the broker" in run("rotate", "broker")


def test_machine_that_keys_were_copied_to(keys: KeyDirectory) -> None:
    keys.create()
    server = keys.server().public.decode()
    for name in ("broker.key", "allowed"):
        (keys.path / name).unlink()
    shown = run("show")
    assert "copied from a broker's machine" in shown and server in shown and "ssh" not in shown
    assert "copied from another broker's machine" in run("create", code=1)


def test_directory_by_option_variable_or_default(
    keys: KeyDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZRAY_KEYS", str(tmp_path / "variable"))
    run("create")
    run("create", "--keys", str(tmp_path / "option"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["option", "variable"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["rotate", "nobody"], 1, "no key called 'nobody'"),
        (["revoke", "broker"], 1, "cannot be revoked"),
        (["show", "nobody"], 1, "no key called nobody"),
        (["create", "--name", "x"], 2, "--name needs --role"),
        (["create", "--role", "boss"], 2, "Invalid value for '--role'"),
        (["create", "--role", "host"], 1, "already"),
    ],
)
def test_mistakes(keys: KeyDirectory, arguments: list[str], code: int, words: str) -> None:
    keys.create()
    output = run(*arguments, code=code)
    assert words in output and "Traceback" not in output


def test_directory_that_others_can_enter(keys: KeyDirectory) -> None:
    keys.create()
    keys.path.chmod(0o755)
    assert f"chmod 700 {keys.path}" in run("show", code=1)


def test_sub_commands_are_loaded_when_they_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for target in COMMANDS.values():
        monkeypatch.delitem(sys.modules, target.partition(":")[0], raising=False)
    result = CliRunner().invoke(main, ["keys", "--help"])
    assert result.exit_code == 0 and "zray keys show" in result.output
    loaded = {target.partition(":")[0] for target in COMMANDS.values()} & set(sys.modules)
    assert loaded == {"zray.cli.keys"}
    assert CliRunner().invoke(main, ["nonsense"]).exit_code == 2
