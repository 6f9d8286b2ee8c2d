"""Functions and actors in other languages, which Ray has and zray has not."""

from __future__ import annotations

import enum
from typing import Any

__all__ = ["Language", "cpp_actor_class", "cpp_function", "java_actor_class", "java_function"]

_INSTEAD = "zray has workers in Python only: call the code through a Python binding or as a program of its own"


class Language(enum.Enum):
    """The languages that Ray has workers for. zray's workers are in Python."""

    PYTHON = 0
    JAVA = 1
    CPP = 2

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return self.name


def java_function(class_name: str, function_name: str) -> Any:
    """Raises NotImplementedError: there are no Java workers."""
    raise NotImplementedError(f"java_function({class_name!r}, {function_name!r}): {_INSTEAD}")


def java_actor_class(class_name: str) -> Any:
    """Raises NotImplementedError: there are no Java workers."""
    raise NotImplementedError(f"java_actor_class({class_name!r}): {_INSTEAD}")


def cpp_function(function_name: str) -> Any:
    """Raises NotImplementedError: there are no C++ workers."""
    raise NotImplementedError(f"cpp_function({function_name!r}): {_INSTEAD}")


def cpp_actor_class(create_function_name: str, class_name: str) -> Any:
    """Raises NotImplementedError: there are no C++ workers."""
    raise NotImplementedError(f"cpp_actor_class({create_function_name!r}, {class_name!r}): {_INSTEAD}")
