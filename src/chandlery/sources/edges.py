"""Where candles begin, where they go on after a hole, and where the last one before a moment is.

Each search asks coarser timeframes first, so that it costs a handful of requests whatever the distance, and none takes
an empty answer for proof: a look counts only where a candle that must be in it is in it.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from chandlery.candle import SeriesId
from chandlery.errors import BadAnswer
from chandlery.sources.asking import Asker, Rows
from chandlery.timeframe import DAY, Timeframe
from chandlery.validate import open_times
from chandlery.when import iso

log = logging.getLogger("chandlery.sources.edges")

#: No exchange has candles from before 2009-01-01.
DAWN = 1_230_768_000_000
#: Candles that a look back spans: days are among them, and some exchanges bound the time that one answer covers to 90.
LOOKED_BACK = 84
#: Candles that a search asks for at once, and takes one answer to cover, where nothing else is known.
LOOKED_AT = 100
#: Candles of an answer that a search does not rely on: it begins a little before what it looks for.
SPARE = 4
#: Answers in a row that must end at the same place, before the candle that must be in them, until windows count as short;
#: the fewest candles of such an answer, and the times that a search is made again because of it.
SHORT, SHORTEST, TIMES_SHORT = 3, 3, 6
#: Windows of the longest timeframe that are looked through for a candle where none of them covers the whole distance.
WINDOWS = 12
#: The longer timeframes to search by. Each is less than 96 of the one before, so that one answer holds the way down;
#: others are offered by exchanges for some of their markets only.
LADDER = frozenset({"1m", "5m", "1h", "1d", "1w", "1M"})
#: Times that a search is made again because a second look contradicts it.
CHECKS = 4
#: Requests that one search may cost before it gives up.
REQUESTS = 40


Span = tuple[int, int]
T = TypeVar("T")


class _ShortWindow(Exception):
    """An answer covers less than the search took it to: search again, with what was learnt."""


class Rooms:
    """How many candles of each timeframe one answer surely covers, by what is known and what answers have shown."""

    def __init__(
        self,
        known: Callable[[Timeframe], int] = lambda _: LOOKED_AT,
        *,
        bounded: bool = False,
        opened: bool = False,
        heeds_limit: bool = True,
    ) -> None:
        self._known = known
        self._shown: dict[str, int] = {}
        #: Known: an answer covers a bounded time after `since`, whether anything was traded then or not.
        self.bounded = bounded
        self._opened = opened
        self._heeds_limit = heeds_limit

    def of(self, frame: Timeframe) -> int:
        """Candles that one answer covers."""
        return min(LOOKED_AT, self._known(frame), self._shown.get(frame.text, LOOKED_AT))

    def whole(self, frame: Timeframe) -> int:
        """Candles that one answer covers if as many are asked for as the exchange is known to give."""
        return self._known(frame) if self.bounded and frame.text not in self._shown else self.of(frame)

    def ahead(self, frame: Timeframe) -> int:
        """Milliseconds behind a candle that an answer covers which begins a little before it."""
        return max(1, self.of(frame) - SPARE) * frame.nominal_ms

    def back(self, frame: Timeframe) -> int:
        """Candles before one that an answer may begin with, and still show it."""
        return max(1, min(LOOKED_BACK, self.of(frame) - SPARE))

    def holds_all(self, frame: Timeframe, candles: int, asked: int) -> bool:
        """Whether an answer with so many candles, from 1970 on, is known to hold all that are given."""
        return self._opened and candles < (asked if self._heeds_limit else self._known(frame))

    def short(self, frame: Timeframe, candles: int) -> bool:
        """Note that an answer covers so few only; whether that is news."""
        news = max(SHORTEST, candles) < self.of(frame)
        if news:
            self._shown[frame.text] = max(SHORTEST, candles)
            log.debug("an answer covers %d candles of %s", candles, frame.text)
        return news


class Edges:
    """Searches over one series of one exchange."""

    def __init__(
        self,
        asker: Asker,
        series: SeriesId,
        offered: Mapping[str, Timeframe],
        *,
        now: int,
        rooms: Rooms | None = None,
    ) -> None:
        self.asker = asker
        self.series = series
        self.now = now
        self.rooms = rooms or Rooms()
        self.frame = series.frame
        self._left = REQUESTS
        longer = [f for f in offered.values() if f.text in LADDER and _nests(self.frame, f)]
        self._ladder = [self.frame, *sorted(longer, key=lambda f: f.nominal_ms)]
        self.levels = self._useful()

    def _useful(self) -> list[Timeframe]:
        """The timeframes to search by, from the series' own up: those of which an answer covers more than of shorter ones."""
        levels = self._ladder[:1]
        for frame in self._ladder[1:]:
            if self.rooms.ahead(frame) > self.rooms.ahead(levels[-1]):
                levels.append(frame)
        return levels

    async def _adapting(self, search: Callable[[], Awaitable[T]], requests: int = REQUESTS) -> T:
        """The result of a search, made again where answers turn out to cover less time than was known."""
        for _ in range(TIMES_SHORT):
            self._left = requests
            try:
                return await search()
            except _ShortWindow:
                self.levels = self._useful()
        raise BadAnswer(f"{self.series}: answers cover ever less time")

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
        wanted = limit or self.rooms.of(frame)
        if own and since > 0:
            # One more before it: some exchanges leave out the candle that opens at `since`.
            since, wanted = frame.add(since, -1), min(wanted + 1, max(wanted, self.rooms.of(frame)))
        since = max(0, since)
        ends: Counter[int] = Counter()
        covered = 0

        def believe(rows: Rows) -> str:
            nonlocal covered
            if within is None or any(self._overlaps(frame, span, within) for span in _spans(rows, frame)):
                return ""
            count = _covers(rows, frame, since, within[0], wanted)
            ends[count] += count > 0
            if ends[count] >= SHORT and self.rooms.short(frame, count):
                covered = count
                return ""
            return f"the {frame.text} candle of {iso(within[0])} is not in the answer"

        rows = await self.asker.rows(
            self.series,
            frame.text,
            since,
            wanted,
            now=self.now,
            grid=frame if own else None,
            believe=believe,
        )
        if covered:
            raise _ShortWindow
        return _spans(rows, frame)

    def _overlaps(self, frame: Timeframe, span: Span, part: Span) -> bool:
        begin = span[0] if frame == self.frame else span[1] - 1
        return part[0] <= begin and span[0] < part[1]

    def _level(self, span: int) -> Timeframe:
        """The shortest timeframe of which one answer surely covers `span` ms."""
        for frame in self.levels:
            if self.rooms.ahead(frame) >= span:
                return frame
        return self.levels[-1]

    # -- the searches ----------------------------------------------------------------------------------------------

    async def next_after(self, known: int) -> int | None:
        """Open time of the first candle after the one open at `known`; None if there is none up to now."""
        return await self._adapting(lambda: self._next_after(known))

    async def _next_after(self, known: int) -> int | None:
        for _ in range(CHECKS):
            found = await self._first(known, self.frame.next(known), self.now + 1)
            if found is None or await self._first_of(found, known + 1) == found:
                return found
        raise BadAnswer(f"{self.series}: answers disagree on what follows {iso(known)}")

    async def longer_after(self, known: int) -> bool:
        """Whether a longer timeframe shows a candle that opens after the one that holds `known`."""
        return await self._adapting(lambda: self._longer_after(known))

    async def _longer_after(self, known: int) -> bool:
        longer = [frame for frame in self.levels if frame != self.frame]
        if not longer:
            return False
        fits = [f for f in longer if self.rooms.ahead(f) >= self.now - known]
        frame = (fits or longer[-1:])[0]
        spans = await self.look(frame, known - 2 * frame.nominal_ms, within=(known, known + 1))
        return any(a > known for a, _ in spans)

    async def _first_of(self, found: int, since: int) -> int:
        """The first candle at or after `since` that an answer from a little before `found` on shows."""
        return (await self._shown_around(found, since))[0]

    async def _shown_around(self, found: int, since: int) -> list[int]:
        """The candles at or after `since` that an answer from a little before `found` on shows."""
        back = min(5, self.rooms.back(self.frame))
        begin = max(self.frame.add(found, -back), self.frame.ceil(max(0, since)))
        spans = await self.look(self.frame, begin, limit=16, within=(found, found + 1))
        return [a for a, _ in spans if a >= since]

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
                return await self._further(known, hi)
            # What comes first: the rest of the long candle that holds `known`, then the next long candle.
            holding = next((b for a, b in spans if a <= known < b), lo)
            if lo < min(hi, holding):
                found_here = await self._first(known, lo, min(hi, holding))
                if found_here is not None:
                    return found_here
            later = [(a, b) for a, b in spans if a >= holding and a < hi]
            if not later:
                return await self._further(known, hi)
            first = await self._begin_of(later[0])
            return first if first is not None and lo <= first < hi else None
        return None

    async def _further(self, known: int, hi: int) -> int | None:
        """The first candle before `hi` that lies beyond what one answer with `known` in it covers, at any timeframe."""
        frame = self.levels[-1]
        ahead = self.rooms.ahead(frame)
        at, step = known + ahead, ahead
        if at >= hi:
            return None
        if not await self.look(frame, max(at, hi - ahead)):
            # Nothing of late: it goes through years perhaps, in which few looks must do.
            step = max(ahead, (hi - at) // WINDOWS)
        while at < hi:
            found = [one for one in await self.look(frame, at) if one[0] > known]
            if found:
                first = await self._begin_of(found[0]) if frame != self.frame else found[0][0]
                return first if first is not None and known < first < hi else None
            at += step
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
            at += self.rooms.ahead(frame)
        return None

    async def _look_inside(self, frame: Timeframe, lo: int, hi: int) -> list[Span]:
        """The candles that overlap [lo, hi), of which a longer candle says that there is one."""
        begin = lo if frame == self.frame else lo - 2 * frame.nominal_ms
        spans = await self.look(frame, begin, within=(lo, hi))
        return [span for span in spans if self._overlaps(frame, span, (lo, hi))]

    async def last_before(self, moment: int, floor: int, *, ended: bool = False) -> int:
        """Open time of the last candle before `moment`; one is known to be open at `floor` < moment.

        Of a market that has `ended` it may be years back.
        """
        return await self._adapting(lambda: self._last_before(moment, floor, ended))

    async def _last_before(self, moment: int, floor: int, ended: bool) -> int:
        hi, far = moment, self._level(moment - floor)
        if ended and far != self.frame:
            begin = max(hi - self.rooms.back(far) * far.nominal_ms, floor - 2 * far.nominal_ms)
            spans = [(a, b) for a, b in await self.look(far, begin) if a < hi]
            if spans and spans[-1][1] <= hi:
                return await self._last_in(max(spans[-1][0], floor), spans[-1][1])
        for frame in (*self.levels, *self.levels[-1:] * WINDOWS):
            if frame == self.levels[-1] and hi <= floor:
                break
            # A longer candle that holds `floor` opens before it.
            lowest = floor if frame == self.frame else floor - 2 * frame.nominal_ms
            begin = max(hi - self.rooms.back(frame) * frame.nominal_ms, lowest)
            within = (floor, floor + 1) if begin == lowest else None
            # What the longer candle around `moment` holds before it, the shorter timeframe has looked at.
            before = [(a, b) for a, b in await self.look(frame, begin, within=within) if b <= hi]
            if before:
                return await self._last_in(max(before[-1][0], floor), before[-1][1])
            if frame == self.levels[-1]:
                hi = begin + frame.nominal_ms  # the window before that, with an overlap
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
            begin = max(lo, self.frame.add(end, -self.rooms.back(self.frame)))
            found = [a for a, _ in await self.look(self.frame, begin) if lo <= a < hi]
            if found:
                return found[-1]
            end = begin
        return lo


def _covers(rows: Rows, frame: Timeframe, since: int, moment: int, wanted: int) -> int:
    """How many candles an answer covers that begins where it should and ends long before `moment`; 0 for any other answer.

    One without any covers half of what it was taken to, at most: what it covers lies before anything was traded.
    """
    if rows.first is None or rows.last is None:
        return wanted // 2
    count = len(rows.good)
    unbroken = (
        rows.last - rows.first
        <= (count - 0.9) * frame.nominal_ms + (DAY if frame.fixed_ms is None else 0) * count
    )
    begins = since <= rows.first <= since + 1.1 * frame.nominal_ms
    short = SHORTEST <= count < wanted and rows.last + 2 * frame.nominal_ms < moment
    return count if unbroken and begins and short else 0


def _nests(frame: Timeframe, longer: Timeframe) -> bool:
    """Whether each candle of `frame` lies inside one of the longer timeframe: a week may begin in the month before."""
    if frame.fixed_ms is None or frame.nominal_ms >= longer.nominal_ms:
        return False
    shifted = 0 if longer.fixed_ms is None else longer.anchor - frame.anchor
    return (longer.fixed_ms or DAY) % frame.fixed_ms == shifted % frame.fixed_ms == 0


def _spans(rows: Rows, frame: Timeframe) -> list[Span]:
    """Each candle as [open, close); a foreign calendar's month counts as 31 days."""
    times: list[int] = open_times(rows.good).tolist()
    if frame.fixed_ms is not None:
        return [(t, t + frame.fixed_ms) for t in times]
    return [(t, frame.next(t)) for t in times]
