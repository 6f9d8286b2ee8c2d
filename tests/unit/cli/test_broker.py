"""What a broker prints about joining it."""

from __future__ import annotations

import pwd
import socket
from pathlib import Path

import pytest
from click.testing import CliRunner

from zray.cli import broker
from zray.transport.security.keys import KeyDirectory


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return tmp_path


def told(capsys: pytest.CaptureFixture[str], address: str, keys: KeyDirectory | None, insecure: bool = False) -> str:
    if keys is not None:
        keys.create()
    broker._tell_how_to_join(address, keys, insecure)
    return capsys.readouterr().out


def test_keys_in_their_usual_place_are_not_named(capsys: pytest.CaptureFixture[str]) -> None:
    said = told(capsys, "tcp://head:1", KeyDirectory())
    assert "--keys" not in said and "ZRAY_KEYS" not in said and "tar " in said


def test_keys_elsewhere_are_named(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    said = told(capsys, "tcp://head:1", KeyDirectory(home / "my keys"))
    assert f"zray-worker --address tcp://head:1 --keys '{home}/my keys'\n" in said
    assert f"with ZRAY_KEYS='{home}/my keys'" in said


def test_keys_of_a_user_without_a_home(
    capsys: pytest.CaptureFixture[str], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    assert f"--keys {home}/keys" in told(capsys, "tcp://head:1", KeyDirectory(home / "keys"))


@pytest.mark.parametrize(
    ("address", "reached"),
    [("tcp://0.0.0.0:1", f"tcp://{socket.gethostname()}:1"), ("tcp://10.0.0.0:1", "tcp://10.0.0.0:1")],
)
def test_all_addresses_are_printed_by_name(capsys: pytest.CaptureFixture[str], address: str, reached: str) -> None:
    assert f'zray.init("{reached}", insecure=True)' in told(capsys, address, None, insecure=True)


def test_ipv6_is_refused() -> None:
    result = CliRunner().invoke(broker.main, ["--bind", "tcp://[::]:6380"])
    assert result.exit_code == 2 and "IPv6" in result.output
