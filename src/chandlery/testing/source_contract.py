"""What every source must do, as a test class: inherit `SourceContract`, say what it is tried on, run pytest.

`stage(scene, tmp_path)` plays a scene and opens sources on it; the class attributes say what the exchange is like. pytest is
not imported here, so that the package can be used without it.
"""

from __future__ import annotations

import asyncio
import math
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol

from chandlery.candle import SeriesId
from chandlery.errors import UnknownSymbol
from chandlery.ledger import State
from chandlery.sources.base import Source
from chandlery.testing.source_scenes import Said, Scene, same_bits, walk
from chandlery.testing.store_scenes import raised
from chandlery.timeframe import DAY, MINUTE
from chandlery.timerange import RangeSet, TimeRange

if TYPE_CHECKING:
    import polars as pl

#: Minutes before NOW without an outage of the generated market.
CALM = 70_000
#: The exchange's time in all scenes, half a minute into a candle. No outage of the generated market is near.
NOW = 1_718_841_630_000  # 2024-06-20T00:00:30Z


class Stage(Protocol):
    """A scene that is being played: sources on it, and what is true of it."""

    def source(self) -> Source:
        """A new source on the scene."""
        ...

    def truth(self, timeframe: str, since: int, until: int) -> pl.DataFrame:
        """The candles that are closed and open in [since, until), as a perfect client would have them."""
        ...


class SourceContract:
    """The promises of `chandlery.sources.base.Source`, one test each.

    Scenes are measured in units: a scene's span has six of them, its outage two.
    """

    exchange: ClassVar[str]
    symbol: ClassVar[str] = "BTC/USDT"
    #: Rows of one answer that the exchange really gives, asked as is best for its limits.
    page: ClassVar[int]
    #: Candles of one unit: the outage is 2,000 candles long.
    unit: ClassVar[int] = 1000
    #: Pages of the scene in which requests are counted.
    pages: ClassVar[int] = 60
    #: How many candles back, the one in progress included, can be had of any timeframe; 0: all.
    depth: ClassVar[int] = 0
    #: Whether windows end where they would without a hole: then time without candles costs requests too.
    bounded: ClassVar[bool] = False
    #: Whether a delisted pair keeps its history; else it is unknown.
    keeps_ended: ClassVar[bool] = False
    #: Timeframes to try besides 1m.
    timeframes: ClassVar[tuple[str, ...]] = ("5m", "1h", "1d", "1w", "1M")

    def stage(self, scene: Scene, tmp_path: Path) -> AbstractContextManager[Stage]:
        """Play a scene at NOW; whoever inherits the contract overrides this."""
        raise NotImplementedError

    # -- what the scenes have in common ------------------------------------------------------------------------------

    @property
    def minutes(self) -> SeriesId:
        """The series of most scenes."""
        return SeriesId(self.exchange, self.symbol, "1m")

    @property
    def end(self) -> int:
        """The open time of the candle in progress."""
        return NOW // MINUTE * MINUTE

    def ago(self, units: float) -> int:
        """The open time so many units before the candle in progress."""
        return self.end - round(units * self.unit) * MINUTE

    def scene(
        self, *holes: TimeRange, since: float = 20, until: float | None = None, activity: float = 1.0
    ) -> Scene:
        """A history from `since` to `until` units ago."""
        ended = None if until is None else self.ago(until)
        return Scene(self.symbol, self.ago(since), ended, holes, activity)

    def between(self, since: float, until: float) -> TimeRange:
        """From and to so many units ago."""
        return TimeRange(self.ago(since), self.ago(until))

    def walked(
        self, stage: Stage, span: TimeRange, *, series: SeriesId | None = None, settle: int | None = None
    ) -> Said:
        """Walk a span with a new source."""

        async def main() -> Said:
            async with stage.source() as source:
                await source.known(series or self.minutes)
                return await walk(source, series or self.minutes, span, now=NOW, settle=settle)

        return asyncio.run(main())

    def reach(self, series: SeriesId) -> int:
        """The first open time that can be had."""
        frame = series.frame
        return frame.add(frame.floor(NOW), 1 - self.depth) if self.depth else 0

    def least(self, said: Said) -> int:
        """The fewest requests that could bring what was answered."""
        seen = said.candles.height
        if self.bounded:
            seen = said.series.frame.count(said.span.since, said.span.until)
        return math.ceil(seen / self.page)

    def check(self, stage: Stage, said: Said, *, absent: RangeSet | None = None, missing: RangeSet | None = None,
              early: RangeSet | None = None, ended: RangeSet | None = None) -> None:  # fmt: skip
        """Every slot has the right state, every candle is the exchange's own to the bit, and few requests were made.

        What is not given is that there is none; what lies beyond the reach of the exchange is out of reach instead.
        """
        nothing = RangeSet()
        assert said.error is None
        seen = RangeSet.of(max(said.span.since, self.reach(said.series)), said.span.until)
        truth = stage.truth(said.series.timeframe, seen.since, seen.until) if seen else said.candles.clear()
        assert same_bits(said.candles, truth)
        assert said.missing == (missing or nothing) & seen
        assert said.ranges(State.AFTER_END) == (ended or nothing) & seen
        assert said.ranges(State.BEFORE_LISTING) == (early or nothing)
        assert said.ranges(State.OUT_OF_REACH) == RangeSet([said.span]) - seen - (early or nothing)
        if absent is not None:
            assert said.absent == absent & seen
        assert not said.rejected
        least = self.least(said)
        assert said.requests <= 1.15 * least + 25, f"{said.requests} requests, {least} would do"

    # -- the promises ------------------------------------------------------------------------------------------------

    def test_whole_range(self, tmp_path: Path) -> None:
        """A long range without a hole comes out to the bit, for hardly more requests than it has pages."""
        slots = min(self.pages * self.page, CALM)
        begin = self.end - slots * MINUTE
        with self.stage(Scene(self.symbol, begin - 5000 * MINUTE), tmp_path) as stage:
            said = self.walked(stage, TimeRange(begin, self.end - 2 * MINUTE))
            self.check(stage, said, absent=RangeSet())
            assert said.retries == 0
            if not self.depth:
                assert said.requests <= 1.02 * self.least(said) + 3

    def test_old_range(self, tmp_path: Path) -> None:
        """What lies 45 days back, where some exchanges give smaller pages, comes out to the bit; its hole is absent."""
        since = self.end - 45 * DAY
        hole = TimeRange(since + self.unit * MINUTE, since + 2 * self.unit * MINUTE)
        with self.stage(Scene(self.symbol, since - 9 * DAY, holes=(hole,)), tmp_path) as stage:
            said = self.walked(stage, TimeRange(since, since + 3 * self.unit * MINUTE))
            self.check(stage, said, absent=RangeSet([hole]))

    def test_begins_in_a_hole(self, tmp_path: Path) -> None:
        """A range that begins inside a hole: the slots up to the first candle behind it are absent."""
        hole = self.between(5, 3.6)
        with self.stage(self.scene(hole), tmp_path) as stage:
            span = self.between(4.3, 0.5)
            self.check(stage, self.walked(stage, span), absent=RangeSet([TimeRange(span.since, hole.until)]))

    def test_ends_in_a_hole(self, tmp_path: Path) -> None:
        """A range that ends inside a hole: what lies behind it proves that nothing is there."""
        hole = self.between(3.7, 2.2)
        with self.stage(self.scene(hole), tmp_path) as stage:
            span = self.between(5, 2.9)
            self.check(stage, self.walked(stage, span), absent=RangeSet([TimeRange(hole.since, span.until)]))

    def test_lies_in_a_hole(self, tmp_path: Path) -> None:
        """A range inside a hole is absent as a whole."""
        with self.stage(self.scene(self.between(4, 2.2)), tmp_path) as stage:
            span = self.between(3, 2.8)
            self.check(stage, self.walked(stage, span), absent=RangeSet([span]))

    def test_outage(self, tmp_path: Path) -> None:
        """An outage longer than a page, and short ones beside it, are absent; every candle around them is there."""
        holes = (
            self.between(5.5, 5.45),
            self.between(4.5, 2.5),
            self.between(2.4, 2.399),
            self.between(1, 0.9),
        )
        with self.stage(self.scene(*holes), tmp_path) as stage:
            self.check(stage, self.walked(stage, self.between(6, 0.2)), absent=RangeSet(holes))

    def test_quiet_market(self, tmp_path: Path) -> None:
        """Where two minutes in three have no trade, each of them is absent, and asking costs little more."""
        with self.stage(self.scene(activity=0.33), tmp_path) as stage:
            said = self.walked(stage, self.between(6, 0.5))
            self.check(stage, said)
            if self.depth == 0:
                assert said.absent

    def test_outage_of_a_quiet_market(self, tmp_path: Path) -> None:
        """A long hole among many short ones is absent too, and ends nothing."""
        hole = self.between(4.5, 2.5)
        with self.stage(self.scene(hole, activity=0.33), tmp_path) as stage:
            said = self.walked(stage, self.between(6, 0.2))
            self.check(stage, said)

    def test_listed_inside(self, tmp_path: Path) -> None:
        """What lies before the first candle of all is before the listing, not absent."""
        with self.stage(self.scene(since=3.4), tmp_path) as stage:
            span, listed = self.between(6, 0.3), self.ago(3.4)
            said = self.walked(stage, span)
            if self.reach(self.minutes) > listed:
                self.check(stage, said, absent=RangeSet())
            else:
                early = RangeSet.of(span.since, listed)
                self.check(stage, said, absent=RangeSet(), early=early)

    def test_delisted_inside(self, tmp_path: Path) -> None:
        """Slots behind the last candle of a market that is listed as ended are after the end; an unknown one is said so."""
        late = Scene(self.symbol, self.end - 9000 * MINUTE, self.end - 3000 * MINUTE)
        span = TimeRange(self.end - 4000 * MINUTE, self.end - 1000 * MINUTE)
        with self.stage(late, tmp_path) as stage:
            if self.keeps_ended:
                ended = RangeSet.of(self.end - 3000 * MINUTE, span.until)
                self.check(stage, self.walked(stage, span), absent=RangeSet(), ended=ended)
                return
            assert raised(UnknownSymbol, lambda: self.walked(stage, span)).hint

    def test_stops_silently(self, tmp_path: Path) -> None:
        """Where a market that still trades has no later candle, the slots behind the last one are missing."""
        stop = TimeRange(self.ago(2.2), self.end + DAY)
        with self.stage(self.scene(stop), tmp_path) as stage:
            said = self.walked(stage, self.between(5, 0.5))
            if self.reach(self.minutes) < stop.since:
                self.check(stage, said, absent=RangeSet(), missing=RangeSet([stop]) & RangeSet([said.span]))

    def test_out_of_reach(self, tmp_path: Path) -> None:
        """What is older than the exchange can give is out of reach, never absent; without a limit there is nothing such."""
        with self.stage(self.scene(since=40), tmp_path) as stage:
            span = TimeRange(self.end - (self.depth + 2 * self.unit) * MINUTE, self.end - 2 * MINUTE)
            said = self.walked(stage, span)
            self.check(stage, said, absent=RangeSet())
            assert bool(said.ranges(State.OUT_OF_REACH)) == bool(self.depth)

    def test_all_out_of_reach(self, tmp_path: Path) -> None:
        """A range that lies beyond the reach as a whole is out of reach; without a limit it comes as any other."""
        with self.stage(self.scene(since=40), tmp_path) as stage:
            since = self.end - (self.depth + 2 * self.unit) * MINUTE
            said = self.walked(stage, TimeRange(since, since + self.unit * MINUTE))
            self.check(stage, said, absent=RangeSet())

    def test_longer_timeframes(self, tmp_path: Path) -> None:
        """Candles of any timeframe, weeks by the exchange's calendar, are exactly the exchange's own."""
        scene = Scene(self.symbol, NOW - 700 * DAY // 1000 * 1000, activity=1.0)
        with self.stage(scene, tmp_path) as stage:
            for text in self.timeframes:
                series = SeriesId(self.exchange, self.symbol, text)
                frame = series.frame
                last = frame.floor(NOW)
                first = max(frame.add(last, -self.unit), frame.add(frame.ceil(scene.listed), 1))
                self.check(
                    stage, self.walked(stage, TimeRange(first, last), series=series), absent=RangeSet()
                )

    def test_listed_inside_longer_timeframes(self, tmp_path: Path) -> None:
        """Days and weeks of a market are found from long before its listing on, in whichever month its first week begins."""
        listed = NOW // DAY * DAY - 110 * DAY  # 2024-03-02, a Saturday
        with self.stage(Scene(self.symbol, listed), tmp_path) as stage:
            for text in [text for text in self.timeframes if text in ("1d", "1w")]:
                series = SeriesId(self.exchange, self.symbol, text)
                frame = series.frame
                span = TimeRange(frame.floor(listed - 200 * DAY), frame.floor(NOW))
                early = RangeSet.of(span.since, frame.floor(listed))
                said = self.walked(stage, span, series=series)
                self.check(stage, said, absent=RangeSet(), early=early)

    def test_top_up(self, tmp_path: Path) -> None:
        """A few new candles cost one request."""
        with self.stage(self.scene(), tmp_path) as stage:
            for candles in (1, 2, 7):
                said = self.walked(stage, TimeRange(self.end - candles * MINUTE, self.end))
                self.check(stage, said, absent=RangeSet())
                assert said.requests == 1

    def test_only_settled_candles(self, tmp_path: Path) -> None:
        """A candle that is open, or closed a shorter time ago than it takes to settle, is never given."""
        with self.stage(self.scene(), tmp_path) as stage:
            for settle, late in ((0, 0), (29_000, 0), (31_000, 1), (95_000, 2)):
                asked = TimeRange(self.end - 30 * MINUTE, self.end + 30 * MINUTE)
                said = self.walked(stage, asked, settle=settle)
                until = self.end - late * MINUTE
                assert said.error is None
                assert said.answered == RangeSet.of(asked.since, until)
                assert same_bits(said.candles, stage.truth("1m", asked.since, until))

    def test_bounds(self, tmp_path: Path) -> None:
        """Spans of any length at any place hold exactly their own candles: the first and the last, and none beside them."""
        with self.stage(self.scene(), tmp_path) as stage:

            async def main() -> list[Said]:
                spans = [
                    TimeRange(self.ago(first) + shift * MINUTE, self.ago(first) + (shift + size) * MINUTE)
                    for first in (3.6, 2.45)
                    for shift in (0, 1)
                    for size in (1, 2, 3, 97)
                ]
                async with stage.source() as source:
                    return [await walk(source, self.minutes, span, now=NOW) for span in spans]

            for said in asyncio.run(main()):
                self.check(stage, said, absent=RangeSet())

    def test_latest(self, tmp_path: Path) -> None:
        """One answer from a moment on or off the grid begins with the next candle; without one it ends with the newest."""
        with self.stage(self.scene(), tmp_path) as stage:
            first = self.ago(0.5)

            async def main() -> list[pl.DataFrame]:
                async with stage.source() as source:
                    moments = (first, first + 1, first - 1, first + MINUTE - 1, None)
                    return [await source.latest(self.minutes, moment, 5) for moment in moments]

            *found, newest = asyncio.run(main())
            for frame, begin in zip(found, (first, first + MINUTE, first, first + MINUTE), strict=True):
                assert frame.height <= 5
                assert frame["time"].to_physical()[0] == begin
                assert same_bits(frame, stage.truth("1m", begin, begin + frame.height * MINUTE))
            assert newest.height == 5
            assert newest["time"].to_physical()[-1] in (self.end, self.end - MINUTE)
