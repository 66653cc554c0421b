"""The market of a folder of CSV files, served so that parsing an answer gives exactly the files' numbers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import numpy as np
import polars as pl

from chandlery.errors import UsageError
from chandlery.exchange.candles import Candles, Column
from chandlery.exchange.market import TIMEFRAMES
from chandlery.exchange.symbols import Listing
from chandlery.timeframe import DAY, Timeframe
from chandlery.timerange import TimeRange

if TYPE_CHECKING:
    from numpy.typing import NDArray

_NAME = re.compile(r"(?P<exchange>[^_]+)_(?P<base>[^_]+)_(?P<quote>[^_]+)_(?P<timeframe>[^_.]+)\.csv(\.gz)?")
_TIME_NAMES = ("timestamp_ms", "timestamp", "time")
_VALUES = ("open", "high", "low", "close", "volume")
_PATTERN = "EXCHANGE_BASE_QUOTE_TIMEFRAME.csv or .csv.gz, such as binance_BTC_USDT_1h.csv"
_HEADER = "timestamp_ms,open,high,low,close,volume"


class CsvMarket:
    """Serves `exchange_BASE_QUOTE_timeframe.csv[.gz]`; timeframes not given are made of the shortest one given.

    Files of other exchanges are left alone. A swap's QUOTE is QUOTE:SETTLE, such as USDT:USDT; `settled` is for exchanges
    that have nothing but swaps settled in the quote currency, whose files may leave that out. Raises `UsageError` naming file, line and mend for anything that is not
    candles in ascending order on the timeframe's grid.
    """

    def __init__(
        self,
        folder: Path,
        exchange: str,
        timeframes: Mapping[str, Timeframe] = TIMEFRAMES,
        *,
        settled: bool = False,
    ) -> None:
        self._timeframes = timeframes
        self._series: dict[str, dict[str, Candles]] = {}
        names: dict[str, tuple[str, str]] = {}
        for path in _files(folder):
            match = _NAME.fullmatch(path.name)
            if match is None:
                raise UsageError(f"{path}: not a name of a candle file", hint=f"call it {_PATTERN}")
            if match["exchange"] != exchange:
                continue
            timeframe = timeframes.get(match["timeframe"])
            if timeframe is None:
                raise UsageError(
                    f"{path}: {exchange} has no timeframe {match['timeframe']!r}",
                    hint=f"it has {', '.join(timeframes)}",
                )
            base, quote = match["base"].upper(), match["quote"].upper()
            if settled and ":" not in quote:
                quote = f"{quote}:{quote}"
            pair = base + quote
            if names.setdefault(pair, (base, quote)) != (base, quote):
                other = "/".join(names[pair])
                raise UsageError(
                    f"{path}: {base}/{quote} and {other} are both called {pair}", hint="serve one of them"
                )
            series = self._series.setdefault(pair, {})
            if timeframe.text in series:
                raise UsageError(
                    f"{path}: the same candles are there twice, as .csv and .csv.gz", hint="take one away"
                )
            series[timeframe.text] = read_candles(path, timeframe)
        if not self._series:
            raise UsageError(f"{folder}: no candle files of {exchange} in it", hint=f"call them {_PATTERN}")
        self.listings: Mapping[str, Listing] = {
            pair: self._listing(pair, *names[pair]) for pair in sorted(self._series)
        }

    @property
    def last_close(self) -> int:
        """End of the last candle of all files."""
        spans = [
            self.span(one, self._timeframes[tf])
            for one in self.listings.values()
            for tf in self._series[one.id]
        ]
        return max(span.until for span in spans)

    def base(self, listing: Listing, timeframe: Timeframe) -> Timeframe | None:
        """The timeframe itself if there is a file of it, else the shortest one that fills it without a remainder."""
        given = self._series[listing.id]
        if timeframe.text in given and timeframe == self._timeframes[timeframe.text]:
            return timeframe
        shortest = min((self._timeframes[text] for text in given), key=lambda tf: tf.nominal_ms)
        length = shortest.fixed_ms
        # Weeks and months begin with a day, so candles that divide a day fill them; others start in mid-candle.
        if length is None or shortest.nominal_ms >= timeframe.nominal_ms:
            return None
        whole = timeframe.fixed_ms if timeframe.unit not in {"w", "M"} else DAY
        begins_together = (timeframe.anchor - shortest.anchor) % length == 0
        return shortest if whole is not None and whole % length == 0 and begins_together else None

    def span(self, listing: Listing, base: Timeframe) -> TimeRange:
        """From the file's first open time to the end of its last candle."""
        times = self._series[listing.id][base.text].time
        return TimeRange(int(times[0]), base.next(int(times[-1])))

    def candles(self, listing: Listing, base: Timeframe, since: int, until: int) -> Candles:
        """The file's candles that open in [since, until)."""
        return self._series[listing.id][base.text].between(since, until)

    def _listing(self, pair: str, base: str, quote: str) -> Listing:
        series = self._series[pair].values()
        decimals = [
            max(8 if d is None else d for d in (getattr(c, name) for c in series))
            for name in ("price_decimals", "volume_decimals")
        ]
        quote, _, settle = quote.partition(":")
        listed = min(int(c.time[0]) for c in series)
        return Listing(base, quote, decimals[0], decimals[1], listed=listed, settle=settle or None)


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise UsageError(f"{folder}: not a folder", hint="give the folder that holds the CSV files")
    return sorted(p for p in folder.iterdir() if p.name.endswith((".csv", ".csv.gz")) and p.name[0] != ".")


def read_candles(path: Path, timeframe: Timeframe) -> Candles:
    """Read one file; raises `UsageError` naming the line for the first thing that is wrong."""
    try:
        raw = pl.read_csv(path, infer_schema=False)
    except (OSError, pl.exceptions.PolarsError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UsageError(
            f"{path}: cannot be read as CSV: {reason}", hint=f"its first line must be {_HEADER}"
        ) from error
    time_name = next((name for name in _TIME_NAMES if name in raw.columns), None)
    lacking = [name for name in _VALUES if name not in raw.columns]
    if time_name is None or lacking:
        lacking = ([] if time_name else ["timestamp_ms"]) + lacking
        raise UsageError(
            f"{path}, line 1: no column {lacking[0]!r}", hint=f"the first line must be {_HEADER}"
        )
    if raw.is_empty():
        raise UsageError(f"{path}: no candles in it", hint="take the file away or fill it")
    times = _numbers(path, raw[time_name], pl.Int64, "a whole number of milliseconds")
    values = {name: _numbers(path, raw[name], pl.Float64, "a number") for name in _VALUES}
    _check(path, times, values, timeframe)
    prices, price_decimals = _scaled([values[name] for name in _VALUES[:4]])
    (volume,), volume_decimals = _scaled([values["volume"]])
    nothing = np.zeros(len(times), dtype=np.int64)
    if price_decimals is None or volume_decimals is None:
        prices, price_decimals = [values[name] for name in _VALUES[:4]], None
        volume, volume_decimals = values["volume"], None
    columns = [times, *prices, volume, nothing, nothing, nothing, nothing]
    return Candles.of(columns, price_decimals, volume_decimals)


def _numbers(path: Path, column: pl.Series, kind: type[pl.DataType], what: str) -> Column:
    numbers = column.str.strip_chars().cast(kind, strict=False)
    bad = numbers.is_null() if kind is pl.Int64 else ~numbers.is_finite().fill_null(value=False)
    if bad.any():
        row = int(bad.arg_true()[0])
        _refuse(
            path, row, f"{column.name} is {column[row]!r}, which is not {what}", "mend or remove the line"
        )
    return numbers.to_numpy()


def _check(path: Path, times: Column, values: Mapping[str, Column], timeframe: Timeframe) -> None:
    """Ascending, unique, on the grid, and prices that can be."""
    steps = np.diff(times)
    if (steps <= 0).any():
        row = int(np.flatnonzero(steps <= 0)[0]) + 1
        if times[row] == times[row - 1]:
            _refuse(path, row, f"the time {times[row]} stands there twice", "remove one of the two lines")
        _refuse(path, row, f"the time {times[row]} comes after {times[row - 1]}", "sort the lines by time")
    off = ~timeframe.aligned(times)
    if off.any():
        row = int(np.flatnonzero(off)[0])
        _refuse(
            path,
            row,
            f"no {timeframe.text} candle opens at {times[row]}",
            "give open times in milliseconds UTC",
        )
    opened, high, low, close, volume = (values[name] for name in _VALUES)
    wrong = (high < np.maximum(opened, close)) | (low > np.minimum(opened, close)) | (low < 0) | (volume < 0)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        text = ", ".join(f"{name} {values[name][row]}" for name in _VALUES)
        _refuse(path, row, f"these cannot be one candle: {text}", "mend or remove the line")


def _refuse(path: Path, row: int, what: str, mend: str) -> NoReturn:
    raise UsageError(f"{path}, line {row + 2}: {what}", hint=mend)


def _scaled(columns: list[NDArray[np.float64]]) -> tuple[list[Column], int | None]:
    """The columns as whole numbers of the coarsest decimal step (of at most eight) that gives back every double."""
    for decimals in range(9):
        step = 10.0**decimals
        whole = [np.rint(column * step) for column in columns]
        if all(
            (np.abs(w) < 2.0**53).all() and (w / step == c).all() for w, c in zip(whole, columns, strict=True)
        ):
            return [w.astype(np.int64) for w in whole], decimals
    return list(columns), None
