"""One fresh process that measures rows of one group for one implementation; `run.py` starts it.

Writes {"figures": {row: value}, "version": text, "errors": {row: text}} to the file it is given, anew after each row,
so that a row that hangs takes no other with it.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import traceback
from pathlib import Path
from typing import Any

import pace
import peers
import processes


def measure(peer: peers.Peer, group: str, wanted: set[str], speed: pace.Pace, out: Path) -> None:
    result: dict[str, Any] = {"figures": {}, "version": "", "errors": {}}
    module = importlib.import_module(f"rows.{group}")
    starts_itself = group == "lifecycle"
    if not starts_itself:
        peer.start()
    for names, function in module.MEASURES.items():
        if not wanted.intersection(names):
            continue
        try:
            values = function(peer, speed)
        except Exception:
            result["errors"][names[0]] = traceback.format_exc()
        else:
            values = values if isinstance(values, tuple) else (values,)
            result["figures"].update(zip(names, values, strict=True))
            result["version"] = peer.version()
        out.write_text(json.dumps(result))
    if not starts_itself:
        peer.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--impl", required=True)
    parser.add_argument("--group", required=True)
    parser.add_argument("--rows", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    # Two cores on every machine, for the cluster too, which inherits it.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: peers.WORKERS])
    processes.become_subreaper()
    speed = pace.QUICK if options.quick else pace.FULL
    measure(peers.peer(options.impl), options.group, set(options.rows.split(",")), speed, options.out)


if __name__ == "__main__":
    main()
