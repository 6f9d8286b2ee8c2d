"""Which steps are taken before a fork, by the setting ``disabled_optimizations``."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from zray.config import FILL_HOLES, FILL_MALLOC, FREEZE_HEAP, OPTIMIZATIONS, TUNE_MALLOC
from zray.memory import forks

STEPS = {
    FREEZE_HEAP: "freeze_heap",
    TUNE_MALLOC: "give_back",
    FILL_HOLES: "fill_holes",
    FILL_MALLOC: "fill_malloc_holes",
}


@pytest.mark.parametrize("disabled", [[], *([name] for name in STEPS), list(OPTIMIZATIONS)])
def test_steps_in_their_order(disabled: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[str] = []
    kept: list[object] = []
    monkeypatch.setattr(forks, "_fillers", kept)

    def step(name: str) -> Callable[[], list[str]]:
        def take() -> list[str]:
            taken.append(name)
            return [name]

        return take

    for name, function in STEPS.items():
        monkeypatch.setattr(forks, function, step(name))
    forks.prepare_for_forks(disabled)
    assert taken == [name for name in STEPS if name not in disabled]
    assert kept == ([] if FILL_HOLES in disabled else [FILL_HOLES])
