"""``multiprocessing.Pool`` on a cluster: ``from zray.util.multiprocessing import Pool``."""

from multiprocessing import JoinableQueue, TimeoutError

from zray.util.multiprocessing.pool import Pool

__all__ = ["JoinableQueue", "Pool", "TimeoutError"]
