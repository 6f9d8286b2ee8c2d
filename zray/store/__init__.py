"""Large objects of one machine: written once, read by every process, without a copy and without a server.

A store is a directory, usually in shared memory. ``Store`` is the library that hosts, workers and drivers use to access
it. ``room`` finds room for what is written (``writing``). ``spilling`` chooses what moves to disk for it (``spill``).
``reading`` maps objects, and ``held_pins`` knows which of them this process uses.

Below these, ``segments`` handles the files in the directory. ``ledger`` (pure) decides what fits and what has to make
room. ``ledger_file`` is the ledger that all processes share. ``sections`` are the locks. ``pins`` are the marks of
segments in use. ``maps`` maps segments into memory.
"""

from zray.store.ledger import StoreUsage
from zray.store.location import default_store_location, shares_store
from zray.store.sections import Shield
from zray.store.store import SegmentMissing, Store
from zray.store.writing import Writing

__all__ = ["SegmentMissing", "Shield", "Store", "StoreUsage", "Writing", "default_store_location", "shares_store"]
