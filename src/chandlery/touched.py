"""What journal entries say happened to each series."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from chandlery.candle import SeriesId
from chandlery.compare import hull
from chandlery.stores.base import JournalEntry
from chandlery.timeframe import DAY
from chandlery.timerange import RangeSet, TimeRange

#: Ranges of one series that are told apart; of more the hull is taken, so that memory stays bounded.
RANGES_KEPT = 1_000


@dataclass(slots=True)
class Touched:
    """What journal entries say happened to one series."""

    rows: RangeSet = field(default_factory=RangeSet)
    removed: bool = False

    def add(self, entry: JournalEntry) -> None:
        """Take an entry in."""
        if entry.kind == "remove":
            self.removed, self.rows = True, RangeSet()
        elif entry.kind not in ("ask", "fact"):  # these have no rows, and ledgers go over whole
            self.rows |= RangeSet([entry.range])
            if len(self.rows) > RANGES_KEPT:
                self.rows = RangeSet([hull(self.rows)])


def touched_by(entries: Iterable[JournalEntry]) -> dict[SeriesId, Touched]:
    """What the entries touch, by series."""
    found: dict[SeriesId, Touched] = {}
    for entry in entries:
        found.setdefault(entry.series, Touched()).add(entry)
    return found


def whole_days(rows: RangeSet) -> list[TimeRange]:
    """The whole UTC days that the ranges touch."""
    return list(RangeSet(TimeRange(r.since // DAY * DAY, -(-r.until // DAY) * DAY) for r in rows if r))
