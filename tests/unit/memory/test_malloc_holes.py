"""Where the C library's blocks lie after the holes of its heap were filled, and what is left alone."""

from __future__ import annotations

import json
import logging
import os
import platform
import subprocess
import sys
from typing import Any

import pytest

from zray.memory import malloc_holes
from zray.memory.malloc_holes import LARGEST_BLOCK, MAX_FILLERS, fill_malloc_holes

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's holes are filled")

PAGES = """
import ctypes, json, random
from zray.memory.malloc_holes import fill_malloc_holes

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
SIZES = (40, 200, 700, 3000, 20_000)
rng = random.Random(1)
blocks = [libc.malloc(rng.choice(SIZES)) for _ in range(20_000)]
for block in blocks:
    if rng.random() < 0.3:
        libc.free(ctypes.c_void_p(block))
filled = fill_malloc_holes() if {fill} else 0
sizes = [rng.choice(SIZES[:4]) for _ in range(400)]
new = [libc.malloc(size) for size in sizes]
print(json.dumps([filled, len({{address // 4096 for address in new}}), sum(sizes) // 4096]))
"""


@glibc
def test_new_blocks_lie_side_by_side() -> None:
    filled, pages, least = _run(fill=True)
    assert filled > 1000
    assert pages <= 1.1 * least + 8
    filled, scattered, _ = _run(fill=False)
    assert not filled
    assert scattered > pages


def _run(fill: bool) -> list[int]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "LD_PRELOAD"))}
    done = subprocess.run(
        [sys.executable, "-c", PAGES.format(fill=fill)], env=environ, capture_output=True, text=True, check=True
    )
    found: list[int] = json.loads(done.stdout)
    return found


class _Function:
    """A function of a simulated C library, which counts its calls."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.restype: Any = None
        self.calls: list[int] = []

    def __call__(self, argument: Any) -> Any:
        self.calls.append(argument.value)
        return self.answer


class _Library:
    """A C library whose blocks are all at ``block``, and whose heap ends at 1 GiB."""

    def __init__(self, block: int | None) -> None:
        self.malloc, self.free = _Function(block), _Function(None)
        self.sbrk, self.malloc_trim = _Function(1 << 30), _Function(1)


def test_blocks_without_end_are_released(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    library = _Library(block=4096)
    monkeypatch.setattr(malloc_holes, "_libc", library)
    with caplog.at_level(logging.DEBUG, "zray.optimizations"):
        assert fill_malloc_holes() == 0
    assert len(library.free.calls) == len(library.malloc.calls) < MAX_FILLERS
    assert sum(library.malloc.calls) <= malloc_holes.MAX_FILLED_BYTES + LARGEST_BLOCK
    assert caplog.messages == [
        "fill-malloc is left out: its blocks do not come from a heap that grows at its end, as glibc's do"
    ]


@pytest.mark.parametrize("block", [1 << 40, None], ids=["elsewhere", "no memory"])
def test_blocks_that_are_not_in_the_heap_fill_nothing(block: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    library = _Library(block)
    monkeypatch.setattr(malloc_holes, "_libc", library)
    assert fill_malloc_holes() == 0
    assert len(library.malloc.calls) == len(library.free.calls) == len(malloc_holes._sizes())


def test_a_c_library_without_malloc_trim(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(malloc_holes, "_libc", object())
    with caplog.at_level(logging.DEBUG, "zray.optimizations"):
        assert fill_malloc_holes() == 0
    assert caplog.messages == ["fill-malloc is left out: this C library has no malloc_trim"]


def test_each_block_is_smaller_than_the_one_before() -> None:
    sizes = malloc_holes._sizes()
    assert sizes == sorted(set(sizes), reverse=True)
    assert (sizes[0], sizes[-1]) == (LARGEST_BLOCK, malloc_holes.SMALLEST_BLOCK)
