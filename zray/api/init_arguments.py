"""The arguments of ``init`` that Ray has, and what each one means here.

An argument does what it says where zray has what it is about. One that is about a part of Ray that zray does not have
is accepted, and named in a line of the log at debug level. What cannot work raises. ``docs/ray-compatibility.md`` lists
all of them.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import os
from typing import TYPE_CHECKING, Any

from zray.api.system_config import settings_of, without_meaning
from zray.config import Config
from zray.named_tuples import NamedTuple

if TYPE_CHECKING:
    from zray.job_config import JobConfig
    from zray.logs.job_logging import LoggingConfig

logger = logging.getLogger("zray")
LOCALHOST = "127.0.0.1"
MEANINGFUL = frozenset({"_memory", "_temp_dir", "_system_config", "object_spilling_directory"})
"""The arguments among ``**kwargs`` that are looked into."""
FOR_NEW_CLUSTERS = frozenset({"_system_config", "_enable_object_reconstruction", "_node_name"})
"""Those that cannot be given when a cluster is joined."""
CLIENT_ONLY = frozenset({"allow_multiple"})
"""Arguments without an underscore that Ray takes for ``ray://``."""


class Hidden(NamedTuple):
    """What ``**kwargs`` said: bytes of memory, directories, and the names that are only for new clusters."""

    memory: float | None
    temp_dir: str | None
    spill_dir: str | None
    for_new_clusters: list[str]
    settings: dict[str, Any]
    """What ``_system_config`` sets."""


def read_hidden(arguments: dict[str, Any]) -> Hidden:
    """Reads ``**kwargs`` of ``init``: what begins with an underscore, which Ray does not document.

    Raises RuntimeError for an unknown name, as Ray does, TypeError or ValueError for an unusable value.
    """
    unknown = [name for name in arguments if not name.startswith("_") and name not in MEANINGFUL | CLIENT_ONLY]
    if unknown:
        raise RuntimeError(f"Unknown keyword argument(s): {', '.join(sorted(unknown))}; see help(zray.init)")
    system_config = arguments.get("_system_config")
    settings = settings_of(system_config)
    temp_dir = _absolute("_temp_dir", arguments.get("_temp_dir"))
    spill_dir = _absolute("object_spilling_directory", arguments.get("object_spilling_directory"))
    check_amount("_memory", arguments.get("_memory"))
    ignored = {name: value for name, value in arguments.items() if name not in MEANINGFUL}
    say_without_meaning(ignored | {f"_system_config[{name!r}]": True for name in without_meaning(system_config)})
    restricted = sorted(name for name in FOR_NEW_CLUSTERS if arguments.get(name))
    return Hidden(arguments.get("_memory"), temp_dir, spill_dir, restricted, settings)


def _absolute(name: str, path: Any) -> str | None:
    if path is None:
        return None
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"{name} must be a path, got {path!r}")
    text = os.path.expanduser(os.fspath(path))
    if not isinstance(text, str) or not os.path.isabs(text):
        raise ValueError(f"{name} must be an absolute path, got {path!r}")
    return text


def say_without_meaning(arguments: dict[str, Any]) -> None:
    """Logs, at debug level, arguments that are accepted and have no effect."""
    given = sorted(name for name, value in arguments.items() if value is not None)
    if given:
        logger.debug("zray.init(): %s has no meaning here", ", ".join(given))


def check_amount(name: str, value: Any) -> None:
    """Raises TypeError or ValueError unless ``value`` is None or an amount."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if value < 0 or not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number >= 0 (nonnegative), got {value!r}")


def check_resources(resources: Any) -> None:
    """Raises TypeError or ValueError unless ``resources`` is None or amounts by name."""
    if resources is None:
        return
    if not isinstance(resources, dict):
        raise TypeError(f"resources must be a dict of amounts by name, got {resources!r}")
    for name, value in resources.items():
        if name in ("CPU", "GPU", "memory"):
            option = {"CPU": "num_cpus", "GPU": "num_gpus"}.get(name, name)
            raise ValueError(f"resources may not contain {name!r}: use {option}=")
        if not isinstance(name, str) or isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
            raise ValueError(f"resources must be a dict of amounts >= 0 by name, got {name!r}: {value!r}")


def new_namespace() -> str:
    """Returns a namespace of its own for a job that names none: a random UUID, as in Ray.

    The module ``uuid`` would take 2 ms to load, before the local cluster starts.
    """
    bits = bytearray(os.urandom(16))
    bits[6] = bits[6] & 0x0F | 0x40  # version 4: random
    bits[8] = bits[8] & 0x3F | 0x80  # the variant of RFC 4122
    text = bits.hex()
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def check_dashboard(include: bool | None, host: str, port: int | None, proxy_server_url: str | None) -> None:
    """Says that there is no dashboard, if the program asks for one. Programs go on without."""
    if include:
        logger.warning(
            "include_dashboard=True: there is no dashboard yet, the program goes on without; see `zray status`"
        )
    say_without_meaning(
        {
            "dashboard_host": None if host == LOCALHOST else host,
            "dashboard_port": port,
            "proxy_server_url": proxy_server_url,
        }
    )


def check_isolation(enable: bool, **limits: Any) -> None:
    """Raises NotImplementedError for ``enable_resource_isolation``, ValueError for ``limits`` without it."""
    for name, value in limits.items():
        if value is not None and not enable:
            raise ValueError(f"{name} cannot be set when resource isolation is not enabled")
    if enable:
        raise NotImplementedError(
            "enable_resource_isolation: zray does not put its own processes into a cgroup of their own. Limit them "
            "from outside (systemd's CPUQuota= and MemoryMax=, or a container), and leave the argument out"
        )


def with_arguments(config: Config, hidden: Hidden, log_to_driver: bool | None, labels: dict[str, str] | None) -> Config:
    """Returns the settings with what the program has said. Raises ConfigError for an unusable label."""
    changes: dict[str, Any] = dict(hidden.settings)
    if log_to_driver is not None:
        changes["log_to_driver"] = bool(log_to_driver)
    if hidden.temp_dir is not None:
        changes["tmpdir"] = hidden.temp_dir
    if hidden.spill_dir is not None:
        changes["spill_dir"] = hidden.spill_dir
    if labels is not None:
        from zray.config.reading import check

        changes["labels"] = {**config.labels, **check("labels", labels, "labels", blank="=")}
    return dataclasses.replace(config, **changes) if changes else config


class JobArguments(NamedTuple):
    """What concerns the job: as ``init`` was told, and where it was not, as its ``job_config`` says."""

    namespace: str | None
    runtime_env: Any
    logging_config: LoggingConfig | None
    code_search_path: list[str]
    actors_are_detached: bool


def job_arguments(
    job_config: JobConfig | None, namespace: str | None, runtime_env: Any, logging_config: LoggingConfig | None
) -> JobArguments:
    """Combines ``job_config`` with the arguments that say the same; those come first.

    Raises TypeError if ``job_config`` or ``logging_config`` is something else.
    """
    if logging_config is not None:
        from zray.logs.job_logging import LoggingConfig

        if not isinstance(logging_config, LoggingConfig):
            raise TypeError(f"logging_config must be a LoggingConfig, got {logging_config!r}")
    if job_config is None:
        return JobArguments(namespace, runtime_env, logging_config, [], False)
    if not hasattr(job_config, "actors_are_detached"):
        raise TypeError(f"job_config must be a JobConfig, got {job_config!r}")
    return JobArguments(
        namespace if namespace is not None else job_config.ray_namespace,
        runtime_env or job_config.runtime_env,
        logging_config or job_config.py_logging_config,
        [*job_config.code_search_path, *job_config._py_driver_sys_path],
        job_config.actors_are_detached,
    )


def set_up_logger(level: int | str, format: str | None) -> None:
    """Sets the level of zray's logger, and the form of its lines if ``format`` is given."""
    logger.setLevel(level.upper() if isinstance(level, str) else level)
    if format is None:
        return
    for handler in [each for each in logger.handlers if isinstance(each, _DriverHandler)]:
        logger.removeHandler(handler)
    handler = _DriverHandler()
    handler.setFormatter(logging.Formatter(format))
    logger.addHandler(handler)


class _DriverHandler(logging.StreamHandler):  # type: ignore[type-arg]  # not generic before Python 3.11
    """The handler that ``init(logging_format=)`` has added. Another ``init`` replaces it."""
