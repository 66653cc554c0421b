"""Candles of a page against the candles that are there: what is new, the same, or changed. Arrays, not rows. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from chandlery.candle import VALUES, Rejected, SeriesId
from chandlery.stores.base import Page, Revision
from chandlery.timerange import TimeRange

if TYPE_CHECKING:
    import polars as pl
    from numpy.typing import NDArray


@dataclass(slots=True)
class Rows:
    """Candles of one series by open time: `times` (n) ascending, `values` (5, n)."""

    times: NDArray[np.int64]
    values: NDArray[np.float64]

    @classmethod
    def of(cls, frame: pl.DataFrame) -> Rows:
        """A frame of candle.SCHEMA as arrays."""
        values = np.array([frame[name].to_numpy() for name in VALUES]).reshape(5, frame.height)
        return cls(frame["time"].to_physical().to_numpy(), values)

    @classmethod
    def latest(cls, parts: Sequence[Rows]) -> Rows:
        """All parts as one; of two rows with one open time the later part's holds."""
        times = np.concatenate([p.times for p in parts])
        values = np.concatenate([p.values for p in parts], axis=1)
        # The last of equal times is the first one from behind.
        kept, first = np.unique(times[::-1], return_index=True)
        return cls(kept, values[:, len(times) - 1 - first])

    def at(self, times: NDArray[np.int64]) -> Rows:
        """Those that open at the given times, as far as they are there."""
        kept = np.isin(self.times, times, assume_unique=True)
        return Rows(self.times[kept], self.values[:, kept])

    def equals(self, other: Rows) -> bool:
        """Whether both are the same candles, bit for bit."""
        mine, theirs = (np.ascontiguousarray(rows.values).view(np.int64) for rows in (self, other))
        return np.array_equal(self.times, other.times) and np.array_equal(mine, theirs)

    def within(self, span: TimeRange) -> Rows:
        """Those that open in `span`, without copying."""
        low, high = np.searchsorted(self.times, (span.since, span.until))
        return Rows(self.times[low:high], self.values[:, low:high])


@dataclass(slots=True)
class Change:
    """What one page changes: masks over its rows, and the old values of the revised ones."""

    series: SeriesId
    rows: Rows
    new: NDArray[np.bool_]
    revised: NDArray[np.bool_]
    again: NDArray[np.bool_]  # equal rows that nobody vouches for yet: they are written once more
    same: int
    known: NDArray[np.int64]  # open times that were there in the range that it answers
    revisions: list[Revision] = field(default_factory=list)
    refused: list[Rejected] = field(default_factory=list)  # rows that the server would not take

    @property
    def sent(self) -> NDArray[np.bool_]:
        """The rows that are written."""
        return self.new | self.revised | self.again


def weighed(entry: Page, rows: Rows, known: Rows) -> Change:
    """A page's rows against the rows that are there in its range."""
    at = np.searchsorted(known.times, rows.times)
    inside = np.minimum(at, max(len(known.times) - 1, 0))
    old = known.values[:, inside] if len(known.times) else np.full_like(rows.values, np.nan)
    met = (known.times[inside] == rows.times) if len(known.times) else np.zeros(len(rows.times), dtype=bool)
    equal = (
        np.ascontiguousarray(old).view(np.int64) == np.ascontiguousarray(rows.values).view(np.int64)
    ).all(axis=0)
    revised = met & ~equal
    page = entry.page
    revisions = [
        Revision(
            page.series,
            int(rows.times[i]),
            tuple(old[:, i].tolist()),
            tuple(rows.values[:, i].tolist()),
            page.at,
            page.source,
        )
        for i in np.flatnonzero(revised)
    ]
    same = met & equal
    return Change(page.series, rows, ~met, revised, same, int(same.sum()), known.times, revisions)


def take_out(change: Change, lost: Mapping[int, Rejected]) -> None:
    """Count the rows that the server refused as refused, not as stored."""
    for i in np.flatnonzero(change.sent) if lost else ():
        refused = lost.get(int(change.rows.times[i]))
        if refused is not None:
            change.new[i] = change.revised[i] = change.again[i] = False
            change.refused.append(refused)
            change.revisions = [r for r in change.revisions if r.open != refused.open]
