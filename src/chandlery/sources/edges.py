"""Where candles begin, where they go on after a hole, and where the last one before a moment is.

Each search asks coarser timeframes first, so that it costs a handful of requests whatever the distance, and none takes
an empty answer for proof: a look counts only where a candle that must be in it is in it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from chandlery.candle import SeriesId
from chandlery.errors import BadAnswer
from chandlery.sources.asking import Asker, Rows
from chandlery.timeframe import Timeframe
from chandlery.validate import open_times
from chandlery.when import iso

log = logging.getLogger("chandlery.sources.edges")

#: No exchange has candles from before 2009-01-01.
DAWN = 1_230_768_000_000
#: Candles that one answer surely covers where nothing else is known.
SURE_PAGE = 100
#: Candles that a look back spans: days are among them, and some exchanges bound the time that one answer covers to 90.
LOOKED_BACK = 84
#: Candles that a search asks for at once: a few more than it relies on, and no more than any exchange gives of old ones.
LOOKED_AT = 100
#: The longer timeframes to search by. Each is less than 96 of the one before, so that one answer holds the way down;
#: others are offered by exchanges for some of their markets only.
LADDER = frozenset({"1m", "5m", "1h", "1d", "1w", "1M"})
#: Times that a search is made again because a second look contradicts it.
CHECKS = 4
#: Requests that one search may cost before it gives up.
REQUESTS = 40


Span = tuple[int, int]


class Edges:
    """Searches over one series of one exchange."""

    def __init__(
        self,
        asker: Asker,
        series: SeriesId,
        offered: Mapping[str, Timeframe],
        *,
        now: int,
        page: Callable[[int], int],
    ) -> None:
        self.asker = asker
        self.series = series
        self.now = now
        self.page = page
        self.frame = series.frame
        self._left = REQUESTS
        longer = [f for f in offered.values() if f.text in LADDER and f.nominal_ms > self.frame.nominal_ms]
        #: From the series' own timeframe up.
        self.levels = [self.frame, *sorted(longer, key=lambda f: f.nominal_ms)]

    # -- looking ---------------------------------------------------------------------------------------------------

    async def look(
        self, frame: Timeframe, since: int, *, limit: int = 0, within: Span | None = None
    ) -> list[Span]:
        """The candles from `since` on at some timeframe, as (open, close) times.

        With `within` an answer must have a candle that overlaps it (at the series' own timeframe: opens in it); one
        without is asked for again. Raises BadAnswer when that does not help or the search has cost too much.
        """
        self._left -= 1
        if self._left < 0:
            raise BadAnswer(f"{self.series}: the edge of the candles was not found in so many requests")
        own = frame == self.frame
        wanted = limit or min(LOOKED_AT, self.page(max(0, since)))
        if own and since > 0:
            # One more before it: some exchanges leave out the candle that opens at `since`.
            since, wanted = frame.add(since, -1), wanted + (0 if limit == 0 else 1)

        def believe(rows: Rows) -> str:
            if within is None or any(self._overlaps(frame, span, within) for span in _spans(rows, frame)):
                return ""
            return f"the {frame.text} candle of {iso(within[0])} is not in the answer"

        rows = await self.asker.rows(
            self.series,
            frame.text,
            max(0, since),
            wanted,
            now=self.now,
            grid=frame if own else None,
            believe=believe,
        )
        return _spans(rows, frame)

    def _overlaps(self, frame: Timeframe, span: Span, part: Span) -> bool:
        begin = span[0] if frame == self.frame else span[1] - 1
        return part[0] <= begin and span[0] < part[1]

    def _level(self, span: int) -> Timeframe:
        """The shortest timeframe of which one answer surely covers `span` ms."""
        for frame in self.levels:
            if frame.nominal_ms * (SURE_PAGE - 4) >= span:
                return frame
        return self.levels[-1]

    # -- the searches ----------------------------------------------------------------------------------------------

    async def next_after(self, known: int) -> int | None:
        """Open time of the first candle after the one open at `known`; None if there is none up to now."""
        self._left = REQUESTS
        for _ in range(CHECKS):
            found = await self._first(known, self.frame.next(known), self.now + 1)
            if found is None or await self._first_of(found, known + 1) == found:
                return found
        raise BadAnswer(f"{self.series}: answers disagree on what follows {iso(known)}")

    async def longer_after(self, known: int) -> bool:
        """Whether a longer timeframe shows a candle that opens after the one that holds `known`."""
        longer = [frame for frame in self.levels if frame != self.frame]
        if not longer:
            return False
        self._left = REQUESTS
        fits = [f for f in longer if f.nominal_ms * (SURE_PAGE - 4) >= self.now - known]
        frame = (fits or longer[-1:])[0]
        spans = await self.look(frame, known - 2 * frame.nominal_ms, within=(known, known + 1))
        return any(a > known for a, _ in spans)

    async def _first_of(self, found: int, since: int) -> int:
        """The first candle at or after `since` that an answer from a little before `found` on shows."""
        begin = max(self.frame.add(found, -5), self.frame.ceil(max(0, since)))
        spans = await self.look(self.frame, begin, limit=8, within=(found, found + 1))
        return next(a for a, _ in spans if a >= since)

    async def _first(self, known: int, lo: int, hi: int) -> int | None:
        """The first candle of the series in [lo, hi), where a candle is known to be open at `known` <= lo.

        Every answer must hold the candle of `known`: only then does it prove what it does not show.
        """
        while lo < hi:
            frame = self._level(hi - known)
            begin = known if frame == self.frame else known - 2 * frame.nominal_ms
            spans = await self.look(frame, begin, within=(known, known + 1))
            if frame == self.frame:
                found = [a for a, _ in spans if lo <= a < hi]
                if found:
                    return found[0]
                return None
            # What comes first: the rest of the long candle that holds `known`, then the next long candle.
            holding = next((b for a, b in spans if a <= known < b), lo)
            if lo < min(hi, holding):
                found_here = await self._first(known, lo, min(hi, holding))
                if found_here is not None:
                    return found_here
            later = [(a, b) for a, b in spans if a >= holding and a < hi]
            if not later:
                if frame.nominal_ms * (SURE_PAGE - 4) >= hi - known or frame == self.levels[-1]:
                    return None
                lo = holding
                continue
            first = await self._begin_of(later[0])
            return first if first is not None and lo <= first < hi else None
        return None

    async def _begin_of(self, span: Span) -> int | None:
        """The first candle of the series inside one longer candle, which says that there is one."""
        lo, hi = span
        while True:
            frame = self._level(hi - lo)
            spans = await self._look_inside(frame, lo, hi)
            if frame == self.frame:
                return spans[0][0]
            narrowed = (max(lo, spans[0][0]), min(hi, spans[0][1]))
            if narrowed == (lo, hi):
                # The longer candle is the only one: go on with the next shorter timeframe.
                shorter = [f for f in self.levels if f.nominal_ms < frame.nominal_ms]
                narrowed = await self._narrow(shorter[-1] if shorter else self.frame, lo, hi) or (lo, hi)
                if narrowed == (lo, hi):
                    return None
            lo, hi = narrowed

    async def _narrow(self, frame: Timeframe, lo: int, hi: int) -> Span | None:
        """Step through [lo, hi) in answers of `frame` until a candle shows."""
        at = lo
        while at < hi:
            found = [(a, b) for a, b in await self.look(frame, at) if lo <= a < hi]
            if found:
                return found[0]
            at += frame.nominal_ms * (SURE_PAGE - 4)
        return None

    async def _look_inside(self, frame: Timeframe, lo: int, hi: int) -> list[Span]:
        """The candles that overlap [lo, hi), of which a longer candle says that there is one."""
        begin = lo if frame == self.frame else lo - 2 * frame.nominal_ms
        spans = await self.look(frame, begin, within=(lo, hi))
        return [span for span in spans if self._overlaps(frame, span, (lo, hi))]

    async def last_before(self, moment: int, floor: int) -> int:
        """Open time of the last candle before `moment`; one is known to be open at `floor` < moment."""
        self._left = REQUESTS
        hi = moment
        for frame in self.levels:
            # A longer candle that holds `floor` opens before it.
            lowest = floor if frame == self.frame else floor - 2 * frame.nominal_ms
            begin = max(hi - LOOKED_BACK * frame.nominal_ms, lowest)
            within = (floor, floor + 1) if begin == lowest else None
            # What the longer candle around `moment` holds before it, the shorter timeframe has looked at.
            before = [(a, b) for a, b in await self.look(frame, begin, within=within) if b <= hi]
            if before:
                return await self._last_in(max(before[-1][0], floor), before[-1][1])
        return floor

    async def _last_in(self, lo: int, hi: int) -> int:
        """The last candle of the series in [lo, hi), part of one longer candle."""
        while True:
            frame = self._level(hi - lo)
            spans = await self._look_inside(frame, lo, hi)
            if frame == self.frame:
                return spans[-1][0]
            narrowed = (max(lo, spans[-1][0]), min(hi, spans[-1][1]))
            if narrowed == (lo, hi):
                return await self._last_step(lo, hi)
            lo, hi = narrowed

    async def _last_step(self, lo: int, hi: int) -> int:
        """Step back through [lo, hi) in answers of the series' own timeframe until a candle shows."""
        end = hi
        while end > lo:
            begin = max(lo, self.frame.add(end, 4 - SURE_PAGE))
            found = [a for a, _ in await self.look(self.frame, begin) if lo <= a < hi]
            if found:
                return found[-1]
            end = begin
        return lo


def _spans(rows: Rows, frame: Timeframe) -> list[Span]:
    """Each candle as [open, close); a foreign calendar's month counts as 31 days."""
    times: list[int] = open_times(rows.good).tolist()
    if frame.fixed_ms is not None:
        return [(t, t + frame.fixed_ms) for t in times]
    return [(t, frame.next(t)) for t in times]
