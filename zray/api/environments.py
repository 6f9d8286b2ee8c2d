"""Runtime environments on their way from the user to the broker: inheritance, uploads, announcements.

``Environments`` belongs to one session. A driver has the environment of its job, a worker the one that it runs in; what
they submit inherits it. An environment is announced once, before the first task or actor that names it in its shape.
"""

from __future__ import annotations

import json
import os
import types
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from zray.client.session import Session
from zray.exceptions import RuntimeEnvSetupError, SerializationError
from zray.ids import function_id_of
from zray.object_ref import ObjectRef
from zray.protocol.messages import EnvironmentPut
from zray.protocol.records import EnvironmentPart, EnvironmentSpec
from zray.runtime_env import RuntimeEnv, RuntimeEnvConfig
from zray.runtime_env.checks import IN_PLACE, UPLOADED, check_address, is_address
from zray.runtime_env.environment import merged, requirements_uri
from zray.serialization import pickle_callable

if TYPE_CHECKING:
    from zray.runtime_env.packaging import Package

MAX_HOOK_BYTES = 1 << 20
REFUSED = {
    "conda": "zray starts no conda: use 'pip' or 'uv', or name the python of a conda environment in 'py_executable'",
    "container": "zray starts no containers: start zray-worker in the container",
    "image_uri": "zray starts no containers: start zray-worker in the container",
    "_nsight": "start the profiler with 'py_executable', such as 'nsys profile -o out python'",
    "_rocprof_sys": "start the profiler with 'py_executable', such as 'rocprof-sys-python'",
    "java_jars": "zray has no Java workers",
}
"""Fields that zray cannot carry out, and what to do."""


def checked(given: Mapping[str, Any] | None) -> RuntimeEnv | None:
    """Checks the option ``runtime_env`` of a task or actor. None if it asks for nothing.

    Raises TypeError and ValueError, as Ray does.
    """
    if not given:
        return None
    environment = given if isinstance(given, RuntimeEnv) else RuntimeEnv(**_renamed(given))
    for address in (environment.get("working_dir"), *(environment.get("py_modules") or ())):
        if address:
            check_address(address, "working_dir" if address == environment.get("working_dir") else "py_modules")
    return environment or None


def check_of_job(given: Mapping[str, Any] | None) -> bool:
    """Checks the argument ``runtime_env`` of ``init``. Returns whether workers get a working directory of their own.

    Raises TypeError and ValueError, as Ray does, and RuntimeEnvSetupError for what zray cannot carry out.
    """
    if not given:
        return False
    if not isinstance(given, Mapping):
        raise TypeError(f"runtime_env must be a dict or a RuntimeEnv, got {given!r} of type {type(given).__name__}")
    fields = _renamed(given)
    modules = fields.get("py_modules")
    if isinstance(modules, list):  # others than strings are for jobs only
        fields["py_modules"] = [module for module in modules if isinstance(module, str)]
    _refuse(RuntimeEnv(**fields))
    return bool(fields.get("working_dir"))


def _renamed(given: Mapping[str, Any]) -> dict[str, Any]:
    return {{"_nsight": "nsight", "_rocprof_sys": "rocprof_sys"}.get(name, name): each for name, each in given.items()}


def _refuse(environment: Mapping[str, Any]) -> None:
    for name, remedy in REFUSED.items():
        if environment.get(name):
            raise RuntimeEnvSetupError(f"runtime_env[{name!r}] cannot be used: {remedy}")


class Environments:
    """The environments of a session."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._own: dict[str, Any] = {}
        self._parts: dict[str, EnvironmentPart] = {}
        self._announced: dict[bytes, EnvironmentSpec] = {}
        self._keep: list[ObjectRef] = []  # packages; they are needed as long as the job runs
        self._inherited = b""
        if session.environment.text:
            self._inherit(session.environment)

    def _inherit(self, spec: EnvironmentSpec) -> None:
        self._session.environment = spec
        self._own = json.loads(spec.text)
        self._parts.update((part.uri, part) for part in spec.parts)
        self._inherited = _id_of(spec)

    def begin_job(self, given: Mapping[str, Any]) -> None:
        """Makes ``given`` the environment of this driver's job: uploads what it names, and announces it.

        ``given`` has passed ``check_of_job``. Raises ValueError and TypeError as that, and RuntimeEnvSetupError if
        something cannot be uploaded.
        """
        fields = dict(given)
        excludes = fields.pop("excludes", None) or []
        config = RuntimeEnvConfig.parse_and_validate_runtime_env_config(fields.get("config") or {})
        if fields.get("py_modules"):
            modules = fields["py_modules"]
            if not isinstance(modules, list):
                raise TypeError(f"runtime_env['py_modules'] must be a list, got {type(modules)}")
            fields["py_modules"] = [self._module(module, excludes) for module in modules]
        if fields.get("working_dir"):
            fields["working_dir"] = self._working_dir(fields["working_dir"], excludes)
        hook_of, fields["worker_process_setup_hook"] = _hook_in(fields)
        environment = checked({name: value for name, value in fields.items() if value is not None})
        if environment is not None:
            spec = self._spec(environment, hook_of)
            self._announce(spec, eager=config["eager_install"])
            self._inherit(spec)

    def for_option(self, environment: RuntimeEnv | None) -> bytes:
        """The identifier of the environment of a task or actor with an option, announced; empty for none."""
        if environment is None:
            if self._inherited and self._inherited not in self._announced:
                self._announce(self._session.environment, eager=False)
            return self._inherited
        _refuse(environment)
        fields = dict(environment)
        fields.pop("excludes", None)
        hook_of, fields["worker_process_setup_hook"] = _hook_in(fields)
        if fields["worker_process_setup_hook"] is None:
            del fields["worker_process_setup_hook"]
            hook_of = self._session.environment.hook
        return self._announce(self._spec(merged(self._own, fields), hook_of), eager=False)

    def _announce(self, spec: EnvironmentSpec, eager: bool) -> bytes:
        environment_id = _id_of(spec)
        if environment_id not in self._announced:
            self._session.tell([EnvironmentPut(environment_id, spec, eager)])
            self._announced[environment_id] = spec  # only now: another thread may submit work in it at once
        return environment_id

    def _spec(self, fields: Mapping[str, Any], hook: bytes) -> EnvironmentSpec:
        try:
            text = json.dumps(fields, sort_keys=True)
        except TypeError as error:
            raise TypeError(f"runtime_env has a value without a JSON form: {error}") from None
        parts = [*self._packages_in(fields), *_interpreter_in(fields)]
        return EnvironmentSpec(text, hook, parts, _seconds(fields.get("config") or {}))

    # ------------------------------------------------------------------ packages

    def _packages_in(self, fields: Mapping[str, Any]) -> list[EnvironmentPart]:
        addresses = dict.fromkeys([*(fields.get("py_modules") or ()), fields.get("working_dir")])
        return [self._package(uri) for uri in addresses if uri and urlsplit(uri).scheme != IN_PLACE]

    def _package(self, uri: str) -> EnvironmentPart:
        part = self._parts.get(uri)
        if part is not None:
            return part
        if urlsplit(uri).scheme == UPLOADED:
            raise RuntimeEnvSetupError(f"{uri} is no package of this job's environment: it cannot be fetched")
        return EnvironmentPart(uri, "package", "", b"", b"", b"", 0)

    def _working_dir(self, given: Any, excludes: list[str]) -> str:
        path = _path("working_dir", given)
        if is_address(path):
            return path
        from zray.runtime_env.packaging import default_excludes, package_of_file, package_of_folder  # loads OpenSSL

        if os.path.isdir(path):
            excluded = [*default_excludes(os.environ), *excludes]
            return self._upload(path, lambda: package_of_folder(path, excluded, False, os.environ))
        if os.path.isfile(path) and path.endswith((".zip", ".tar.gz", ".tgz", ".tar.xz")):
            return self._upload(path, lambda: package_of_file(path))
        raise ValueError(
            f"runtime_env['working_dir']: directory {path} must be an existing directory or a supported archive "
            "(.zip, .tar.gz, .tgz, .tar.xz)"
        )

    def _module(self, given: Any, excludes: list[str]) -> str:
        if isinstance(given, types.ModuleType):
            places = list(getattr(given, "__path__", [given.__file__]))
            if len(places) != 1 or not places[0]:
                raise ValueError(f"py_modules only supports modules of one folder or file; {given!r} has {places}")
            given = places[0]
        path = _path("py_modules", given)
        if is_address(path):
            return path
        from zray.runtime_env.packaging import package_of_file, package_of_folder  # loads OpenSSL

        if os.path.isdir(path):
            return self._upload(path, lambda: package_of_folder(path, excludes, True, os.environ))
        if os.path.isfile(path) and path.endswith((".py", ".whl", ".zip", ".tar.gz", ".tgz", ".tar.xz")):
            return self._upload(path, lambda: package_of_file(path))
        raise ValueError(
            f"runtime_env['py_modules']: {path} is no folder, and no file that ends with .py, .whl, .zip, .tar.gz, "
            ".tgz or .tar.xz"
        )

    def _upload(self, path: str, make: Callable[[], Package]) -> str:
        """Makes a package and puts it where hosts can get it. Returns its address."""
        try:
            package = make()
        except OSError as error:
            raise RuntimeEnvSetupError(f"{path} cannot be uploaded: {error}") from error
        if package.uri not in self._parts:
            self._parts[package.uri] = self._shipped(package)
        return package.uri

    def _shipped(self, package: Package) -> EnvironmentPart:
        """A small package travels in messages. A larger one becomes an object."""
        part = EnvironmentPart(package.uri, "package", package.name, package.data, b"", b"", 0)
        if len(package.data) <= self._session.config.inline_max_bytes:
            return part
        ref = self._session.objects.put(package.data)
        self._keep.append(ref)
        entry = self._session.core.references.entries[ref._id]
        return part._replace(content=b"", stored=ref._id, kept_by=entry.host, size=entry.size)


def _path(field: str, given: Any) -> str:
    if not isinstance(given, (str, os.PathLike)):
        raise TypeError(f"runtime_env[{field!r}] must be a path or an address, got {given!r} of type {type(given)}")
    return os.fspath(given)


def _interpreter_in(fields: Mapping[str, Any]) -> list[EnvironmentPart]:
    return [
        EnvironmentPart(requirements_uri(kind, fields[kind]), kind, json.dumps(fields[kind]), b"", b"", b"", 0)
        for kind in ("pip", "uv")
        if fields.get(kind)
    ]


def _hook_in(fields: Mapping[str, Any]) -> tuple[bytes, str | None]:
    """The setup hook: pickled, or empty if it is named; and its name, or None if there is none."""
    hook = fields.get("worker_process_setup_hook")
    if hook is None or isinstance(hook, str):
        return b"", hook
    if not callable(hook):
        raise TypeError(f"worker_process_setup_hook must be a function or a string, got {type(hook)}")
    try:
        pickled = pickle_callable(hook)
    except SerializationError as error:
        raise RuntimeEnvSetupError(f"Failed to export the setup function. {error}") from error
    if len(pickled.blob) > MAX_HOOK_BYTES or pickled.refs:
        raise RuntimeEnvSetupError(
            f"the setup hook {pickled.name} captures ObjectRefs, or {len(pickled.blob):,} bytes where "
            f"{MAX_HOOK_BYTES:,} are allowed: let it load what it needs"
        )
    return pickled.blob, pickled.name


def _seconds(config: Mapping[str, Any]) -> float:
    timeout = RuntimeEnvConfig.parse_and_validate_runtime_env_config(config)["setup_timeout_seconds"]
    return 0.0 if timeout == -1 else float(timeout)


def _id_of(spec: EnvironmentSpec) -> bytes:
    """The hash of an environment. How it is set up (``config``) is no part of it."""
    fields = json.loads(spec.text)
    fields.pop("config", None)
    return function_id_of(b"%s\0%s" % (json.dumps(fields, sort_keys=True).encode(), spec.hook))
