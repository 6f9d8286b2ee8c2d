"""The type of functions that reduce a value for pickle."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Reducer = Callable[[Any], Any]
"""Returns what ``__reduce_ex__`` would return for a value; NotImplemented to leave the value to its library."""
