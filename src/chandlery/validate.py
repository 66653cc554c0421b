"""What may be stored as a candle: a page of rows in, good candles and refused rows out.

Pure and vectorised: no clock, no network. A row is refused for what cannot be true of any candle; what is merely
unlikely, such as a spike of the price, is kept, because it may have happened.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from chandlery.candle import VALUES, Rejected
from chandlery.errors import BadAnswer

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    from numpy.typing import NDArray

    from chandlery.timeframe import Timeframe

#: Open times below this are seconds taken for milliseconds (it is 1971-04-09), those from LATEST on are microseconds.
EARLIEST = 40_000_000_000
LATEST = 100_000_000_000_000

OFF_GRID = "open time is not on the timeframe's grid"
#: Reasons by the order in which they are looked for: a row is refused for the first that holds.
REASONS = (
    OFF_GRID,
    "a price is not a finite number",
    "volume is not a finite number",
    "a price is not above zero",
    "volume is below zero",
    "low is above open or close",
    "high is below open or close",
    "two rows of this open time differ",
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The candles of a page that may be stored, ascending and unique, and the rows that may not."""

    good: pl.DataFrame
    rejected: tuple[Rejected, ...] = ()


def check_rows(
    rows: pl.DataFrame, timeframe: Timeframe | None, raw: Sequence[object] | None = None
) -> Verdict:
    """Sort `rows` (candle.SCHEMA, in any order) into good candles and refused rows.

    `raw` holds what the source sent for each row, for the record; without it the row itself is kept. With `timeframe`
    None the grid is not looked at. Equal duplicates become one row. Raises BadAnswer where all of an answer must be
    wrong: open times in seconds or microseconds.
    """
    import numpy as np

    if not len(rows):
        return Verdict(rows)
    times = open_times(rows)
    if int(times.min()) < EARLIEST or int(times.max()) >= LATEST:
        worst = int(times.min()) if int(times.min()) < EARLIEST else int(times.max())
        raise BadAnswer(
            f"open times are not in milliseconds: {worst}",
            hint="the exchange answered in seconds or microseconds; nothing of this answer is kept",
        )
    fault = _faults(rows, times, timeframe)
    if not fault.any() and bool((times[1:] > times[:-1]).all()):
        return Verdict(rows)
    order = np.argsort(times, kind="stable")
    fault = _mark_duplicates(rows, times, fault, order)
    bad = order[fault[order] > 0]
    rejected = tuple(
        Rejected(
            int(times[i]), raw_text(raw[i] if raw is not None else rows.row(int(i))), REASONS[fault[i] - 1]
        )
        for i in bad
    )
    good = rows[order[fault[order] == 0]]
    return Verdict(good, rejected)


def open_times(frame: pl.DataFrame) -> NDArray[np.int64]:
    """The open times of a frame, epoch ms. A view: polars' own `to_physical` goes through a query plan each time."""
    return frame["time"].to_numpy().view("int64")


def _faults(rows: pl.DataFrame, times: NDArray[np.int64], timeframe: Timeframe | None) -> NDArray[np.int8]:
    """For each row the number of the first reason (from 1) to refuse it, 0 for none."""
    import numpy as np

    opened, high, low, close, volume = (rows[name].to_numpy() for name in VALUES)
    # min and max carry NaN along, so one comparison of each pair tells whether any row needs a closer look.
    bottom, top = np.minimum(opened, close), np.maximum(opened, close)
    sound = (low > 0) & (low <= bottom) & (top <= high) & (high < np.inf) & (volume >= 0) & (volume < np.inf)
    on_grid = timeframe.aligned(times) if timeframe is not None else np.ones(len(times), dtype=np.bool_)
    fault = np.zeros(len(times), dtype=np.int8)
    if bool((sound & on_grid).all()):
        return fault
    prices = np.isfinite(opened) & np.isfinite(high) & np.isfinite(low) & np.isfinite(close)
    finite = np.isfinite(volume)
    with np.errstate(invalid="ignore"):
        checks = (
            ~on_grid,
            ~prices,
            ~finite,
            ~(np.minimum(np.minimum(low, high), bottom) > 0),
            ~(volume >= 0),
            ~(low <= bottom),
            ~(high >= top),
        )
    for number, failed in enumerate(checks, start=1):
        fault[failed & (fault == 0)] = number
    return fault


def _mark_duplicates(
    rows: pl.DataFrame, times: NDArray[np.int64], fault: NDArray[np.int8], order: NDArray[np.intp]
) -> NDArray[np.int8]:
    """Mark duplicates: -1 for one that may be dropped, the last reason for all of an open time whose rows differ."""
    import numpy as np

    fault = fault.copy()
    kept = order[fault[order] == 0]
    same = np.flatnonzero(times[kept][1:] == times[kept][:-1])
    if not len(same):
        return fault
    values = np.column_stack([rows[name].to_numpy() for name in VALUES])
    differing = [
        int(times[kept[i]]) for i in same if not np.array_equal(values[kept[i]], values[kept[i + 1]])
    ]
    fault[kept[same + 1]] = -1
    if differing:
        fault[np.isin(times, np.array(differing)) & (fault <= 0)] = len(REASONS)
    return fault


def raw_text(row: object) -> str:
    """A row as compact JSON, for the quarantine."""
    return json.dumps(row, separators=(",", ":"), default=str, ensure_ascii=False)
