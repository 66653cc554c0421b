"""What a candle is: the identity of its series, its columns, and a page of candles on its way into a store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import polars as pl

from chandlery.anchors import frame_of
from chandlery.errors import UsageError
from chandlery.timeframe import Timeframe, parse_timeframe
from chandlery.timerange import TimeRange

#: The columns of every frame of candles: `time` is the open time; prices in the quote currency, volume in the base one.
SCHEMA = pl.Schema(
    {
        "time": pl.Datetime("ms", "UTC"),
        "open": pl.Float64(),
        "high": pl.Float64(),
        "low": pl.Float64(),
        "close": pl.Float64(),
        "volume": pl.Float64(),
    }
)
COLUMNS = tuple(SCHEMA.names())
VALUES = COLUMNS[1:]
KINDS = ("trade", "mark", "index")


@dataclass(frozen=True, slots=True, order=True)
class SeriesId:
    """One series of candles: exchange id, unified symbol, timeframe as text, and kind (trade, mark or index).

    Raises UnknownTimeframe for a timeframe that is none, and UsageError for anything else that cannot be.
    """

    exchange: str
    symbol: str
    timeframe: str
    kind: str = "trade"

    def __post_init__(self) -> None:
        named = (("exchange", "binance"), ("symbol", "BTC/USDT"), ("timeframe", "1h"))
        for name, example in named:
            if not isinstance(getattr(self, name), str):
                raise UsageError(
                    f"{name} is {getattr(self, name)!r}", hint=f"{name} is text, such as {example!r}"
                )
        parse_timeframe(self.timeframe)
        if self.kind not in KINDS:
            raise UsageError(f"not a kind of candles: {self.kind!r}", hint=f"kinds are {', '.join(KINDS)}")

    @property
    def frame(self) -> Timeframe:
        """The timeframe as its exchange lays it on the calendar."""
        return frame_of(self.exchange, self.timeframe)

    def __str__(self) -> str:
        kind = "" if self.kind == "trade" else f" {self.kind}"
        return f"{self.exchange} {self.symbol} {self.timeframe}{kind}"


@dataclass(frozen=True, slots=True)
class Rejected:
    """A row that may not be stored as a candle: its open time if it has one, its raw text, and why."""

    open: int | None
    raw: str
    reason: str


@dataclass(frozen=True, slots=True)
class CandlePage:
    """Candles of one series and the range that they answer.

    `candles` has SCHEMA, ascending and unique, all inside `answered`. A slot of `answered` that is neither in
    `candles` nor in `rejected` is absent: the source was asked properly and has none.
    """

    series: SeriesId
    answered: TimeRange
    candles: pl.DataFrame
    source: str  # who answered, such as "ccxt_rest"
    at: int  # the exchange's time when it was asked, epoch ms
    evidence: str = "answer"  # why an empty part may be believed
    rejected: Sequence[Rejected] = field(default=())


def no_candles() -> pl.DataFrame:
    """A frame of SCHEMA without rows."""
    return pl.DataFrame(schema=SCHEMA)
