"""The walk over a range: from the last candle that arrived, never by the exchange's promises.

Each answer must begin with the candle that the one before ended with; so the two are known to touch, a hole between
two candles of one answer is a hole of the exchange, and `since` was not ignored. The last candle of an answer is held
back until another answer confirms it, and so are holes that are unusual (see `holes`). Where an answer brings nothing
new, a candle further on is looked for: only where there is one are the slots before it absent.
"""

from __future__ import annotations

import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from chandlery.candle import CandlePage, Rejected, SeriesId
from chandlery.errors import BadAnswer
from chandlery.ledger import Fact, State
from chandlery.sources.asking import (
    AGREE_AT_END,
    SAME_DEFECTS,
    Anchor,
    Asker,
    Rows,
    has_candle,
    joined,
    open_at,
    place_of,
)
from chandlery.sources.edges import Edges
from chandlery.sources.holes import LOOKS_LARGE, Holes, Usual, holes_in
from chandlery.sources.retry import backoff
from chandlery.timeframe import DAY, MINUTE
from chandlery.timerange import TimeRange
from chandlery.validate import open_times
from chandlery.when import iso

if TYPE_CHECKING:
    import polars as pl

    from chandlery.sources.base import Beginning, Market

log = logging.getLogger("chandlery.sources.walk")

#: Further answers that must show nothing behind a candle before the slots there are called absent.
LOOKS_ACROSS = 3
#: Rounds of looks, each of two or three different ones, before a market that no longer trades is said to have ended.
ROUNDS_AT_END = 2
#: How often an end may prove to be none before the answers are called contradictory.
FALSE_ENDS = 6
#: Answers with nothing new that count as an end even if none of them begins where it should.
ENDS_ANYHOW = 8
#: Times that the first candle is looked for before the exchange is believed to have none.
BEGINNINGS = 3
#: Some exchanges give the candle that has just closed later than the one in progress: so long after its end its lack is
#: no sign of anything as long as nothing but the candle in progress follows.
LATE = MINUTE
#: Rows before where an answer is to begin that are no mere overlap.
BACK = 4


class Walk:
    """One walk over `span` of one series. `stop` is `span.until`; `done` is where what was said so far ends.

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
        self.done = span.since
        self._doubtful = False  # what is left may yet come
        self._reaches_back = (
            False  # learnt: answers go back beyond where they are to begin, and end where asked
        )
        self._last_rows: set[int] = set()  # where answers ended
        self._false_ends = 0
        self._dice = random.Random()

    async def run(self) -> AsyncIterator[CandlePage | Fact]:
        """Everything that may be said of the span, upwards."""
        if not self.span:
            return
        rows = await self._ask(self.frame.add(self.span.since, -1), None)
        anchor = self._first_anchor(rows)
        if anchor is None and not self._begins_bad(rows):
            facts, anchor = await self._beginning()
            for fact in facts:
                yield fact
            if self.done >= self.span.until:
                return
            rows = await self._ask(anchor.open, anchor)
        while True:
            rows = await self._confirmed(rows)
            for page in self._pages(rows):
                yield page
            if self.done >= self.span.until or self._doubtful:
                return
            last = rows.last
            if last is not None and (anchor is None or last > anchor.open):
                anchor = self._anchor_of(rows, last)
            elif self._bad_until(rows) > self.done:
                # Nothing but refused rows: they are handed on, and the next answer must begin with the last of them.
                worst = self._last_bad(rows)
                yield self._said(min(self._bad_until(rows), self.span.until), rows, "rows refused")
                if self.done >= self.span.until:
                    return
                rows = await self._ask_from_bad(worst)
                continue
            elif anchor is None:
                raise BadAnswer(
                    f"{self.series}: nothing follows the refused row of {iso(self._last_bad(rows))}"
                )
            elif anchor.open >= self.frame.add(self.span.until, -1) and anchor.seen >= AGREE_AT_END:
                # Nothing can follow inside the span; answers agree on its last candle.
                yield self._said(self.span.until, rows, "the last candle of the range, confirmed")
                return
            elif self._ended_with(anchor):
                going, said = await self._across(anchor, rows)
                for one in said:
                    yield one
                if self.done >= self.span.until or self._doubtful:
                    return
                if going is None:
                    self._check_end(anchor)
                    return
                anchor = going
            elif anchor.alone > 1:
                await self._pause(anchor.alone)
            rows = await self._ask(anchor.open, anchor)

    def _ended_with(self, anchor: Anchor) -> bool:
        """Whether so many answers ended with the anchor that what follows must be looked for elsewhere."""
        reaching = self._reaches_back and anchor.back >= AGREE_AT_END
        return anchor.alone >= AGREE_AT_END or anchor.seen >= ENDS_ANYHOW or reaching

    # -- the beginning ---------------------------------------------------------------------------------------------

    def _first_anchor(self, rows: Rows) -> Anchor | None:
        """The candle before the span, or the span's first one; None where the first answer holds neither."""
        before = self.frame.add(self.span.since, -1)
        for moment in (before, self.span.since):
            if has_candle(rows.good, moment):
                return self._anchor_of(rows, moment)
        return None

    def _begins_bad(self, rows: Rows) -> bool:
        """Whether the row before the span, or its first one, came and was refused."""
        first = (self.frame.add(self.span.since, -1), self.span.since)
        return any(row.open is not None and self.frame.floor(row.open) in first for row in rows.rejected)

    async def _beginning(self) -> tuple[Sequence[Fact], Anchor]:
        """Why the span does not begin with a candle: it lies before the listing, out of reach, or in a hole."""
        first = await self.beginning()
        for turn in range(1, BEGINNINGS):
            if first is None:
                await self._pause(turn)
                first = await self.beginning()
        if first is None:
            raise BadAnswer(
                f"{self.series}: the exchange gives no candle at all, though it lists the market",
                hint="run again later; until then every slot is missing",
            )
        facts: list[Fact] = []
        if first.open > self.span.since:
            until = min(first.open, self.span.until)
            state = State.OUT_OF_REACH if first.deeper else State.BEFORE_LISTING
            what = "the oldest candle that the exchange gives" if first.deeper else "the first candle"
            facts.append(Fact(TimeRange(self.span.since, until), state, f"{what} is {iso(first.open)}"))
            self.done = until
            return facts, Anchor(first.open)
        known = first.open
        if known < self.span.since:
            known = await self.edges.last_before(self.span.since, known)
        return facts, Anchor(known)

    # -- going on --------------------------------------------------------------------------------------------------

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
        holes = self._holes(rows)
        looks = 0 if rows.strays else self.usual.looks(holes)
        looked = looks > 0
        patience = self.asker.patience()
        while holes and looks and not rows.strays:
            start = self._candle_before(rows, holes.first[0])
            anchor = None if start is None else self._anchor_of(rows, start)
            other = await self._ask(rows.since if start is None else start, anchor)
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
        return rows

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
        anchor.votes[rows.good.row(place_of(rows.good, moment))[1:]] += 1
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

    async def _across(self, anchor: Anchor, rows: Rows) -> tuple[Anchor | None, list[CandlePage | Fact]]:
        """After a candle with nothing behind it: the anchor to go on from, None at the end, and what may be said."""
        said: list[CandlePage | Fact] = []
        following = await self.edges.next_after(anchor.open)
        behind = self.frame.next(anchor.open)
        certain = not (rows.strays or rows.tail)
        if following is not None:
            if following < behind:
                raise BadAnswer(f"{self.series}: the walk does not get past {iso(anchor.open)}")
            nothing = following != behind and (
                not certain or await self._nothing_after(anchor, following=following)
            )
            if nothing is False:
                return self._false_end(anchor), said
            certain = certain and nothing is True
            evidence = f"no candle between {iso(anchor.open)} and {iso(following)}, seen by several looks"
            if not certain and self.done < behind:
                until = min(behind, self.span.until)
                said.append(self._said(until, _with_tail(rows), "rows without a place follow"))
            if not certain:
                self.done = max(self.done, min(following, self.span.until))
                return Anchor(following), said
            proven = min(self._proven(anchor.open, following), self.span.until)
            if proven > self.done:
                said.append(self._said(proven, rows, evidence))
            return None if self._doubtful else Anchor(following), said
        ended = certain and not self.market.active and self.now - behind > DAY and self.done < self.span.until
        ended = ended and anchor.alone >= AGREE_AT_END
        if ended and await self._goes_on(anchor):
            return self._false_end(anchor), said
        if not ended and certain and await self._nothing_after(anchor, 1) is False:
            return self._false_end(anchor), said
        if self.done < behind:
            said.append(
                self._said(min(behind, self.span.until), _with_tail(rows), "the last candle, confirmed")
            )
        if ended and self.done < self.span.until:
            reason = f"no longer traded; the last candle is {iso(anchor.open)}"
            said.append(Fact(TimeRange(self.done, self.span.until), State.AFTER_END, reason))
            self.done = self.span.until
        return None, said

    def _false_end(self, anchor: Anchor) -> Anchor:
        """The same candle as a new anchor, because something follows it after all."""
        self._false_ends += 1
        if self._false_ends > FALSE_ENDS:
            raise BadAnswer(f"{self.series}: answers disagree on what follows {iso(anchor.open)}")
        return Anchor(anchor.open)

    async def _nothing_after(
        self, anchor: Anchor, looks: int = LOOKS_ACROSS, following: int | None = None
    ) -> bool | None:
        """Whether further answers from the anchor on show nothing after it; None if too few begin where they should.

        An answer that goes back from `following` and shows the anchor right before it will do as well.
        """
        enough = anchor.alone + looks
        across = 0
        for turn in range(1, ENDS_ANYHOW):
            await self._pause(turn)
            if following is not None and self._reaches_back:
                rows = await self._ask(self.frame.add(following, -1), Anchor(following))
                between = open_times(rows.good)
                between = between[(between > anchor.open) & (between < following)]
                if len(between) or rows.rejected or rows.tail:
                    return False
                across += has_candle(rows.good, anchor.open)
            else:
                rows = await self._ask(anchor.open, anchor)
                if (rows.last or 0) > anchor.open or rows.rejected or rows.tail:
                    return False
            if anchor.alone >= enough or across >= looks:
                return True
        return None

    def _check_end(self, anchor: Anchor) -> None:
        """Raise BadAnswer where the end is not silence but answers that begin anywhere but where they should."""
        if anchor.alone < AGREE_AT_END and self.now - anchor.open > DAY and not self._reaches_back:
            raise BadAnswer(
                f"{self.series}: asked from {iso(anchor.open)}, answers begin earlier and end there",
                hint="the exchange ignores where an answer is to begin; run again later",
            )

    async def _goes_on(self, anchor: Anchor) -> bool:
        """Whether any of several different looks shows a candle after the anchor of a market that no longer trades."""
        behind = self.frame.next(anchor.open)
        for turn in range(1, ROUNDS_AT_END + 1):
            await self._pause(2 * turn)
            rows = await self._ask(behind, None, room=self.page(behind))
            if (rows.last or 0) > anchor.open or rows.rejected or rows.tail:
                return True
            await self._pause(2 * turn + 1)
            rows = await self._ask(anchor.open, anchor, room=self.page(anchor.open))
            if (rows.last or 0) > anchor.open or rows.rejected or rows.tail:
                return True
            if await self.edges.longer_after(anchor.open):
                return True
        return False

    def _last_bad(self, rows: Rows) -> int:
        """Open time of the last refused row, -1 for none."""
        return max((row.open for row in rows.rejected if row.open is not None), default=-1)

    def _bad_until(self, rows: Rows) -> int:
        """Where the refused rows end that come after all good ones; -1 where there are none."""
        worst = self._last_bad(rows)
        return self.frame.next(self.frame.floor(worst)) if worst > (rows.last or -1) else -1

    async def _ask_from_bad(self, worst: int) -> Rows:
        return await self._ask(self.frame.floor(worst), None, begins_with=worst)


def _with_tail(rows: Rows) -> Rows:
    """The answer with its rows without a place among the refused ones, for the record."""
    return replace(rows, rejected=rows.rejected + rows.tail)


def _cut(frame: pl.DataFrame, part: TimeRange) -> pl.DataFrame:
    """The rows of an ascending frame that open in `part`."""
    first, end = place_of(frame, part.since), place_of(frame, part.until)
    return frame.slice(first, end - first)
