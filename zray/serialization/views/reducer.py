"""The shape of what takes a value apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Reducer = Callable[[Any], Any]
"""What ``__reduce_ex__`` would return for a value; NotImplemented if the library's own way is to be taken."""
