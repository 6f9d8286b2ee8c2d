"""What outsiders meet: the repository has one address, and the workflow runs each Python that is supported."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

yaml = pytest.importorskip("yaml", reason="PyYAML comes with kubernetes-validate")

ROOT = Path(__file__).resolve().parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
GITHUB = ROOT / ".github"


def test_all_addresses_are_within_the_repository() -> None:
    source = PROJECT["urls"]["Source"]
    addresses = list(PROJECT["urls"].values())
    for path in sorted(GITHUB.rglob("*.*")):
        addresses += re.findall(r"https://github\.com/[^\s)]+", path.read_text())
    assert [address for address in addresses if not address.startswith(source)] == []


def test_the_files_of_the_addresses_are_there() -> None:
    files = [address.partition("/blob/main/")[2] for address in PROJECT["urls"].values()]
    assert [name for name in files if name and not (ROOT / name).exists()] == []


def test_the_workflow_runs_each_python_from_the_oldest_on() -> None:
    workflow = yaml.safe_load((GITHUB / "workflows" / "ci.yml").read_text())
    job = workflow["jobs"]["ci"]
    versions = [tuple(map(int, version.split("."))) for version in job["strategy"]["matrix"]["python"]]
    oldest = tuple(map(int, PROJECT["requires-python"].removeprefix(">=").split(".")))
    assert versions == [(3, minor) for minor in range(oldest[1], oldest[1] + len(versions))]
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]


@pytest.mark.parametrize("form", sorted(path.name for path in (GITHUB / "ISSUE_TEMPLATE").glob("*.yml")))
def test_forms_can_be_read(form: str) -> None:
    read = yaml.safe_load((GITHUB / "ISSUE_TEMPLATE" / form).read_text())
    if form != "config.yml":
        assert {"name", "description", "body"} <= set(read)
        assert all({"type", "attributes"} <= set(part) for part in read["body"])


def test_hooks_before_a_commit_are_targets_of_the_makefile() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    makefile = (ROOT / "Makefile").read_text()
    for hook in hooks:
        target = hook["entry"].removeprefix("make ")
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
