"""Holes inside an answer: where they are, and whether they are worth a second look.

One answer that lacks candles looks like an exchange that has none. So a hole is believed when two answers show it; on
quiet markets, where every page has holes, only pages with more or longer holes than usual are asked for twice.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from chandlery.validate import open_times

if TYPE_CHECKING:
    import polars as pl
    from numpy.typing import NDArray

    from chandlery.candle import Rejected
    from chandlery.timeframe import Timeframe

#: Second looks that are free at first; later each page earns a part of one.
CREDIT = 8.0
EARNED = 0.08
#: How far a page may go beyond what was confirmed before it counts as unusual, and how fast that is forgotten.
LONGER = 4
MORE = 2
KEPT = 0.9
#: So many slots or more, where that is unusual, must be missing from so many further answers.
LARGE = 100
LOOKS_LARGE = 4


@dataclass(frozen=True, slots=True)
class Holes:
    """The runs of slots without a row in a range: first slot and length of each, in order."""

    first: tuple[int, ...] = ()
    length: tuple[int, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.first)

    @property
    def absent(self) -> int:
        """Slots in all."""
        return sum(self.length)

    @property
    def longest(self) -> int:
        """Slots of the longest run."""
        return max(self.length, default=0)


def holes_in(
    frame: Timeframe, good: pl.DataFrame, rejected: tuple[Rejected, ...], since: int, until: int
) -> Holes:
    """The holes of an ascending frame in [since, until); a refused row is no hole."""
    import numpy as np

    if until <= since:
        return Holes()
    times = open_times(good)
    here = times[times.searchsorted(since) : times.searchsorted(until)]
    if len(here) == frame.count(since, until):
        return Holes()
    slots: NDArray[np.int64] = frame.slots(here)
    bad = [frame.slot(row.open) for row in rejected if row.open is not None and row.open >= 0]
    if bad:
        slots = np.union1d(slots, np.array(bad, dtype=np.int64))
    first, last = frame.slot(frame.ceil(since)), frame.slot(until - 1)
    slots = np.concatenate(([first - 1], slots[(slots >= first) & (slots <= last)], [last + 1]))
    before = np.flatnonzero(np.diff(slots) > 1)
    return Holes(tuple((slots[before] + 1).tolist()), tuple((slots[before + 1] - slots[before] - 1).tolist()))


class Usual:
    """What holes the pages of one series usually have, as far as second looks confirmed it."""

    def __init__(self) -> None:
        #: Held by the walk that looks at the first holes of all.
        self.first = asyncio.Lock()
        self._longest = 0.0
        self._absent = 0.0
        self._credit = CREDIT

    @property
    def known(self) -> bool:
        """Whether any holes were confirmed yet."""
        return self._longest > 0

    def looks(self, holes: Holes) -> int:
        """How many further answers must show these holes: none where they are usual and further looks are dear."""
        unusual = holes.longest > LONGER * self._longest or holes.absent > MORE * self._absent
        if not holes or (not unusual and self._credit < 1):
            return 0
        self._credit = max(0.0, self._credit - 1)
        return LOOKS_LARGE if unusual and holes.absent >= LARGE else 1

    def believed(self, holes: Holes, *, confirmed: bool) -> None:
        """A page was believed. What was not looked at twice never widens what is usual."""
        longest = float(holes.longest) if confirmed else min(holes.longest, self._longest)
        absent = float(holes.absent) if confirmed else min(holes.absent, self._absent)
        self._longest = max(longest, KEPT * self._longest)
        self._absent = max(absent, KEPT * self._absent)
        self._credit = min(CREDIT, self._credit + EARNED)
