"""The ranks of a job's lines: by priority, with ageing.

A job's line with a higher priority is served first. The priority is a part of the shape, so all work of a line has the
same. It counts within a job only: between jobs, use decides (``zray/broker/shares.py``).

Ageing ensures that nothing starves. A line counts one step higher for each ``AGEING_S`` that it waits without a grant,
or for the time of ``AGEING_RUNS`` runs of the job's waiting work, if that is longer. It never counts higher than the
highest priority that waits in its job. Then the use of both lines decides, as between lines of equal priority. With its
next grant the line has its own priority again. So beside an endless supply of work that is ``n`` steps higher, a line
gets a grant at least every ``n`` such times. A time in seconds alone would not do: beside tasks that run for an hour,
every line would have aged when the next one ends.

Pure: the caller passes the time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from zray.broker.accounts import Account, Share

AGEING_S = 10.0
"""The shortest time for which a line must wait to count one step higher."""
AGEING_RUNS = 4
"""If that is longer: the number of runs for which it must wait."""


def rank(lines: Iterable[tuple[Share, float]], now: float) -> None:
    """Sets the ranks of the lines that wait. A line's second value is how long its work runs, in seconds; 0: unknown.

    Lines of jobs that use no priorities may be left out: they all have the same rank.
    """
    jobs: dict[Account, list[tuple[Share, float]]] = {}
    for line in lines:
        jobs.setdefault(line[0].job, []).append(line)
    for theirs in jobs.values():
        highest = max(share.shape.priority for share, _ in theirs)
        step_s = max(AGEING_S, AGEING_RUNS * max(run_s for _, run_s in theirs))
        for share, _ in theirs:
            aged = share.shape.priority + int((now - share.since) / step_s)
            share.rank = -min(highest, aged)


def foremost(waiting: Sequence[Share], counts: Callable[[Share], bool]) -> list[Share]:
    """Returns the lines that have the highest priority of their job now, in their order.

    ``counts``: whether a line takes precedence over lines with a lower priority. It is asked only if there are any.
    """
    best: dict[Account, int] = {}
    for share in waiting:
        best[share.job] = max(best.get(share.job, share.rank), share.rank)
    for share in waiting:
        if share.rank < best[share.job] and counts(share):
            best[share.job] = share.rank
    return [share for share in waiting if share.rank <= best[share.job]]
