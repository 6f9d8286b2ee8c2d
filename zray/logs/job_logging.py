"""The log of a job's own code: ``zray.LoggingConfig``.

It sets up the root logger of the driver and of the job's workers. Each line ends with the identifiers of what wrote it.
What workers log goes to their stderr, and so to the driver and to their log files. (The log of brokers and hosts is
another one, see ``zray.logs.process_log``.) Only jobs that ask for it load this module.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable
from typing import Any

FORMAT = "%(asctime)s\t%(levelname)s %(filename)s:%(lineno)s -- %(message)s"
"""The form of a line of text, before the identifiers."""
TEXT, JSON = "TEXT", "JSON"
STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"asctime", "message", "taskName"}
"""The attributes of every record of the module ``logging``."""
TIMESTAMP = "timestamp_ns"


@dataclasses.dataclass
class LoggingConfig:
    """How the root logger writes, in the driver and in all workers of its job. For ``zray.init(logging_config=)``.

    Raises ValueError for an unknown encoding, level or attribute.
    """

    encoding: str = TEXT
    """"TEXT", or "JSON": an object a line."""
    log_level: str = "INFO"
    """The least severe lines that are written, as a name of the module ``logging``."""
    additional_log_standard_attrs: list[str] = dataclasses.field(default_factory=list)
    """Further attributes of ``logging.LogRecord`` for each line, such as "name"."""

    def __post_init__(self) -> None:
        if self.encoding not in (TEXT, JSON):
            raise ValueError(f"Invalid encoding type: {self.encoding!r}. It must be one of {TEXT!r} and {JSON!r}")
        if not isinstance(logging.getLevelName(self.log_level), int):
            raise ValueError(f"Invalid log level: {self.log_level!r}. It must be a name such as 'INFO'")
        for name in self.additional_log_standard_attrs:
            if name not in STANDARD:
                raise ValueError(
                    f"Unknown python logging standard attribute: {name!r}. The attributes are {sorted(STANDARD)}"
                )

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields by name."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> LoggingConfig:
        """The same configuration again. Unknown keys are ignored."""
        known = {field.name for field in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in fields.items() if name in known})

    def to_json(self) -> str:
        """Returns the fields as JSON, for workers."""
        return json.dumps(self.to_dict())

    @classmethod
    def from_json(cls, text: str) -> LoggingConfig:
        """Reads what ``to_json`` has written."""
        return cls.from_dict(json.loads(text))

    def apply(self, context: Callable[[], dict[str, str]]) -> None:
        """Sets up the root logger of this process. ``context()`` returns what each line says besides its message.

        A handler that an earlier call has added is replaced.
        """
        root = logging.getLogger()
        for handler in [each for each in root.handlers if isinstance(each, _JobHandler)]:
            root.removeHandler(handler)
        handler = _JobHandler()
        handler.setLevel(self.log_level)
        handler.setFormatter((_JsonLines if self.encoding == JSON else _TextLines)(self, context))
        root.setLevel(self.log_level)
        root.addHandler(handler)
        logging.getLogger("zray").setLevel(self.log_level)


class _JobHandler(logging.StreamHandler):  # type: ignore[type-arg]  # not generic before Python 3.11
    """The handler that ``apply`` adds."""


class _Lines(logging.Formatter):
    def __init__(self, config: LoggingConfig, context: Callable[[], dict[str, str]]) -> None:
        super().__init__(FORMAT)
        self._attributes = config.additional_log_standard_attrs
        self._context = context

    def facts(self, record: logging.LogRecord) -> dict[str, Any]:
        """Returns what a line says besides its message: chosen attributes, the user's ``extra``, and the context."""
        extra = {name: value for name, value in vars(record).items() if name not in STANDARD}
        chosen = {name: getattr(record, name, None) for name in self._attributes}
        return {**chosen, **extra, **self._context(), TIMESTAMP: int(record.created * 1e9)}


class _TextLines(_Lines):
    def format(self, record: logging.LogRecord) -> str:
        facts = self.facts(record)
        return " ".join([super().format(record), *(f"{name}={value}" for name, value in facts.items())])


class _JsonLines(_Lines):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "asctime": self.formatTime(record),
            "levelname": record.levelname,
            "message": record.getMessage(),
            "filename": record.filename,
            "lineno": record.lineno,
            "process": record.process,
        }
        if record.exc_info:
            line["exc_text"] = self.formatException(record.exc_info)
        return json.dumps({**line, **self.facts(record)}, default=str)
