"""One function turns an answer's rows into a frame, so that a faster one can be put in its place per exchange.

`rows_to_frame` is right for every exchange: it lets ccxt parse each row. `FAST` holds the faster ones; each must give
the very same doubles (tested).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from chandlery.candle import SCHEMA, VALUES, Rejected
from chandlery.validate import raw_text

if TYPE_CHECKING:
    from numpy.typing import NDArray

ParseRow = Callable[[object], Sequence[object]]
#: Rows as they came, and ccxt's parser of one row -> frame, the raw row of each frame row, rows without an open time.
RowsToFrame = Callable[[Sequence[object], ParseRow], "tuple[pl.DataFrame, Sequence[object], list[Rejected]]"]

_TIME = pl.Datetime("ms", "UTC")


def rows_to_frame(
    raw: Sequence[object], parse_row: ParseRow
) -> tuple[pl.DataFrame, Sequence[object], list[Rejected]]:
    """Parse rows of any exchange. What is null, text or missing becomes NaN, which validation refuses.

    Returns the frame (candle.SCHEMA, in the order of the answer), the raw row of each of its rows, and the rows that
    are not rows at all or have no open time.
    """
    # A parser of another project meets a row off the network: anything can happen, and the slow way says what.
    with suppress(Exception):
        table = np.array([parse_row(row) for row in raw], dtype=np.float64)
        if table.shape == (len(raw), 6) and bool(np.isfinite(table[:, 0]).all()):
            return _frame(table[:, 0].astype(np.int64), table.T[1:]), raw, []
    return _row_by_row(raw, parse_row)


def _row_by_row(
    raw: Sequence[object], parse_row: ParseRow
) -> tuple[pl.DataFrame, Sequence[object], list[Rejected]]:
    table: list[list[float]] = []
    kept: list[object] = []
    refused: list[Rejected] = []
    for row in raw:
        try:
            if not isinstance(row, list | tuple | dict):
                raise TypeError
            parsed = [_number(value) for value in parse_row(row)]
        except Exception:  # noqa: BLE001 - as above
            refused.append(Rejected(None, raw_text(row), "not a row of a candle"))
            continue
        if not parsed or not np.isfinite(parsed[0]):
            refused.append(Rejected(None, raw_text(row), "no open time"))
            continue
        table.append((parsed + [float("nan")] * 6)[:6])
        kept.append(row)
    numbers = np.array(table, dtype=np.float64).reshape(-1, 6)
    return _frame(numbers[:, 0].astype(np.int64), numbers.T[1:]), kept, refused


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return float("nan")
    return float(value)


def _frame(times: NDArray[np.int64], values: NDArray[np.float64]) -> pl.DataFrame:
    columns = [pl.Series("time", times, dtype=pl.Int64).cast(_TIME)]
    columns += [
        pl.Series(name, np.ascontiguousarray(column)) for name, column in zip(VALUES, values, strict=True)
    ]
    frame = pl.DataFrame(columns)
    assert frame.schema == SCHEMA
    return frame


def binance_rows(
    raw: Sequence[object], parse_row: ParseRow
) -> tuple[pl.DataFrame, Sequence[object], list[Rejected]]:
    """Binance spot and linear klines: [open time, open, high, low, close, volume, ...], numbers as text."""
    try:
        times, *texts = list(zip(*raw, strict=True))[:6]
        if set(map(type, times)) == {int}:
            values = np.array([list(map(float, column)) for column in texts], dtype=np.float64)
            if values.shape == (5, len(raw)):
                return _frame(np.array(times, dtype=np.int64), values), raw, []
    except (TypeError, ValueError, OverflowError):  # a null, a short row: the general way says which
        pass
    return rows_to_frame(raw, parse_row)


#: By exchange id. Only for markets whose rows have the layout that the function knows (see `rows_for`).
FAST: Mapping[str, RowsToFrame] = {
    "binance": binance_rows,
    "binanceus": binance_rows,
    "binanceusdm": binance_rows,
}


def rows_for(exchange: str, market: Mapping[str, object] | None) -> RowsToFrame:
    """The function for an exchange's market: a fast one where there is one, else the general one."""
    fast = FAST.get(exchange)
    if fast is None or market is None or market.get("inverse") is True or market.get("option") is True:
        return rows_to_frame
    return fast
