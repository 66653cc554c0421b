"""What is special about MEXC's two APIs, as a bare client and the real ccxt class see them."""

from __future__ import annotations

import asyncio
from typing import Any

import ccxt.async_support as ccxt
import pytest
from tests.exchange.conftest import moved

from chandlery.exchange import ExchangeSettings, LocalExchange
from chandlery.exchange.shapes import shape_of
from chandlery.exchange.shapes.mexc import Mexc

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
MIDNIGHT = 1_717_200_000_000  # 2024-06-01


def _minutes(first: int, count: int) -> list[int]:
    return [first + n * MINUTE for n in range(count)]


def _spot(several: Any, **query: Any) -> Any:
    return several.get("mexc", "/api/v3/klines", **{"symbol": "BTCUSDT", "interval": "1m", **query})


def _contract(several: Any, symbol: str = "BTC_USDT", **query: Any) -> Any:
    return several.get("mexc", f"/api/v1/contract/kline/{symbol}", **{"interval": "Min1", **query})


def test_spot_windows(several: Any) -> None:
    """500 rows though 1,000 are asked for; endTime is excluded, startTime alone is ignored, the oldest of a wide window come."""
    start = MIDNIGHT - DAY

    def times(**query: Any) -> list[int]:
        return [row[0] for row in _spot(several, **query).json]

    assert times(startTime=start, endTime=start + 3 * MINUTE) == _minutes(start, 3)
    assert times(startTime=start + 1, endTime=start + 3 * MINUTE + 1) == _minutes(start + MINUTE, 3)
    assert times(startTime=start, endTime=MIDNIGHT, limit=1000) == _minutes(start, 500)
    assert times(startTime=start, endTime=MIDNIGHT, limit=7) == _minutes(start, 7)
    assert times(endTime=start, limit=2) == _minutes(start - 2 * MINUTE, 2)
    latest = _minutes(MIDNIGHT - 499 * MINUTE, 500)
    assert times() == times(limit=1000) == times(startTime=start) == latest
    row = _spot(several, startTime=start, endTime=start + 1).json[0]
    assert (row[6], len(row)) == (start + MINUTE, 8)
    truth = several.truth("mexc", "BTC/USDT", "1m", start, start + 1)[0]
    assert [float(value) for value in row[1:6]] == truth[1:]


def test_contract_windows(several: Any) -> None:
    """Columns of seconds, `start` included and `end` not, the first 2,000 from `start` on; volume in whole contracts."""
    start = (MIDNIGHT - 3 * DAY) // 1000

    def times(**query: Any) -> list[int]:
        return list(_contract(several, **query).json["data"]["time"])

    assert times(start=start, end=start + 180) == [start, start + 60, start + 120]
    assert times(start=start) == list(range(start, start + 2000 * 60, 60))
    assert times(end=start) == list(range(start - 2000 * 60, start, 60))
    assert times()[-1] == MIDNIGHT // 1000
    assert len(times()) == 2000
    assert times(start=start, end=start) == []
    data = _contract(several, start=start, end=start + 60).json["data"]
    detail = several.get("mexc", "/api/v1/contract/detail", symbol="BTC_USDT").json["data"]
    assert detail["contractSize"] == pytest.approx(0.0001)
    assert data["vol"] == [int(data["vol"][0])]
    truth = several.truth("mexc", "BTC/USDT:USDT", "1m", start * 1000, start * 1000 + 1)[0]
    found = [data[name][0] for name in ("open", "high", "low", "close")]
    assert [*found, data["vol"][0] / 10_000] == truth[1:]
    assert [data[name][0] for name in ("realOpen", "realHigh", "realLow", "realClose")] == found


def test_both_kinds_in_ccxt(several: Any) -> None:
    """The real class loads spot and swaps, and asks each kind for its own timeframes by its own names."""

    async def ask(client: Any) -> Any:
        pages = {}
        for symbol, kind in (("ETH/USDT", Mexc.spot_intervals), ("ETH/USDT:USDT", Mexc.swap_intervals)):
            for timeframe in kind.values():
                since = timeframe.floor(MIDNIGHT - 90 * DAY)
                pages[symbol, timeframe.text] = (
                    since,
                    await client.fetch_ohlcv(symbol, timeframe.text, since=since, limit=2),
                )
        return set(client.timeframes), client.markets["ETH/USDT:USDT"], pages

    timeframes, swap, pages = several.talk("mexc", ask)

    assert timeframes == set(shape_of("mexc").timeframes())
    assert (swap["contractSize"], swap["linear"]) == (pytest.approx(0.001), True)
    for (symbol, timeframe), (since, page) in pages.items():
        scale = 1000 if symbol.endswith(":USDT") else 1
        truth = several.truth("mexc", symbol, timeframe, since, MIDNIGHT)[:2]
        assert [[*row[:5], row[5] / scale] for row in page] == truth


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ({"symbol": "NOPE"}, -1121),
        ({"symbol": "BCCUSDT"}, -1121),
        ({"symbol": "BTC_USDT"}, -1121),
        ({"interval": "1h"}, -1120),
        ({"interval": "Min1"}, -1120),
        ({"interval": "None"}, -1120),
        ({"startTime": "noon"}, 700004),
    ],
)
def test_spot_errors(several: Any, query: dict[str, Any], code: int) -> None:
    """Errors of spot have status 400, a code and a text."""
    answer = _spot(several, **query)

    assert (answer.status, answer.json["code"]) == (400, code)


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ({"symbol": "NOPE_USDT"}, 1001),
        ({"symbol": "BTCUSDT"}, 1001),
        ({"symbol": "SRM_USDT"}, 1001),
        ({"interval": "1m"}, 600),
        ({"start": "noon"}, 600),
    ],
)
def test_contract_errors(several: Any, query: dict[str, Any], code: int) -> None:
    """Errors of contracts have status 200, a code and no data."""
    answer = _contract(several, **query)

    assert (answer.status, answer.json["success"], answer.json["code"]) == (200, False, code)
    assert "data" not in answer.json


def test_limits_are_by_endpoint(http: Any) -> None:
    """Each endpoint of spot has a weight of 500 in 10 seconds, klines weigh 1 and exchangeInfo 10; contracts count requests."""

    class Clock:
        now = MIDNIGHT

        def now_ms(self) -> int:
            return self.now

    clock = Clock()
    with LocalExchange(ExchangeSettings(exchange="mexc"), clock=clock) as exchange:

        def statuses(path: str, count: int, **query: Any) -> list[int]:
            return [http(exchange.url, path, query).status for _ in range(count)]

        klines = {"symbol": "BTCUSDT", "interval": "1m", "limit": 1}
        assert statuses("/api/v3/exchangeInfo", 51) == [200] * 50 + [429]
        assert statuses("/api/v3/klines", 505, **klines) == [200] * 500 + [429] * 5
        refused = http(exchange.url, "/api/v3/klines", klines)
        assert (refused.status, refused.headers["retry-after"]) == (418, "120")
        assert statuses("/api/v3/time", 1) == [200]
        clock.now += 119_999
        assert statuses("/api/v3/klines", 1, **klines) == [418]
        clock.now += 1
        assert statuses("/api/v3/klines", 1, **klines) == [200]
        details = [http(exchange.url, "/api/v1/contract/detail", {}).json for _ in range(2)]
        used = {limit["group"]: limit for limit in http(exchange.url, "/_control/limits", {}).json["limits"]}

    assert (details[0]["success"], details[1]["code"]) == (True, 510)
    assert used["klines"] == {
        "exchange": "mexc", "group": "klines", "limit": 500, "window_ms": 10_000, "rolling": True,
        "requests": 508, "weight": 501, "most_used": 500, "refused": 5, "banned": 2,
    }  # fmt: skip
    assert (used["contract/kline"]["limit"], used["contract/kline"]["window_ms"]) == (20, 2_000)


def test_limits_reach_ccxt() -> None:
    """Refusals of both APIs are RateLimitExceeded in the real class."""

    async def ask(url: str, kind: str) -> None:
        client = ccxt.mexc({"enableRateLimit": False})
        client.urls["api"] = moved(client.urls["api"], url)
        try:
            for _ in range(3):
                await client.fetch_time({"type": kind})
        finally:
            await client.close()

    with LocalExchange(ExchangeSettings(exchange="mexc", weight_limit=2)) as exchange:
        for kind in ("spot", "swap"):
            with pytest.raises((ccxt.RateLimitExceeded, ccxt.DDoSProtection)):
                asyncio.run(ask(exchange.url, kind))
