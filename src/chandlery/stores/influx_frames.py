"""Candles made of the rows that InfluxDB answers: what is whole becomes a frame, of what is less its open time is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from chandlery.candle import SCHEMA, VALUES
from chandlery.errors import StoreCorrupt

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from chandlery.stores.influx_rows import Rows

#: Nanoseconds in a millisecond.
MS = 1_000_000


@dataclass(frozen=True, slots=True)
class Read:
    """Whole candles, and the open times of points that are less."""

    frame: pl.DataFrame
    partial: list[int]


def of_whole(times: NDArray[np.int64], doubles: dict[str, NDArray[np.float64]]) -> Read:
    """Rows that all have their numbers: candles, but for times between two milliseconds."""
    _check_order(bool((times[1:] > times[:-1]).all()))
    partial: list[int] = []
    opened, between = np.divmod(times, MS)
    if between.any():
        whole = between == 0
        partial = opened[~whole].tolist()
        opened, doubles = opened[whole], {name: column[whole] for name, column in doubles.items()}
    return Read(_frame(pl.Series("time", opened), doubles), partial)


def of_rows(series: Sequence[Rows]) -> Read:
    """Rows of which some are not whole: what is no number counts as not there."""
    rows = [row for part in series for row in part.values]
    numbers = pl.DataFrame(
        [[_number(value) for value in row[1:]] for row in rows],
        schema=dict.fromkeys(VALUES, pl.Float64),
        orient="row",
    )
    times = pl.Series("time", [row[0] for row in rows], dtype=pl.Int64)
    _check_order(times.is_sorted())
    whole = numbers.select(pl.all_horizontal(pl.all().is_not_null())).to_series() & (times % MS == 0)
    kept = numbers.filter(whole)
    return Read(
        _frame(times.filter(whole) // MS, {name: kept[name] for name in VALUES}),
        (times.filter(~whole) // MS).to_list(),
    )


def _frame(
    opened: pl.Series, columns: Mapping[str, pl.Series] | Mapping[str, NDArray[np.float64]]
) -> pl.DataFrame:
    values = {name: columns[name] for name in columns if name in SCHEMA}
    return pl.DataFrame({"time": opened.cast(SCHEMA["time"]), **values})


def _check_order(in_order: bool) -> None:
    if not in_order:
        raise StoreCorrupt("InfluxDB answered candles out of their order", hint="its log says more")


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
