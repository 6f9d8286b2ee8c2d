"""A line of a process's log, as its core makes it. The shell writes it, see ``zray.logs.process_log``."""

from __future__ import annotations

from zray.named_tuples import NamedTuple

DEBUG, INFO, WARNING, ERROR = 10, 20, 30, 40
"""The levels of the module ``logging``, which cores do not import."""


class LogLine(NamedTuple):
    """``logger``: its name below ``zray``, for instance "broker".

    Processes, tasks and actors are named by their whole identifiers in hexadecimal, so that a search for one finds all
    that happened to it.
    """

    level: int
    logger: str
    text: str
