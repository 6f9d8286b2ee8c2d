"""What a process does to its memory before it forks others, so that they copy few of its pages."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from zray.memory.heap import freeze_heap
from zray.memory.malloc import give_back
from zray.memory.malloc_holes import fill_malloc_holes
from zray.memory.pymalloc import fill_holes

_fillers: list[Any] = []
"""What is in the holes, for as long as this process lives."""


def prepare_for_forks(disabled: Collection[str] = ()) -> None:
    """Collects garbage, and fills what is free between the objects that stay. ``disabled``: optimizations not used.

    All children share the pages that are written to here, so this is done before the first fork.
    """
    if "freeze-heap" not in disabled:
        freeze_heap()
    if "tune-malloc" not in disabled:
        give_back()
    if "fill-holes" not in disabled:
        _fillers.extend(fill_holes())
    if "fill-malloc" not in disabled:  # last: until then blocks are freed
        fill_malloc_holes()
