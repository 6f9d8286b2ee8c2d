"""The optimization ``freeze-heap``: the garbage collector leaves objects from before a fork alone.

A collection writes to the header of each object that the collector tracks. In a forked child each page that is written
to is copied. So the process collects once, and then hides all remaining objects from the collector (``gc.freeze``,
which was made for this).

Depends on: CPython's collector, whose ``gc.freeze`` is documented and present since 3.7. Tested on CPython 3.10.13,
3.11.7, 3.12.1 and 3.13.0. Gain: see "Optimizations that can be switched off" in ``docs/architecture.md``. Without it: a
worker's first full collection copies the pages of all objects that its zygote had.
"""

from __future__ import annotations

import gc

from zray.memory.optimizations import left_out


def freeze_heap() -> None:
    """Collects garbage, and hides the remaining objects from later collections."""
    if not hasattr(gc, "freeze"):
        left_out("freeze-heap", "this interpreter has no gc.freeze")
        return
    gc.collect()
    gc.freeze()
