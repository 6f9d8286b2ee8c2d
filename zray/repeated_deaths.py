"""What dies soon after each start is started again later and later, and in the end not at all.

The broker does this for actors, the owner for tasks. A life of ``QUICK_S`` or more ends the row. The first ``FREE``
deaths of a row cost no time: most causes are gone by then.
"""

from __future__ import annotations

from collections import Counter

QUICK_S = 10.0
"""A death is one of a row if it came sooner than this after the start, in seconds."""
FREE = 3
"""After how many deaths in a row the pauses begin."""
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 30.0
"""Each pause is twice as long as the one before, up to this, in seconds."""
MOST = 20
"""After this many deaths in a row, there is no further start: after some five minutes."""
SHOWN = 3
REASON_CHARS = 300


class RepeatedDeaths:
    """The present row of deaths of one task or actor. ``count``: how many there are."""

    __slots__ = ("_began", "_reasons", "count")

    def __init__(self) -> None:
        self.count = 0
        self._began = 0.0  # when the present life began
        self._reasons: Counter[str] = Counter()

    def add(self, reason: str, now: float) -> float:
        """Adds a death. Returns the pause before the next start, in seconds; 0 for none.

        Times are in seconds. To be called with every death that counts.
        """
        if now - self._began >= QUICK_S:
            self.count = 0
            self._reasons.clear()
        self.count += 1
        self._reasons[reason.strip().partition("\n")[0][:REASON_CHARS]] += 1
        over = self.count - FREE - 1
        pause_s = 0.0 if over < 0 else min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(over, 30))
        self._began = now + pause_s
        return pause_s

    @property
    def are_too_many(self) -> bool:
        """Whether there should be no further start."""
        return self.count >= MOST

    def history(self) -> str:
        """Tells of the row, for the error of what is not started again. The most frequent reasons come first."""
        reasons = [f"  {times} x {reason}" for reason, times in self._reasons.most_common(SHOWN)]
        more = len(self._reasons) - SHOWN
        if more > 0:
            reasons.append(f"  and {more} other reasons")
        head = f"It died {self.count} times in a row, each time within {QUICK_S:g} s, so it is not started again:"
        return "\n".join([head, *reasons])
