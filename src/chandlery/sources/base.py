"""The contract of a source: one range of one series in, pages of candles out.

A source walks a range upwards and yields what it may say of it. What it does not yield stays missing: a source never
calls a slot empty without proof.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Self

from chandlery.candle import CandlePage, SeriesId
from chandlery.ledger import Fact, State
from chandlery.timeframe import Timeframe
from chandlery.timerange import TimeRange
from chandlery.when import iso

if TYPE_CHECKING:
    import polars as pl

#: What volumes may be in: the base currency, the quote currency, contracts, or nobody knows.
VolumeUnit = Literal["base", "quote", "contracts", "unknown"]


@dataclass(frozen=True, slots=True)
class Market:
    """One thing the exchange trades, under its unified symbol."""

    symbol: str
    kind: str  # spot, swap, future, option
    active: bool  # False once the exchange says it no longer trades
    base: str
    quote: str
    family: str | None = None  # "spot" or "linear": the kinds that exchange profiles know
    contract_size: float | None = None  # what one contract is of the base currency, of linear markets


@dataclass(frozen=True, slots=True)
class Volumes:
    """What the volumes of a series are in, which are `times` the exchange's own numbers.

    `documented` says that a shipped profile knows the unit; `size` is that of one contract of the market in the base
    currency, 1 where there are none. Neither is part of what makes volumes equal.
    """

    unit: VolumeUnit
    times: float = 1.0
    documented: bool = field(default=True, compare=False)
    size: float = field(default=1.0, compare=False)

    @property
    def may_differ(self) -> bool:
        """Whether numbers that were taken of the same market without this knowledge may be of another unit."""
        return self.size != 1 and not (self.documented and self.times == 1)

    def fits(self, other: Volumes) -> bool:
        """Whether both may stand in one series: nobody multiplied one of them only, and no two names contradict."""
        return self.times == other.times and (self.unit == other.unit or "unknown" in (self.unit, other.unit))

    def known_with(self, other: Volumes) -> Volumes:
        """The better known one of two that fit."""
        return other if self.unit == "unknown" else self


@dataclass(frozen=True, slots=True)
class Beginning:
    """The first candle that the exchange gives, and whether older ones exist that it does not give."""

    open: int
    deeper: bool = False


@dataclass(slots=True)
class Traffic:
    """What a source has spent: requests sent (any endpoint), those for candles, repeats among them, request weight."""

    requests: int = 0
    candle_requests: int = 0
    retries: int = 0
    weight: float = 0.0


@dataclass(frozen=True, slots=True)
class Estimate:
    """What asking for a range would cost at least."""

    requests: int
    weight: float
    seconds: float
    via: str


def beyond(series: SeriesId, oldest: int) -> str:
    """The reason of a fact that rests on nothing but the depth that a profile knows."""
    return f"{_beyond(series)}{iso(oldest)}"


def is_beyond(series: SeriesId, fact: Fact) -> bool:
    """Whether a fact rests on nothing but the depth that a profile knows."""
    return fact.state is State.OUT_OF_REACH and fact.reason.startswith(_beyond(series))


def _beyond(series: SeriesId) -> str:
    return f"{series.exchange} gives no {series.timeframe} candle from before "


class Source(ABC):
    """Answers for one exchange. Use it as an async context manager, in one event loop."""

    #: Name of the way of asking, as the journal keeps it.
    name: str
    #: The exchange id.
    exchange: str
    #: What was spent so far.
    traffic: Traffic
    #: Seconds after its end at which a candle of this exchange counts as closed.
    settle_seconds: float = 10.0

    @abstractmethod
    async def now(self) -> int:
        """The exchange's time, epoch ms."""

    @abstractmethod
    async def markets(self) -> Mapping[str, Market]:
        """All markets by symbol; asked once and kept. Raises ExchangeError."""

    @abstractmethod
    async def timeframes(self) -> Mapping[str, Timeframe]:
        """The timeframes that the exchange offers, by their text, shortest first."""

    @abstractmethod
    async def known(self, series: SeriesId) -> Market:
        """Check that the exchange lists the series' symbol and timeframe; raises UnknownSymbol or UnknownTimeframe,
        each with the nearest names as its hint.
        """

    @abstractmethod
    async def listing(self, series: SeriesId) -> int | None:
        """The open time of the series' first candle, None if it has none. At most 20 requests."""

    async def beginning(self, series: SeriesId) -> Beginning | None:
        """Where the candles begin that the exchange gives, None if it gives none: `listing` unless older ones exist."""
        found = await self.listing(series)
        return None if found is None else Beginning(found)

    async def reach(
        self, series: SeriesId, now: int, *, check: bool = False, again: bool = False
    ) -> int | None:
        """The open time of the oldest candle that can be had at `now` (the exchange's time), None where all can.

        Only what is sure is said. The boundary moves on with time. With `check` a few requests may be spent, once for
        all series, on whether it still holds: with `again`, because an earlier run did so, only where nothing but a measurement
        says so.
        """
        return None

    async def has_candle(self, series: SeriesId, opened: int) -> bool:
        """Whether one answer shows a candle that opens at `opened`. False proves nothing; at most one request.

        Raises UnknownTimeframe where the exchange does not give the timeframe.
        """
        return False

    async def volumes(self, series: SeriesId) -> Volumes:
        """What the volumes in `pages` are in; a store takes no others beside them."""
        return Volumes("base")

    @abstractmethod
    def pages(
        self, series: SeriesId, span: TimeRange, *, now: int, settle: int
    ) -> AsyncIterator[CandlePage | Fact]:
        """Walk `span` (aligned, settled at `now`) upwards and yield what can be said of it.

        The pages' `answered` ranges lie in `span`, ascend and do not overlap, except that the first may begin one
        candle before `span` (the overlap that proves continuity). Every page that arrived is yielded before an error
        is raised. Ends without error where it has nothing more to say, even if `span` is not covered: the rest is
        missing. `now` and `settle` (ms) are the exchange's time and the settling time of the run.
        """

    @abstractmethod
    async def latest(self, series: SeriesId, since: int | None, limit: int) -> pl.DataFrame:
        """What one answer holds now, the open candle included: candle.SCHEMA, ascending, at most `limit` candles.

        The first ones from `since` on, or the newest ones without it. One try: raises ExchangeError, and its
        `retryable` says whether another one may help.
        """

    @abstractmethod
    async def estimate(self, series: SeriesId, span: TimeRange) -> Estimate:
        """What `pages` over `span` would cost, without asking for candles."""

    @abstractmethod
    async def close(self) -> None:
        """Close the connections; twice is fine."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()
