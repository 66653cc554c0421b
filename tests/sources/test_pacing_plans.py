"""What a plan says of time: the least that the exchange's limits leave."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from chandlery.candle import SeriesId
from chandlery.exchange import ExchangeSettings, LocalExchange
from chandlery.sources.base import Estimate
from chandlery.timerange import TimeRange

MINUTE = 60_000
NOW = 1_717_200_030_000  # 2024-06-01T00:00:30Z
END = NOW // MINUTE * MINUTE - 100_000 * MINUTE


def estimate(
    exchange: LocalExchange, opened: Callable[..., Any], name: str, symbol: str, candles: int
) -> tuple[Estimate, int]:
    """The estimate for so many old candles with the whole budget, and the candle requests that were sent for it."""

    async def main() -> Estimate:
        async with opened(exchange.url, name, budget=1.0) as source:
            await source.markets()
            await source.now()
            series = SeriesId(name, symbol, "1m")
            found: Estimate = await source.estimate(series, TimeRange(END - candles * MINUTE, END))
            return found

    found = asyncio.run(main())
    return found, sum("kline" in one.path or "candle" in one.path for one in exchange.requests)


@pytest.mark.parametrize(
    ("candles", "requests", "seconds"),
    [(9_900, 10, 0), (30_000, 31, 0), (99_900, 100, 90), (150_000, 151, 150)],
)
def test_declared_weight_is_spent_first(
    opened: Callable[..., Any], clock: Any, candles: int, requests: int, seconds: float
) -> None:
    """Of 100 a minute 79 are left half a minute before its end: 39 requests at once, then 50 with each turn."""
    with LocalExchange(ExchangeSettings(weight_limit=100), clock=clock) as exchange:
        found, sent = estimate(exchange, opened, "binance", "BTC/USDT", candles)
    assert sent == 0
    assert (found.requests, found.weight) == (requests, 2 * requests)
    assert found.seconds == pytest.approx(seconds, abs=0.1)


def test_each_endpoint_has_its_limit(opened: Callable[..., Any], clock: Any) -> None:
    """Old candles of OKX are 20 requests in two seconds, counted from a burst of them on."""
    with LocalExchange(ExchangeSettings(exchange="okx"), clock=clock) as exchange:
        found, sent = estimate(exchange, opened, "okx", "BTC/USDT", 99 * 100)
    assert sent == 0
    assert (found.requests, found.weight, found.seconds) == (100, 100, 8)


def test_no_limit_takes_no_time(opened: Callable[..., Any], clock: Any) -> None:
    """Where the exchange declares no limit there is nothing to wait for."""
    with LocalExchange(ExchangeSettings(weight_limit=0), clock=clock) as exchange:
        found, _ = estimate(exchange, opened, "binance", "BTC/USDT", 100_000)
    assert (found.weight, found.seconds) == (2 * found.requests, 0)
