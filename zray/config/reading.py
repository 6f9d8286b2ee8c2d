"""The sources of settings, and their allowed values.

A later source overrides an earlier one: the defaults, a file, the environment, the command line. The file is the one
that ``ZRAY_CONFIG`` names, else ``$XDG_CONFIG_HOME/zray/config.toml``, else ``~/.config/zray/config.toml`` if it
exists. Each setting is in it under its name, at the top level::

    address = "tcp://head:6380"
    heartbeat_s = 0.5
    labels = {zone = "a"}

Text in the form of the environment is accepted wherever the file could have a number, a boolean or a table. A value is
checked where it is read, since only there the source is known for the error.
"""

from __future__ import annotations

import dataclasses
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from zray.config import JOURNAL_SYNC, KIB, LOG_LEVELS, MIB, OPTIMIZATIONS, PIN_CPUS, Config
from zray.exceptions import ConfigError
from zray.named_tuples import NamedTuple

DEFAULT = "default"
PREFIX = "ZRAY_"
OTHER_VARIABLES = frozenset(
    {"ZRAY_CONFIG", "ZRAY_SESSION", "ZRAY_WORKER_PID", "ZRAY_WORKER_STARTED", "ZRAY_WORKFLOW_DIR"}
)
"""Variables of zray that are not settings."""
RAY_VARIABLES = {
    "address": "RAY_ADDRESS",
    "dedup_logs": "RAY_DEDUP_LOGS",
    "ignore_unhandled_errors": "RAY_IGNORE_UNHANDLED_ERRORS",
    "max_lineage_bytes": "RAY_max_lineage_bytes",
    "memory_monitor_refresh_ms": "RAY_memory_monitor_refresh_ms",
    "memory_usage_threshold": "RAY_memory_usage_threshold",
    "profiling": "RAY_PROFILING",
    "task_oom_retries": "RAY_task_oom_retries",
    "uv_run": "RAY_ENABLE_UV_RUN_RUNTIME_ENV",
}
"""Variables of Ray that are used where zray's own are not set."""
OTHER_PREFIXES = ("ZRAY_TEST_", "ZRAY_CI_")

_FIELDS = {field.name: field for field in dataclasses.fields(Config)}
_NAMED_OTHERWISE = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory"}
_LEAST: dict[str, float] = {
    "connect_timeout_s": 0.1,
    "heartbeat_s": 0.01,
    "join_timeout_s": 0.1,
    "log_file_max_bytes": 4 * KIB,
    "max_message_bytes": 8 * MIB,
    "object_store_memory": MIB,
    "silence_s": 0.1,
    "start_timeout_s": 0.1,
    "task_oom_retries": -1,
}
"""The smallest allowed numbers, where that is not 0."""
_MOST: dict[str, float] = {"max_message_bytes": 2**31, "memory_monitor_refresh_ms": 60_000, "memory_usage_threshold": 1}
_MOST_SECONDS = 7 * 86400
_MOST_OF_ALL = 2**49  # as an amount, in ten-thousandths, it still fits the 64 bits that it has in messages
_ZERO_TOO = frozenset({"object_store_memory"})
_PATHS = frozenset({"journal", "keys", "spill_dir", "tmpdir"})
ALL = "all"
"""Means all optimizations."""
_TRUTHS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
_LABEL_KEY = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_./-]{0,251}[A-Za-z0-9])?")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?")
_warned: set[str] = set()


class Reading(NamedTuple):
    """The settings that were read. ``origins``: the source of each setting's value."""

    config: Config
    origins: dict[str, str]


def from_environment(environ: Mapping[str, str] | None = None, **options: object) -> Config:
    """Returns the settings of this process: defaults, then the file, then ``ZRAY_*``, then ``options``.

    An option that is None was not given. Raises ConfigError for a value that cannot be used; it names the source, the
    value and what is allowed. Unknown names get a warning.
    """
    return read(environ, options).config


def read(
    environ: Mapping[str, str] | None = None, options: Mapping[str, object] | None = None, warn: bool = True
) -> Reading:
    """Reads all settings, see ``from_environment``. Without ``warn`` unknown names are not reported."""
    environ = os.environ if environ is None else environ
    values: dict[str, Any] = {}
    origins = dict.fromkeys(_FIELDS, DEFAULT)
    path = config_file(environ)
    table = _load(path, required=bool(environ.get("ZRAY_CONFIG")))
    if warn:
        _warn_of_unknown((name for name in table if name not in _FIELDS), _FIELDS, f" in {path}")
        _warn_of_unknown(_unknown_variables(environ), map(variable_of, _FIELDS), " in the environment")
    for name in _FIELDS.keys() & table.keys():
        values[name] = check(name, table[name], f"{path}: {name} =", blank=" ")
        origins[name] = path
    for name in _FIELDS:
        for variable in (variable_of(name), RAY_VARIABLES.get(name, "")):
            if text := environ.get(variable):
                values[name] = check(name, text, f"{variable}=")
                origins[name] = variable
                break
    for name, option in (options or {}).items():
        if option is not None:
            values[name] = check(name, option, option_of(name), blank=" ")
            origins[name] = option_of(name)
    for name in _PATHS & values.keys():
        values[name] = os.path.expanduser(values[name])
    config = Config(**values)
    if config.heartbeat_s >= config.silence_s:
        raise ConfigError(
            f"heartbeat_s ({config.heartbeat_s:g}, {origins['heartbeat_s']}) has to be less than silence_s "
            f"({config.silence_s:g}, {origins['silence_s']}): a peer must be heard before it is declared dead"
        )
    return Reading(config, origins)


def sources(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Returns the source of each setting: "default", the path of a file, or the name of a variable."""
    return read(environ).origins


def variable_of(name: str) -> str:
    """Returns the environment variable of a setting."""
    return PREFIX + name.upper()


def option_of(name: str) -> str:
    """Returns the command-line option of a setting. The help gives units, not the option's name."""
    return "--" + name.removesuffix("_s").replace("_", "-")


def config_file(environ: Mapping[str, str]) -> str:
    """Returns the path of the file with settings, whether or not it exists."""
    if given := environ.get("ZRAY_CONFIG"):
        return given
    home = environ.get("XDG_CONFIG_HOME", "")
    base = home if os.path.isabs(home) else os.path.join(os.path.expanduser("~"), ".config")
    return os.path.join(base, "zray", "config.toml")


def load_toml(path: str) -> dict[str, Any]:
    """Returns a TOML file's contents. Raises ConfigError if it is malformed or unreadable, OSError if it is missing."""
    # Costs some 200 KB and two milliseconds: only processes with a file pay for it.
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        with open(path, "rb") as file:
            table: dict[str, Any] = tomllib.load(file)
            return table
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:  # a syntax error, or not UTF-8
        raise ConfigError(f"{path} is not TOML: {error}") from None


def _load(path: str, required: bool) -> dict[str, Any]:
    if not required and not os.path.exists(path):
        return {}
    try:
        return load_toml(path)
    except FileNotFoundError:
        raise ConfigError(f"ZRAY_CONFIG={path!r}: there is no such file") from None


# ---- unknown names


def _unknown_variables(environ: Mapping[str, str]) -> list[str]:
    known = {*map(variable_of, _FIELDS), *OTHER_VARIABLES}
    return [
        name
        for name in environ
        if name.startswith(PREFIX) and name not in known and not name.startswith(OTHER_PREFIXES)
    ]


def _warn_of_unknown(names: Iterable[str], known: Iterable[str], where: str) -> None:
    """Warns of unknown names, each one once per process."""
    for name in names:
        if name in _warned:
            continue
        _warned.add(name)
        import logging

        logging.getLogger("zray").warning("%s%s is not a setting of zray%s", name, where, nearest(name, known))


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns ``: did you mean X?`` or nothing, for messages about an unknown name."""
    import difflib

    close = difflib.get_close_matches(name, list(known), 1, 0.6)
    return f": did you mean {close[0]}?" if close else ""


# ---- values


def check(name: str, given: object, where: str, blank: str = "") -> Any:
    """Returns a setting's value in the type of ``Config``.

    Raises ConfigError, with a message that begins with ``where``, if the value is malformed.
    """
    kind = str(_FIELDS[name].type).removesuffix(" | None")
    convert, needed = _CHOICES.get(name) or _KINDS[kind]
    try:
        value = convert(given)
        if kind in ("int", "float") and not _in_range(name, value):
            raise ValueError
    except ValueError as error:
        reason = str(error) or f"needed: {needed}{_range(name) if kind in ('int', 'float') else ''}"
        raise ConfigError(f"{where}{blank}{given!r} cannot be used: {reason}") from None
    return value


def _in_range(name: str, value: float) -> bool:
    enough = value >= _LEAST.get(name, 0) or (name in _ZERO_TOO and value == 0)
    return enough and value <= _most(name)  # "not a number" fails both


def _most(name: str) -> float:
    return _MOST.get(name, _MOST_SECONDS if name.endswith("_s") else _MOST_OF_ALL)


def _range(name: str) -> str:
    zero = ", or 0" if name in _ZERO_TOO else ""
    if (most := _most(name)) < _MOST_OF_ALL:
        return f" from {_LEAST.get(name, 0)} to {most}{zero}"
    return f" from {_LEAST.get(name, 0)} on{zero}, at most {most}"


# Each raises ValueError: with a reason, or without one where the kind of value is reason enough.


def _text(given: object) -> str:
    if not isinstance(given, str):
        raise ValueError
    return given


def _truth(given: object) -> bool:
    if isinstance(given, bool):
        return given
    if not isinstance(given, str) or given.lower() not in _TRUTHS:
        raise ValueError
    return _TRUTHS[given.lower()]


def _integer(given: object) -> int:
    if isinstance(given, bool) or not isinstance(given, (int, str)):
        raise ValueError
    try:
        return int(given)
    except ValueError:
        raise ValueError from None


def _number(given: object) -> float:
    if isinstance(given, bool) or not isinstance(given, (int, float, str)):
        raise ValueError
    try:
        return float(given)
    except (ValueError, OverflowError):
        raise ValueError from None


def _amounts(given: object) -> dict[str, float]:
    if isinstance(given, str):
        import json

        try:
            given = json.loads(given)
        except ValueError as error:
            raise ValueError(f"it is not JSON: {error}") from None
    if not isinstance(given, Mapping):
        raise ValueError
    for name, amount in given.items():
        if name in _NAMED_OTHERWISE:
            raise ValueError(f"{name} is not among the other resources: it is set as {_NAMED_OTHERWISE[name]}")
        number = isinstance(amount, (int, float)) and not isinstance(amount, bool)
        if not number or not 0 <= amount <= _MOST_OF_ALL:
            raise ValueError(
                f"the amount of {name!r} must be a number from 0 on, at most {_MOST_OF_ALL}, not {amount!r}"
            )
    return dict(given)


def _labels(given: object) -> dict[str, str]:
    if isinstance(given, str):
        pairs = [pair.partition("=") for pair in given.split(",") if pair.strip()]
        if not all(equals for _, equals, _ in pairs):
            raise ValueError
        given = {key.strip(): value.strip() for key, _, value in pairs}
    if not isinstance(given, Mapping):
        raise ValueError
    for key, value in given.items():
        if not _LABEL_KEY.fullmatch(key):
            raise ValueError(
                f"the label {key!r} must consist of letters, digits and _ . / -, and begin and end with a letter or a "
                f"digit"
            )
        if not isinstance(value, str) or not _LABEL_VALUE.fullmatch(value):
            raise ValueError(
                f"the value {value!r} of label {key} must be text of at most 63 letters, digits and _ . -, and begin "
                "and end with a letter or a digit"
            )
    return dict(given)


def _optimizations(given: object) -> list[str]:
    names = given.split(",") if isinstance(given, str) else given
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError
    chosen = {name.strip() for name in names} - {""}
    for name in sorted(chosen - {ALL, *OPTIMIZATIONS}):
        there = ", ".join(OPTIMIZATIONS)
        raise ValueError(f"{name!r} is not an optimization{nearest(name, OPTIMIZATIONS)} (there are: {there}; or all)")
    return [name for name in OPTIMIZATIONS if name in chosen or ALL in chosen]


def _level(given: object) -> str:
    if not isinstance(given, str) or given.upper() not in LOG_LEVELS:
        raise ValueError
    return given.upper()


def _pinning(given: object) -> str:
    word = {True: "on", False: "off"}.get(given, given) if isinstance(given, bool) else given
    if not isinstance(word, str) or word.lower() not in PIN_CPUS:
        raise ValueError
    return word.lower()


def _sync(given: object) -> str:
    if given not in JOURNAL_SYNC:
        raise ValueError
    return str(given)


_CHOICES: dict[str, tuple[Callable[[object], Any], str]] = {
    "log_level": (_level, ", ".join(LOG_LEVELS)),
    "journal_sync": (_sync, ", ".join(JOURNAL_SYNC)),
    "pin_cpus": (_pinning, ", ".join(PIN_CPUS)),
}
"""Settings whose value is one of a few words."""
_KINDS: dict[str, tuple[Callable[[object], Any], str]] = {
    "str": (_text, "text"),
    "bool": (_truth, "true or false"),
    "int": (_integer, "a whole number"),
    "float": (_number, "a number"),
    "dict[str, float]": (_amounts, """amounts by name, as {"x": 2}"""),
    "dict[str, str]": (_labels, "labels, as key=value,key=value"),
    "list[str]": (_optimizations, f"names of optimizations separated by commas: {', '.join(OPTIMIZATIONS)}, or all"),
}
