"""The budget of a host outlives the process: what was used of a window is known to the next one."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chandlery.candle import SeriesId
from chandlery.clock import SystemClock
from chandlery.exchange import ExchangeSettings, LocalExchange
from chandlery.sources.bans import BanBook
from chandlery.sources.pacing import Host, Window
from chandlery.timerange import TimeRange

MINUTE = 60_000
NOW = 1_717_200_030_000  # 2024-06-01T00:00:30Z
LIMITS = [{"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": 100}]


class Shifted:
    """An exchange's clock that is off from the local one."""

    def __init__(self, clock: Any, by_ms: int) -> None:
        self.clock, self.by_ms = clock, by_ms

    def now_ms(self) -> int:
        return int(self.clock.now_ms() + self.by_ms)


def test_three_short_runs_in_one_minute_are_never_refused(tmp_path: Path) -> None:
    """Real processes share a minute's budget: the third, for which nothing is left of it, sends nothing and says until
    when, although the exchange's minutes are not those of the local clock.
    """
    # The exchange's minute begins when it is started, so that all three runs lie in one.
    settings = ExchangeSettings(weight_limit=50, clock="2024-06-01T00:00Z")
    with LocalExchange(settings) as exchange:
        env = {**os.environ, "EXCHANGE_URL": exchange.url, "CHANDLERY_MAX_WAIT": "1s"}
        command = [sys.executable, "-m", "chandlery", "markets", "BTC/*"]
        done = [
            subprocess.run(
                command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=50, check=False
            )
            for _ in range(3)
        ]
        statuses = [record.status for record in exchange.requests]

    assert [one.returncode for one in done] == [0, 0, 3], [one.stderr for one in done]
    assert statuses == [200, 200]
    assert "no request until" in done[2].stderr


@pytest.mark.parametrize("off", [0, 37_000, -7_200_000])
def test_later_processes_wait_as_the_first_would(opened: Callable[..., Any], clock: Any, off: int) -> None:
    """Source after source asks for the markets and for candles, and none is refused, however far the local clock is
    off from the exchange's.
    """
    settings = ExchangeSettings(weight_limit=50)
    with LocalExchange(settings, clock=Shifted(clock, off)) as exchange:

        async def main() -> None:
            for _ in range(7):
                async with opened(exchange.url) as source:
                    await source.markets()
                    await source.latest(SeriesId("binance", "BTC/USDT", "1m"), None, 10)

        asyncio.run(main())
        assert {record.status for record in exchange.requests} == {200}
    assert 2 * MINUTE <= clock.now - NOW <= 8 * MINUTE


@pytest.mark.parametrize("off", [0, 37_000])
def test_a_long_walk_is_never_refused_by_a_clock_that_is_off(
    opened: Callable[..., Any], walk: Any, clock: Any, off: int
) -> None:
    """Windows are those of the exchange, whatever the local clock says, and a walk spends them as fast as they come."""
    with LocalExchange(ExchangeSettings(weight_limit=100), clock=Shifted(clock, off)) as exchange:
        now = NOW + off
        begin = now // MINUTE * MINUTE - 250_000 * MINUTE
        span = TimeRange(begin, begin + 150_000 * MINUTE)

        async def main() -> Any:
            async with opened(exchange.url) as source:
                return await walk(source, SeriesId("binance", "BTC/USDT", "1m"), span, now=now)

        assert asyncio.run(main()).error is None
        assert {record.status for record in exchange.requests} == {200}
    # 300 of weight and a little, 80 a minute.
    assert 3 * MINUTE <= clock.now - NOW <= 6 * MINUTE


def test_a_window_that_is_over_is_empty(tmp_path: Path, clock: Any) -> None:
    """What is remembered counts until its window is surely over, never longer than the window is long, and never from
    a time to come.
    """
    asyncio.run(_spend(host_of(tmp_path, clock), 70))

    def wait() -> float:
        return host_of(tmp_path, clock).wait_ms(20)

    assert wait() == MINUTE
    clock.now += 20_000
    assert wait() == 40_000
    clock.now += 40_000
    assert wait() == 0
    clock.now -= 30 * MINUTE  # the clock was set back since
    assert wait() == 0


def test_what_is_remembered_of_a_host_is_kept_and_survives_nonsense(tmp_path: Path, clock: Any) -> None:
    """The budget stands beside the ban and beside keys of other versions; nonsense in its place counts for nothing."""
    book = BanBook(tmp_path, "x")
    book.note(NOW - 1, "HTTP 429", NOW - 2)
    state = json.loads(book.path.read_text())
    book.path.write_text(json.dumps({**state, "learnt": 1}))
    asyncio.run(_spend(host_of(tmp_path, clock), 70))
    state = json.loads(book.path.read_text())
    assert (state["learnt"], state["ban"]["until"]) == (1, NOW - 1)
    kept = state["budget"]["1m"]
    assert (kept["limit"], kept["interval_ms"], kept["used"]) == (100, MINUTE, 70)
    for nonsense in (
        7,
        {"1m": 7},
        {"1m": {"limit": "x"}},
        {"1m": {**kept, "used": None}},
        {"1m": {"limit": -1}},
    ):
        book.path.write_text(json.dumps({**state, "budget": nonsense}))
        assert host_of(tmp_path, clock).wait_ms(1000) in (0, MINUTE)


def test_remembering_costs_little(tmp_path: Path) -> None:
    """A thousand answers write the file a few times, not a thousand, and the last word is written at the end."""
    host = host_of(tmp_path, SystemClock())

    async def main() -> int:
        seen = set()
        for number in range(1, 1001):
            async with host.turn(1, 1) as sent:
                host.report({"x-mbx-used-weight-1m": str(number)}, sent)
            if number == 1:
                host.declare([{**LIMITS[0], "limit": 100_000}])
            if host.bans.path.exists():
                seen.add(host.bans.path.stat().st_ino)
        return len(seen)

    assert asyncio.run(main()) <= 20
    host.keep()
    assert json.loads(host.bans.path.read_text())["budget"]["1m"]["used"] == 1000


def test_a_lower_count_is_a_new_window() -> None:
    """An answer to a later request that counts less says that the exchange's window has turned; one that was only
    overtaken on its way does not.
    """
    window = Window(limit=100, length_ms=MINUTE)
    window.spend(0, 2, 1)
    window.report(0, 80, 1, 2)
    window.spend(5_000, 2, 3)
    window.spend(5_000, 2, 4)
    window.report(6_000, 84, 4, 5)
    window.report(6_000, 82, 3, 6)
    assert window.wait_ms(7_000, 20) == 53_000
    window.spend(7_000, 2, 7)
    window.report(8_000, 2, 7, 8)
    assert window.used == 2
    assert window.wait_ms(8_000, 20) == 0
    assert window.wait_ms(8_000, 99) == MINUTE


def host_of(folder: Path, clock: Any) -> Host:
    """A host as a new process finds it."""
    return Host("x", clock=clock, bans=BanBook(folder, "x"), max_wait_seconds=600, share=0.8)


async def _spend(host: Host, used: int) -> None:
    async with host.turn(1, 20) as sent:
        host.report({"x-mbx-used-weight-1m": str(used)}, sent)
    host.declare(LIMITS)
    host.keep()
