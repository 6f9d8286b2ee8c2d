#!/usr/bin/env bash
# ray 2.60.0: retry_exceptions=True does not retry a generator with num_returns=n, and max_retries is ignored without a word.
#
# A function that raises on its first attempt is tried again if it returns its two values, and is not if it yields them,
# with the same options. One expects two attempts in both cases. Also, what the generator raises behind its n-th value is
# dropped: nobody hears of it. (zray tries both again, and tells the latter.)
#
# Output seen on 2026-11-29:
#   SEEN returns 2 attempts
#   SEEN yields 1 attempts, ValueError
#   SEEN behind the last value [1, 2]
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "ray==2.60.0"
cat > "$work/program.py" << 'PROGRAM'
import pathlib
import tempfile

import ray

ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
marks = pathlib.Path(tempfile.mkdtemp())


def attempt(name):
    with open(marks / name, "a") as file:
        file.write("x")
    return len((marks / name).read_text())


@ray.remote(num_returns=2, max_retries=3, retry_exceptions=True)
def returns():
    if attempt("returns") == 1:
        raise ValueError("the first attempt")
    return 1, 2


@ray.remote(num_returns=2, max_retries=3, retry_exceptions=True)
def yields():
    number = attempt("yields")
    yield 1
    if number == 1:
        raise ValueError("the first attempt")
    yield 2


@ray.remote(num_returns=2)
def raises_behind():
    yield 1
    yield 2
    raise ValueError("too late")


ray.get(returns.remote())
print("SEEN returns", len((marks / "returns").read_text()), "attempts")
try:
    ray.get(yields.remote())
    outcome = "values"
except ValueError as error:
    outcome = "ValueError"
print("SEEN yields", len((marks / "yields").read_text()), f"attempts, {outcome}")
print("SEEN behind the last value", ray.get(raises_behind.remote()))
PROGRAM
expected=$'SEEN returns 2 attempts\nSEEN yields 1 attempts, ValueError\nSEEN behind the last value [1, 2]'
seen=$(cd "$work" && RAY_USAGE_STATS_ENABLED=0 "$work/venv/bin/python" program.py 2> "$work/stderr" | grep '^SEEN' || true)
echo "$seen"
[[ $seen == "$expected" ]] || { echo "changed: expected" "$expected" >&2; tail -n 20 "$work/stderr" >&2; exit 1; }
