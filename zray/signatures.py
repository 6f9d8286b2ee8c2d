"""Checks the arguments of a call against the signature, in the caller, before anything is sent.

Almost every call passes only positional arguments, so the allowed number of them is computed once. All other calls are
left to ``inspect``, whose errors have Python's wording.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class SignatureCheck:
    """Checks whether the arguments of a call fit the parameters of ``callable``.

    ``skip_first`` leaves out the parameter that Python itself fills in (``self`` of a method taken from its class).
    A callable whose signature is unknown, such as some built-ins, is not checked.
    """

    __slots__ = ("_fewest", "_most", "_name", "_signature")

    def __init__(self, callable: Callable[..., Any], skip_first: bool) -> None:
        self._name = getattr(callable, "__name__", type(callable).__name__)
        self._signature = _signature_of(callable, skip_first)
        self._fewest, self._most = _positional_range(self._signature)

    def bind_check(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Raises the TypeError that a local call would raise; returns None if the arguments fit."""
        if not kwargs and self._fewest <= len(args) <= self._most:
            return
        if self._signature is None:
            return
        try:
            self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{self._name}() {error}") from None


def _signature_of(callable: Callable[..., Any], skip_first: bool) -> inspect.Signature | None:
    try:
        # The call reaches the wrapper, so its parameters count, not those of the function inside it.
        signature = inspect.signature(callable, follow_wrapped=False)
    except (ValueError, TypeError, NameError):  # NameError: annotations that cannot be evaluated here (Python 3.14)
        return None
    parameters = list(signature.parameters.values())
    if skip_first and parameters and parameters[0].kind in _POSITIONAL:
        del parameters[0]
    return inspect.Signature(parameters)


def _positional_range(signature: inspect.Signature | None) -> tuple[int, int]:
    """The fewest and the most positional arguments of a call without keywords; an empty range if no such call fits."""
    if signature is None:
        return 0, sys.maxsize
    parameters = signature.parameters.values()
    plain = [p for p in parameters if p.kind in _POSITIONAL]
    if any(p.kind is p.KEYWORD_ONLY and p.default is p.empty for p in parameters):
        return 1, 0
    most = sys.maxsize if any(p.kind is p.VAR_POSITIONAL for p in parameters) else len(plain)
    return sum(p.default is p.empty for p in plain), most


def name_of_parameter(called: Callable[..., Any], position: int) -> str:
    """The name of the parameter at ``position``; empty if it has none."""
    try:
        parameters = list(inspect.signature(called).parameters.values())
    except (TypeError, ValueError):  # it is not written in Python
        return ""
    named = [parameter.name for parameter in parameters if parameter.kind in _POSITIONAL]
    return named[position] if position < len(named) else ""
