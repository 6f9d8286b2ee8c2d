"""What holds objects, as a text, under the name of Ray's module."""

from __future__ import annotations

from zray.util.state.memory import memory_summary

__all__ = ["memory_summary"]
