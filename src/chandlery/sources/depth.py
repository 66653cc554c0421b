"""Whether an exchange still gives nothing older than its profile says: asked in a run before anything is called out of reach.

A fault, a silence or a young market is no proof. What is learnt holds only where candles must have been, and are not given.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Literal

import polars as pl

from chandlery.errors import ExchangeRefused
from chandlery.sources.observed import SEEN
from chandlery.validate import open_times

if TYPE_CHECKING:
    from chandlery.candle import SeriesId
    from chandlery.sources.asking import Asker, Rows
    from chandlery.sources.base import Market
    from chandlery.sources.exchange_clock import ExchangeClock
    from chandlery.sources.manners import Manners
    from chandlery.sources.observed import Observed
    from chandlery.timeframe import Timeframe

#: "holds": nothing older is given; "further": older candles are; "unproven": this series cannot tell.
Says = Literal["holds", "further", "unproven"]

#: Candles asked for from before those that an exchange is known to give.
OLDER = 20
#: Candles by which the boundary may be off: it moves on while one asks.
SLACK = 3
#: Answers without a candle that must be there, at one place, before it counts as not given.
AGREE = 2
#: How many of our candles a longer one that says that there was trade holds: some, and no more than one answer has.
FEW, MANY = 12, 60


class DepthDoubts:
    """Asks once a run whether a depth still holds, and says so to `manners` and `observed` where it does not."""

    def __init__(self, asker: Asker, manners: Manners, observed: Observed, time: ExchangeClock) -> None:
        self._asker = asker
        self._manners = manners
        self._observed = observed
        self._time = time
        #: Of which kinds of series the depth was found to hold in this run, and at which series was looked for it.
        self._holds: set[tuple[str | None, str, str]] = set()
        self._looked: set[SeriesId] = set()
        self._asking = asyncio.Lock()

    async def settle(
        self, series: SeriesId, market: Market, frames: Iterable[Timeframe], *, now: int
    ) -> None:
        """Ask for what should be out of reach: of an exchange that gives it, all may be had.

        A series that cannot tell is asked for as if no depth were known, unless the exchange documents it. `frames` are the
        timeframes that the exchange offers.
        """
        async with self._asking:  # all that goes on at once waits for what the one look shows
            documented = self._manners.depth_documented(series, market)
            alike = (market.family, *(("", "") if documented else (series.kind, series.timeframe)))
            oldest = self._manners.reach(series, market, now)
            if oldest is None or alike in self._holds or series in self._looked:
                return
            check = DepthCheck(
                self._asker,
                series,
                frames,
                oldest=oldest,
                now=now,
                moved=lambda: self._manners.reach(series, market, self._time.now_ms()) or oldest,
            )
            said = await (check.documented() if documented else check.learnt())
            self._looked.add(series)
            if said == "further":
                self._manners.distrust_depth(market)
                self._observed.found_deeper(str(market.family))
            elif said == "holds":
                self._holds.add(alike)
            elif not documented:
                self._manners.distrust_depth(market, series)


class DepthCheck:
    """Asks for candles of one series from before `oldest`, which by the profile are not given.

    `moved` gives where the boundary is by now, `frames` are the timeframes that the exchange offers. All failures that may pass
    are waited out; one that stays is raised as ExchangeError.
    """

    def __init__(
        self,
        asker: Asker,
        series: SeriesId,
        frames: Iterable[Timeframe],
        *,
        oldest: int,
        now: int,
        moved: Callable[[], int],
    ) -> None:
        self.asker = asker
        self.series = series
        self.frame = series.frame
        self.oldest = oldest
        self.now = now
        self.moved = moved
        self.frames = list(frames)

    async def documented(self) -> Says:
        """For a depth that the exchange documents: one look, and as many as it takes to be sure if older candles come."""
        for turn in range(1, SEEN + 1):
            since = self.frame.add(self.oldest, -turn * OLDER)
            answer = await self._rows(self.frame, since, OLDER)
            if answer is not None and answer.first is None:
                answer = await self._rows(self.frame, since, OLDER)  # an empty answer may be a fault
            if answer is None or answer.first is None:
                return "holds"
            if not since <= answer.first < self.frame.add(self.oldest, -2):
                later = answer.first > self.frame.add(self.moved(), SLACK)
                return "unproven" if later else "holds"
        return "further"

    async def learnt(self) -> Says:
        """For a depth that was only measured: it holds where older candles are refused, or are not given though there was trade."""
        near = await self._rows(self.frame, self.frame.add(self.oldest, -OLDER), OLDER)
        if near is None:
            inside = await self._rows(self.frame, self.frame.add(self.moved(), SLACK), 2)
            return (
                "unproven" if inside is None else "holds"
            )  # else it is not for their age that they are refused
        if self._has(near, 0, self.frame.add(self.oldest, -2)):
            return "further"
        for longer in self._longer():
            traded = await self._traded(longer)
            for place in traded:
                if await self._given(place, longer.next(place), longer):
                    return "further"
            if traded:
                return "holds"
        return "unproven"

    async def _rows(self, frame: Timeframe, since: int, limit: int) -> Rows | None:
        """One answer that may be believed, None where it is refused for good."""
        try:
            return await self.asker.rows(
                self.series, frame.text, max(0, since), limit, now=self.now, grid=frame
            )
        except ExchangeRefused:
            return None

    def _longer(self) -> list[Timeframe]:
        """The shortest and the longest of the timeframes whose candles hold enough of ours, and not too many."""
        length = self.frame.fixed_ms
        if length is None:
            return []
        found = sorted(
            (f for f in self.frames if f.fixed_ms and f.fixed_ms > length and f.fixed_ms <= MANY * length),
            key=lambda f: f.nominal_ms,
        )
        some = [f for f in found if f.nominal_ms >= FEW * length] or found[-1:]
        return list(dict.fromkeys((*some[:1], *some[-1:])))

    async def _traded(self, longer: Timeframe) -> list[int]:
        """The first and the last longer candle with volume of those that end before the boundary."""
        since = longer.add(longer.floor(self.oldest), -OLDER)
        answer = await self._rows(longer, since, OLDER)
        if answer is None:
            return []
        last = longer.add(longer.floor(self.oldest), -1)
        opened = pl.col("time").dt.epoch("ms")
        traded = answer.good.filter((opened >= since) & (opened <= last) & (pl.col("volume") > 0))
        times = open_times(traded)
        return list(dict.fromkeys((int(times[0]), int(times[-1])))) if len(times) else []

    async def _given(self, since: int, until: int, longer: Timeframe) -> bool:
        """Whether candles are given of [since, until), in which there was trade."""
        count = longer.nominal_ms // self.frame.nominal_ms
        for _ in range(AGREE):
            answer = await self._rows(self.frame, since, count)
            if answer is not None and self._has(answer, since, until):
                return True
        return False

    def _has(self, answer: Rows, since: int, until: int) -> bool:
        times = open_times(answer.good)
        return bool(((times >= since) & (times < min(until, self.frame.add(self.oldest, -2)))).any())
