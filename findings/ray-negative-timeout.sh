#!/usr/bin/env bash
# ray 2.60.0: ray.get(ref, timeout=-1) waits as long as it takes, as if there were no timeout.
#
# A program that works towards a deadline passes `deadline - now`, which is negative once it is late. One expects
# GetTimeoutError, as for timeout=0, or ValueError, which ray.wait(timeout=-1) raises for the same number. Seen: get returns
# the value when the task ends, seconds later. (zray takes it for 0.)
#
# Output seen on 2026-11-29:
#   SEEN get late True
#   SEEN wait ValueError
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "ray==2.60.0"
cat > "$work/program.py" << 'PROGRAM'
import time

import ray

ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)


@ray.remote
def slow():
    time.sleep(3)
    return "late"


ray.get(ray.put(1))
begin = time.monotonic()
value = ray.get(slow.remote(), timeout=-1)
print("SEEN get", value, time.monotonic() - begin > 2)
try:
    ray.wait([slow.remote()], timeout=-1)
    print("SEEN wait returns")
except Exception as error:
    print("SEEN wait", type(error).__name__)
PROGRAM
expected=$'SEEN get late True\nSEEN wait ValueError'
seen=$(cd "$work" && RAY_USAGE_STATS_ENABLED=0 "$work/venv/bin/python" program.py 2> "$work/stderr" | grep '^SEEN' || true)
echo "$seen"
[[ $seen == "$expected" ]] || { echo "changed: expected" "$expected" >&2; tail -n 20 "$work/stderr" >&2; exit 1; }
