"""The settings of a job in one object, in the module in which Ray has them: ``zray.init(job_config=)``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zray.logs.job_logging import LoggingConfig

DETACHED, NOT_DETACHED = "detached", "non_detached"


class JobConfig:
    """The settings of a job.

    Args:
        jvm_options: has no meaning here: there are no Java workers.
        code_search_path: directories that come first in the search path of the job's workers.
        runtime_env: see the argument of ``init``.
        metadata: texts by name. zray keeps them in this object only.
        ray_namespace: the namespace of the job's actors.
        default_actor_lifetime: "detached" or "non_detached": what actors are whose options do not say it.

    The arguments that begin with an underscore have no meaning here, except ``_py_driver_sys_path``: further
    directories for the search path of the workers.

    Raises:
        TypeError: ``code_search_path`` is not a list.
        ValueError: ``default_actor_lifetime`` is something else.
    """

    def __init__(
        self,
        jvm_options: list[str] | None = None,
        code_search_path: Sequence[str] | None = None,
        runtime_env: dict[str, Any] | None = None,
        _client_job: bool = False,
        metadata: dict[str, str] | None = None,
        ray_namespace: str | None = None,
        default_actor_lifetime: str = NOT_DETACHED,
        _disable_job_level_lineage_reconstruction: bool = False,
        _py_driver_sys_path: list[str] | None = None,
    ) -> None:
        if not isinstance(code_search_path, (list, tuple, type(None))):
            raise TypeError(
                f"The type of code search path is incorrect: a list is needed, not {type(code_search_path).__name__}"
            )
        self.jvm_options = jvm_options or []
        self.code_search_path = list(code_search_path or ())
        self.metadata = metadata or {}
        self.ray_namespace = ray_namespace
        self.py_logging_config: LoggingConfig | None = None
        self._client_job = _client_job
        self._disable_job_level_lineage_reconstruction = _disable_job_level_lineage_reconstruction
        self._py_driver_sys_path = _py_driver_sys_path or []
        self.set_runtime_env(runtime_env)
        self.set_default_actor_lifetime(default_actor_lifetime)

    def set_metadata(self, key: str, value: str) -> None:
        """Sets one text of ``metadata``."""
        self.metadata[key] = value

    def set_runtime_env(self, runtime_env: dict[str, Any] | None, validate: bool = False) -> None:
        """Sets the runtime environment of the job. It is checked by ``init``; ``validate`` has no meaning here."""
        self.runtime_env: dict[str, Any] = runtime_env if runtime_env is not None else {}

    def set_py_logging_config(self, logging_config: LoggingConfig | None = None) -> None:
        """Sets how the root logger of the job's processes writes."""
        self.py_logging_config = logging_config

    def ensure_logging_config(self, logging_config: dict[str, Any] | LoggingConfig | None = None) -> None:
        """Sets it, as an object or as its fields, if it has not been set.

        Raises TypeError if it is neither.
        """
        from zray.logs.job_logging import LoggingConfig

        if logging_config is None or self.py_logging_config is not None:
            return
        if isinstance(logging_config, dict):
            logging_config = LoggingConfig.from_dict(logging_config)
        if not isinstance(logging_config, LoggingConfig):
            raise TypeError(f"logging_config must be a dict or LoggingConfig, got {type(logging_config).__name__}")
        self.set_py_logging_config(logging_config)

    def set_ray_namespace(self, ray_namespace: str) -> None:
        """Sets the namespace of the job's actors."""
        self.ray_namespace = ray_namespace

    def set_default_actor_lifetime(self, default_actor_lifetime: str) -> None:
        """Sets whether actors are detached whose options do not say it: "detached" or "non_detached".

        Raises ValueError for another text.
        """
        if default_actor_lifetime not in (DETACHED, NOT_DETACHED):
            raise ValueError(
                f"Default actor lifetime must be one of {DETACHED!r} and {NOT_DETACHED!r}, got "
                f"{default_actor_lifetime!r}"
            )
        self.actors_are_detached = default_actor_lifetime == DETACHED

    @classmethod
    def from_json(cls, job_config_json: dict[str, Any]) -> JobConfig:
        """Returns the configuration whose fields are given by name."""
        given = job_config_json
        return cls(
            jvm_options=given.get("jvm_options"),
            code_search_path=given.get("code_search_path"),
            runtime_env=given.get("runtime_env"),
            metadata=given.get("metadata"),
            ray_namespace=given.get("ray_namespace"),
            _client_job=given.get("client_job", False),
            _py_driver_sys_path=given.get("py_driver_sys_path"),
        )
