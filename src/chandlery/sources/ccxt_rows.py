"""An answer's rows as a frame.

`rows_to_frame` is right for every exchange: it lets ccxt parse each row. Rows that are all alike need not be decoded
for it (see `page_text`); what comes out is the same, to the bit (tested).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from chandlery.candle import SCHEMA, VALUES
from chandlery.sources.page_layouts import UnreadRows, symbol_of
from chandlery.validate import FRACTION, LATEST, NO_ROW, NO_TIME, keep_arrays

if TYPE_CHECKING:
    from numpy.typing import NDArray

ParseRow = Callable[[object], Sequence[object]]
#: Rows as they came, and ccxt's parser of one row -> a frame with a row for each of them, in the same order.
RowsToFrame = Callable[[Sequence[object], ParseRow], pl.DataFrame]

_TIME = pl.Datetime("ms", "UTC")


def rows_to_frame(raw: Sequence[object], parse_row: ParseRow) -> pl.DataFrame:
    """Parse rows of any exchange. What is null, text or missing becomes NaN, which validation refuses.

    Returns a frame (candle.SCHEMA) with one row for each row of the answer, in its order. The `time` of one whose open
    time cannot be read is NO_TIME, NO_ROW or FRACTION.
    """
    # A parser of another project meets a row off the network: anything can happen, and the slow way says what.
    with suppress(Exception):
        table = np.array([parse_row(row) for row in raw], dtype=np.float64)
        times = table[:, 0]
        whole = table.shape == (len(raw), 6) and bool(((times == np.floor(times)) & (times < LATEST)).all())
        texts = [value for row in raw for value in _fields(row) if isinstance(value, str)]
        if whole and _plain("".join(texts)) and not _fractions(raw):
            return _frame(times.astype(np.int64), table.T[1:])
    table = np.array([_one_row(row, parse_row) for row in raw], dtype=np.float64).reshape(-1, 6)
    return _frame(table[:, 0].astype(np.int64), table.T[1:])


def _fields(row: object) -> Sequence[object]:
    """The values of a raw row, whatever it is."""
    if isinstance(row, dict):
        return list(row.values())
    return row if isinstance(row, list | tuple) else ()


def _plain(text: str) -> bool:
    """Whether numbers in `text` are only what JSON takes for numbers: float() also takes "1_0", " 1" and digits of any script."""
    return text.isascii() and (not text or text.isprintable()) and " " not in text and "_" not in text


def _fractions(raw: Sequence[object]) -> bool:
    """Whether an open time has a fraction: ccxt cuts it off."""
    return any(
        isinstance(row, list | tuple) and row and isinstance(row[0], float) and row[0] % 1 != 0 for row in raw
    )


def _one_row(row: object, parse_row: ParseRow) -> list[float]:
    """One row as numbers, NaN for what is none, its open time told by a sentinel where it cannot be read."""
    lost = [float("nan")] * 5
    if not isinstance(row, list | tuple | dict) or not row:
        return [NO_ROW, *lost]
    try:
        parsed = [_number(value) for value in parse_row(row)]
    except Exception:  # noqa: BLE001 - as above
        return [NO_ROW, *lost]
    if not parsed or not np.isfinite(parsed[0]) or parsed[0] < 0:
        return [NO_TIME, *lost]
    if parsed[0] % 1 or _fractions([row]):
        return [FRACTION, *lost]
    if any(isinstance(value, str) and not _plain(value) and _is_number(value) for value in _fields(row)):
        return [min(parsed[0], LATEST), *lost]
    return [min(parsed[0], LATEST), *(parsed[1:] + lost)[:5]]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return float("nan")
    return float(value)


def _frame(times: NDArray[np.int64], values: NDArray[np.float64]) -> pl.DataFrame:
    values = np.ascontiguousarray(values)
    frame = _make(times, values)
    keep_arrays(frame, times, values)
    return frame


def _made_of_series(times: NDArray[np.int64], values: NDArray[np.float64]) -> pl.DataFrame:
    columns = [pl.Series("time", times, dtype=pl.Int64).cast(_TIME)]
    columns += [pl.Series(name, column) for name, column in zip(VALUES, values, strict=True)]
    return pl.DataFrame(columns)


def _made_at_once(times: NDArray[np.int64], values: NDArray[np.float64]) -> pl.DataFrame:
    """The same without the questions that polars asks of every array, which take longer than all else."""
    inside = pl._plr  # noqa: SLF001 - proved by `_fastest`
    columns = [inside.PySeries.new_i64("time", times, True).cast(_TIME, True, False)]
    columns += [
        inside.PySeries.new_f64(name, column, False) for name, column in zip(VALUES, values, strict=True)
    ]
    return pl.DataFrame._from_pydf(inside.PyDataFrame(columns))  # noqa: SLF001


def _fastest() -> Callable[[NDArray[np.int64], NDArray[np.float64]], pl.DataFrame]:
    """The quick way, which is not part of polars' public interface, where this polars proves to have it."""
    times, values = np.array([0, -1, 1_700_000_000_000]), np.array([[0.1, np.nan, np.inf]] * len(VALUES))
    with suppress(Exception):  # another polars: anything can happen
        made = _made_at_once(times, values)
        if made.equals(_made_of_series(times, values)) and made.schema == SCHEMA:
            return _made_at_once
    return _made_of_series


_make = _fastest()


def rows_for(market: Mapping[str, object] | None) -> RowsToFrame:
    """The function for a market as ccxt has it: rows that were left as text are read as columns where that is known."""

    def read(raw: Sequence[object], parse_row: ParseRow) -> pl.DataFrame:
        if isinstance(raw, UnreadRows):
            found = raw.columns(symbol_of(market), parse_row)
            if found is not None:
                return _frame(*found)
            raw = raw.decoded()
        return rows_to_frame(raw, parse_row)

    return read
