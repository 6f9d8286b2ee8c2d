"""The functions of ``zray.util.state``, at the place where Ray had them before."""

from __future__ import annotations

from zray.util.state import *  # noqa: F403
from zray.util.state import __all__ as __all__
