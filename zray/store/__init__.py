"""Large objects of one machine: written once, read by every process, without a copy and without a server.

A store is a directory, usually in shared memory; ``Store`` is the library on it that hosts, workers and drivers use
alike. ``segments`` tells what is in the directory, ``ledger`` (pure) decides what fits and what has to make room,
``ledger_file`` is the ledger that all share, ``sections`` are the locks, ``pins`` tells who uses what, ``maps`` and
``spill`` are as named.
"""

from zray.store.ledger import StoreUsage
from zray.store.location import default_store_location, shares_store
from zray.store.sections import Shield
from zray.store.store import SegmentMissing, Store
from zray.store.writing import Writing

__all__ = ["SegmentMissing", "Shield", "Store", "StoreUsage", "Writing", "default_store_location", "shares_store"]
