"""Candles as the exchange counts them: whole ticks and lots, so that sums over any timeframe are exact."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chandlery.timeframe import Timeframe

Column = NDArray[Any]  # int64, or float64 where a file's numbers have no common decimal step


@dataclass(frozen=True, slots=True)
class Candles:
    """Columns of equal length, ascending by open time.

    `time` is in epoch milliseconds. Prices are whole numbers of 10**-price_decimals of the quote currency, `volume` and
    `taker` whole numbers of 10**-volume_decimals of the base currency, `turnover` and `taker_turnover` are products of
    both. Where decimals are None the columns are floats in whole currency.
    """

    time: Column
    open: Column
    high: Column
    low: Column
    close: Column
    volume: Column
    turnover: Column
    trades: Column
    taker: Column
    taker_turnover: Column
    price_decimals: int | None
    volume_decimals: int | None

    @classmethod
    def of(
        cls, columns: Sequence[Column], price_decimals: int | None, volume_decimals: int | None
    ) -> Candles:
        """Candles of the ten columns in the order of the fields."""
        time, opened, high, low, close, volume, turnover, trades, taker, taker_turnover = columns
        return cls(
            time,
            opened,
            high,
            low,
            close,
            volume,
            turnover,
            trades,
            taker,
            taker_turnover,
            price_decimals,
            volume_decimals,
        )

    def __len__(self) -> int:
        return len(self.time)

    @property
    def columns(self) -> list[Column]:
        """The ten columns in the order of the fields."""
        return [getattr(self, f.name) for f in fields(self)[:10]]

    def pick(self, rows: slice | NDArray[Any]) -> Candles:
        """Only the rows of a slice, an index or a mask."""
        return Candles.of([c[rows] for c in self.columns], self.price_decimals, self.volume_decimals)

    def between(self, since: int, until: int) -> Candles:
        """Only the candles that open in [since, until)."""
        first, last = np.searchsorted(self.time, [since, until])
        return self.pick(slice(int(first), int(last)))

    def prices(self) -> list[NDArray[np.float64]]:
        """Open, high, low, close and volume as the doubles that a client parses from the answer."""
        prices = [_doubles(c, self.price_decimals) for c in self.columns[1:5]]
        return [*prices, _doubles(self.volume, self.volume_decimals)]


def _doubles(column: Column, decimals: int | None) -> NDArray[np.float64]:
    # One division of two exact doubles rounds once, as reading the decimal digits does.
    return column.astype(np.float64) if decimals is None else column / 10.0**decimals


def join(parts: Sequence[Candles]) -> Candles:
    """Parts of one series, one after the other."""
    columns = [np.concatenate(same) for same in zip(*(p.columns for p in parts), strict=True)]
    return Candles.of(columns, parts[0].price_decimals, parts[0].volume_decimals)


def aggregate(candles: Candles, timeframe: Timeframe) -> Candles:
    """Longer candles out of shorter ones: first open, highest high, lowest low, last close, sums of the rest."""
    if not len(candles):
        return candles
    slots = timeframe.slots(candles.time)
    starts = np.flatnonzero(np.concatenate(([True], slots[1:] != slots[:-1])))
    lasts = np.append(starts[1:], len(slots)) - 1
    opens = np.array([timeframe.open_of(slot) for slot in slots[starts].tolist()], dtype=np.int64)
    summed = [np.add.reduceat(c, starts) for c in candles.columns[5:]]
    prices = [
        candles.open[starts],
        np.maximum.reduceat(candles.high, starts),
        np.minimum.reduceat(candles.low, starts),
        candles.close[lasts],
    ]
    return Candles.of([opens, *prices, *summed], candles.price_decimals, candles.volume_decimals)


def in_progress(candle: Candles, elapsed: int, length: int) -> Candles:
    """One candle as it stands `elapsed` of `length` milliseconds after its opening."""
    opened, high, low, close = (c[0].item() for c in candle.columns[1:5])

    def part(whole: float) -> int | float:
        return whole * elapsed // length if isinstance(whole, int) else whole * elapsed / length

    now = opened + part(close - opened)
    top, bottom = max(opened, close), min(opened, close)
    values = [opened, max(opened, now) + part(high - top), min(opened, now) - part(bottom - low), now]
    sums = [part(c[0].item()) for c in candle.columns[5:]]
    columns = [
        np.array([v], dtype=c.dtype) for v, c in zip([*values, *sums], candle.columns[1:], strict=True)
    ]
    return Candles.of([candle.time, *columns], candle.price_decimals, candle.volume_decimals)
