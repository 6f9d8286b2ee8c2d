"""Tasks that start tasks: measures the size of a directory tree with one task per directory, on a single CPU.

Every task starts one task for each subdirectory, and waits for their results before it returns its own result. At some
time nearly all of the tasks are blocked in `get`, many more than there are CPUs. This works because a task that waits
lends its CPU: another process takes the CPU and continues below.

    python examples/tree_of_tasks.py                     # the installed standard library
    python examples/tree_of_tasks.py --root ~/src --cpus 4
    python examples/tree_of_tasks.py --short             # only its package `xml`
"""

from __future__ import annotations

import argparse
import os
import sysconfig
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import zray

SKIPPED = {"__pycache__", "site-packages"}


@dataclass
class Directory:
    """The result of a task: the sums for its directory, including the subdirectories."""

    name: str
    files: int
    size_bytes: int
    lines: int
    process: int  # pid of the process that ran the task
    began_s: float  # time.monotonic(), which all processes of a machine share
    ended_s: float = 0.0
    children: list[Directory] = field(default_factory=list)

    def walk(self) -> Iterator[Directory]:
        """Yields this directory and all directories below it."""
        yield self
        for child in self.children:
            yield from child.walk()

    def depth(self) -> int:
        """The number of levels, including this one."""
        return 1 + max((child.depth() for child in self.children), default=0)


@zray.remote
def measure(path: Path) -> Directory:
    """Measures a directory, with one task for each subdirectory."""
    began = time.monotonic()
    entries = [entry for entry in os.scandir(path) if not entry.is_symlink()]
    # The order matters: start the tasks below, then do the work of this task, then wait.
    below = [measure.remote(Path(entry.path)) for entry in entries if entry.is_dir() and entry.name not in SKIPPED]
    contents = [Path(entry.path).read_bytes() for entry in entries if entry.is_file()]
    directory = Directory(
        name=path.name,
        files=len(contents),
        size_bytes=sum(map(len, contents)),
        lines=sum(content.count(b"\n") for content in contents),
        process=os.getpid(),
        began_s=began,
    )
    for child in zray.get(below):
        directory.children.append(child)
        directory.files += child.files
        directory.size_bytes += child.size_bytes
        directory.lines += child.lines
    directory.ended_s = time.monotonic()
    return directory


def most_unfinished(tree: Directory) -> int:
    """The largest number of tasks that had begun and not yet ended at the same time."""
    moments = [(task.began_s, 1) for task in tree.walk()] + [(task.ended_s, -1) for task in tree.walk()]
    busiest = unfinished = 0
    for _, change in sorted(moments):
        unfinished += change
        busiest = max(busiest, unfinished)
    return busiest


def show(directory: Directory, levels: int = 3, widest: int = 6, indent: str = "") -> None:
    """Prints the largest directories of the upper levels, largest first."""
    name = f"{indent}{directory.name}/"
    print(f"  {name:<36}{directory.files:>7,}{directory.lines:>11,}{directory.size_bytes / 1e6:>9.2f} MB")
    if levels > 1:
        largest = sorted(directory.children, key=lambda child: child.size_bytes, reverse=True)
        for child in largest[:widest]:
            show(child, levels - 1, widest, indent + "  ")


def main() -> None:
    library = Path(sysconfig.get_path("stdlib"))
    parser = argparse.ArgumentParser(description="Measures a directory tree with a tree of zray tasks.")
    parser.add_argument("--root", type=Path, default=library, help="directory (default: the standard library)")
    parser.add_argument("--cpus", type=int, default=1, help="CPUs that the tasks share (default: 1)")
    parser.add_argument("--short", action="store_true", help="measure the package `xml` only")
    options = parser.parse_args()
    root = (library / "xml" if options.short else options.root).resolve()

    zray.init(num_cpus=options.cpus)
    began = time.perf_counter()
    tree = zray.get(measure.remote(root))
    seconds = time.perf_counter() - began
    zray.shutdown()

    tasks = list(tree.walk())
    print(f"  {'':<36}{'files':>7}{'lines':>11}{'size':>12}")
    show(tree)
    print(f"\n{len(tasks):,} tasks, {tree.depth()} deep, took {seconds:.2f} s on {options.cpus} CPU")
    processes = len({task.process for task in tasks})
    print(f"{most_unfinished(tree):,} of them unfinished at the same time, in {processes:,} processes")


if __name__ == "__main__":
    main()
