"""``RuntimeEnv`` and ``RuntimeEnvConfig``: what a user says of a runtime environment. Both are dictionaries."""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
from collections.abc import Callable, Mapping
from typing import Any

from zray.runtime_env.checks import CHECKS

SETUP_TIMEOUT_S = 600

logger = logging.getLogger("zray.runtime_env")


class RuntimeEnvConfig(dict[str, Any]):
    """How an environment is set up. It is no part of what makes two environments the same.

    Args:
        setup_timeout_seconds: how long a host may take to install a part of the environment; -1: without limit.
        eager_install: install on each host at once, for the environment of a job; for a task or actor it makes no
            difference, since its environment is installed when it is first used.
        log_files: kept; it has no meaning without a dashboard.

    Raises:
        TypeError: an argument has a wrong type.
        ValueError: ``setup_timeout_seconds`` is neither -1 nor above 0.
    """

    known_fields = frozenset({"setup_timeout_seconds", "eager_install", "log_files"})

    def __init__(
        self,
        setup_timeout_seconds: int = SETUP_TIMEOUT_S,
        eager_install: bool = True,
        log_files: list[str] | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(setup_timeout_seconds, int):
            raise TypeError(f"setup_timeout_seconds must be of type int, got: {type(setup_timeout_seconds)}")
        if setup_timeout_seconds <= 0 and setup_timeout_seconds != -1:
            raise ValueError(f"setup_timeout_seconds must be above 0, or -1 for no limit, got: {setup_timeout_seconds}")
        if not isinstance(eager_install, bool):
            raise TypeError(f"eager_install must be a boolean, got: {type(eager_install)}")
        if log_files is not None and not (
            isinstance(log_files, list) and all(isinstance(name, str) for name in log_files)
        ):
            raise TypeError(f"log_files must be a list of strings or None, got: {log_files!r}")
        self["setup_timeout_seconds"] = setup_timeout_seconds
        self["eager_install"] = eager_install
        self["log_files"] = log_files or []

    @staticmethod
    def parse_and_validate_runtime_env_config(config: Any) -> RuntimeEnvConfig:
        """Returns ``config``, a dictionary or a ``RuntimeEnvConfig``, as the latter. Warns of unknown entries."""
        if isinstance(config, RuntimeEnvConfig):
            return config
        if not isinstance(config, Mapping):
            raise TypeError(f"runtime_env['config'] must be of type dict or RuntimeEnvConfig, got: {type(config)}")
        known = RuntimeEnvConfig.known_fields
        if unknown := config.keys() - known:
            logger.warning("runtime_env['config'] has entries that are not known and are ignored: %s", sorted(unknown))
        return RuntimeEnvConfig(**{name: value for name, value in config.items() if name in known})

    @classmethod
    def default_config(cls) -> RuntimeEnvConfig:
        """Returns the default."""
        return cls()

    def to_dict(self) -> dict[str, Any]:
        """Returns a plain dictionary."""
        return copy.deepcopy(dict(self))


_CHECKS: dict[str, Callable[[Any], Any]] = {
    **CHECKS,
    "config": RuntimeEnvConfig.parse_and_validate_runtime_env_config,
}


class RuntimeEnv(dict[str, Any]):
    """The runtime environment of a job, task or actor. A plain dictionary with the same entries may be used instead.

    Args:
        py_modules: packages that workers can import: folders, single files, zip files and wheels on this machine (for a
            job), and addresses of archives.
        py_executable: the command that runs Python in workers.
        working_dir: a folder or archive, in a copy of which workers run, and which they import from first.
        pip: requirements: a list, the path of a file, or a dictionary with ``packages``, ``pip_check``,
            ``pip_version`` and ``pip_install_options``.
        conda: refused when it is used, since zray starts no conda.
        container: refused when it is used, since zray starts no containers.
        env_vars: environment variables; ``${NAME}`` in a value stands for the value that the host has.
        worker_process_setup_hook: a function, or ``"module.function"``, that each worker calls first.
        nsight: refused when it is used.
        rocprof_sys: refused when it is used.
        config: a ``RuntimeEnvConfig`` or a dictionary.
        image_uri: refused when it is used.
        uv: as ``pip``, with ``packages``, ``uv_check``, ``uv_version`` and ``uv_pip_install_options``.
        _validate: check the fields.
        kwargs: other fields, such as ``excludes``; unknown ones are kept and have no effect.

    Raises:
        TypeError: a field has a wrong type.
        ValueError: a field has a wrong value, or fields exclude each other.
    """

    known_fields = frozenset(
        ("py_modules", "py_executable", "java_jars", "working_dir", "conda", "pip", "uv", "container", "excludes",
         "env_vars", "_ray_release", "_ray_commit", "_inject_current_ray", "config", "worker_process_setup_hook",
         "_nsight", "_rocprof_sys", "image_uri")
    )  # fmt: skip
    extensions_fields = frozenset(("_ray_release", "_ray_commit", "_inject_current_ray"))

    def __init__(
        self,
        *,
        py_modules: list[str] | None = None,
        py_executable: str | None = None,
        working_dir: str | None = None,
        pip: Any = None,
        conda: Any = None,
        container: dict[str, str] | None = None,
        env_vars: dict[str, str] | None = None,
        worker_process_setup_hook: Callable[[], object] | str | None = None,
        nsight: str | dict[str, str] | None = None,
        rocprof_sys: str | dict[str, Any] | None = None,
        config: dict[str, Any] | RuntimeEnvConfig | None = None,
        _validate: bool = True,
        image_uri: str | None = None,
        uv: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        given = {
            "py_modules": py_modules, "py_executable": py_executable, "working_dir": working_dir, "pip": pip, "uv": uv,
            "conda": conda, "_nsight": nsight, "_rocprof_sys": rocprof_sys, "container": container,
            "env_vars": env_vars, "config": config, "worker_process_setup_hook": worker_process_setup_hook,
            "image_uri": image_uri,
        }  # fmt: skip
        fields = {**kwargs, **{name: value for name, value in given.items() if value is not None}}
        if not _validate:
            self.update(fields)
            return
        _check_together(fields)
        for name, value in fields.items():
            self[name] = value
        if all(value is None for value in self.values()):
            self.clear()

    def __setitem__(self, key: str, value: Any) -> None:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            value = dataclasses.asdict(value)
        if key in _CHECKS and value is not None:
            value = _CHECKS[key](value)
            if value is None:
                return
        super().__setitem__(key, value)

    def set(self, name: str, value: Any) -> None:
        """Sets a field, and checks it."""
        self[name] = value

    def get(self, name: str, default: Any = None, data_class: Any = None) -> Any:
        """Returns a field; as an instance of ``data_class``, made from its entries, if that is given."""
        value = super().get(name, default)
        return value if data_class is None or name not in self else data_class(**value)

    @classmethod
    def deserialize(cls, serialized_runtime_env: str) -> RuntimeEnv:
        """Returns the environment of a JSON text."""
        return cls(_validate=False, **json.loads(serialized_runtime_env))

    def serialize(self) -> str:
        """Returns the environment as JSON. Raises TypeError if a field has no JSON form."""
        return json.dumps(type(self)(_validate=True, **_as_arguments(self)), sort_keys=True)

    def to_dict(self) -> dict[str, Any]:
        """Returns a plain dictionary, a copy."""
        plain = copy.deepcopy(dict(self))
        if isinstance(plain.get("config"), RuntimeEnvConfig):
            plain["config"] = plain["config"].to_dict()
        return plain

    # What follows are Ray's getters.

    def has_working_dir(self) -> bool:
        return self.get("working_dir") is not None

    def working_dir_uri(self) -> str | None:
        return self.get("working_dir")  # type: ignore[no-any-return]

    def working_dir(self) -> str:
        return self.get("working_dir", "")  # type: ignore[no-any-return]

    def py_modules_uris(self) -> list[str]:
        return list(self.get("py_modules") or [])

    def py_modules(self) -> list[str]:
        return list(self.get("py_modules") or [])

    def py_executable(self) -> str | None:
        return self.get("py_executable")  # type: ignore[no-any-return]

    def java_jars(self) -> list[str]:
        return list(self.get("java_jars") or [])

    def env_vars(self) -> dict[str, str]:
        return self.get("env_vars", {})  # type: ignore[no-any-return]

    def nsight(self) -> Any:
        return self.get("_nsight")

    def rocprof_sys(self) -> Any:
        return self.get("_rocprof_sys")

    def plugin_uris(self) -> list[str]:
        return []

    def plugins(self) -> list[tuple[str, Any]]:
        return [(name, value) for name, value in self.items() if name not in self.known_fields]

    def has_conda(self) -> bool:
        return bool(self.get("conda"))

    def conda_env_name(self) -> str | None:
        conda = self.get("conda")
        return conda if isinstance(conda, str) and conda else None

    def conda_config(self) -> str | None:
        conda = self.get("conda")
        return json.dumps(conda, sort_keys=True) if isinstance(conda, dict) and conda else None

    def has_pip(self) -> bool:
        return bool(self.get("pip"))

    def pip_config(self) -> dict[str, Any]:
        pip = self.get("pip")
        return pip if isinstance(pip, dict) else {}

    def pip_uri(self) -> str | None:
        return requirements_uri("pip", self["pip"]) if self.has_pip() else None

    def virtualenv_name(self) -> str | None:
        pip = self.get("pip")
        return pip if isinstance(pip, str) and pip else None

    def has_uv(self) -> bool:
        return bool(self.get("uv"))

    def uv_config(self) -> dict[str, Any]:
        uv = self.get("uv")
        return uv if isinstance(uv, dict) else {}

    def uv_uri(self) -> str | None:
        return requirements_uri("uv", self["uv"]) if self.has_uv() else None

    def get_extension(self, key: str) -> Any:
        if key not in self.extensions_fields:
            raise ValueError(f"Extension key must be one of {sorted(self.extensions_fields)}, got: {key}")
        return self.get(key)

    def has_py_container(self) -> bool:
        return bool(self.get("container"))

    def py_container_image(self) -> str | None:
        return self["container"].get("image", "") if self.has_py_container() else None

    def py_container_worker_path(self) -> str | None:
        return self["container"].get("worker_path", "") if self.has_py_container() else None

    def py_container_run_options(self) -> list[str] | None:
        return self["container"].get("run_options", []) if self.has_py_container() else None

    def image_uri(self) -> str | None:
        return self.get("image_uri")  # type: ignore[no-any-return]


def requirements_uri(kind: str, options: Mapping[str, Any]) -> str:
    """The name of what ``pip`` or ``uv`` installs: the same for the same requirements and options."""
    from hashlib import sha1

    return f"{kind}://{sha1(json.dumps(options, sort_keys=True).encode()).hexdigest()}"


def _as_arguments(fields: Mapping[str, Any]) -> dict[str, Any]:
    renamed = {"_nsight": "nsight", "_rocprof_sys": "rocprof_sys"}
    return {renamed.get(name, name): value for name, value in fields.items()}


def _check_together(fields: Mapping[str, Any]) -> None:
    """Raises ValueError if fields are given that exclude each other."""
    installers = [name for name in ("pip", "uv", "conda") if fields.get(name) is not None]
    if len(installers) > 1:
        raise ValueError(
            "The 'pip' field, 'uv' field, and 'conda' field of runtime_env cannot be specified at the same time: "
            f"{' and '.join(installers)} are given; keep one of them"
        )
    for image in ("container", "image_uri"):
        others = fields.keys() - {image, "config", "env_vars"}
        if fields.get(image) and others:
            raise ValueError(
                f"The {image!r} field currently cannot be used together with other fields of runtime_env: "
                f"{', '.join(sorted(others))}"
            )


def merged(parent: Mapping[str, Any], child: Mapping[str, Any]) -> dict[str, Any]:
    """The environment of a child: its own fields, those of its parent that it does not have, and both their variables.

    A child's ``pip``, ``uv``, ``conda`` or ``py_executable`` replaces each of them: all of them choose an interpreter.
    """
    interpreters = {"pip", "uv", "conda", "py_executable"}
    replaced = interpreters if interpreters & child.keys() else set()
    fields = {name: value for name, value in parent.items() if name not in replaced} | dict(child)
    variables = {**(parent.get("env_vars") or {}), **(child.get("env_vars") or {})}
    if variables:
        fields["env_vars"] = variables
    return fields
