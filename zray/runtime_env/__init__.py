"""Runtime environments, under Ray's names: ``RuntimeEnv`` and ``RuntimeEnvConfig``.

What users say of an environment, and the checks of it, are here; so is making packages of folders. How an environment
gets to the workers is described in ``docs/architecture.md``.
"""

from zray.runtime_env.environment import RuntimeEnv, RuntimeEnvConfig

__all__ = ["RuntimeEnv", "RuntimeEnvConfig"]
