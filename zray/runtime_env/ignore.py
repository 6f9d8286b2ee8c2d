"""Patterns of files that a package of a folder does not contain, as in ``.gitignore`` (see gitignore(5))."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from zray.named_tuples import NamedTuple


class _Pattern(NamedTuple):
    matches: Callable[[str], object]
    negated: bool
    only_directories: bool


class Patterns:
    """The patterns of one file or list. They apply to paths below its directory, written with slashes.

    The last pattern that matches decides; one that begins with ``!`` keeps a file that an earlier one leaves out.
    """

    def __init__(self, lines: Iterable[str]) -> None:
        self._patterns = [pattern for line in lines if (pattern := _parse(line)) is not None]

    def leaves_out(self, path: str, is_directory: bool) -> bool | None:
        """Whether a path is left out; None if no pattern matches it."""
        for pattern in reversed(self._patterns):
            if (is_directory or not pattern.only_directories) and pattern.matches(path):
                return not pattern.negated
        return None


def _parse(line: str) -> _Pattern | None:
    text = line.rstrip("\n\r")
    if not text.endswith("\\ "):
        text = text.rstrip(" ")
    if not text or text.startswith("#"):
        return None
    negated = text.startswith("!")
    text = text[1:] if negated or text.startswith(("\\#", "\\!")) else text
    only_directories = text.endswith("/")
    text = text.rstrip("/")
    if not text:
        return None
    anchored = "/" in text
    body = _translate(text.lstrip("/"))
    whole = body if anchored else f"(?:.*/)?{body}"
    return _Pattern(re.compile(f"{whole}\\Z", re.DOTALL).match, negated, only_directories)


def _translate(pattern: str) -> str:
    """Returns the regular expression of a pattern."""
    parts: list[str] = []
    position = 0
    while position < len(pattern):
        rest = pattern[position:]
        if rest.startswith("**/") and (position == 0 or pattern[position - 1] == "/"):
            parts.append("(?:.*/)?")
            position += 3
        elif rest == "**" and (position == 0 or pattern[position - 1] == "/"):
            parts.append(".*")
            position += 2
        elif rest[0] == "*":
            parts.append("[^/]*")
            position += 1
        elif rest[0] == "?":
            parts.append("[^/]")
            position += 1
        elif rest[0] == "[" and (end := _end_of_class(rest)):
            body = rest[1:end].replace("\\", "\\\\")
            parts.append(f"(?!/)[{'^' + body[1:] if body[0] in '!^' else body}]")
            position += end + 1
        elif rest[0] == "\\" and len(rest) > 1:
            parts.append(re.escape(rest[1]))
            position += 2
        else:
            parts.append(re.escape(rest[0]))
            position += 1
    return "".join(parts)


def _end_of_class(rest: str) -> int:
    """The position of the bracket that ends a class of characters; 0 if there is none."""
    start = 2 if rest[1:2] in ("!", "^") else 1
    return max(0, rest.find("]", start + 1))
