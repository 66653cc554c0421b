"""What is drawn: candles on their grid, merged into longer ones where there are more than the chart has room for."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from chandlery.candle import SeriesId
from chandlery.errors import UsageError
from chandlery.redact import visible
from chandlery.timeframe import DAY, HOUR, Timeframe, parse_timeframe

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: Timeframes that candles may be merged into and that ticks may stand at, shortest first.
_STEPS = (
    *(
        "1s",
        "5s",
        "15s",
        "30s",
        "1m",
        "3m",
        "5m",
        "10m",
        "15m",
        "30m",
        "1h",
        "2h",
        "3h",
        "4h",
        "6h",
        "8h",
        "12h",
    ),
    *("1d", "2d", "4d", "1w", "2w", "4w", "1M", "2M", "3M", "6M", "1y", "2y", "5y", "10y"),
)


@dataclass(frozen=True, slots=True)
class Bars:
    """Candles ready to be drawn. `slot` numbers the candles of `drawn`, so a hole in the data is a hole in the numbers."""

    series: SeriesId
    drawn: Timeframe  # the series' own timeframe, or the longer one that its candles were merged into
    candles: int  # how many stored candles are shown
    slot: NDArray[np.int64]
    open: NDArray[np.float64]
    high: NDArray[np.float64]
    low: NDArray[np.float64]
    close: NDArray[np.float64]
    volume: NDArray[np.float64]
    since: int  # open time of the first candle, epoch ms
    until: int  # close time of the last one

    @property
    def title(self) -> str:
        """Symbol, timeframe and exchange, safe to show, and what was merged."""
        s = self.series
        merged = "" if self.drawn == s.frame else f" drawn as {self.drawn.text}"
        kind = "" if s.kind == "trade" else f" ({s.kind})"
        return f"{visible(s.symbol)}{kind}  {s.timeframe}{merged}  {visible(s.exchange)}"

    @property
    def range_text(self) -> str:
        """The time from the first open to the last close, and the number of candles."""
        noun = "candle" if self.candles == 1 else "candles"
        return f"{_minute(self.since)} to {_minute(self.until)} UTC, {self.candles:,} {noun}"


def bars_of(candles: pl.DataFrame, series: SeriesId, *, most: int) -> Bars:
    """`candles` (candle.SCHEMA, ascending) as at most about `most` bars; raises UsageError if there is none.

    Merged: the first open, highest high, lowest low, last close and the sum of volumes of what is there.
    """
    if candles.is_empty():
        raise UsageError(
            f"nothing to draw: {series} has no candle there", hint="chandlery list shows what is kept"
        )
    own = series.frame
    opens = candles["time"].to_physical().to_numpy()
    first, last = int(opens[0]), int(opens[-1])
    drawn = _shortest(own, first, last, most)
    merged = (
        candles.with_columns(pl.Series("slot", drawn.slots(opens)))
        .group_by("slot", maintain_order=True)
        .agg(
            pl.col("open").first(),
            pl.col("high").max(),
            pl.col("low").min(),
            pl.col("close").last(),
            pl.col("volume").sum(),
        )
    )
    return Bars(
        series,
        drawn,
        candles.height,
        slot=merged["slot"].to_numpy(),
        open=merged["open"].to_numpy(),
        high=merged["high"].to_numpy(),
        low=merged["low"].to_numpy(),
        close=merged["close"].to_numpy(),
        volume=merged["volume"].to_numpy(),
        since=first,
        until=own.next(own.floor(last)),
    )


def _shortest(own: Timeframe, first: int, last: int, most: int) -> Timeframe:
    """The shortest timeframe made of whole `own` candles whose bars from `first` to `last` are at most `most`."""
    usual = (parse_timeframe(text) for text in _STEPS)
    longer = (step for step in usual if step.nominal_ms > own.nominal_ms and _holds_whole(step, own))
    # 3d and the like go into no usual one: then twice, three times and so on their own length.
    multiples = (Timeframe(own.size * times, own.unit, own.anchor) for times in count(2))
    return next(
        step for step in chain((own,), longer, multiples) if step.slot(last) - step.slot(first) < most
    )


def _holds_whole(long: Timeframe, short: Timeframe) -> bool:
    if short.fixed_ms is None:
        return long.fixed_ms is None and long.nominal_ms % short.nominal_ms == 0
    if long.fixed_ms is None:
        return DAY % short.fixed_ms == 0
    return long.fixed_ms % short.fixed_ms == 0 and (long.anchor - short.anchor) % short.fixed_ms == 0


def ticks(bars: Bars, most: int) -> list[tuple[float, str]]:
    """Where on the axis of slots a time is written, and what: at most `most` times that are round."""
    step = next(
        (
            frame
            for frame in map(parse_timeframe, _STEPS)
            if frame.nominal_ms >= bars.drawn.nominal_ms and frame.count(bars.since, bars.until) <= most
        ),
        parse_timeframe("10y"),
    )
    marks = [int(opened) for opened in step.opens(bars.since, bars.until)] or [bars.since]
    return [(_place(bars.drawn, opened), _tick_text(opened, step)) for opened in marks]


def _place(frame: Timeframe, moment: int) -> float:
    """`moment` on the axis of slots, between two of them where it is on no open time."""
    slot = frame.slot(moment)
    opened = frame.open_of(slot)
    return slot + (moment - opened) / (frame.next(opened) - opened)


def _tick_text(opened: int, step: Timeframe) -> str:
    at = datetime.fromtimestamp(opened / 1000, UTC)
    if step.nominal_ms >= 365 * DAY or (step.fixed_ms is None and at.month == 1):
        return f"{at:%Y}"
    if step.fixed_ms is None:
        return f"{at:%b}"
    if opened % DAY == 0:
        return f"{at:%d %b}" if step.nominal_ms < 7 * DAY else f"{at:%d %b %y}"
    return f"{at:%H:%M}" if step.nominal_ms < HOUR or opened % HOUR == 0 else f"{at:%H:%M:%S}"


def _minute(moment: int) -> str:
    return f"{datetime.fromtimestamp(moment / 1000, UTC):%Y-%m-%d %H:%M}"


def padded(low: float, high: float) -> tuple[float, float]:
    """A range of prices a little wider than [low, high], and never empty."""
    room = (high - low) * 0.04 or abs(high) * 0.01 or 1.0
    return low - room, high + room


def decimals_for(step: float) -> int:
    """How many decimals tell prices apart that lie `step` from each other."""
    import math

    return min(12, max(0, -math.floor(math.log10(step)))) if step > 0 else 0


def chart_suffix(path: Path) -> str:
    """The kind of chart that the file's ending asks for; raises UsageError for any but .png."""
    if path.suffix.lower() == ".png":
        return ".png"
    if path.suffix.lower() in (".html", ".htm"):
        raise UsageError(
            f"no chart is written as HTML: {path}", hint=f"a picture: -o {path.with_suffix('.png')}"
        )
    raise UsageError(
        f"no chart goes by that ending: {path}", hint="name a .png file, or leave -o out for the terminal"
    )
