"""Constants of Ray that programs read."""

from __future__ import annotations

DEFAULT_MAX_CONCURRENCY_ASYNC = 1000
"""How many ``async`` methods of an actor run at once if ``max_concurrency`` is not given."""
LOGGING_ROTATE_BYTES = 512 << 20
"""The size of a log file, in bytes, from which on Ray begins a new one."""
LOGGING_ROTATE_BACKUP_COUNT = 5
"""How many old log files Ray keeps of each process."""
