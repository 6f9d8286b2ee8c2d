"""The tables of states: which transitions a run has seen, and the page of the documentation that shows them all.

``python -m zray.testing.states`` writes ``docs/states.md``; with ``--check`` it reports whether the page is up to date.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from zray.broker import states as broker_states
from zray.client import states as client_states
from zray.client.core import states as client_core_states
from zray.states import Machine, State, Successors
from zray.transfer import states as transfer_states

TABLES = (client_core_states, broker_states, transfer_states, client_states)
"""The modules that contain machines."""
MACHINES: dict[Machine[Any], str] = {
    machine: module.__name__ for module in TABLES for machine in vars(module).values() if isinstance(machine, Machine)
}
"""All machines, with the modules that contain their tables."""

PAGE = Path(__file__).resolve().parents[2] / "docs" / "states.md"
HEAD = """\
# States

<!-- Made by `python -m zray.testing.states` from the tables in the code. Do not edit it. -->

Tasks, objects, actors, workers, pulls, links and connections are each in one of a few states. A table in the code says
which state may follow which, and what causes that. Each change of a state is looked up in its table. A change that is
not in the table raises `IllegalTransition` ([states.py](../zray/states.py)), in tests and in use. A state that no row
leads away from is final.
"""

Seen = Counter[tuple[State, State]]
"""How often each transition was made: from one state to another."""


class _CountingSuccessors(Successors[Any]):
    """Like ``Successors``, but counts lookups."""

    seen: Seen

    def __init__(self, machine: Machine[Any], state: State, seen: Seen) -> None:
        super().__init__(machine, state)
        self._seen = seen

    def __getitem__(self, number: int) -> Any:
        successor = super().__getitem__(number)
        self._seen[self._state, successor] += 1
        return successor


@contextlib.contextmanager
def transitions_seen() -> Iterator[dict[str, Seen]]:
    """Counts the transitions that are made within the block, by the name of the machine."""
    seen: dict[str, Seen] = {machine.name: Counter() for machine in MACHINES}
    for machine in MACHINES:
        machine.after.update(
            (state, _CountingSuccessors(machine, state, seen[machine.name])) for state in machine.states
        )
    try:
        yield seen
    finally:
        for machine in MACHINES:
            machine.after.update((state, Successors(machine, state)) for state in machine.states)


def transitions(machine: Machine[Any]) -> list[tuple[State, State]]:
    """Returns all transitions of a machine."""
    return [(state, successor) for state, successors in machine.causes.items() for successor in successors]


def page() -> str:
    """Returns the text of ``docs/states.md``."""
    return "\n".join([HEAD, *map(_section, MACHINES)])


def _section(machine: Machine[Any]) -> str:
    path = MACHINES[machine].replace(".", "/") + ".py"
    initial = " or ".join(f"`{state.name}`" for state in machine.initial)
    states = [(f"`{state.name}`", str(int(state)), state.meaning) for state in machine.states]
    rows = [
        (f"`{before.name}`", f"`{after.name}`", machine.causes[before][after]) for before, after in transitions(machine)
    ]
    title = machine.name[0].upper() + machine.name[1:]
    return "\n".join([
        f"## {title}", "", f"It begins as {initial}. The table is in [{path.removeprefix('zray/')}](../{path}).", "",
        *_table(("state", "number", "meaning"), states), "", *_table(("from", "to", "cause"), rows), "",
    ])  # fmt: skip


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    return ["| " + " | ".join(row) + " |" for row in [head, tuple("---" for _ in head), *rows]]


def main(arguments: list[str]) -> int:
    """Writes the page, or checks whether it is up to date. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m zray.testing.states", description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 if the page is out of date")
    if not parser.parse_args(arguments).check:
        PAGE.write_text(page())
    elif not PAGE.exists() or PAGE.read_text() != page():
        print(f"{PAGE} is out of date: run python -m zray.testing.states", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
