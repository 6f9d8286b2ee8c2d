"""The errors of the state API, under Ray's names."""

from __future__ import annotations

from zray.exceptions import ZrayError


class RayStateApiException(ZrayError):
    """The state of the cluster could not be read as asked."""


class ServerUnavailable(RayStateApiException):
    """There is no cluster to ask, or it does not answer."""
