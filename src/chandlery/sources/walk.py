"""The walk over a range: from the last candle that arrived, never by the exchange's promises.

Each answer must begin with the candle that the one before ended with; so the two are known to touch, a hole between
two candles of one answer is a hole of the exchange, and `since` was not ignored. The last candle of an answer is held
back until another answer confirms it. Where an answer brings nothing new, a candle further on is looked for: only
where there is one are the slots before it absent.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from chandlery.candle import CandlePage, Rejected, SeriesId
from chandlery.errors import BadAnswer
from chandlery.ledger import Fact, State
from chandlery.sources.asking import AGREE_AT_END, Anchor, Asker, Rows, open_at, place_of
from chandlery.sources.edges import Beginning, Edges
from chandlery.timerange import TimeRange
from chandlery.when import iso

if TYPE_CHECKING:
    import polars as pl

    from chandlery.sources.base import Market

log = logging.getLogger("chandlery.sources.walk")


class Walk:
    """One walk over `span` of one series. `stop` is `span.until`; `done` is where what was said so far ends."""

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
        page: int,
        source: str,
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
        self.done = span.since

    async def run(self) -> AsyncIterator[CandlePage | Fact]:
        """Everything that may be said of the span, upwards."""
        if not self.span:
            return
        rows = await self._ask(self.frame.add(self.span.since, -1), None)
        anchor = self._first_anchor(rows)
        if anchor is None:
            facts, anchor = await self._beginning()
            for fact in facts:
                yield fact
            if anchor is None or self.done >= self.span.until:
                return
            rows = await self._ask(anchor.open, anchor)
        while True:
            page = self._page(rows)
            if page is not None:
                yield page
            if self.done >= self.span.until:
                return
            last = rows.last
            if last is not None and last > anchor.open:
                anchor = self._anchor_of(rows, last)
            elif self._bad_until(rows) > self.done:
                # Nothing but refused rows: they are handed on, and the next answer must begin with the last of them.
                worst = self._last_bad(rows)
                yield self._said(min(self._bad_until(rows), self.span.until), rows, "rows refused")
                rows = await self._ask_from_bad(worst)
                continue
            elif anchor.seen >= AGREE_AT_END:
                if anchor.open >= self.frame.add(self.span.until, -1):
                    # Nothing can follow inside the span; answers agree on its last candle.
                    yield self._said(self.span.until, rows, "the last candle of the range, confirmed")
                    return
                following, said = await self._across(anchor, rows)
                for one in said:
                    yield one
                if following is None or self.done >= self.span.until:
                    return
                anchor = Anchor(following)
            rows = await self._ask(anchor.open, anchor)

    # -- the beginning ---------------------------------------------------------------------------------------------

    def _first_anchor(self, rows: Rows) -> Anchor | None:
        """The candle before the span, or the span's first one; None where the first answer holds neither."""
        before = self.frame.add(self.span.since, -1)
        for moment in (before, self.span.since):
            if _has(rows.good, moment):
                return self._anchor_of(rows, moment)
        return None

    async def _beginning(self) -> tuple[Sequence[Fact], Anchor | None]:
        """Why the span does not begin with a candle: it lies before the listing, out of reach, or in a hole."""
        first = await self.beginning()
        if first is None:
            log.warning("%s: the exchange gives no candle at all", self.series)
            return (), None
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

    async def _ask(self, since: int, anchor: Anchor | None, begins_with: int | None = None) -> Rows:
        def believe(rows: Rows) -> str:
            if begins_with is None or any(row.open == begins_with for row in rows.rejected):
                return ""
            return f"the refused row of {iso(begins_with)} is not in the answer"

        # Two more than the span needs: the anchor, and a candle after the last one to confirm it.
        need = self.frame.count(since, self.span.until) + 1
        return await self.asker.rows(
            self.series,
            self.series.timeframe,
            max(0, since),
            max(2, min(self.page, need)),
            now=self.now,
            grid=self.frame,
            anchor=anchor,
            believe=believe,
        )

    def _anchor_of(self, rows: Rows, moment: int) -> Anchor:
        anchor = Anchor(moment)
        anchor.votes[rows.good.row(place_of(rows.good, moment))[1:]] += 1
        return anchor

    def _page(self, rows: Rows) -> CandlePage | None:
        """What an answer says: everything up to its last candle, which is held back."""
        last = rows.last
        if last is None or last <= self.done:
            return None
        return self._said(min(last, self.span.until), rows, "answer")

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

    async def _across(self, anchor: Anchor, rows: Rows) -> tuple[int | None, list[CandlePage | Fact]]:
        """After a candle with nothing behind it: the next one, if there is one, and what may be said up to it."""
        said: list[CandlePage | Fact] = []
        following = await self.edges.next_after(anchor.open)
        behind = self.frame.next(anchor.open)
        if following is None:
            if self.done < behind:
                said.append(self._said(min(behind, self.span.until), rows, "the last candle, confirmed"))
            if not self.market.active and self.done < self.span.until:
                reason = f"no longer traded; the last candle is {iso(anchor.open)}"
                said.append(Fact(TimeRange(self.done, self.span.until), State.AFTER_END, reason))
                self.done = self.span.until
            return None, said
        if following < behind:
            raise BadAnswer(f"{self.series}: the walk does not get past {iso(anchor.open)}")
        evidence = f"no candle between {iso(anchor.open)} and {iso(following)}, seen by two looks"
        if following > self.done:
            said.append(self._said(min(following, self.span.until), rows, evidence))
        return following, said

    def _last_bad(self, rows: Rows) -> int:
        """Open time of the last refused row, -1 for none."""
        return max((row.open for row in rows.rejected if row.open is not None), default=-1)

    def _bad_until(self, rows: Rows) -> int:
        """Where the refused rows end that come after all good ones; -1 where there are none."""
        worst = self._last_bad(rows)
        return self.frame.next(self.frame.floor(worst)) if worst > (rows.last or -1) else -1

    async def _ask_from_bad(self, worst: int) -> Rows:
        return await self._ask(self.frame.floor(worst), None, begins_with=worst)


def _has(frame: pl.DataFrame, moment: int) -> bool:
    index = place_of(frame, moment)
    return index < len(frame) and open_at(frame, index) == moment


def _cut(frame: pl.DataFrame, part: TimeRange) -> pl.DataFrame:
    """The rows of an ascending frame that open in `part`."""
    first, end = place_of(frame, part.since), place_of(frame, part.until)
    return frame.slice(first, end - first)
