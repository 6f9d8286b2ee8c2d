#!/usr/bin/env bash
# ray 2.60.0: a remote generator is resumed with an object of Ray's own, so `yield from` an iterable fails in it.
#
# A plain Python loop resumes a generator with next(): `x = yield 1` gives None, and `yield from range(3)` yields three
# values. Ray's worker resumes a streaming generator with send(StreamingGeneratorStats(...)). Python passes what is sent
# on to the iterator of a `yield from`, and a range, a list or a file has no method send. So `yield from range(3)` yields
# one value and then raises AttributeError, and `x = yield 1` gives the statistics. One expects [0, 1, 2] and None. An
# inner generator as the source of `yield from` works. (zray resumes generators with next().)
#
# Output seen on 2026-11-29:
#   SEEN from a range [0, "AttributeError: 'range_iterator' object has no attribute 'send'"]
#   SEEN from a list [10, "AttributeError: 'list_iterator' object has no attribute 'send'"]
#   SEEN from a generator [0, 1, 2]
#   SEEN what yield gives [1, 'StreamingGeneratorStats']
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "ray==2.60.0"
cat > "$work/program.py" << 'PROGRAM'
import ray

ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False)


@ray.remote
def from_a_range():
    yield from range(3)


@ray.remote
def from_a_list():
    yield from [10, 20, 30]


@ray.remote
def from_a_generator():
    yield from (number for number in range(3))


@ray.remote
def what_yield_gives():
    given = yield 1
    yield type(given).__name__


def values(stream):
    seen = []
    for ref in stream:
        try:
            seen.append(ray.get(ref))
        except Exception as error:
            seen.append(str(error).strip().splitlines()[-1])
    return seen


print("SEEN from a range", values(from_a_range.remote()))
print("SEEN from a list", values(from_a_list.remote()))
print("SEEN from a generator", values(from_a_generator.remote()))
print("SEEN what yield gives", values(what_yield_gives.remote()))
PROGRAM
expected='SEEN from a range [0, "AttributeError: '"'range_iterator' object has no attribute 'send'"'"]
SEEN from a list [10, "AttributeError: '"'list_iterator' object has no attribute 'send'"'"]
SEEN from a generator [0, 1, 2]
SEEN what yield gives [1, '"'StreamingGeneratorStats'"']'
seen=$("$work/venv/bin/python" "$work/program.py" 2> "$work/stderr" | grep '^SEEN') || { cat "$work/stderr"; exit 1; }
echo "$seen"
[[ $seen == "$expected" ]] || { echo "this has changed; seen before: $expected"; exit 1; }
