"""Hypothesis takes no measure of time: on a slow or busy machine that would fail tests that are right."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("zray", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("zray")
