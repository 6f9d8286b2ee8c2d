"""Performs the effects of a client's core outside its lock: each by the handler of its type."""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable
from typing import Any

from zray.client.core.client_core import ClientCore
from zray.client.core.effects import Callback, FreeSegment, ShowLogs, Unhandled, Warn
from zray.client.futures import Completion
from zray.system.streams import say


def _attempt(what: str, action: Callable[..., object], *arguments: Any) -> None:
    """Calls ``action``. An exception is shown and not raised, because the caller has more to do."""
    try:
        action(*arguments)
    except Exception:
        say(f"zray: {what}:\n{traceback.format_exc().rstrip()}")


class EffectHandlers:
    """What performs the effects of one core. ``handlers``: by the type of the effect; one without is ignored."""

    def __init__(self, core: ClientCore) -> None:
        self._core = core
        self.free: Callable[[bytes, list[bytes]], None] = lambda host, object_ids: None
        """Frees objects of this process in the store of a host: all those of a turn together."""
        self.handlers: dict[Any, Callable[[Any], None]] = {
            Warn: lambda effect: say(f"zray: {effect.text}"),
            Unhandled: self._unhandled,
        }
        self.at_tick: list[Callable[[], None]] = []
        """Called some times a second. These functions must not wait, and must not run user code."""

    def perform(self, effects: list[Any]) -> list[Callback]:
        """Performs all effects, even if one fails, because they belong to different calls. Returns the callbacks, which
        are still to be called."""
        freed: dict[bytes, list[bytes]] = {}
        callbacks: list[Callback] = []
        for effect in effects:
            if type(effect) is FreeSegment:
                freed.setdefault(effect.host, []).append(effect.object_id)
            elif isinstance(effect, Completion):
                callbacks.append(effect)
        for host, object_ids in freed.items():
            _attempt("objects cannot be freed", self.free, host, object_ids)
        for effect in effects:
            handler = self.handlers.get(type(effect))
            if handler is not None:
                _attempt(f"{type(effect).__name__} has failed", handler, effect)
        return callbacks

    def tick(self) -> None:
        """Calls the functions in ``at_tick``."""
        for action in self.at_tick:
            _attempt("a regular task has failed", action)

    def show_logs_by(self, show: Callable[[ShowLogs], None]) -> None:
        """Sets the function that shows workers' output. It is called in order, under the lock, and must not wait."""
        self._core.on_logs = functools.partial(_attempt, "output of workers cannot be shown", show)

    def _unhandled(self, effect: Unhandled) -> None:
        """Prints the error to a worker's output, which its driver shows."""
        job = self._core.execution.job
        if job is None or not job.settings.ignore_unhandled_errors:
            say(effect.text)
