"""Which seeds are run: ``ZRAY_TEST_SEEDS`` says how many per test, ``ZRAY_TEST_SEED`` names a single one."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

BATCH = 25


def batches(default: int, times: int = 1) -> pytest.MarkDecorator:
    """Parametrizes a test by ``seeds``, a range of them; ``times``: so many more, where runs are short."""
    return pytest.mark.parametrize("seeds", list(_ranges(default, times)), ids=lambda seeds: f"{seeds[0]}-{seeds[-1]}")


def _ranges(default: int, times: int) -> Iterator[range]:
    single = os.environ.get("ZRAY_TEST_SEED")
    if single:
        yield range(int(single), int(single) + 1)
        return
    total = int(os.environ.get("ZRAY_TEST_SEEDS", str(default))) * times
    for first in range(0, total, BATCH * times):
        yield range(first, min(first + BATCH * times, total))
