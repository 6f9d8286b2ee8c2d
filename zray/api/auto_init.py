"""The start of a cluster when the API is used before ``init``. A module of its own, because ``zray.api.cluster``, which
says how, is loaded long before the rest of the API."""

from __future__ import annotations

from collections.abc import Callable

start: Callable[[], None] | None = None
"""Starts a local cluster, or joins the one that the environment names. ``zray.api.cluster`` sets it."""
