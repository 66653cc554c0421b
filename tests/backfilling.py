"""What the tests of back-fill share: one run with a source of its own, and what it asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from chandlery.backfill import Backfill, Want
from chandlery.candle import SeriesId
from chandlery.exchange import LocalExchange
from chandlery.report import Progress, RunReport
from chandlery.sources import open_source
from chandlery.stores.base import Store
from chandlery.timeframe import DAY
from chandlery.when import parse_when

NOW = parse_when("2024-06-20T12:30Z", now=0)
HOURLY = SeriesId("binance", "BTC/USDT", "1h")


def run(
    exchange: LocalExchange,
    store: Store,
    wants: Sequence[Want],
    *,
    recheck: int = DAY,
    repair: bool = False,
    doubt_absent: bool = False,
    progress: Progress | None = None,
) -> RunReport:
    """One run with a source of its own."""

    async def fetch() -> RunReport:
        async with open_source("binance", url=exchange.url) as source:
            backfill = Backfill(
                source, store, recheck=recheck, repair=repair, doubt_absent=doubt_absent, progress=progress
            )
            return await backfill.run(wants)

    return asyncio.run(fetch())


def klines(exchange: LocalExchange) -> int:
    """How many requests for candles the server has seen."""
    return sum(record.path.endswith("/klines") for record in exchange.requests)
