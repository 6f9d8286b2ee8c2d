"""What the optimizations share that depend on internals of CPython or of the C library.

Each is in one file, which says what it gains, on which versions it was tested, and what happens without it.
``zray.config.OPTIMIZATIONS`` has their names; the setting ``disabled_optimizations`` switches them off. An optimization
that does not work on an interpreter switches itself off, and reports it here.
"""

from __future__ import annotations


def left_out(name: str, reason: str, error: BaseException | None = None) -> None:
    """Logs, at the level DEBUG of the logger ``zray.optimizations``, that an optimization is not used, and why."""
    import logging  # here: few interpreters come here, and each process that has imported it weighs more

    logging.getLogger("zray.optimizations").debug("%s is left out: %s", name, reason, exc_info=error)
