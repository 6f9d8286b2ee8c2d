"""What is common to the optimizations that rest on internals of CPython or of the C library.

Each has one file, which tells what it gains, on which versions it was tried, and what is done without it.
``zray.config.OPTIMIZATIONS`` has their names; the setting ``disabled_optimizations`` leaves them out.  One that does
not work on an interpreter leaves itself out, and says so here.
"""

from __future__ import annotations


def left_out(name: str, reason: str, error: BaseException | None = None) -> None:
    """Tells, at the level DEBUG of the logger ``zray.optimizations``, that an optimization is not used, and why."""
    import logging  # here: few interpreters come here, and each process that has imported it weighs more

    logging.getLogger("zray.optimizations").debug("%s is left out: %s", name, reason, exc_info=error)
