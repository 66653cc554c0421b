"""Budgets, bans and waits, on a virtual clock and over HTTP."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from chandlery.candle import SeriesId
from chandlery.errors import RateLimited
from chandlery.exchange import ExchangeSettings, LocalExchange
from chandlery.sources.bans import BanBook
from chandlery.sources.limits import limits_from
from chandlery.timerange import TimeRange

MINUTE = 60_000
NOW = 1_717_200_030_000
BEGIN = NOW // MINUTE * MINUTE - 3000 * MINUTE
BTC = SeriesId("binance", "BTC/USDT", "1m")
SPAN = TimeRange(BEGIN, BEGIN + 2500 * MINUTE)


def refusing(status: int, headers: dict[str, str], body: str = "", times: int = 1) -> Callable[..., Any]:
    """Answer the first requests for candles with a refusal, the rest as due."""
    left = [times]

    def answer(_: Any, due: Any) -> Any:
        if left[0] > 0:
            left[0] -= 1
            return web.Response(status=status, headers=headers, text=body)
        return due

    return answer


def test_nothing_is_asked_before_the_time_told(
    tiny: Any, opened: Callable[..., Any], walk: Any, make_klines: Any, clock: Any
) -> None:
    """After a 429 with Retry-After no task sends a request to the host before that time, and then all go on."""
    exchange = tiny(make_klines(BEGIN, 3001))
    arrivals: list[float] = []
    refuse = refusing(429, {"Retry-After": "37"})

    def answer(query: Any, due: Any) -> Any:
        arrivals.append(clock.now)
        return refuse(query, due)

    exchange.answer = answer

    async def main() -> Any:
        async with exchange.serving() as url, opened(url) as source:
            await source.markets()
            first = walk(source, BTC, SPAN)
            rest = [walk(source, BTC, TimeRange(SPAN.since + n * MINUTE, SPAN.until)) for n in range(1, 6)]
            return await asyncio.gather(first, *rest)

    walks = asyncio.run(main())
    assert all(walked.error is None for walked in walks)
    told = arrivals[0] + 37_000
    # What was under way when the answer came cannot be called back; nothing may start after it.
    assert not [at for at in arrivals if arrivals[0] < at < told]
    assert any(at >= told for at in arrivals)


@pytest.mark.parametrize(
    ("status", "headers", "body", "wait"),
    [
        (429, {"Retry-After": "90"}, "", 90_000),
        (418, {}, json.dumps({"code": -1003, "msg": f"IP banned until {NOW + 4_000_000}."}), 4_000_000),
        (503, {"Retry-After": "700"}, "", 700_000),
    ],
)
def test_ban_outlives_the_process(
    tiny: Any,
    opened: Callable[..., Any],
    walk: Any,
    make_klines: Any,
    clock: Any,
    status: int,
    headers: dict[str, str],
    body: str,
    wait: int,
) -> None:
    """A wait longer than allowed ends the run with its time; the next run sends nothing before it, then goes on."""
    exchange = tiny(make_klines(BEGIN, 3001))

    async def main() -> Any:
        async with exchange.serving() as url:
            async with opened(url, max_wait_seconds=60) as source:
                await source.markets()
                exchange.answer = refusing(status, {"Date": "Sat, 01 Jun 2024 00:00:30 GMT", **headers}, body)
                first = await walk(source, BTC, SPAN)
            sent = len(exchange.paths)
            async with opened(url, max_wait_seconds=60) as source:
                with pytest.raises(RateLimited) as second:
                    await source.markets()
            silent = len(exchange.paths) == sent
            clock.now += wait + 1000
            async with opened(url, max_wait_seconds=60) as source:
                third = await walk(source, BTC, SPAN)
            return first, second.value, silent, third

    first, second, silent, third = asyncio.run(main())
    assert isinstance(first.error, RateLimited)
    assert first.error.until is not None
    assert abs(first.error.until - (NOW + wait)) < 2000
    assert second.until == first.error.until
    assert "2024-06-01T" in second.hint
    assert silent
    assert third.error is None
    assert len(third.times) == 2500


def test_ban_file_keeps_what_it_does_not_know(tmp_path: Path, clock: Any) -> None:
    """The state file keeps foreign keys, never shortens a ban, is read by others at once, and survives being cut."""
    book, other = BanBook(tmp_path, "api.x.com:1", clock), BanBook(tmp_path, "api.x.com:1", clock)
    assert book.until() == 0
    book.note(5000, "HTTP 429", 1)
    assert other.until() == 5000
    state = json.loads(book.path.read_text())
    book.path.write_text(json.dumps({**state, "learnt": {"page": 500}}))
    other.note(4000, "HTTP 429", 2)
    other.note(9000, "HTTP 418", 3)
    state = json.loads(book.path.read_text())
    assert state["learnt"] == {"page": 500}
    assert book.until() == state["ban"]["until"] == 9000
    book.path.write_text("{")
    assert BanBook(tmp_path, "api.x.com:1", clock).until() == 0
    assert BanBook(tmp_path, "../../etc", clock).path.parent == tmp_path / "hosts"


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({"ban": {"until": NOW + 365 * 24 * 60 * MINUTE, "since": NOW, "reason": "HTTP 429"}}),
        '{"ban": {"until": 10000000000000000}}',
        json.dumps({"ban": {"until": 10**30}}),
        "[" * 200_000,
        '{"ban": {"until": "tomorrow"}}',
        '{"ban": {"until": true}}',
        '{"ban": []}',
        "{",
        "[]",
        "\xff",
    ],
)
def test_a_ban_that_cannot_be_is_left_aside(
    opened: Callable[..., Any], clock: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    """A ban noted while the clock was a year ahead, one at the end of time, and a damaged file: no ban, and one warning
    that names the file; what is told next is remembered there.
    """
    with LocalExchange(ExchangeSettings(), clock=clock) as exchange:

        async def main() -> int:
            async with opened(exchange.url, max_wait_seconds=60) as source:
                path = source.client.pacer.host(exchange.url.removeprefix("http://")).bans.path
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="latin-1")
                assert await source.markets()
                said = [record for record in caplog.records if "is left aside" in record.message]
                assert [str(path) in record.message for record in said] == [True]
                book = BanBook(tmp_path / "state", exchange.url.removeprefix("http://"), clock)
                assert book.path == path
                book.note(NOW + 90_000, "HTTP 429", NOW)
                return BanBook(tmp_path / "state", book.host, clock).until()

        assert asyncio.run(main()) == NOW + 90_000


def test_a_ban_noted_while_the_clock_was_wrong_ends_when_it_is_set(tmp_path: Path, clock: Any) -> None:
    """A process that runs on while the clock is set right does not wait a year, either."""
    book = BanBook(tmp_path, "api.x.com", clock)
    book.note(clock.now_ms() + 5_000, "HTTP 429", clock.now_ms())
    assert book.until() == clock.now_ms() + 5_000
    clock.now -= 365 * 24 * 60 * MINUTE
    assert book.until() == 0


def test_weight_budget_is_never_passed(opened: Callable[..., Any], walk: Any, clock: Any) -> None:
    """With a declared limit the source stays under its share of it in every minute, and is never refused."""
    with LocalExchange(ExchangeSettings(weight_limit=100), clock=clock) as exchange:
        span = TimeRange(BEGIN - 250_000 * MINUTE, BEGIN - 150_000 * MINUTE)

        async def main() -> Any:
            async with opened(exchange.url, budget=0.5) as source:
                return await walk(source, BTC, span), source.traffic

        walked, traffic = asyncio.run(main())
        assert walked.error is None
        assert len(walked.times) + 0 == len(exchange.truth(BTC.symbol, BTC.timeframe, span.since, span.until))
        assert {record.status for record in exchange.requests} == {200}
        assert traffic.weight > 200
        # 200 of weight at 50 a minute: at least three minutes had to be waited for.
        assert clock.now - NOW >= 3 * MINUTE


def test_no_declared_limit_is_not_paced(opened: Callable[..., Any], walk: Any, clock: Any) -> None:
    """A server that declares a limit of 0 is asked without any wait."""
    with LocalExchange(ExchangeSettings(weight_limit=0), clock=clock) as exchange:

        async def main() -> Any:
            async with opened(exchange.url) as source:
                return await walk(source, BTC, SPAN)

        assert asyncio.run(main()).error is None
    assert clock.waits == []


def test_a_fault_of_our_own_is_not_the_exchanges(
    opened: Callable[..., Any], clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of the pacer before a request is sent ends the ask at once: nothing is asked again, nor called an answer."""
    with LocalExchange(ExchangeSettings(), clock=clock) as exchange:

        async def main() -> None:
            async with opened(exchange.url) as source:
                host = source.client.pacer.host(exchange.url.removeprefix("http://"))
                monkeypatch.setattr(host, "budgets", [object()])
                with pytest.raises(AttributeError):
                    await source.markets()

        asyncio.run(main())
        assert not exchange.requests
    assert not clock.waits


@pytest.mark.parametrize(
    "limit",
    [
        {"weight": math.inf, "window_ms": 1000},
        {"weight": 10, "window_ms": math.nan},
        {"weight": 10, "window_ms": -1},
        {"weight": 10, "window_ms": 1000, "costs": [{"path": "klines", "weight": math.inf}]},
        {"weight": 10, "window_ms": 1000, "costs": [{"path": "klines", "weight": -5}]},
        {
            "weight": 10,
            "window_ms": 1000,
            "costs": [{"path": "klines", "weight": 1, "by_limit": [[9, math.nan]]}],
        },
    ],
)
def test_limits_that_none_can_keep_are_refused(limit: dict[str, Any]) -> None:
    """A profile whose limits are infinite, negative or no numbers is damaged, and said to be before anything is sent."""
    with pytest.raises(ValueError, match="not a number above 0"):
        limits_from([{"name": "x", **limit}])
