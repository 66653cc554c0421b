"""Requests that were one too many, as each exchange says it: the host is left alone until the time that was named."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from chandlery.errors import RateLimited
from chandlery.exchange import ExchangeSettings, LocalExchange
from chandlery.exchange.faults import faults_from
from chandlery.sources.ccxt_errors import Reply, asks_to_wait, wait_named

NOW = 1_717_200_030_000  # 2024-06-01T00:00:30Z
DATE = "Sat, 01 Jun 2024 00:00:30 GMT"

KRAKEN = '{"error":["EGeneral:Too many requests"]}'
THROTTLED = '{"error":["EService:Throttled: 1717200042"]}'
BYBIT = '{"retCode":10006,"retMsg":"Too many visits. Exceeded the API Rate Limit.","result":{},"time":1}'
RESET = {"X-Bapi-Limit-Status": "0", "X-Bapi-Limit-Reset-Timestamp": str(NOW + 3_000)}
KUCOIN = '{"code":"429000","msg":"Too many requests"}'
POOL = {"gw-ratelimit-remaining": "0", "gw-ratelimit-limit": "2000", "gw-ratelimit-reset": "12345"}
OKX = '{"code":"50011","msg":"Too Many Requests","data":[]}'
GATE = '{"label":"TOO_MANY_REQUESTS","message":"Request Rate limit Exceeded"}'
BITGET = '{"code":"429","msg":"Too Many Requests","requestTime":1,"data":null}'
COINBASE = '{"error":"rate_limit_exceeded","message":"Too many requests"}'
CANDLES = {
    "bybit": "/v5/market/kline",
    "kraken": "/0/public/OHLC",
    "kucoin": "/api/v1/market/candles",
    "okx": "/api/v5/market/history-candles",
    "gate": "/api/v4/spot/candlesticks",
    "bitget": "/api/v2/spot/market/candles",
    "coinbase": "/api/v3/brokerage/market/products/BTC-USD/candles",
}


@dataclass
class Refusing:
    """A server that says one thing to every request."""

    status: int
    body: str
    headers: dict[str, str]
    asked: list[float] = field(default_factory=list)

    @asynccontextmanager
    async def serving(self, now: Callable[[], float]) -> AsyncIterator[str]:
        """Serve, and note when each request comes."""

        async def handle(_: web.BaseRequest) -> web.StreamResponse:
            self.asked.append(now())
            headers = {"Date": DATE, "Content-Type": "application/json", **self.headers}
            return web.Response(status=self.status, text=self.body, headers=headers)

        runner = web.ServerRunner(web.Server(handle))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()


@pytest.mark.parametrize(
    ("exchange", "status", "body", "headers", "wait"),
    [
        ("bybit", 403, "403, access too frequent", {"Content-Type": "text/plain"}, 600_000),
        ("bybit", 200, BYBIT, RESET, 3_000),
        ("bybit", 403, BYBIT, {}, 5_000),
        ("kraken", 200, KRAKEN, {}, 5_000),
        ("kraken", 200, THROTTLED, {}, 12_000),
        ("kucoin", 429, KUCOIN, POOL, 12_345),
        ("kucoin", 200, KUCOIN, {}, 30_000),
        ("okx", 429, OKX, {}, 2_000),
        ("okx", 200, OKX, {}, 2_000),
        ("gate", 429, GATE, {}, 10_000),
        ("bitget", 429, BITGET, {}, 1_000),
        ("coinbase", 429, COINBASE, {}, 1_000),
        ("coinbase", 429, COINBASE, {"Retry-After": "17"}, 17_000),
        ("bitstamp", 429, "", {}, 5_000),
    ],
)
def test_the_time_named_is_waited_for(
    opened: Callable[..., Any],
    clock: Any,
    exchange: str,
    status: int,
    body: str,
    headers: dict[str, str],
    wait: int,
) -> None:
    """However an exchange says that there were too many requests, it is a wait and no refusal for good: until the time
    it names, else for one window, and the next process waits too.
    """
    server = Refusing(status, body, headers)

    async def main() -> list[RateLimited]:
        caught: list[RateLimited] = []
        async with server.serving(clock.monotonic) as url:
            for _ in range(2):
                async with opened(url, exchange, max_wait_seconds=0.5) as source:
                    with pytest.raises(RateLimited) as error:
                        await source.client.send(url + CANDLES.get(exchange, "/candles"), "GET", None, None)
                    caught.append(error.value)
        return caught

    first, second = asyncio.run(main())
    assert first.until == second.until == NOW + wait
    assert len(set(server.asked)) == 1


def test_refusals_without_a_time_double_the_wait(opened: Callable[..., Any], clock: Any) -> None:
    """Who is refused again and again without being told a time stays away twice as long each time, and asks one by one."""
    server = Refusing(429, OKX, {})

    async def main() -> None:
        async with server.serving(clock.monotonic) as url, opened(url, "okx", max_wait_seconds=40) as source:
            with pytest.raises(RateLimited):
                await source.markets()

    asyncio.run(main())
    first = server.asked[0]
    firsts = sorted({round(at - first) for at in server.asked})
    assert firsts[:5] == [0, 2, 6, 14, 30]


@pytest.mark.parametrize("named", ["0", "0.001", "-1", "nan", "Sat, 01 Jun 2024 00:00:25 GMT"])
def test_a_wait_of_nothing_is_no_leave_to_hammer(opened: Callable[..., Any], clock: Any, named: str) -> None:
    """Retry-After of zero, or a date that is past, is a refusal without a time at 429, and nothing at 503: what is asked
    again is asked ever later.
    """
    server = Refusing(429, OKX, {"Retry-After": named})

    async def main() -> None:
        async with server.serving(clock.monotonic) as url, opened(url, "okx", max_wait_seconds=40) as source:
            with pytest.raises(RateLimited):
                await source.markets()

    asyncio.run(main())
    assert sorted({round(at - server.asked[0]) for at in server.asked})[:5] == [0, 2, 6, 14, 30]
    assert not asks_to_wait(Reply(status=503, headers={"retry-after": named, "date": DATE}))


def test_bybit_ban_is_waited_for(opened: Callable[..., Any], clock: Any) -> None:
    """Bybit's ban of ten minutes, which comes as a 403 without a time, ends a run that may not wait so long, and the one
    after it has its candles.
    """
    faults = faults_from({"rules": [{"kind": "418", "count": 1}]})
    with LocalExchange(ExchangeSettings(exchange="bybit"), clock=clock) as exchange:

        async def main() -> int:
            async with opened(exchange.url, "bybit", max_wait_seconds=60) as source:
                exchange.faults = faults
                with pytest.raises(RateLimited) as error:
                    await source.markets()
                assert error.value.until is not None
                assert abs(error.value.until - (NOW + 600_000)) < 1_000
                asked = len(exchange.requests)
                with pytest.raises(RateLimited):
                    await source.markets()
                assert len(exchange.requests) == asked
                clock.now += 600_000
                return len(await source.markets())

        assert asyncio.run(main()) > 0


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (403, "<html>403 Forbidden</html>", False),
        (403, json.dumps({"retCode": 10024, "retMsg": "restricted"}), False),
        (403, "403, access too frequent", True),
        (200, KRAKEN, False),  # ccxt's class says it
        (200, THROTTLED, True),
        (200, "x" * 2_000 + "access too frequent", False),
        (503, "", False),
        (429, "", True),
    ],
)
def test_refusals_are_told_from_answers(status: int, body: str, said: bool) -> None:
    """Other 403s stay refusals for good, and what a long answer holds is not taken for one."""
    assert asks_to_wait(Reply(status=status, body=body)) is said


def test_a_reset_counts_only_where_the_budget_is_used_up() -> None:
    """A refusal by the whole system, with budget left, names no time: KuCoin's is for asking again."""
    left = {**POOL, "gw-ratelimit-remaining": "1200"}
    assert wait_named(Reply(status=429, headers=POOL), NOW) == 12_345
    assert wait_named(Reply(status=429, headers=left), NOW) is None


def test_state_is_kept_by_host_and_exchange(opened: Callable[..., Any], clock: Any, tmp_path: Path) -> None:
    """A server that stands in for several exchanges is several hosts: a ban of one is none of the other."""
    with LocalExchange(ExchangeSettings(exchange=("bybit", "okx")), clock=clock) as exchange:

        async def main() -> None:
            async with opened(f"{exchange.url}/bybit", "bybit", max_wait_seconds=60) as source:
                exchange.faults = faults_from({"rules": [{"kind": "418", "count": 1, "exchange": "bybit"}]})
                with pytest.raises(RateLimited):
                    await source.markets()
            async with opened(f"{exchange.url}/okx", "okx", max_wait_seconds=60) as source:
                assert await source.markets()

        asyncio.run(main())
    names = {path.name.rpartition("%2F")[2] for path in (tmp_path / "state" / "hosts").iterdir()}
    assert {"bybit.json", "okx.budget"} <= names
