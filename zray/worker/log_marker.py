"""How a worker tells its host, within its output, whose output follows.

A marker holds a secret of 16 random bytes that only the worker and its host know, so what a task prints is never taken
for one.  (A task that looks for the secret in its own process finds it: it is the same process, and there is no wall.)
Markers may stand anywhere, also behind a line without an end.  They are shorter than ``PIPE_BUF``, so each is in the
pipe in one piece.
"""

from __future__ import annotations

MAX_NAME_CHARACTERS = 200
_BEGINNING = b"\x1ezray-name:"
SECRET_FROM = len(_BEGINNING)
"""Where the secret begins in a marker: what is shorter, anybody may have printed."""


def marker_prefix(secret: str) -> bytes:
    """What a marker begins with; a name and a newline follow."""
    return _BEGINNING + secret.encode() + b":"


def marker(secret: str, name: str) -> bytes:
    """The marker for ``name``, which is made one that a terminal can show, and that looks like no other's prefix."""
    shown = "".join(char if char.isprintable() else "?" for char in name[:MAX_NAME_CHARACTERS])
    return marker_prefix(secret) + shown.replace(" pid=", "_pid=").encode() + b"\n"
