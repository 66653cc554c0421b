"""Two stores side by side: daily sums of their candles, the days that differ, and where their ledgers disagree.

The read side of mirrors, `diff` and `copy`. Candles are read piece by piece, so that memory does not grow with a
history. A checksum is over the exact bits of times and values, so -0.0 is not 0.0.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from chandlery.candle import VALUES, SeriesId
from chandlery.errors import DataPipelineError, NoSuchSeries
from chandlery.ledger import FACTS, Ledger, State, aligned, regions
from chandlery.report import error_json, series_json
from chandlery.stores.base import SLOTS_AT_ONCE, Store, pieces
from chandlery.timeframe import DAY
from chandlery.timerange import RangeSet, TimeRange
from chandlery.when import iso

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    from numpy.typing import NDArray

#: Open times of each kind that the difference of a day lists at most.
LISTED = 10
#: What is said of a slot that holds no row: of those left over nobody knows why.
_KNOWN = (State.ABSENT, *FACTS)


@dataclass(frozen=True, slots=True)
class DaySum:
    """The candles of a series that open on one UTC day: how many, and a checksum over them.

    `checksum` is BLAKE2b with 8 bytes, in hexadecimal, over the open times (epoch ms, int64) and then the columns open,
    high, low, close and volume (float64), all little-endian and in the order of time.
    """

    day: int  # its first millisecond
    candles: int
    checksum: str


@dataclass(frozen=True, slots=True)
class DayDifference:
    """A UTC day on which two stores differ: candles on both sides, and what differs by open time (the first so many)."""

    day: int
    a: int
    b: int
    only_a: int
    only_b: int
    changed: int  # candles that both have, with other values
    first_only_a: tuple[int, ...] = ()
    first_only_b: tuple[int, ...] = ()
    first_changed: tuple[int, ...] = ()

    @property
    def range(self) -> TimeRange:
        """The day."""
        return TimeRange(self.day, self.day + DAY)

    def as_json(self) -> dict[str, Any]:
        """The day's part of `diff --json`."""
        return {
            "day": iso(self.day)[:10],
            "a": self.a,
            "b": self.b,
            "only_a": [iso(opened) for opened in self.first_only_a],
            "only_b": [iso(opened) for opened in self.first_only_b],
            "changed": [iso(opened) for opened in self.first_changed],
        }


#: What a ledger says of slots that hold no row. Unknown: missing, pending or never asked for.
Said = Literal["absent", "before_listing", "after_end", "out_of_reach", "quarantined", "unknown"]


@dataclass(frozen=True, slots=True)
class AnswerDifference:
    """Slots without a candle in either store of which the ledgers say different things."""

    range: TimeRange
    candles: int
    a: Said
    b: Said

    def as_json(self) -> dict[str, Any]:
        """Its part of `diff --json`."""
        return {
            "from": iso(self.range.since),
            "to": iso(self.range.until),
            "candles": self.candles,
            "a": self.a,
            "b": self.b,
        }


@dataclass(slots=True)
class SeriesDifference:
    """How one series differs between two stores; equal if there are neither days nor answers nor an error."""

    series: SeriesId
    in_a: bool = True
    in_b: bool = True
    days: list[DayDifference] = field(default_factory=list)
    answers: list[AnswerDifference] = field(default_factory=list)
    error: DataPipelineError | None = None

    @property
    def equal(self) -> bool:
        """Whether both have the same candles and say the same of every slot without one."""
        return self.in_a and self.in_b and not (self.days or self.answers or self.error)

    @property
    def only_a(self) -> int:
        """Candles that only the first store has."""
        return sum(day.only_a for day in self.days)

    @property
    def only_b(self) -> int:
        """Candles that only the second store has."""
        return sum(day.only_b for day in self.days)

    @property
    def changed(self) -> int:
        """Candles that both have, with other values."""
        return sum(day.changed for day in self.days)

    @property
    def ranges(self) -> RangeSet:
        """Everything that differs: whole days, and the slots of which other things are said."""
        return RangeSet([day.range for day in self.days] + [answer.range for answer in self.answers])

    def as_json(self) -> dict[str, Any]:
        """The series' part of `diff --json`."""
        return {
            **series_json(self.series),
            "only_a": self.only_a,
            "only_b": self.only_b,
            "changed": self.changed,
            "days": [day.as_json() for day in self.days],
            "answers": [answer.as_json() for answer in self.answers],
            "error": error_json(self.error),
        }


# -- candles -------------------------------------------------------------------------------------------------------


def daily_sums(store: Store, series: SeriesId, span: TimeRange) -> Iterator[DaySum]:
    """The sums of every UTC day on which candles of `span` open, in order.

    A series that is not kept has none. Raises StoreCorrupt and what else reading the store does.
    """
    for piece in _by_days(series, span):
        try:
            frame = store.candles(series, piece)
        except NoSuchSeries:
            return
        yield from _sums(frame)


def differences(
    a: Store, b: Store, series: SeriesId, span: TimeRange, *, listed: int = LISTED
) -> Iterator[DayDifference]:
    """The UTC days of `span` on which the candles of two stores differ, in order."""
    sums_a, sums_b = daily_sums(a, series, span), daily_sums(b, series, span)
    one, other = next(sums_a, None), next(sums_b, None)
    while one is not None or other is not None:
        day = min(s.day for s in (one, other) if s is not None)
        here = one if one is not None and one.day == day else None
        there = other if other is not None and other.day == day else None
        if here != there:
            within = TimeRange(day, day + DAY).intersect(span)
            assert within is not None
            found = _day_difference(a, b, series, within, day, listed)
            if found is not None:
                yield found
        one = next(sums_a, None) if here is not None else one
        other = next(sums_b, None) if there is not None else other


def _by_days(series: SeriesId, span: TimeRange) -> Iterator[TimeRange]:
    """`span` in pieces that hold whole days and about SLOTS_AT_ONCE slots at most."""
    step = max(DAY, SLOTS_AT_ONCE * series.frame.nominal_ms // DAY * DAY)
    since = span.since
    while since < span.until:
        until = min(span.until, since // DAY * DAY + step)
        yield TimeRange(since, until)
        since = until


def _sums(frame: pl.DataFrame) -> Iterator[DaySum]:
    import numpy as np

    times, values = bits_of(frame)
    if not len(times):
        return
    days = times // DAY
    edges = [0, *(np.flatnonzero(np.diff(days)) + 1).tolist(), len(times)]
    for first, last in itertools.pairwise(edges):
        digest = hashlib.blake2b(times[first:last].tobytes(), digest_size=8)
        digest.update(values[:, first:last].tobytes())
        yield DaySum(int(days[first]) * DAY, last - first, digest.hexdigest())


def bits_of(frame: pl.DataFrame) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Open times (n) and the bits of the values (5, n), little-endian."""
    import numpy as np

    times = frame["time"].to_physical().to_numpy().astype("<i8", copy=False)
    values = np.array([frame[name].to_numpy() for name in VALUES], dtype="<f8")
    return times, values.view("<i8")


def _day_difference(
    a: Store, b: Store, series: SeriesId, within: TimeRange, day: int, listed: int
) -> DayDifference | None:
    """What differs within a day, by its candles; None if they are equal by now."""
    import numpy as np

    times_a, values_a = bits_of(_candles(a, series, within))
    times_b, values_b = bits_of(_candles(b, series, within))
    both, in_a, in_b = np.intersect1d(times_a, times_b, assume_unique=True, return_indices=True)
    changed = both[(values_a[:, in_a] != values_b[:, in_b]).any(axis=0)]
    only_a = np.setdiff1d(times_a, both, assume_unique=True)
    only_b = np.setdiff1d(times_b, both, assume_unique=True)
    if not (len(changed) or len(only_a) or len(only_b)):
        return None
    firsts = [tuple(found[:listed].tolist()) for found in (only_a, only_b, changed)]
    return DayDifference(
        day, len(times_a), len(times_b), len(only_a), len(only_b), len(changed), *firsts
    )  # fmt: skip


def _candles(store: Store, series: SeriesId, span: TimeRange) -> pl.DataFrame:
    from chandlery.candle import no_candles

    try:
        return store.candles(series, span)
    except NoSuchSeries:
        return no_candles()


# -- ledgers -------------------------------------------------------------------------------------------------------


def answer_differences(
    a: Store, b: Store, series: SeriesId, span: TimeRange | None = None
) -> Iterator[AnswerDifference]:
    """Where both stores hold no candle and one knows something of the slots that the other does not say.

    Missing, pending and never asked for are all one here: nobody knows. Rows are read only where the ledgers differ.
    """
    one, other = _ledger(a, series), _ledger(b, series)
    known = [ledger.asked | ledger.answered_ranges for ledger in (one, other)]
    wanted = RangeSet(aligned(series.frame, part) for part in known[0] | known[1])
    if span is not None:
        wanted &= RangeSet([aligned(series.frame, span)])
    refused = [{series.frame.floor(opened) for opened in ledger.quarantined} for ledger in (one, other)]
    for said_a, here in _said(one, wanted):
        for said_b, there in _said(other, wanted):
            if said_a != said_b:
                for part in here & there:
                    left = _without_rows(a, b, series, part, refused[0] | refused[1])
                    if left:
                        yield AnswerDifference(part, left, said_a, said_b)
    for opened in sorted(slot for slot in refused[0] ^ refused[1] if slot in wanted):
        slot = TimeRange(opened, series.frame.next(opened))
        if _without_rows(a, b, series, slot, set()):
            names: tuple[Said, Said] = ("quarantined", "unknown")
            yield AnswerDifference(slot, 1, *(names if opened in refused[0] else names[::-1]))


def _said(ledger: Ledger, wanted: RangeSet) -> list[tuple[Said, RangeSet]]:
    """`wanted` cut by what the ledger says of slots without a row."""
    found: dict[Said, RangeSet] = {}
    for state, ranges in regions(ledger, wanted):
        name: Said = state.value if state in _KNOWN else "unknown"  # type: ignore[assignment]
        found[name] = found.get(name, RangeSet()) | ranges
    return [(name, ranges) for name, ranges in found.items() if ranges]


def _without_rows(a: Store, b: Store, series: SeriesId, span: TimeRange, refused: set[int]) -> int:
    """How many slots of `span` hold a row in neither store and are not refused."""
    import numpy as np

    frame, left = series.frame, 0
    for piece in pieces(frame, span):
        rows = np.union1d(_opens(a, series, piece), _opens(b, series, piece))
        rows = rows[frame.aligned(rows)]
        taken = {slot for slot in refused if slot in piece} - set(rows.tolist()) if refused else ()
        left += frame.count(piece.since, piece.until) - len(rows) - len(taken)
    return left


def _opens(store: Store, series: SeriesId, span: TimeRange) -> NDArray[np.int64]:
    import numpy as np

    try:
        return store.opens(series, span)
    except NoSuchSeries:
        return np.empty(0, np.int64)


def _ledger(store: Store, series: SeriesId) -> Ledger:
    try:
        return store.ledger(series)
    except NoSuchSeries:
        return Ledger(series.frame)


# -- both ----------------------------------------------------------------------------------------------------------


def whole_spans(*stores: Store) -> dict[SeriesId, TimeRange]:
    """Every series that one of the stores keeps, in order, with a range that holds all of its candles in each."""
    found: dict[SeriesId, list[TimeRange]] = {}
    for store in stores:
        for one in store.series():
            held = found.setdefault(one.series, [])
            if one.first is not None and one.last is not None:
                held.append(TimeRange(one.first, one.last + 1))
    order = sorted(found, key=lambda s: (s.exchange, s.symbol, s.frame.nominal_ms, s.timeframe, s.kind))
    return {series: hull(found[series]) for series in order}


def hull(ranges: Iterable[TimeRange]) -> TimeRange:
    """The smallest range that holds them all; an empty one if there are none."""
    whole = RangeSet(ranges)
    return TimeRange(whole.since, whole.until) if whole else TimeRange(0, 0)


def compare_series(
    a: Store,
    b: Store,
    series: SeriesId,
    spans: Sequence[TimeRange],
    *,
    answers: bool = True,
    within: TimeRange | None = None,
    listed: int = LISTED,
) -> SeriesDifference:
    """How a series differs: its candles in `spans`, and with `answers` its whole ledgers (or `within` a range).

    A store's failure is told in the result.
    """
    found = SeriesDifference(series)
    try:
        found.in_a, found.in_b = a.knows(series), b.knows(series)
        for span in spans:
            found.days += differences(a, b, series, span, listed=listed)
        if answers:
            found.answers += answer_differences(a, b, series, within)
    except DataPipelineError as error:
        found.error = error
    return found
