"""The series that a mirror could not take, while it follows all others: each has a mark of its own in the mirror.

A series' mark is the number of the journal entry after which it is to be followed again, plus one. One more mark says that
there are any, so that a mirror which lacks nothing is asked one question and not one for each series.
"""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import quote

from chandlery.candle import SeriesId
from chandlery.stores.base import JournalEntry, Store


class Behind:
    """What one mirror of `primary` has not taken; in `since`, the entry after which to follow each series again."""

    def __init__(self, primary: Store) -> None:
        self.primary = primary
        self.since: dict[SeriesId, int] = {}

    def load(self, target: Store) -> None:
        """Add what the mirror remembers, of this run and of earlier ones."""
        if not target.mark(self._any):
            return
        for series in {one.series for store in (self.primary, target) for one in store.series()}:
            mark = target.mark(self._name(series))
            if mark:
                self.since[series] = min(mark - 1, self.since.get(series, mark))
        if not self.since:  # what was behind is kept by neither any more
            target.set_mark(self._any, 0)

    def add(self, target: Store, series: Iterable[SeriesId], after: int) -> None:
        """Remember that entries of these were not taken, which come after that number."""
        fresh = [one for one in series if after < self.since.get(one, after + 1)]
        if fresh:
            target.set_mark(self._any, 1)
        for one in fresh:
            before = target.mark(self._name(one))  # another follower's
            self.since[one] = min(after, before - 1) if before else after
            target.set_mark(self._name(one), self.since[one] + 1)

    def start_anew(self, target: Store) -> None:
        """The primary has another past: what is behind is so from its beginning."""
        self.load(target)
        known, self.since = list(self.since), {}
        self.add(target, known, 0)

    def clear(self, target: Store, series: Iterable[SeriesId]) -> None:
        """These are as far as the mirror."""
        done = [one for one in series if self.since.pop(one, None) is not None]
        for one in done:
            target.set_mark(self._name(one), 0)
        if done and not self.since:
            target.set_mark(self._any, 0)

    def entries(self, until: int) -> list[JournalEntry]:
        """The journal's entries up to that number that were not taken."""
        if not self.since:
            return []
        found = []
        for entry in self.primary.journal(min(self.since.values())):
            if entry.seq > until:
                break
            if entry.series in self.since and entry.seq > self.since[entry.series]:
                found.append(entry)
        return found

    @property
    def _any(self) -> str:
        return f"{self.primary.identity} behind"

    def _name(self, series: SeriesId) -> str:
        parts = (series.exchange, series.symbol, series.timeframe, series.kind)
        return f"{self.primary.identity} {'/'.join(quote(part, safe='') for part in parts)} behind"
