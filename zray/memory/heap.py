"""The optimization ``freeze-heap``: what exists before a fork is left alone by the garbage collector.

A collection writes to the header of each object that the collector tracks.  In a child of a fork each page that is
written to is copied.  So the process collects once, and moves all that is left out of the collector's sight
(``gc.freeze``, which was made for this).

Rests on: CPython's collector, whose ``gc.freeze`` is documented and present since 3.7.  Tried on CPython 3.10.13,
3.11.7, 3.12.1 and 3.13.0.  Gain: see "Optimizations that can be switched off" in ``docs/architecture.md``.
Without it: a worker's first full collection copies the pages of all objects that its zygote had.
"""

from __future__ import annotations

import gc

from zray.memory.optimizations import left_out


def freeze_heap() -> None:
    """Collects garbage, and hides from later collections what is alive now."""
    if not hasattr(gc, "freeze"):
        left_out("freeze-heap", "this interpreter has no gc.freeze")
        return
    gc.collect()
    gc.freeze()
