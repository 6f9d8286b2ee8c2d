"""The list of machines: how it is read, and the errors for malformed ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from zray.cli import up
from zray.cli.up import SSH, read_hosts
from zray.exceptions import ConfigError

HEAD = 'address = "tcp://head:6380"\n'
ONE = '[[hosts]]\nhost = "node1"\n'


def written(directory: Path, text: str) -> str:
    path = directory / "hosts.toml"
    path.write_text(text)
    return str(path)


def test_what_a_machine_has_of_its_own_wins(tmp_path: Path) -> None:
    text = f"""{HEAD}
    python = "~/my venv/bin/python"
    ssh = ["-A"]
    [settings]
    num_cpus = 2
    labels = {{zone = "a", disk = "ssd"}}
    [environment]
    COLOUR = "blue"
    [[hosts]]
    host = "node1"
    [[hosts]]
    host = "me@node2"
    python = "/opt/zray/bin/python"
    ssh = ["-p", "22"]
    settings = {{num_cpus = 4, resources = {{x = 1}}, log_to_driver = false}}
    environment = {{COLOUR = "red"}}
    """
    one, two = read_hosts(written(tmp_path, text))
    assert one.command() == [*SSH, "-A", "--", "node1", f"\"$HOME\"/'my venv/bin/python' -c '{up._REMOTE}'"]
    assert one.environment == {"COLOUR": "blue", "ZRAY_NUM_CPUS": "2.0", "ZRAY_LABELS": "zone=a,disk=ssd"}
    assert two.command() == [*SSH, "-p", "22", "--", "me@node2", f"/opt/zray/bin/python -c '{up._REMOTE}'"]
    assert two.environment["COLOUR"] == "red" and two.environment["ZRAY_NUM_CPUS"] == "4.0"
    assert json.loads(two.environment["ZRAY_RESOURCES"]) == {"x": 1}
    assert two.environment["ZRAY_LOG_TO_DRIVER"] == "false"
    orders = json.loads(two.orders("start"))
    assert orders["address"] == "tcp://head:6380" and orders["insecure"] is False and orders["action"] == "start"


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (ONE, r"address = '' cannot be used"),
        (HEAD, "lists no machines"),
        (HEAD + "hosts = [1]", "lists no machines"),
        (HEAD + "[[hosts]]\n", r"host 1: host = ''"),
        (HEAD + '[[hosts]]\nhost = "-oProxyCommand=x"', "cannot be used: needed: a name that ssh knows"),
        (HEAD + '[[hosts]]\nhost = "a b"', "a name that ssh knows"),
        (HEAD + ONE + ONE, "node1 is listed more than once"),
        (HEAD + 'pyhton = "x"\n' + ONE, r"pyhton is not known: did you mean python\?"),
        (HEAD + ONE + "num_cpus = 1", r"host 1: num_cpus is not known"),
        (HEAD + ONE + "settings = {num_cpu = 1}", r"host 1 \(node1\): settings: num_cpu.*did you mean num_cpus\?"),
        (HEAD + ONE + "settings = {num_cpus = -1}", r"host 1 \(node1\): num_cpus = -1 cannot be used.*from 0 on"),
        (HEAD + ONE + 'settings = {address = "x"}', "address is not known"),
        (HEAD + ONE + "settings = 1", "settings = 1 cannot be used: needed: a table"),
        (HEAD + ONE + "environment = {A = 1}", "environment has a value that is not text"),
        (HEAD + ONE + "ssh = [1]", "ssh has a value that is not text"),
        (HEAD + 'insecure = "yes"\n' + ONE, "insecure = 'yes' cannot be used: needed: true or false"),
        ("a = ", "is not TOML"),
    ],
)
def test_lists_that_cannot_be_used(tmp_path: Path, text: str, match: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ConfigError, match=match) as caught:
        read_hosts(path)
    assert str(caught.value).startswith(path)


def test_no_list(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such file"):
        read_hosts(str(tmp_path / "none.toml"))
