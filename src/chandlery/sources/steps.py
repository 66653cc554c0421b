"""The steps of a walk: ask for a page that joins the one before, confirm its holes, and say what it proves."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from chandlery.candle import CandlePage, Rejected, SeriesId
from chandlery.errors import BadAnswer
from chandlery.sources.asking import SAME_DEFECTS, Anchor, Asker, Rows, joined, open_at, place_of, values_at
from chandlery.sources.edges import Edges
from chandlery.sources.found import Found
from chandlery.sources.holes import LARGE, LOOKS_LARGE, Holes, Usual, holes_in
from chandlery.sources.retry import backoff
from chandlery.timeframe import MINUTE
from chandlery.timerange import TimeRange
from chandlery.validate import rows_between
from chandlery.when import iso

if TYPE_CHECKING:
    import polars as pl

    from chandlery.sources.base import Beginning, Market

#: Some exchanges give the candle that has just closed later than the one in progress: so long after its end its lack is
#: no sign of anything as long as nothing but the candle in progress follows.
LATE = MINUTE
#: Rows before where an answer is to begin that are no mere overlap.
BACK = 4


class Steps:
    """What one walk over `span` of one series asks and says. `done` is where what was said so far ends.

    `page` says how many candles to ask for at once, by the open time of the first of them.
    """

    def __init__(
        self,
        asker: Asker,
        edges: Edges,
        series: SeriesId,
        span: TimeRange,
        *,
        market: Market,
        beginning: Callable[[], Awaitable[Beginning | None]],
        now: int,
        page: Callable[[int], int],
        source: str,
        usual: Usual | None = None,
        found: Found | None = None,
    ) -> None:
        self.asker = asker
        self.edges = edges
        self.series = series
        self.frame = series.frame
        self.span = span
        self.market = market
        self.beginning = beginning
        self.now = now
        self.page = page
        self.source = source
        self.usual = usual or Usual()
        self.found = found or Found(now)
        self.done = span.since
        self._searching = False  # whether this is the one walk that searches
        self._doubtful = False  # what is left may yet come
        self._reaches_back = (
            False  # learnt: answers go back beyond where they are to begin, and end where asked
        )
        self._last_rows: set[int] = set()  # where answers ended
        self._false_ends = 0
        self._dice = random.Random()

    async def _ask(
        self, since: int, anchor: Anchor | None, begins_with: int | None = None, *, room: int = 0
    ) -> Rows:
        unplaced = 0

        def believe(rows: Rows) -> str:
            nonlocal unplaced
            if begins_with is not None and not any(row.open == begins_with for row in rows.rejected):
                return f"the refused row of {iso(begins_with)} is not in the answer"
            if rows.strays and not rows.rejected and self._holes(rows):
                # Refused rows were seen to come again and again; what is merely in no order is asked for again here.
                unplaced += 1
                if unplaced < SAME_DEFECTS:
                    return f"{rows.strays} rows are not in their places"
            return ""

        # Two more than the span needs: the anchor, and a candle after the last one to confirm it.
        need = self.frame.count(since, self.span.until) + 1
        rows = await self.asker.rows(
            self.series,
            self.series.timeframe,
            max(0, since),
            room or max(2, min(self.page(since), need)),
            now=self.now,
            grid=self.frame,
            anchor=anchor,
            believe=believe,
            until=self.span.until,
        )
        self._note(rows, since)
        return rows

    def _note(self, rows: Rows, since: int) -> None:
        """Learn from an answer whether the exchange fills its answers with rows from before where they are to begin.

        One that gives the same page whatever is asked for does not, though it looks so: ends must differ.
        """
        if rows.last is None:
            return
        self._last_rows.add(rows.last)
        if (rows.first or 0) < self.frame.add(since, -BACK) and len(self._last_rows) > 1:
            self._reaches_back = True

    def _holes(self, rows: Rows, since: int | None = None) -> Holes:
        """The holes of an answer in what it adds to what was said."""
        last = min(rows.last or 0, self.span.until)
        return holes_in(self.frame, rows.good, rows.rejected, self.done if since is None else since, last)

    async def _confirmed(self, rows: Rows) -> Rows:
        """An answer whose holes may be believed: usual ones, or ones that two answers show."""
        if not self.usual.known and self._holes(rows):
            # Of many walks over one series one finds out what is usual there, and the others wait for it.
            async with self.usual.first:
                if not self.usual.known:
                    return await self._looked_at(rows)
        return await self._looked_at(rows)

    async def _looked_at(self, rows: Rows) -> Rows:
        """An answer with as many looks at its holes as they need."""
        holes = self._holes(rows)
        looks = 0 if rows.strays else self.usual.looks(holes)
        looked = looks > 0
        patience = self.asker.patience()
        while holes and looks and not rows.strays:
            start = self._candle_before(rows, holes.first[0])
            anchor = None if start is None else self._anchor_of(rows, start)
            other = await self._ask(rows.since if start is None else start, anchor, room=rows.limit)
            since = max(self.done, other.since if start is None else start)
            same = self._agree(rows, other, since)
            if other.last is not None and other.last > since:
                rows = joined(rows, other, self.frame)
                holes = self._holes(rows)
            if same:
                looks -= 1
            if holes and looks and not same:
                await patience.failed(BadAnswer(f"{self.series}: answers disagree on what is absent"))
            elif holes and looks == LOOKS_LARGE - 1:
                await self._pause(1)  # once: what goes wrong for a moment should not be all that is looked at
        self.usual.believed(holes, confirmed=looked)
        if holes.longest >= LARGE and not (rows.strays or rows.rejected):
            self._note_holes(rows, holes)
        return rows

    def _note_holes(self, rows: Rows, holes: Holes) -> None:
        """Keep the long holes of an answer for the walks that begin in them."""
        for slot, length in zip(holes.first, holes.length, strict=True):
            index = place_of(rows.good, self.frame.open_of(slot))
            if length >= LARGE and 0 < index < len(rows.good):
                self.found.nothing_between(open_at(rows.good, index - 1), open_at(rows.good, index))

    def _agree(self, rows: Rows, other: Rows, since: int) -> bool:
        """Whether both answers have the same holes from `since` to where the shorter of them ends."""
        last = min(rows.last or 0, other.last or 0, self.span.until)
        if last <= since:
            return False
        one, two = (holes_in(self.frame, r.good, r.rejected, since, last) for r in (rows, other))
        return one == two

    def _candle_before(self, rows: Rows, slot: int) -> int | None:
        """Open time of the last good candle before a slot."""
        index = place_of(rows.good, self.frame.open_of(slot))
        return open_at(rows.good, index - 1) if index else None

    async def _pause(self, turn: int) -> None:
        await self.asker.clock.sleep(backoff(turn, self._dice))

    def _anchor_of(self, rows: Rows, moment: int) -> Anchor:
        anchor = Anchor(moment)
        anchor.votes[values_at(rows.good, place_of(rows.good, moment))] += 1
        return anchor

    def _pages(self, rows: Rows) -> Iterator[CandlePage]:
        """What an answer says: everything up to its last candle, which is held back.

        Where rows cannot be placed any hole may be theirs, so nothing is said of the holes.
        """
        last = rows.last
        if last is None or last <= self.done:
            return
        before = open_at(rows.good, -2) if len(rows.good) > 1 else self.done - 1
        until = min(self._proven(before, last), self.span.until)
        holes = self._holes(rows) if rows.strays else Holes()
        for slot, length in zip(holes.first, holes.length, strict=True):
            hole = TimeRange(self.frame.open_of(slot), self.frame.open_of(slot + length))
            if hole.since > self.done:
                yield self._said(hole.since, rows, "answer")
                rows.rejected = tuple(row for row in rows.rejected if row.open is not None)
            self.done = hole.until
        if until > self.done:
            yield self._said(until, rows, "answer")

    def _proven(self, before: int, following: int) -> int:
        """Up to where the slots between two neighbouring candles may be called absent, because the later one proves it."""
        if following < self.frame.floor(self.now) or before >= self.frame.floor(self.now):
            return following
        doubted = max(self.frame.next(self.frame.floor(before)), self.frame.floor(self.now - LATE))
        self._doubtful = doubted < min(following, self.span.until)
        return min(following, doubted) if self._doubtful else following

    def _said(self, until: int, rows: Rows, evidence: str) -> CandlePage:
        answered = TimeRange(self.done, until)
        rejected: list[Rejected] = [
            row for row in rows.rejected if row.open is None or self.frame.floor(row.open) in answered
        ]
        self.done = until
        return CandlePage(
            series=self.series,
            answered=answered,
            candles=_cut(rows.good, answered),
            source=self.source,
            at=self.now,
            evidence=evidence,
            rejected=tuple(rejected),
        )

    def _last_bad(self, rows: Rows) -> int:
        """Open time of the last refused row, -1 for none."""
        return max((row.open for row in rows.rejected if row.open is not None), default=-1)

    def _bad_until(self, rows: Rows) -> int:
        """Where the refused rows end that come after all good ones; -1 where there are none."""
        worst = self._last_bad(rows)
        return self.frame.next(self.frame.floor(worst)) if worst > (rows.last or -1) else -1

    async def _ask_from_bad(self, worst: int) -> Rows:
        return await self._ask(self.frame.floor(worst), None, begins_with=worst)


def with_tail(rows: Rows) -> Rows:
    """The answer with its rows without a place among the refused ones, for the record."""
    return replace(rows, rejected=rows.rejected + rows.tail)


def _cut(frame: pl.DataFrame, part: TimeRange) -> pl.DataFrame:
    """The rows of an ascending frame that open in `part`."""
    return rows_between(frame, place_of(frame, part.since), place_of(frame, part.until))
