"""What a source is tried on: markets with a known history, played by the local exchange, and what a walk said of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import polars as pl

from chandlery.candle import VALUES, CandlePage, Rejected, SeriesId, no_candles
from chandlery.errors import DataPipelineError
from chandlery.exchange import ExchangeSettings, LocalExchange
from chandlery.exchange.candles import Candles
from chandlery.exchange.clock import TimeSource
from chandlery.exchange.generated import GeneratedMarket
from chandlery.exchange.shapes import shape_of
from chandlery.exchange.symbols import Listing
from chandlery.ledger import Fact, State
from chandlery.testing.source_habits import HabitBook, TrueHabits
from chandlery.timerange import RangeSet, TimeRange

if TYPE_CHECKING:
    from chandlery.exchange.market import Market
    from chandlery.exchange.shape import Shape
    from chandlery.sources.base import Source
    from chandlery.timeframe import Timeframe


@dataclass(frozen=True, slots=True)
class Scene:
    """One market's history: when it was listed and delisted, when nothing was traded, and how quiet it is.

    `holes` are stretches without a candle; the last one may have no end, which is a market that stopped. `activity` is the share of
    minutes that see a trade; the others have no candle if `omit` says so, and otherwise what the exchange does then.
    All times are epoch milliseconds.
    """

    symbol: str
    listed: int
    delisted: int | None = None
    holes: tuple[TimeRange, ...] = ()
    activity: float = 1.0
    omit: bool = True
    seed: int = 1

    def listing(self, traded: tuple[Listing, ...]) -> Listing:
        """The exchange's pair of that symbol with this history; raises LookupError where it trades none."""
        for one in traded:
            if one.symbol == self.symbol:
                return replace(one, listed=self.listed, delisted=self.delisted, activity=self.activity)
        raise LookupError(f"the exchange does not trade {self.symbol}")


class SceneMarket:
    """The generated market with a scene's pair and one that trades beside it, both with the scene's holes."""

    def __init__(self, scene: Scene, traded: tuple[Listing, ...]) -> None:
        beside = next(one for one in traded if one.symbol != scene.symbol)
        self._inner = GeneratedMarket([scene.listing(traded), beside], seed=scene.seed, omit_flat=scene.omit)
        self._holes = scene.holes
        self.listings: Mapping[str, Listing] = self._inner.listings

    def base(self, listing: Listing, timeframe: Timeframe) -> Timeframe:
        """One minute."""
        return self._inner.base(listing, timeframe)

    def span(self, listing: Listing, base: Timeframe) -> TimeRange:
        """From listing to delisting."""
        return self._inner.span(listing, base)

    def candles(self, listing: Listing, base: Timeframe, since: int, until: int) -> Candles:
        """The 1m candles that open in [since, until), those in holes left out."""
        candles = self._inner.candles(listing, base, since, until)
        kept = None
        for hole in self._holes:
            if hole.since < until and hole.until > since:
                here = (candles.time < hole.since) | (candles.time >= hole.until)
                kept = here if kept is None else kept & here
        return candles if kept is None else candles.pick(kept)


class SceneExchange(LocalExchange):
    """A local exchange that plays one scene in one exchange's shape, without request limits.

    `habits` take the place of the exchange's own ways of cutting pages; see `source_habits`.
    """

    def __init__(
        self, exchange: str, scene: Scene, *, clock: TimeSource, habits: TrueHabits | None = None
    ) -> None:
        self._scene = scene
        self._habits = habits
        super().__init__(
            ExchangeSettings(exchange=exchange, weight_limit=0, symbols=(scene.symbol,), cache_mib=32),
            clock=clock,
        )

    def _shape(self, name: str, market: Market) -> Shape:
        shape = super()._shape(name, SceneMarket(self._scene, shape_of(name).pairs))
        if self._habits is not None:
            shape.book = HabitBook(shape.book, self._habits)
        return shape


@dataclass
class Said:
    """All that a walk said of a span, and the error that ended it."""

    series: SeriesId
    span: TimeRange
    pages: list[CandlePage] = field(default_factory=list)
    facts: list[Fact] = field(default_factory=list)
    error: DataPipelineError | None = None
    requests: int = 0
    retries: int = 0

    @property
    def candles(self) -> pl.DataFrame:
        """All candles, in the order in which they came."""
        return pl.concat([page.candles for page in self.pages]) if self.pages else no_candles()

    @property
    def rejected(self) -> list[Rejected]:
        """All refused rows."""
        return [row for page in self.pages for row in page.rejected]

    @property
    def answered(self) -> RangeSet:
        """The ranges that were answered."""
        return RangeSet(page.answered for page in self.pages)

    @property
    def missing(self) -> RangeSet:
        """What nothing was said of."""
        return RangeSet([self.span]) - self.answered - RangeSet(fact.range for fact in self.facts)

    def ranges(self, state: State) -> RangeSet:
        """The ranges of the facts of one state."""
        return RangeSet(fact.range for fact in self.facts if fact.state is state)

    @property
    def absent(self) -> RangeSet:
        """Slots that were answered and have no candle, good or refused."""
        frame = self.series.frame
        refused = [frame.floor(row.open) for row in self.rejected if row.open is not None]
        there = [*self.candles["time"].to_physical().to_list(), *refused]
        return self.answered - RangeSet(TimeRange(one, frame.next(one)) for one in there)


async def walk(
    source: Source, series: SeriesId, span: TimeRange, *, now: int, settle: int | None = None
) -> Said:
    """Walk a span to its end, or to the error that ends it; asserts what every walk promises of its pages."""
    said = Said(series, span)
    before = source.traffic.candle_requests, source.traffic.retries
    settle = round(source.settle_seconds * 1000) if settle is None else settle
    try:
        async for one in source.pages(series, span, now=now, settle=settle):
            if isinstance(one, Fact):
                said.facts.append(one)
            else:
                said.pages.append(one)
    except DataPipelineError as error:
        said.error = error
    said.requests = source.traffic.candle_requests - before[0]
    said.retries = source.traffic.retries - before[1]
    done = span.since
    for page in said.pages:
        assert page.series == series
        assert done <= page.answered.since < page.answered.until <= span.until, "pages ascend inside the span"
        done = page.answered.until
        times = page.candles["time"].to_physical()
        assert times.is_sorted()
        assert times.n_unique() == len(times)
        assert all(time in page.answered for time in times)
    for fact in said.facts:
        assert fact.range
        assert not RangeSet([fact.range]) & said.answered, "what was answered is no fact besides"
        assert not RangeSet([fact.range]) - RangeSet([span])
    return said


def same_bits(one: pl.DataFrame, other: pl.DataFrame) -> bool:
    """Whether two frames of candles are equal in every open time and in every bit of every value."""

    def bits(frame: pl.DataFrame) -> pl.DataFrame:
        return frame.select(
            pl.col("time").to_physical(), *(pl.col(value).reinterpret(signed=True) for value in VALUES)
        )

    return one.schema == other.schema and bits(one).equals(bits(other))
