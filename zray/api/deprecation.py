"""Warnings of what Ray has deprecated, and zray therefore too."""

from __future__ import annotations

from zray.user_warnings import warn_user


class RayDeprecationWarning(DeprecationWarning):
    """A name or an argument that Ray has deprecated was used. Ray has a class of this name, too."""


def warn_deprecated(what: str, instead: str) -> None:
    """Warns that ``what`` is deprecated. ``instead``: what to use."""
    message = f"{what} is deprecated and may be removed in future Ray releases. Use {instead} instead"
    warn_user(message, RayDeprecationWarning)
