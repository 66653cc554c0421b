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

import polars as pl

from chandlery.candle import CandlePage, Rejected, SeriesId
from chandlery.errors import BadAnswer
from chandlery.ledger import Fact, State
from chandlery.sources.asking import AGREE_AT_END, Anchor, Asker, Rows
from chandlery.sources.edges import Beginning, Edges
from chandlery.timerange import TimeRange
from chandlery.when import iso

if TYPE_CHECKING:
    from chandlery.sources.base import Market

log = logging.getLogger("chandlery.sources.walk")

_TIME = pl.Datetime("ms", "UTC")


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
            assert last is not None
            if last > anchor.open:
                anchor = self._anchor_of(rows, last)
            elif last >= self.frame.add(self.span.until, -1) and anchor.seen >= AGREE_AT_END:
                # Nothing can follow inside the span; answers agree on its last candle.
                yield self._said(self.span.until, rows, "the last candle of the range, confirmed")
                return
            elif anchor.seen >= AGREE_AT_END:
                async for said in self._across(anchor, rows):
                    yield said
                return_to = self._resumed
                if return_to is None or self.done >= self.span.until:
                    return
                anchor = Anchor(return_to)
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
        known = (
            await self.edges.last_before(self.span.since, first.open)
            if first.open < self.span.since
            else first.open
        )
        return facts, Anchor(known if known is not None else first.open)

    # -- going on --------------------------------------------------------------------------------------------------

    async def _ask(self, since: int, anchor: Anchor | None) -> Rows:
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
        )

    def _anchor_of(self, rows: Rows, moment: int) -> Anchor:
        anchor = Anchor(moment)
        index = rows.good["time"].to_physical().search_sorted(moment)
        anchor.votes[rows.good.row(int(index))[1:]] += 1
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

    _resumed: int | None = None

    async def _across(self, anchor: Anchor, rows: Rows) -> AsyncIterator[CandlePage | Fact]:
        """After a candle with nothing behind it: find the next one, or say that there is an end."""
        self._resumed = None
        following = await self.edges.next_after(anchor.open)
        behind = self.frame.next(anchor.open)
        if following is None:
            if self.done < behind:
                yield self._said(min(behind, self.span.until), rows, "the last candle, confirmed")
            if not self.market.active and self.done < self.span.until:
                reason = f"no longer traded; the last candle is {iso(anchor.open)}"
                yield Fact(TimeRange(self.done, self.span.until), State.AFTER_END, reason)
                self.done = self.span.until
            return
        if following < behind:
            raise BadAnswer(f"{self.series}: the walk does not get past {iso(anchor.open)}")
        if following > behind or self.done < following:
            evidence = f"no candle between {iso(anchor.open)} and {iso(following)}, seen by two looks"
            yield self._said(min(following, self.span.until), rows, evidence)
        self._resumed = following


def _has(frame: pl.DataFrame, moment: int) -> bool:
    times = frame["time"].to_physical()
    index = int(times.search_sorted(moment))
    return index < len(times) and times[index] == moment


def _cut(frame: pl.DataFrame, part: TimeRange) -> pl.DataFrame:
    """The rows of an ascending frame that open in `part`."""
    times = frame["time"].to_physical()
    first, end = int(times.search_sorted(part.since)), int(times.search_sorted(part.until))
    return frame.slice(first, end - first)
