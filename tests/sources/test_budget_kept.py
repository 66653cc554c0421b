"""The budget of a host outlives the process: what was used of a window is known to the next one."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chandlery.candle import SeriesId
from chandlery.exchange import ExchangeSettings, LocalExchange
from chandlery.timerange import TimeRange

MINUTE = 60_000
NOW = 1_717_200_030_000  # 2024-06-01T00:00:30Z


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
    # 300 of weight and a little, 80 a minute, the first of which is half over at most.
    assert 2 * MINUTE < clock.now - NOW <= 4 * MINUTE
