"""The real ccxt talks to the local exchange as it does to Binance."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import ccxt.async_support as ccxt
import pytest
from tests.exchange.conftest import moved

from chandlery.exchange import LocalExchange

HOUR = 3_600_000


def with_ccxt(url: str, use: Callable[[Any], Awaitable[Any]], **options: Any) -> Any:
    """Run `use` with a ccxt binance whose every address is the local exchange's."""

    async def run() -> Any:
        client = ccxt.binance({"enableRateLimit": False, **options})
        client.urls["api"] = moved(client.urls["api"], url)
        try:
            return await use(client)
        finally:
            await client.close()

    return asyncio.run(run())


def test_markets_load(exchange: LocalExchange) -> None:
    """load_markets works unchanged, with precisions, and knows the delisted pair as inactive."""
    markets = with_ccxt(exchange.url, lambda client: client.load_markets())

    assert set(markets) == set(exchange.symbols)
    assert (markets["BTC/USDT"]["precision"]["price"], markets["BTC/USDT"]["precision"]["amount"]) == (
        0.01,
        1e-05,
    )
    assert [name for name in markets if not markets[name]["active"]] == ["BCC/USDT", "SRM/USDT:USDT"]


@pytest.mark.parametrize("timeframe", ["1m", "1h", "1d", "1w", "1M"])
def test_candles_are_the_truth(exchange: LocalExchange, timeframe: str) -> None:
    """What ccxt parses from the answers is exactly what `truth` says, open candle aside."""
    since = 1_700_000_000_000

    rows = with_ccxt(exchange.url, lambda c: c.fetch_ohlcv("ETH/USDT", timeframe, since=since, limit=1000))

    closed = exchange.truth("ETH/USDT", timeframe, since, exchange.now_ms())
    assert len(rows) >= 6
    times = closed["time"].to_physical().to_list()
    expected = [
        list(row) for row in zip(times, *(closed[c].to_list() for c in closed.columns[1:]), strict=True)
    ]
    count = min(len(rows), len(expected))
    assert rows[:count] == expected[:count]
    assert len(rows) == 1000 or len(rows) == len(expected) + 1


def test_errors_have_binance_classes(exchange: LocalExchange) -> None:
    """The real ccxt maps the exchange's error codes to its own classes."""

    async def ask(client: Any) -> None:
        await client.public_get_klines({"symbol": "NOPE", "interval": "1m"})

    with pytest.raises(ccxt.BadSymbol, match="Invalid symbol"):
        with_ccxt(exchange.url, ask)


def test_path_prefix(exchange: LocalExchange) -> None:
    """The exchange answers below /binance too, where one server carries several exchanges."""
    rows = with_ccxt(
        exchange.url + "/binance",
        lambda c: c.fetch_ohlcv("BTC/USDT", "1h", since=1_717_200_000_000 - 5 * HOUR),
    )

    assert len(rows) == 6
