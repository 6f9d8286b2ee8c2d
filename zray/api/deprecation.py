"""Warnings of what Ray has deprecated, and zray therefore too."""

from __future__ import annotations


class RayDeprecationWarning(DeprecationWarning):
    """A name or an argument that Ray has deprecated was used. Ray has a class of this name, too."""


def warn_deprecated(what: str, instead: str, stacklevel: int = 3) -> None:
    """Warns that ``what`` is deprecated. ``instead``: what to use.

    ``stacklevel``: as of ``warnings.warn``; by default the line that called the function that calls this one.
    """
    import warnings

    message = f"{what} is deprecated and may be removed in future Ray releases. Use {instead} instead"
    warnings.warn(message, RayDeprecationWarning, stacklevel)
