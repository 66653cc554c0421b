"""Frames of candles and the arrays that are kept with them."""

from __future__ import annotations

import numpy as np
import polars as pl

from chandlery.candle import SCHEMA, VALUES
from chandlery.stores.embedded_blob import overlay_times
from chandlery.timeframe import parse_timeframe
from chandlery.validate import arrays_of, check_rows, open_times

MINUTE = 60_000


def _frame(times: list[int]) -> pl.DataFrame:
    columns = {"time": pl.Series(times, dtype=pl.Int64).cast(SCHEMA["time"])}
    columns |= {name: pl.Series([n + 1.0 for n in range(len(times))]) for name in VALUES}
    return pl.DataFrame(columns, schema=SCHEMA)


def test_arrays_of_a_frame_are_its_columns() -> None:
    """The arrays hold the frame's columns; those of a part or a changed copy of it are their own."""
    frame = _frame([MINUTE * n for n in range(1_000_000, 1_000_005)])
    times, values = arrays_of(frame)
    assert times.tolist() == frame["time"].to_physical().to_list()
    assert values.tolist() == [frame[name].to_list() for name in VALUES]
    part = frame.slice(1, 2)
    assert open_times(part).tolist() == times[1:3].tolist()
    doubled = frame.with_columns(pl.col("volume") * 2)
    assert arrays_of(doubled).values[4].tolist() == [2 * n for n in values[4]]
    assert arrays_of(frame).values is values


def test_newest_first_is_turned_round() -> None:
    """Good rows in descending order are believed as they are, and come out ascending."""
    frame = _frame([MINUTE * n for n in range(1_000_005, 1_000_000, -1)])
    verdict = check_rows(frame, parse_timeframe("1m"))
    assert verdict.good.equals(frame.sort("time"))
    assert (verdict.rejected, verdict.tail, verdict.strays) == ((), (), 0)
    twice = pl.concat([frame.head(3), frame.slice(2)])
    assert check_rows(twice, parse_timeframe("1m")).good.equals(frame.sort("time"))


def test_open_times_of_parts_in_any_order(seed: int) -> None:
    """Parts that overlap and come in any order give each open time once, ascending."""
    dice = np.random.default_rng(seed)
    parts = [np.arange(start, start + 50) for start in dice.integers(0, 400, 20).tolist()]
    assert overlay_times(parts).tolist() == np.unique(np.concatenate(parts)).tolist()
