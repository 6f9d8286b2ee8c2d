"""Priorities of tasks and actors, among the waiting work of one job."""

from __future__ import annotations

MAX_PRIORITY = 1000
"""The highest priority; the lowest is its negative. Ageing lifts waiting work step by step, so a bound is needed."""
