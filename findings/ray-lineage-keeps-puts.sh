#!/usr/bin/env bash
# ray 2.60.0: what was put stays in the object store after its last reference is gone, if a task that took it may be retried.
#
# A program puts 20 MB, passes the reference to a task that returns 20 MB, and drops the reference to what it put. One
# expects one object in the store. There are two, as long as the result is held: its lineage pins the argument. With
# max_retries=0 there is one. So in `state = step.remote(state, ray.put(batch))` each batch stays. The limit,
# RAY_max_lineage_bytes (1 GB), did not end that with 420 MB of them. (zray pins them too, and its limit counts what
# nothing but the pins holds.)
#
# Output seen on 2026-11-30:
#   SEEN default: 2 objects
#   SEEN max_retries=0: 1 objects
#   SEEN 20 steps: 22 objects
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "ray==2.60.0" "numpy==2.4.6"
cat > "$work/program.py" << 'PROGRAM'
import time

import numpy as np
import ray

SIZE = 20_000_000

ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, object_store_memory=2_000_000_000)


def objects():
    time.sleep(4)
    total, free = ray.cluster_resources(), ray.available_resources()
    return round((total["object_store_memory"] - free["object_store_memory"]) / SIZE)


@ray.remote
def double(array):
    return array * 2


@ray.remote
def step(state, batch):
    return state + batch


for label, options in (("default", {}), ("max_retries=0", {"max_retries": 0})):
    argument = ray.put(np.ones(SIZE, np.uint8))
    result = double.options(**options).remote(argument)
    ray.wait([result])
    del argument
    print(f"SEEN {label}: {objects()} objects")
    del result
    time.sleep(1)
state = double.remote(np.ones(SIZE, np.uint8))
for _ in range(20):
    state = step.remote(state, ray.put(np.ones(SIZE, np.uint8)))
ray.wait([state])
print(f"SEEN 20 steps: {objects()} objects")
PROGRAM
expected=$'SEEN default: 2 objects\nSEEN max_retries=0: 1 objects\nSEEN 20 steps: 22 objects'
seen=$(cd "$work" && RAY_USAGE_STATS_ENABLED=0 "$work/venv/bin/python" program.py 2> "$work/stderr" | grep '^SEEN' || true)
echo "$seen"
[[ $seen == "$expected" ]] || { echo "changed: expected" "$expected" >&2; tail -n 20 "$work/stderr" >&2; exit 1; }
