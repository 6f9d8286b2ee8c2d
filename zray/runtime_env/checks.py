"""Checks of the fields of a runtime environment. Each returns the value to keep; None: the field is left out.

The types and conditions are Ray's: TypeError for a wrong type, ValueError for a wrong value.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, NoReturn
from urllib.parse import urlsplit

ARCHIVES = {
    "working_dir": (".zip", ".tar.gz", ".tgz", ".tar.xz"),
    "py_modules": (".zip", ".whl", ".tar.gz", ".tgz", ".tar.xz"),
}
"""The endings of addresses, by field."""
UPLOADED = "gcs"
"""The scheme of a package that a driver has uploaded; Ray's name."""
REMOTE = ("file", "http", "https", "s3", "gs", "azure", "abfss")
IN_PLACE = "local"


def wrong_type(field: str, value: object, allowed: str) -> NoReturn:
    """Raises TypeError about a field."""
    raise TypeError(f"runtime_env[{field!r}] must be {allowed}, got {value!r} of type {type(value).__name__}")


def is_address(text: str) -> bool:
    """Whether a text is an address (``scheme://...``), and not a path."""
    return bool(urlsplit(text).scheme)


def check_address(address: str, field: str) -> None:
    """Raises ValueError if ``address`` cannot be the value of ``field`` of a task or actor."""
    scheme, _, path, _, _ = urlsplit(address)
    if not scheme:
        raise ValueError(
            f"runtime_env[{field!r}]: {address} is not a valid URI. Folders and files of this machine are uploaded "
            "once for the whole job: give them to zray.init(runtime_env=...); a task or actor takes addresses"
        )
    if scheme == IN_PLACE:
        if not path.startswith("/") or path.endswith(ARCHIVES[field]):
            raise ValueError(f"runtime_env[{field!r}]: {address!r} must name a folder, as local:///absolute/path")
        return
    if scheme not in (UPLOADED, *REMOTE):
        known = ", ".join((UPLOADED, *REMOTE, IN_PLACE))
        raise ValueError(f"runtime_env[{field!r}]: {address} is not a valid URI: its protocol must be one of {known}")
    if not address.partition("?")[0].endswith((*ARCHIVES[field], ".py") if scheme == UPLOADED else ARCHIVES[field]):
        raise ValueError(
            f"runtime_env[{field!r}]: Only {', '.join(ARCHIVES[field])} files are supported for addresses, got "
            f"{address.partition('?')[0]}"
        )


def _location(text: str, field: str) -> str:
    if is_address(text):
        check_address(text, field)
    elif not os.path.exists(text):
        raise ValueError(f"runtime_env[{field!r}]: {text} is not a valid path")
    return text


def _working_dir(value: Any) -> Any:
    value = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(value, str):
        wrong_type("working_dir", value, "a string")
    return _location(value, "working_dir")


def _py_modules(value: Any) -> Any:
    if not isinstance(value, list):
        wrong_type("py_modules", value, "a list of strings")
    for module in value:
        if not isinstance(module, str):
            wrong_type("py_modules", module, "a list of strings")
        _location(module, "py_modules")
    return value


def _excludes(value: Any) -> Any:
    if not isinstance(value, list) or not all(isinstance(pattern, str) for pattern in value):
        wrong_type("excludes", value, "a list of strings")
    return value or None


def _env_vars(value: Any) -> Any:
    if isinstance(value, Mapping) and not value:
        return None
    if not isinstance(value, dict):
        wrong_type("env_vars", value, "of type Dict[str, str]")
    for name, text in value.items():
        if not isinstance(name, str) or not isinstance(text, str):
            what = f"the key {name!r}" if not isinstance(name, str) else f"the value {text!r} of {name!r}"
            kind = type(name if not isinstance(name, str) else text).__name__
            raise TypeError(f"runtime_env['env_vars'] must be of type Dict[str, str], but {what} is of type {kind}")
        if not name or "=" in name or "\0" in name + text:
            raise ValueError(f"runtime_env['env_vars']: {name!r} cannot be set: it is no name, or has a zero byte")
    return value


def _requirements(field: str, more: tuple[str, ...], value: Any) -> Any:
    check, version, options = f"{field}_check", f"{field}_version", f"{field}_{more[0]}install_options"
    if isinstance(value, str):
        value = {"packages": _lines_of(value)}
    elif isinstance(value, list) and all(isinstance(package, str) for package in value):
        value = {"packages": value}
    elif not isinstance(value, dict):
        wrong_type(field, value, "a list of requirements, the path of a file with them, or a dict")
    unknown = value.keys() - {"packages", check, version, options}
    if unknown:
        names = f"packages, {check}, {options} and {version}"
        raise ValueError(f"runtime_env[{field!r}] can only have these fields: {names}, but got: {list(value)}")
    if "packages" not in value:
        raise ValueError(f"runtime_env[{field!r}] must include field 'packages', but got {value}")
    for name, kind in ((check, bool), (version, str), (options, list)):
        if name in value and not isinstance(value[name], kind):
            wrong_type(f"{field}.{name}", value[name], f"of type {kind.__name__}")
    if not all(isinstance(option, str) for option in value.get(options, [])):
        wrong_type(f"{field}.{options}", value[options], "a list of strings")
    packages = value["packages"]
    if field == "pip" and isinstance(packages, str):
        packages = _lines_of(packages)
    if not isinstance(packages, list):
        raise ValueError(f"runtime_env[{field!r}]['packages'] must be a list, got {packages!r}")
    if not all(isinstance(package, str) for package in packages):
        wrong_type(f"{field}.packages", packages, "a list of strings")
    kept = {**value, "packages": list(dict.fromkeys(packages)), check: value.get(check, False)}
    if field == "uv":
        kept.setdefault(options, ["--no-cache"])
    return kept if packages else None


def _lines_of(path: str) -> list[str]:
    if not os.path.isfile(path):
        raise ValueError(f"{path} is not a valid file")
    with open(path) as file:
        return file.read().strip().split("\n")


def _conda(value: Any) -> Any:
    if not isinstance(value, (str, dict)):
        wrong_type("conda", value, "of type str or dict")
    if isinstance(value, str) and value.endswith((".yaml", ".yml")) and not os.path.isfile(value):
        raise ValueError(f"Can't find conda YAML file {value}")
    return value


def _py_executable(value: Any) -> Any:
    return value if isinstance(value, str) else wrong_type("py_executable", value, "a string")


CHECKS: dict[str, Callable[[Any], Any]] = {
    "py_modules": _py_modules,
    "working_dir": _working_dir,
    "excludes": _excludes,
    "conda": _conda,
    "pip": lambda value: _requirements("pip", ("",), value),
    "uv": lambda value: _requirements("uv", ("pip_",), value),
    "env_vars": _env_vars,
    "py_executable": _py_executable,
}
"""The checks by field. A field without one is kept as it is."""
