"""What the tests of exports share: stores with few candles, and what an export of them writes."""

from __future__ import annotations

import io

import polars as pl

from chandlery.candle import SCHEMA, VALUES, CandlePage, SeriesId
from chandlery.export import export_series
from chandlery.stores.base import Ask, Page, Store
from chandlery.stores.memory import MemoryStore
from chandlery.timerange import TimeRange

START = 1_704_067_200_000  # 2024-01-01
HOUR = 3_600_000
BTC = SeriesId("binance", "BTC/USDT", "1h")
ETH = SeriesId("binance", "ETH/USDT", "4h")


def keep(store: Store, series: SeriesId, rows: dict[int, tuple[float, ...]]) -> None:
    """Store rows (slot after START -> open, high, low, close, volume)."""
    frame = series.frame
    candles = pl.DataFrame(
        {
            "time": pl.Series([frame.add(START, s) for s in sorted(rows)], dtype=pl.Int64).cast(
                SCHEMA["time"]
            ),
            **{
                name: pl.Series([rows[s][n] for s in sorted(rows)], dtype=pl.Float64)
                for n, name in enumerate(VALUES)
            },
        }
    )
    span = TimeRange(START, frame.add(START, max(rows, default=0) + 1))
    store.write(
        [Ask(series, span, span.until, 0), Page(CandlePage(series, span, candles, "test", span.until))]
    )


def plain_store(*series: SeriesId) -> MemoryStore:
    """A store with three candles and a hole in each of the series."""
    store = MemoryStore()
    for number, one in enumerate(series):
        keep(store, one, {s: (100.5 + s + number, 103.0, 99.0, 101.0, 7.25) for s in (0, 1, 3)})
    return store


def exported(store: Store, series: list[SeriesId], fmt: str = "csv", **bounds: object) -> bytes:
    """What an export writes."""
    out = io.BytesIO()
    export_series(store, series, out, fmt, **bounds)  # type: ignore[arg-type]
    return out.getvalue()
