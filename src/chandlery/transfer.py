"""Bringing what one store keeps of a series into another, through the only door, so that writing twice writes nothing.

Rows go together with what they answer and when that was answered; asks, facts and refused rows follow. Other values in
the target become revisions there. Candles are never deleted: what only the target has stays, for `compare` to tell.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from chandlery.candle import CandlePage, SeriesId, no_candles
from chandlery.compare import bits_of, hull
from chandlery.errors import NoSuchSeries
from chandlery.ingest import Door
from chandlery.ledger import CONFIRMED_AFTER, Answered, Ledger
from chandlery.stores.base import Ask, NoFact, Page, SeriesFact, Store, Written, pieces
from chandlery.timerange import RangeSet, TimeRange
from chandlery.units import carry

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    from numpy.typing import NDArray

#: What the journal and the revisions of the target call the source.
SOURCE = "copy"
#: Candles on their way into the target at once.
_UNDER_WAY = 150_000
#: Claims after which they are let go of, so that the target's ledger stays short, and with it the work on each page.
_CLAIMED_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class Transferred:
    """What a transfer changed in the target, in candles and refused rows."""

    new: int = 0
    same: int = 0
    revised: int = 0
    quarantined: int = 0

    def __add__(self, other: Transferred | Written) -> Transferred:
        return Transferred(
            self.new + other.new,
            self.same + other.same,
            self.revised + other.revised,
            self.quarantined + other.quarantined,
        )


def transfer(
    source: Store,
    target: Store,
    series: SeriesId,
    ranges: RangeSet,
    *,
    door: Door,
    exact: bool = False,
    units: bool = True,
    wait_lock: bool = False,
    advanced: Callable[[int], None] | None = None,
) -> Transferred:
    """Bring the candles and answers of `ranges`, and the series' asks, facts and refused rows, over to `target`.

    `door` is the target's. With `exact` the target's ledger claims nothing in the end that the source's does not: what
    it answers beyond that is let go of, though not the candles. Without, the target keeps what it knows besides, and
    the later of both clocks. What volumes are in is compared and goes along; `units` False: only where the target knows
    nothing of the series. Candles under way are bounded, however long the ranges. `advanced` is told the slots done.
    Raises NoSuchSeries where the source keeps none, SeriesLocked, VolumeUnitChanged, and what reading and writing raise.
    """
    with target.lock(series, wait=wait_lock):
        moving = _Transfer(source, target, series, door, exact=exact, units=units, advanced=advanced)
        return moving.run(ranges)


def everything(store: Store, series: SeriesId, rows: TimeRange) -> RangeSet:
    """All ranges of a series that hold candles, which open in `rows`, or were answered."""
    return RangeSet([rows]) | store.ledger(series).answered_ranges


class _Transfer:
    def __init__(
        self,
        source: Store,
        target: Store,
        series: SeriesId,
        door: Door,
        *,
        exact: bool,
        units: bool,
        advanced: Callable[[int], None] | None,
    ) -> None:
        self.source = source
        self.target = target
        self.series = series
        self.frame = series.frame
        self.door = door
        self.exact = exact
        self.units = units
        self.advanced = advanced or (lambda _: None)
        self.sum = Transferred()
        self._waiting: deque[tuple[int, Future[Written]]] = deque()
        self._rows = 0
        #: Rows that no answer covers: the page that brought them claimed one, which is to be let go of.
        self._claimed: list[TimeRange] = []
        #: What the target is to answer in the end.
        self._answered = RangeSet()

    def run(self, ranges: RangeSet) -> Transferred:
        ledger = self.source.ledger(
            self.series
        )  # before the rows: one that arrives in between is merely early
        there = self._there()
        if self.units or not there.asked:
            carry(self.source, self.target, self.series, exact=self.exact)
        whole = RangeSet(TimeRange(self.frame.floor(r.since), self.frame.ceil(r.until)) for r in ranges)
        try:
            if self._ask(ledger, there):  # the target's clock had been ahead: it let go of answers by itself
                lapsed, there = there.answered_ranges, self._there()
                whole |= ledger.answered_ranges & (lapsed - there.answered_ranges)
            self._say_facts(ledger, there)
            gone = self._let_go(ledger, there) if self.exact else RangeSet()
            whole |= gone & ledger.answered_ranges
            self._answered = (there.answered_ranges - gone) | (ledger.answered_ranges & whole)
            for part in whole:
                for piece in pieces(self.frame, part):
                    self._send_piece(ledger, piece)
                    self.advanced(self.frame.count(piece.since, piece.until))
            self._send_rejected()
        finally:
            try:
                self._settle()
            finally:
                self._unclaim()
        return self.sum

    # -- ledger ------------------------------------------------------------------------------------------------------

    def _ask(self, ledger: Ledger, there: Ledger) -> bool:
        """Bring the asks over; returns whether that sets the target's clock back."""
        moved = (ledger.clock, ledger.settle) != (there.clock, there.settle)
        clock, settle = ledger.clock, ledger.settle
        if not self.exact and (clock, -settle) < (there.clock, -there.settle):
            clock, settle, moved = there.clock, there.settle, False  # an earlier clock would undo its answers
        back = clock < there.clock
        if clock == there.clock and settle > there.settle:  # of two asks at one clock the shorter wait counts
            back = True
            for span in ledger.asked:
                self._put(Ask(self.series, span, clock - 1, settle))
        for span in ledger.asked if moved else ledger.asked - there.asked:
            self._put(Ask(self.series, span, clock, settle))
        return back

    def _say_facts(self, ledger: Ledger, there: Ledger) -> None:
        if self.exact:
            for span in RangeSet(f.range for f in there.facts) - RangeSet(f.range for f in ledger.facts):
                self._put(NoFact(self.series, span))
        for fact in ledger.facts:
            if fact not in there.facts:
                self._put(SeriesFact(self.series, fact))

    def _let_go(self, ledger: Ledger, there: Ledger) -> RangeSet:
        """Let go of what the target answers beyond the source, or is surer of; returns all of that."""
        gone = RangeSet(
            part
            for answer in there.answered
            for part in RangeSet([answer.range])
            - RangeSet(mine.range for mine in _near(ledger, answer.range) if _as_sure(mine, answer))
        )
        self._settle()
        self._forget(gone, there.answered_ranges - gone)
        return gone

    def _unclaim(self) -> None:
        """Let go of what was claimed for rows without an answer."""
        if self._claimed:
            self._settle()
            claimed, self._claimed = RangeSet(self._claimed), []
            self._forget(claimed, self._answered)

    def _forget(self, ranges: RangeSet, kept: RangeSet) -> None:
        """Let go of the target's answers of `ranges`, but for those `kept`: at once where nothing kept is in between."""
        if not ranges:
            return
        found = RangeSet([hull(ranges)]) - kept
        for span in found:
            if ranges & RangeSet([span]):
                self.target.forget(self.series, span)

    def _there(self) -> Ledger:
        """The target's ledger after all that was sent, an empty one while it does not keep the series."""
        self._settle()
        try:
            return self.target.ledger(self.series)
        except NoSuchSeries:
            return Ledger(self.frame)

    # -- rows --------------------------------------------------------------------------------------------------------

    def _send_piece(self, ledger: Ledger, piece: TimeRange) -> None:
        """Send the source's candles of a piece with its answers, then those that no answer covers."""
        candles = self.source.candles(self.series, piece)
        times = candles["time"].to_physical().to_numpy()

        def within(span: TimeRange) -> pl.DataFrame:
            first, last = times.searchsorted((span.since, span.until))
            return candles[int(first) : int(last)]

        answers = [
            replace(answer, range=part)
            for answer in _near(ledger, piece)
            if (part := answer.range.intersect(piece)) is not None
        ]
        for answer in answers:
            at = answer.at
            if at is None:  # confirmed for good, as every answer is that was given so late
                at = max(ledger.clock, self.frame.ceil(answer.range.until) + CONFIRMED_AFTER)
            self._put(Page(CandlePage(self.series, answer.range, within(answer.range), SOURCE, at)))
        rest = RangeSet([piece]) - RangeSet(answer.range for answer in answers)
        left = [(part, rows) for part in rest if not (rows := within(part)).is_empty()]
        if not left:
            return
        there = self._rows_there(TimeRange(left[0][0].since, left[-1][0].until))
        for part, rows in left:
            for span, run in self._runs(part, _others(rows, *there)):
                self._put(Page(CandlePage(self.series, span, run, SOURCE, ledger.clock)))
                self._claimed.append(span)
                if len(self._claimed) == _CLAIMED_AT_ONCE:
                    self._unclaim()

    def _runs(self, part: TimeRange, rows: pl.DataFrame) -> Iterator[tuple[TimeRange, pl.DataFrame]]:
        """The rows in runs without a slot between them.

        Each run is claimed as answered for as long as it takes to let go of it: no slot without a row may be in it.
        """
        import numpy as np

        if rows.is_empty():
            return
        times = rows["time"].to_physical().to_numpy()
        edges = [0, *(np.flatnonzero(np.diff(self.frame.slots(times)) > 1) + 1).tolist(), len(times)]
        for first, last in itertools.pairwise(edges):
            begin = max(part.since, self.frame.floor(int(times[first])))
            end = min(part.until, self.frame.next(self.frame.floor(int(times[last - 1]))))
            yield TimeRange(begin, end), rows[first:last]

    def _rows_there(self, span: TimeRange) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Open times and values of the target's rows."""
        try:
            return bits_of(self.target.candles(self.series, span))
        except NoSuchSeries:
            return bits_of(no_candles())

    def _send_rejected(self) -> None:
        """Send refused rows that the target has not, each under the time at which it came."""
        refused = self.source.quarantine(self.series)
        if not refused:
            return
        self._settle()
        try:
            known = {q.row for q in self.target.quarantine(self.series)}
        except NoSuchSeries:
            known = set()
        fresh = [one for one in refused if one.row not in known]
        for (at, source), found in itertools.groupby(fresh, key=lambda one: (one.at, one.source)):
            rows = [one.row for one in found]
            moment = next((row.open for row in rows if row.open is not None), at)
            nothing = TimeRange(moment, moment)
            self._put(Page(CandlePage(self.series, nothing, no_candles(), source, at, rejected=rows)))

    # -- the door ----------------------------------------------------------------------------------------------------

    def _put(self, entry: Ask | SeriesFact | NoFact | Page) -> None:
        rows = entry.page.candles.height if isinstance(entry, Page) else 0
        while self._waiting and self._rows + rows > _UNDER_WAY:
            self._take_one()
        self._waiting.append((rows, self.door.submit(entry)))
        self._rows += rows

    def _take_one(self) -> None:
        rows, done = self._waiting.popleft()
        self._rows -= rows
        self.sum += done.result()

    def _settle(self) -> None:
        """Wait until everything sent is committed; raises the first failure, after all of it is done with."""
        failed: BaseException | None = None
        while self._waiting:
            try:
                self._take_one()
            except Exception as error:  # noqa: BLE001 - raised below
                failed = failed or error
        if failed is not None:
            raise failed


def _near(ledger: Ledger, span: TimeRange) -> tuple[Answered, ...]:
    """The answers that overlap or touch `span`."""
    low = bisect_left(ledger.answered, span.since, key=lambda a: a.range.until)
    high = bisect_right(ledger.answered, span.until, key=lambda a: a.range.since)
    return ledger.answered[low:high]


def _others(rows: pl.DataFrame, times: NDArray[np.int64], values: NDArray[np.int64]) -> pl.DataFrame:
    """Those of the rows that are not among those times with those values."""
    import numpy as np
    import polars as pl

    mine, my_values = bits_of(rows)
    first, last = times.searchsorted((mine[0], mine[-1] + 1))
    _, here, there = np.intersect1d(mine, times[first:last], assume_unique=True, return_indices=True)
    equal = here[(my_values[:, here] == values[:, first:last][:, there]).all(axis=0)]
    keep = np.ones(len(mine), np.bool_)
    keep[equal] = False
    return rows.filter(pl.Series(keep))


def _as_sure(mine: Answered, theirs: Answered) -> bool:
    """Whether the source's answer was given at least as late as the target's."""
    return mine.at is None or (theirs.at is not None and mine.at >= theirs.at)
