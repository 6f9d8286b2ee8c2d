"""zray in one program: parses the whole Python standard library in parallel.

The program puts the sources of the installed standard library, some 1,500 files, into the object store once, as one
large array. Each task parses a portion, and reads the array in place. An actor adds up the findings. The results go
from the tasks to the actor without passing through this process, which only shows the progress.

    python examples/quickstart.py            # the whole library
    python examples/quickstart.py --short    # a tenth of it
"""

from __future__ import annotations

import argparse
import ast
import heapq
import sys
import sysconfig
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from pickle import PickleBuffer
from typing import NamedTuple

import zray

PORTION_BYTES = 256 * 1024  # of source for one task: tens of milliseconds of work, far more than a task costs
TOP = 5


class Source(NamedTuple):
    """The place of a module's text in the shared array: bytes ``start`` to ``end``."""

    module: str
    start: int
    end: int


@dataclass
class Findings:
    """Counts for some of the modules. Two of them can be added."""

    files: Counter[str] = field(default_factory=Counter)  # this and the next three: by package
    lines: Counter[str] = field(default_factory=Counter)
    classes: Counter[str] = field(default_factory=Counter)
    functions: Counter[str] = field(default_factory=Counter)
    imported: Counter[str] = field(default_factory=Counter)  # for each module, how many modules import it
    imports: dict[str, int] = field(default_factory=dict)  # for each module, how many modules it imports
    longest: list[tuple[int, str]] = field(default_factory=list)  # functions, by lines
    unreadable: int = 0  # files that are malformed on purpose: the library tests its parser with them

    def add(self, other: Findings) -> None:
        """Adds the counts of ``other`` to these."""
        for name in ("files", "lines", "classes", "functions", "imported"):
            getattr(self, name).update(getattr(other, name))
        self.imports.update(other.imports)
        self.longest = heapq.nlargest(TOP, self.longest + other.longest)
        self.unreadable += other.unreadable


def analyse(library: object, sources: list[Source]) -> Findings:
    """Parses some modules and counts what they contain. A plain function: zray.remote makes a task of it below."""
    text = memoryview(library)  # the array in the store itself, mapped read-only, without a copy
    found = Findings()
    for module, start, end in sources:
        code = bytes(text[start:end])
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # old code is full of invalid escapes
                tree = ast.parse(code)
        except (SyntaxError, ValueError):
            found.unreadable += 1
            continue
        package = module.partition(".")[0] if "." in module else "(single modules)"
        found.files[package] += 1
        found.lines[package] += code.count(b"\n")
        describe(tree, module, package, found)
    found.longest = heapq.nlargest(TOP, found.longest)
    return found


def describe(tree: ast.Module, module: str, package: str, found: Findings) -> None:
    """Adds the functions, classes and imports of a module to ``found``."""
    imports: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                found.functions[package] += 1
                found.longest.append(((node.end_lineno or 0) - node.lineno + 1, f"{module}.{node.name}"))
            case ast.ClassDef():
                found.classes[package] += 1
            case ast.Import():
                imports.update(alias.name for alias in node.names)
            case ast.ImportFrom(level=0, module=str(name)):
                imports.add(name)
    found.imported.update(imports)
    found.imports[module] = len(imports)


@zray.remote
class Collector:
    """An actor: a process that keeps state between calls. Its state is the sum of all findings."""

    def __init__(self) -> None:
        self.total = Findings()

    def add(self, findings: Findings) -> int:
        """Adds findings. Returns their number of files."""
        self.total.add(findings)
        return sum(findings.files.values()) + findings.unreadable

    def report(self) -> Findings:
        """Returns the sum of all findings."""
        return self.total


def load(short: bool) -> tuple[bytearray, list[Source]]:
    """The text of all modules in one array, and the place of each module in it."""
    root = Path(sysconfig.get_path("stdlib"))
    paths = sorted(path for path in root.rglob("*.py") if "site-packages" not in path.parts)
    text, sources = bytearray(), []
    for path in paths[:: 10 if short else 1]:
        start = len(text)
        text += path.read_bytes()
        module = ".".join(path.relative_to(root).with_suffix("").parts)
        sources.append(Source(module.removesuffix(".__init__"), start, len(text)))
    return text, sources


def portions(sources: list[Source]) -> Iterator[list[Source]]:
    """Cuts the list into portions of about PORTION_BYTES of text, so that tasks take about equally long."""
    portion: list[Source] = []
    for source in sources:
        portion.append(source)
        if source.end - portion[0].start >= PORTION_BYTES:
            yield portion
            portion = []
    if portion:
        yield portion


def analyse_in_parallel(text: bytearray, sources: list[Source]) -> Findings:
    """Analyses all modules with tasks, and adds up the findings in an actor."""
    library = zray.put(PickleBuffer(text))  # PickleBuffer: share the memory; a numpy array needs no wrapping
    collector = Collector.remote()
    task = zray.remote(analyse)
    pending = [collector.add.remote(task.remote(library, portion)) for portion in portions(sources)]
    progress = Progress(len(sources))
    while pending:
        done, pending = zray.wait(pending)
        progress.advance(sum(zray.get(done)))
    progress.close()
    return zray.get(collector.report.remote())


def analyse_serially(text: bytearray, sources: list[Source]) -> Findings:
    """Analyses all modules in this process, to compare."""
    total, progress = Findings(), Progress(len(sources))
    for portion in portions(sources):
        total.add(analyse(text, portion))
        progress.advance(len(portion))
    progress.close()
    return total


class Progress:
    """A progress display: a live line on a terminal, or one line per quarter in a file or a pipe."""

    WIDTH = 32

    def __init__(self, total: int) -> None:
        self.total, self.count, self.quarter = total, 0, 0
        self.live, self.began = sys.stdout.isatty(), time.perf_counter()

    def advance(self, count: int) -> None:
        self.count += count
        quarter = 4 * self.count // self.total
        if self.live or quarter > self.quarter:
            print(f"\r{self.line()}" if self.live else self.line(), end="" if self.live else "\n", flush=True)
        self.quarter = quarter

    def line(self) -> str:
        filled = self.WIDTH * self.count // self.total
        bar = "#" * filled + "-" * (self.WIDTH - filled)
        return f"  [{bar}] {self.count:5,} of {self.total:,} files  {time.perf_counter() - self.began:5.1f} s"

    def close(self) -> None:
        if self.live:
            print()


def show(found: Findings) -> None:
    """Prints the findings as tables."""
    print(f"\n{'package':<22}{'files':>8}{'lines':>11}{'classes':>9}{'functions':>11}")
    for package, lines in found.lines.most_common(8):
        counts = found.files[package], lines, found.classes[package], found.functions[package]
        print("{:<22}{:>8,}{:>11,}{:>9,}{:>11,}".format(package, *counts))
    sums = (sum(counter.values()) for counter in (found.files, found.lines, found.classes, found.functions))
    print("{:<22}{:>8,}{:>11,}{:>9,}{:>11,}".format(f"all {len(found.files)} packages", *sums))

    def ranking(title: str, unit: str, entries: list[tuple[str, int]]) -> None:
        print(f"\n{title}")
        for name, number in entries:
            print(f"  {name:<54}{number:>6,} {unit}")

    ranking("longest functions", "lines", [(name, lines) for lines, name in found.longest])
    ranking("imported most", "modules", found.imported.most_common(TOP))
    ranking("importing most", "modules", Counter(found.imports).most_common(TOP))


def main() -> None:
    parser = argparse.ArgumentParser(description="Analyses the Python standard library with zray.")
    parser.add_argument("--short", action="store_true", help="every tenth file only")
    options = parser.parse_args()

    text, sources = load(options.short)
    began = time.perf_counter()
    zray.init()
    start_s = time.perf_counter() - began
    cpus = zray.cluster_resources()["CPU"]
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    print(f"Python {version}'s library: {len(sources):,} files, {len(text) / 1e6:.1f} MB of source")

    print(f"\nwith zray on {cpus:g} CPUs, started in {start_s:.2f} s")
    began = time.perf_counter()
    found = analyse_in_parallel(text, sources)
    parallel_s = time.perf_counter() - began
    zray.shutdown()

    print("\nserially, for comparison")
    began = time.perf_counter()
    same = analyse_serially(text, sources)
    serial_s = time.perf_counter() - began

    show(found)
    verdict = "the same result" if vars(found).items() == vars(same).items() else "NOT THE SAME RESULT"
    print(f"\nzray {parallel_s:.2f} s, serially {serial_s:.2f} s: {serial_s / parallel_s:.2f} times as fast, {verdict}")


if __name__ == "__main__":
    main()
