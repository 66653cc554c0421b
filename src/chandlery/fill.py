"""Filling holes on reading, never in a store: a row for every slot that has no candle, marked in a column `filled`.

A filled row says nothing about the market. The last candle before the hole is carried on ("flat": its close as open,
high, low and close, volume 0) or the row is left empty ("null").
"""

from __future__ import annotations

from typing import Literal, get_args

import polars as pl

from chandlery.candle import SCHEMA, VALUES
from chandlery.errors import UsageError
from chandlery.timeframe import Timeframe
from chandlery.timerange import TimeRange

Fill = Literal["flat", "null"]
FILLS: tuple[Fill, ...] = get_args(Fill)


def checked_fill(fill: str | None) -> Fill | None:
    """`fill` if there is such a way to fill, or None; raises UsageError for anything else."""
    for known in FILLS:
        if fill == known:
            return known
    if fill is None:
        return None
    raise UsageError(f"no such way to fill: {fill!r}", hint="fill is 'flat', 'null' or left out")


def filled(
    candles: pl.DataFrame, frame: Timeframe, span: TimeRange, fill: Fill, *, close_before: float | None = None
) -> pl.DataFrame:
    """`candles` (candle.SCHEMA, ascending, all in `span`) and a row for each slot of `span` that has none of them.

    The result is ascending and has one more column, Boolean: `filled`. "flat" carries the close of the candle before,
    `close_before` where that lies before `span`; slots with nothing before them stay null. A slot in which a candle
    opens off the grid counts as taken.
    """
    import numpy as np

    grid = frame.opens(span.since, span.until)
    taken = frame.slots(candles["time"].to_physical().to_numpy())
    holes = grid[np.isin(frame.slots(grid), taken, invert=True)]
    rows = pl.DataFrame({"time": pl.Series(holes, dtype=pl.Int64).cast(SCHEMA["time"])})
    rows = rows.with_columns(
        *(pl.lit(None, pl.Float64).alias(name) for name in VALUES), pl.lit(value=True).alias("filled")
    )
    both = pl.concat([candles.with_columns(pl.lit(value=False).alias("filled")), rows]).sort("time")
    if fill == "null":
        return both
    carried = pl.col("close").forward_fill().fill_null(pl.lit(close_before, pl.Float64))
    both = both.with_columns(carried.alias("close"))
    return both.with_columns(
        *(pl.when("filled").then("close").otherwise(name).alias(name) for name in ("open", "high", "low")),
        pl.when(pl.col("filled") & pl.col("close").is_not_null())
        .then(0.0)
        .otherwise("volume")
        .alias("volume"),
    )
