"""``zray config`` shows each setting, its value, the source of the value, and its meaning."""

from __future__ import annotations

import dataclasses
import json

import pytest
from click.testing import CliRunner

from zray.cli.main import main
from zray.config import Config


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    for field in dataclasses.fields(Config):
        monkeypatch.delenv(f"ZRAY_{field.name.upper()}", raising=False)
    return CliRunner(env={"ZRAY_CONFIG": "/dev/null", "ZRAY_LABELS": "zone=a"})


def test_table(runner: CliRunner) -> None:
    result = runner.invoke(main, ["config"])
    assert result.exit_code == 0
    lines = {line.split()[0]: line for line in result.output.splitlines() if line}
    assert lines["SETTING"].split() == ["SETTING", "VALUE", "FROM", "MEANING"]
    assert '{"zone": "a"}  ZRAY_LABELS' in lines["labels"]
    assert lines["silence_s"].split()[:3] == ["silence_s", "6.0", "default"]
    assert lines["silence_s"].endswith("declared dead, in seconds.")


def test_json_has_every_setting_with_its_meaning(runner: CliRunner) -> None:
    rows = json.loads(runner.invoke(main, ["config", "--json"]).output)
    assert [row["setting"] for row in rows] == [field.name for field in dataclasses.fields(Config)]
    assert all(row["meaning"].endswith(".") and "\n" not in row["meaning"] for row in rows)
    (labels,) = (row for row in rows if row["setting"] == "labels")
    assert labels["value"] == {"zone": "a"} and labels["from"] == "ZRAY_LABELS"


def test_a_setting_that_cannot_be_used(runner: CliRunner) -> None:
    result = runner.invoke(main, ["config"], env={"ZRAY_SILENCE_S": "soon"})
    assert result.exit_code == 1 and "Error: ZRAY_SILENCE_S='soon' cannot be used" in result.output


@pytest.mark.parametrize("command", ["config", "down", "status", "stop", "up"])
def test_help(runner: CliRunner, command: str) -> None:
    result = runner.invoke(main, [command, "--help"])
    assert result.exit_code == 0 and "Usage: main" in result.output
    assert f"  {command} " in runner.invoke(main, ["--help"]).output
