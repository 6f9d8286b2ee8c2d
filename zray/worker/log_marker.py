"""Markers in a worker's output that name the task or actor whose output follows.

A marker holds a secret of 16 random bytes that only the worker and its host know. So the host never takes what a task
prints for a marker. (A task can find the secret in its own process: nothing separates it from the worker.) A marker may
stand anywhere, also behind a line without an end. Markers are shorter than ``PIPE_BUF``, so each one is in the pipe in
one piece.
"""

from __future__ import annotations

MAX_NAME_CHARACTERS = 200
_BEGINNING = b"\x1ezray-name:"
SECRET_FROM = len(_BEGINNING)
"""Where the secret begins in a marker. Any program may have printed a shorter beginning."""


def marker_prefix(secret: str) -> bytes:
    """Returns the beginning of every marker of this secret; a name and a newline follow it."""
    return _BEGINNING + secret.encode() + b":"


def marker(secret: str, name: str) -> bytes:
    """Returns the marker for ``name``. A terminal can show the name, and it cannot look like another output prefix."""
    shown = "".join(char if char.isprintable() else "?" for char in name[:MAX_NAME_CHARACTERS])
    return marker_prefix(secret) + shown.replace(" pid=", "_pid=").encode() + b"\n"
