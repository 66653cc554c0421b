"""What is special about Binance's two APIs, as a bare client and the real ccxt class see them."""

from __future__ import annotations

from typing import Any

import pytest

from chandlery.exchange import ExchangeSettings, Fault, Faults, LocalExchange

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
MIDNIGHT = 1_717_200_000_000  # 2024-06-01


@pytest.mark.parametrize(
    ("limit", "weight"), [(1, 1), (99, 1), (100, 2), (499, 2), (500, 5), (1000, 5), (1001, 10), (None, 5)]
)
def test_usdm_weight_by_rows(limit: int | None, weight: int, http: Any) -> None:
    """USD-M klines cost 1, 2, 5 or 10 by the limit asked for, told in the header of the used weight."""
    query = {"symbol": "BTCUSDT", "interval": "1m"} | ({} if limit is None else {"limit": limit})
    with LocalExchange(ExchangeSettings(exchange="binanceusdm", clock="2024-06-01T00:00Z,0")) as exchange:
        answer = http(exchange.url, "/fapi/v1/klines", query)

    assert answer.headers["x-mbx-used-weight-1m"] == str(weight)
    assert len(answer.json) == (limit or 500)


def test_usdm_pages(several: Any) -> None:
    """USD-M gives up to 1,500 rows, and its info names contract, limit of 2,400 and delisted swaps."""
    query = {"symbol": "BTCUSDT", "interval": "1m", "startTime": MIDNIGHT - 2 * DAY}
    assert len(several.get("binanceusdm", "/fapi/v1/klines", **query, limit=9999).json) == 1500
    swaps = several.get("binanceusdm", "/fapi/v1/exchangeInfo").json["symbols"]
    assert {swap["contractType"] for swap in swaps} == {"PERPETUAL"}
    assert [swap["symbol"] for swap in swaps if swap["status"] != "TRADING"] == ["SRMUSDT"]
    with LocalExchange(ExchangeSettings(exchange="binanceusdm")) as exchange:
        assert [usage.limit for usage in exchange._shapes["binanceusdm"].limits.usage()] == [2400]


def test_both_kinds_in_ccxt(several: Any) -> None:
    """The class of spot loads swaps too, and asks the other host for their candles; prices and names are their own."""
    since = MIDNIGHT - HOUR

    async def ask(client: Any) -> Any:
        pages = [
            await client.fetch_ohlcv(symbol, "1m", since=since, limit=60)
            for symbol in ("BTC/USDT", "BTC/USDT:USDT")
        ]
        return {market["type"] for market in client.markets.values()}, pages

    kinds, (spot, swap) = several.talk("binance", ask)

    assert kinds == {"spot", "swap"}
    assert spot == several.truth("binance", "BTC/USDT", "1m", since, MIDNIGHT)
    assert swap == several.truth("binance", "BTC/USDT:USDT", "1m", since, MIDNIGHT)
    assert swap == several.truth("binanceusdm", "BTC/USDT:USDT", "1m", since, MIDNIGHT)
    assert several.get("binance", "/fapi/v1/klines", symbol="ETHBTC", interval="1m").json["code"] == -1121
    assert several.get("binance", "/api/v3/klines", symbol="BCHUSDT", interval="1m").json["code"] == -1121


def test_hosts_have_budgets_of_their_own(http: Any) -> None:
    """Weight spent on one host is not spent on the other: 6,000 a minute for spot, 2,400 for swaps, told in exchangeInfo."""
    query = {"symbol": "BTCUSDT", "interval": "1m", "limit": 1000}
    with LocalExchange(ExchangeSettings(clock="2024-06-01T00:00Z,0")) as exchange:
        limits = {
            host: http(exchange.url, f"/{host}/exchangeInfo", {}).json["rateLimits"][0]["limit"]
            for host in ("api/v3", "fapi/v1")
        }
        used = [
            http(exchange.url, f"/{path}/klines", query).headers["x-mbx-used-weight-1m"]
            for path in ("api/v3", "fapi/v1", "api/v3")
        ]
    with LocalExchange(ExchangeSettings(clock="2024-06-01T00:00Z,0", weight_limit=2)) as exchange:
        statuses = [
            http(exchange.url, f"/{path}/ping", {}).status
            for path in ("api/v3", "api/v3", "api/v3", "fapi/v1", "fapi/v1", "fapi/v1", "api/v3")
        ]
        refused = http(exchange.url, "/fapi/v1/ping", {}).json["msg"]

    assert limits == {"api/v3": 6000, "fapi/v1": 2400}
    assert used == ["22", "6", "24"]
    assert statuses == [200, 200, 429, 200, 200, 429, 429]
    assert "current limit is 2 request weight per 1 MINUTE" in refused


def test_faults_know_the_host(several: Any) -> None:
    """A fault aimed at a swap leaves the spot pair of the same name alone."""
    several.exchange.faults = Faults((Fault("empty", symbol="BTC/USDT:USDT", exchange="binance"),))
    query = {"symbol": "BTCUSDT", "interval": "1m", "limit": 1}

    bodies = [several.get("binance", path, **query).body for path in ("/api/v3/klines", "/fapi/v1/klines")]

    assert [bool(body) for body in bodies] == [True, False]
