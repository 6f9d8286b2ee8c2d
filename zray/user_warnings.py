"""Warnings to users: they point at the user's line, however deep in zray the warning is given."""

from __future__ import annotations

import sys
from types import FrameType


def warn_user(message: str, category: type[Warning] = UserWarning) -> None:
    """Gives a warning, as ``warnings.warn``, for the innermost line that is not zray's own."""
    import warnings  # here, because workers need it only for this

    frame = sys._getframe(1)
    while _is_own(frame) and frame.f_back is not None:
        frame = frame.f_back
    module = frame.f_globals.get("__name__") or "<string>"
    registry = frame.f_globals.setdefault("__warningregistry__", {})
    warnings.warn_explicit(message, category, frame.f_code.co_filename, frame.f_lineno, module, registry)


def _is_own(frame: FrameType) -> bool:
    package, _, _ = str(frame.f_globals.get("__name__", "")).partition(".")
    return package == __package__
