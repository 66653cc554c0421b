"""How many candles the ledger of an InfluxDB store vouches for, range by range, so that a bucket that lost some is found out. Pure."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from chandlery.stores.base import Problem
from chandlery.timerange import RangeSet, TimeRange
from chandlery.when import iso

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from chandlery.candle import SeriesId


class Tally(NamedTuple):
    """So many candles open in [since, until). Tallies of a series are disjoint and ascending."""

    since: int
    until: int
    rows: int

    @property
    def range(self) -> TimeRange:
        """Its range."""
        return TimeRange(self.since, self.until)


def after_answer(
    held: Sequence[Tally],
    parts: Iterable[TimeRange],
    before: NDArray[np.int64],
    after: NDArray[np.int64],
    longest: int,
) -> list[Tally]:
    """The tallies that take the place of those in `held` which meet `parts`: adjoining ranges that were answered.

    `before` and `after` are the ascending open times in `parts` around the answer. What a tally vouches for outside of
    `parts` is kept. An answer joins the tally that it adjoins up to a length of `longest` ms.
    """
    changed: list[Tally] = []
    for part in parts:
        low, high = _met(held, part)
        over = held[low:high]
        rows = _count(after, part)
        if len(over) == 1 and over[0].since < part.since and part.until < over[0].until:
            old = over[0]
            changed.append(old._replace(rows=max(0, old.rows - _count(before, part)) + rows))
            continue
        if over and over[0].since < part.since:
            old = over[0]
            inside = _count(before, TimeRange(part.since, old.until))
            changed.append(Tally(old.since, part.since, max(0, old.rows - inside)))
            changed.append(Tally(part.since, part.until, rows))
        elif low and held[low - 1].until == part.since and part.until - held[low - 1].since <= longest:
            old = held[low - 1]
            changed.append(Tally(old.since, part.until, old.rows + rows))
        else:
            changed.append(Tally(part.since, part.until, rows))
        if over and part.until < over[-1].until:
            old = over[-1]
            inside = _count(before, TimeRange(old.since, part.until))
            changed.append(Tally(part.until, old.until, max(0, old.rows - inside)))
    return changed


def put(held: Sequence[Tally], span: TimeRange, changed: Iterable[Tally]) -> tuple[Tally, ...]:
    """The tallies once those of `span`, and of what `changed` says anew, are just `changed`."""
    new = sorted(changed)
    whole = RangeSet([span, *(one.range for one in new)])
    if not whole:
        return tuple(held)
    low, high = _met(held, TimeRange(whole.since, whole.until))
    return (*held[:low], *new, *held[high:])


def outside(held: Sequence[Tally], span: TimeRange) -> list[TimeRange]:
    """What tallies that meet `span` vouch for outside of it."""
    low, high = _met(held, span)
    return list(RangeSet(one.range for one in held[low:high]) - RangeSet([span]))


def short(held: Iterable[Tally], opens: NDArray[np.int64]) -> list[Tally]:
    """Ranges in which fewer candles open than are vouched for, neighbours joined; `rows` is how many lack."""
    found: list[Tally] = []
    for one in held:
        lack = one.rows - _count(opens, one.range)
        if lack <= 0:
            continue
        if found and found[-1].until == one.since:
            found[-1] = Tally(found[-1].since, one.until, found[-1].rows + lack)
        else:
            found.append(one._replace(rows=lack))
    return found


def lost_rows(series: SeriesId, vouched: Iterable[Tally], opens: NDArray[np.int64]) -> list[Problem]:
    """The problems that candles which were written and are not there any more are."""
    return [
        # Without a range: the candles beside them can be read, and these are missing already (see `without_lost`).
        Problem(
            "lost",
            None,
            lost.rows,
            f"{lost.rows:,} candles of {series} that were written are not there any more, between "
            f"{iso(lost.since)} and {iso(lost.until)}",
            "chandlery fetch brings them anew; were they deleted, or an old backup restored?",
        )
        for lost in short(vouched, opens)
    ]


def recounted(held: Sequence[Tally], ranges: RangeSet, opens: NDArray[np.int64]) -> tuple[Tally, ...]:
    """The tallies, those that meet `ranges` with the number of candles that open there."""
    met = {one for part in ranges for one in held[slice(*_met(held, part))]}
    return tuple(one._replace(rows=_count(opens, one.range)) if one in met else one for one in held)


def _met(held: Sequence[Tally], span: TimeRange) -> tuple[int, int]:
    """The tallies held[low:high] share a moment with `span`."""
    low = bisect_right(held, span.since, key=lambda one: one.until)
    return low, max(low, bisect_left(held, span.until, key=lambda one: one.since))


def _count(times: NDArray[np.int64], span: TimeRange) -> int:
    low, high = np.searchsorted(times, (span.since, span.until))
    return int(high - low)
