"""What the tasks of `lifecycle` run. A module by itself: workers import it, and weigh what it imports."""

import os
import time


def hello() -> int:
    return 1


def occupy() -> int:
    """Keeps a worker busy for long enough that the next such task needs another. Returns its process."""
    time.sleep(0.3)
    return os.getpid()
