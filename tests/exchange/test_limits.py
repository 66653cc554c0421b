"""Request weights, refusals and bans, on a clock that the test owns."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import ccxt.async_support as ccxt
import pytest
from tests.exchange.conftest import moved

from chandlery.exchange import ExchangeSettings, LocalExchange
from chandlery.exchange.limits import RequestLimits, Window, WindowLimits
from chandlery.exchange.shapes import SHAPES

MINUTE = 60_000
START = 1_717_200_000_000


class Clock:
    def __init__(self) -> None:
        self.now = START

    def now_ms(self) -> int:
        return self.now


def test_weights_429_and_418_over_http(http: Callable[..., Any]) -> None:
    """The used weight is in the headers; past it comes 429 with the rest of the minute, then 418 with a ban's end."""
    clock = Clock()
    query = {"symbol": "BTCUSDT", "interval": "1m", "limit": 1}
    with LocalExchange(ExchangeSettings(weight_limit=26), clock=clock) as exchange:
        url = exchange.url
        info = http(url, "/api/v3/exchangeInfo", {})
        klines = http(url, "/api/v3/klines", query)
        ping = http(url, "/api/v3/ping", {})

        limit = {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": 26}
        assert info.json["rateLimits"] == [limit]
        used = [a.headers["x-mbx-used-weight-1m"] for a in (info, klines, ping)]
        assert used == ["20", "22", "23"]
        assert klines.headers["x-mbx-used-weight"] == "22"
        clock.now += 48_500
        assert http(url, "/api/v3/klines", query).status == 200
        refused = http(url, "/api/v3/klines", query)
        assert refused.status == 429
        assert refused.headers["retry-after"] == "12"
        assert refused.json["code"] == -1003
        assert "current limit is 26 request weight per 1 MINUTE" in refused.json["msg"]
        while (answer := http(url, "/api/v3/klines", query)).status == 429:
            pass
        assert answer.status == 418
        assert answer.headers["retry-after"] == "120"
        assert f"IP banned until {clock.now + 2 * MINUTE}." in answer.json["msg"]
        clock.now += 2 * MINUTE - 1
        assert http(url, "/api/v3/ping", {}).status == 418
        clock.now += 1
        assert http(url, "/api/v3/ping", {}).headers["x-mbx-used-weight-1m"] == "1"
        statuses = [record.status for record in exchange.requests]
        assert statuses == [200, 200, 200, 200, 429, 429, 429, 429, 429, 418, 418, 200]


def test_no_limit_is_not_declared(http: Callable[..., Any], exchange: LocalExchange) -> None:
    """With a limit of 0 none is declared and nothing refused, but weight is counted."""
    answers = [http(exchange.url, "/api/v3/exchangeInfo", {}) for _ in range(3)]

    assert answers[0].json["rateLimits"] == []
    weights = [int(a.headers["x-mbx-used-weight-1m"]) for a in answers]
    assert weights[2] - weights[0] == 40


def test_weight_is_per_minute_of_the_clock() -> None:
    """The count starts anew with every minute of the clock, not sixty seconds after the first request."""
    clock = Clock()
    limits = RequestLimits(10, clock.now_ms)

    assert limits.spend(8).used == 8
    clock.now += 59_999
    assert limits.spend(8).status == 429
    clock.now += 1
    assert (limits.spend(8).status, limits.spend(2).used) == (200, 10)


def test_bans_grow() -> None:
    """Each further ban is four times as long, up to three days."""
    clock = Clock()
    limits = RequestLimits(1, clock.now_ms)
    lengths = []
    for _ in range(8):
        while (verdict := limits.spend(1)).status != 418:
            pass
        lengths.append(verdict.wait_ms // MINUTE)
        clock.now += verdict.wait_ms

    assert lengths == [2, 8, 32, 128, 512, 2048, 4320, 4320]


def test_windows_survive_a_clock_that_is_set_back() -> None:
    """A rolling window whose clock goes back begins anew, rather than being full until that time comes again."""
    clock = Clock()
    limits = WindowLimits({"": Window(2, 1000)}, clock.now_ms)

    assert [limits.spend(1).status for _ in range(3)] == [200, 200, 429]
    clock.now -= 10 * MINUTE
    assert [limits.spend(1).status for _ in range(3)] == [200, 200, 429]
    assert limits.usage()[0].most_used == 2


def test_patience_before_a_window_bans() -> None:
    """Where an exchange bans who goes on asking, so many requests in a window are refused first."""
    clock = Clock()
    limits = WindowLimits({"": Window(1, 1000, ban_ms=5000, patience=2)}, clock.now_ms)

    assert [limits.spend(1).status for _ in range(5)] == [200, 429, 429, 418, 418]
    clock.now += 5000
    assert [limits.spend(1).status for _ in range(3)] == [200, 429, 429]
    clock.now += 1000
    assert [limits.spend(1).status for _ in range(2)] == [200, 429]


@pytest.mark.parametrize("exchange", list(SHAPES))
def test_windows_of_a_frozen_clock_pass_in_real_time(exchange: str) -> None:
    """Every exchange's limits are counted in real time where its clock stands still or does not run at speed 1."""
    local = LocalExchange(ExchangeSettings(exchange=exchange, clock="2024-06-01T00:00Z,0"))
    limits = local._shapes[exchange].limits
    usage = min((one for one in limits.usage() if one.limit), key=lambda one: one.window_ms)
    begun = local._clock._begun

    assert limits.spend(usage.limit, usage.group).status == 200
    local._clock._begun = begun - (usage.window_ms + 5) / 1000
    assert local.now_ms() == START
    assert limits.spend(usage.limit, usage.group).status == 200


@pytest.mark.parametrize("speed", ["0", "3600"])
def test_limits_count_real_minutes_at_any_speed(speed: str, http: Callable[..., Any]) -> None:
    """A clock that stands still or races changes the market's time, not the pace of the limits."""
    with LocalExchange(ExchangeSettings(clock=f"2024-06-01T00:00Z,{speed}", weight_limit=3)) as exchange:
        statuses = [http(exchange.url, "/api/v3/ping", {}).status for _ in range(4)]

    assert statuses == [200, 200, 200, 429]


def test_limits_reach_ccxt_as_its_own_errors() -> None:
    """The real classes raise: DDoSProtection for Binance, RateLimitExceeded for OKX and Bybit's 403."""

    async def ask(name: str, url: str) -> None:
        client = getattr(ccxt, name)({"enableRateLimit": False})
        client.urls["api"] = moved(client.urls["api"], url)
        try:
            for _ in range(3):
                await client.fetch_time()
        finally:
            await client.close()

    expected = {
        "binanceusdm": ccxt.DDoSProtection,
        "okx": ccxt.RateLimitExceeded,
        "bybit": ccxt.RateLimitExceeded,
    }
    with LocalExchange(ExchangeSettings(exchange=tuple(expected), weight_limit=2)) as exchange:
        for name, error in expected.items():
            with pytest.raises(error):
                asyncio.run(ask(name, exchange.url_of(name)))
