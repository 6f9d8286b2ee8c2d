"""A graph whose driver is killed again and again, and which ends all the same: no finished step is run twice.

The program starts itself as the driver of a workflow: words are counted in the parts of a text, and the counts are
merged pairwise. It kills that driver (SIGKILL) each time another few steps are finished, and starts it again, until
the workflow is done. At the end it shows how often each step was run.

    python examples/durable_graph.py
    python examples/durable_graph.py --parts 64 --kill-after 10
    python examples/durable_graph.py --short             # a few parts
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import zray
from zray import workflow

NAME = "word counts"


@zray.remote
def count(part: int, text: str, ran: str) -> Counter[str]:
    """Counts the words of a part."""
    note(ran, f"count {part}")
    return Counter(re.findall(r"[a-z]+", text.lower()))


@zray.remote
def merge(name: str, left: Counter[str], right: Counter[str], ran: str) -> Counter[str]:
    """Adds two counts."""
    note(ran, f"merge {name}")
    return left + right


def note(ran: str, step: str) -> None:
    """Notes that a step is run, and takes as long as work would."""
    with open(ran, "a") as file:
        file.write(f"{step}\n")
    time.sleep(0.05)


def parts_of(text: str, parts: int) -> list[str]:
    """Splits a text at lines."""
    lines = text.splitlines()
    return ["\n".join(lines[part::parts]) for part in range(parts)]


def drive(parts: int, ran: str) -> None:
    """The driver: builds the graph, and runs it or continues it."""
    text = Path(re.__file__).read_text()
    nodes = [count.bind(part, words, ran) for part, words in enumerate(parts_of(text, parts))]
    level = 0
    while len(nodes) > 1:
        pairs = list(zip(nodes[::2], nodes[1::2], strict=False))
        rest = nodes[2 * len(pairs) :]
        nodes = [merge.bind(f"{level}.{number}", *pair, ran) for number, pair in enumerate(pairs)] + rest
        level += 1
    zray.init(num_cpus=1)
    workflow.run(nodes[0], workflow_id=NAME)
    zray.shutdown()


def finished() -> set[str]:
    """The names of the steps whose results are on disk."""
    try:
        return set(workflow.get_metadata(NAME)["finished_tasks"])
    except workflow.exceptions.WorkflowNotFoundError:  # the driver has not stored the graph yet
        return set()


def start(options: argparse.Namespace, ran: str) -> subprocess.Popen[bytes]:
    """Starts a driver."""
    return subprocess.Popen([sys.executable, __file__, "--parts", str(options.parts), "--drive", ran])


def main() -> None:
    parser = argparse.ArgumentParser(description="Kills the driver of a workflow until the workflow is done.")
    parser.add_argument("--parts", type=int, default=24, help="parts of the text (default: 24)")
    parser.add_argument("--kill-after", type=int, default=9, help="finished steps until the next kill (default: 9)")
    parser.add_argument("--short", action="store_true", help="6 parts, a kill after 3 steps")
    parser.add_argument("--drive", metavar="FILE", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.short:
        options.parts, options.kill_after = 6, 3
    if options.drive:
        drive(options.parts, options.drive)
        return

    with tempfile.TemporaryDirectory() as directory:
        os.environ["ZRAY_WORKFLOW_DIR"] = f"{directory}/workflows"
        ran = f"{directory}/ran"
        kills = 0
        while True:
            before = finished()
            driver = start(options, ran)
            while driver.poll() is None and len(finished() - before) < options.kill_after:
                time.sleep(0.005)
            if driver.poll() is not None:
                break
            driver.kill()
            driver.wait()
            kills += 1
            print(
                f"  killed the driver after {len(finished())} steps; the workflow is {workflow.get_status(NAME).value}"
            )
        assert driver.returncode == 0, driver.returncode
        runs = Counter(Path(ran).read_text().splitlines())
        words = workflow.get_output(NAME)

    again = sum(times - 1 for times in runs.values())
    print(f"{len(runs)} steps, {kills} kills, {again} runs of steps that a kill had cut off")
    print("the most frequent words:", ", ".join(f"{word} {times}" for word, times in words.most_common(5)))


if __name__ == "__main__":
    main()
