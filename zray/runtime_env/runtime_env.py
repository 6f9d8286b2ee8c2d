"""The module in which Ray defines ``RuntimeEnv``: programs import it from here, too."""

from __future__ import annotations

from zray.runtime_env.environment import RuntimeEnv, RuntimeEnvConfig

__all__ = ["RuntimeEnv", "RuntimeEnvConfig"]
