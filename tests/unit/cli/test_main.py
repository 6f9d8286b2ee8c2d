"""The command ``zray`` itself: its sub-commands, and what a shell completes."""

from __future__ import annotations

import os
import subprocess
import sys

import click
import pytest

from zray.cli.main import COMMANDS, main

WIDE = ("config", "up")
"""Their texts have a path and a TOML file, which are not wrapped."""
PROGRAM = "from zray.cli.main import main; main(prog_name='zray')"


def completed(*words: str) -> list[str]:
    environ = {"_ZRAY_COMPLETE": "bash_complete", "COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env={**os.environ, **environ}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return [line.partition(",")[2] for line in done.stdout.splitlines()]


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_each_sub_command_tells_what_it_does(name: str) -> None:
    command = main.get_command(click.Context(main), name)
    assert command is not None and command.get_short_help_str()
    help = command.get_help(click.Context(command, info_name=name, terminal_width=80, max_content_width=80))
    assert max(map(len, help.splitlines())) <= 80 or name in WIDE


def test_what_a_shell_completes() -> None:
    assert completed("zray", "st") == ["stack", "start", "status", "stop"]
    assert completed("zray", "logs", "--fo") == ["--follow"]
