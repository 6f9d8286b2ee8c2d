"""``log_once``: whether a message with a key is to be logged now. The state is that of one process."""

from __future__ import annotations

import time

PERIOD_S = 60.0
"""After this time without a message, all keys count as new again, if ``enable_periodic_logging`` was called."""

_logged: set[str] = set()
_disabled = False
_periodic = False
_last_logged = 0.0


def log_once(key: str) -> bool:
    """Whether this is the first call with ``key`` in this process.

    Args:
        key: names the place that logs.

    After ``disable_log_once_globally`` it is always False. After ``enable_periodic_logging``, keys become new again
    when the last message was logged more than a minute ago: the call that finds this out returns False.
    """
    global _last_logged
    if _disabled:
        return False
    now = time.monotonic()
    if key not in _logged:
        _logged.add(key)
        _last_logged = now
        return True
    if _periodic and now - _last_logged > PERIOD_S:
        _logged.clear()
        _last_logged = now
    return False


def disable_log_once_globally() -> None:
    """Makes ``log_once`` return False in this process."""
    global _disabled
    _disabled = True


def enable_periodic_logging() -> None:
    """Makes ``log_once`` return True again for known keys, about once a minute."""
    global _periodic
    _periodic = True


def reset_log_once(key: str | None = None) -> None:
    """Makes ``key`` count as new again; None: all keys."""
    if key is None:
        _logged.clear()
    else:
        _logged.discard(key)
