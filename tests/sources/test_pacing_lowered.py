"""Limits that are lower than we believe: what the exchange allows is learnt from few refusals."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from typing import Any

import pytest

from chandlery.candle import SeriesId
from chandlery.errors import ExchangeRefused
from chandlery.exchange import ExchangeSettings, LocalExchange
from chandlery.exchange.limits import RequestLimits
from chandlery.timerange import TimeRange

MINUTE = 60_000
NOW = 1_717_200_030_000  # 2024-06-01T00:00:30Z


def test_a_limit_lower_than_known_is_learnt(opened: Callable[..., Any], walk: Any, clock: Any) -> None:
    """OKX allows a third of what it is known for: hundreds of pages come whole, and few requests are refused."""
    with LocalExchange(ExchangeSettings(exchange="okx", weight_limit=6), clock=clock) as exchange:
        begin = NOW // MINUTE * MINUTE - 60_000 * MINUTE
        span = TimeRange(begin, begin + 45_000 * MINUTE)

        async def main() -> Any:
            async with opened(exchange.url, "okx") as source:
                return await walk(source, SeriesId("okx", "BTC/USDT", "1m"), span)

        walked = asyncio.run(main())
        refused = [record for record in exchange.requests if record.status == 429]
    assert walked.error is None
    assert len(exchange.requests) > 150
    assert len(refused) < 30


@pytest.mark.parametrize("declared", [False, True])
def test_a_limit_lowered_while_we_run(
    opened: Callable[..., Any], walk: Any, clock: Any, declared: bool
) -> None:
    """Binance lowers its limit to a sixth, whether exchangeInfo then says so or not: a few requests are refused and
    nobody is banned, and all candles come.
    """
    with LocalExchange(ExchangeSettings(weight_limit=600), clock=clock) as exchange:
        limits = [one for one in gc.get_objects() if type(one) is RequestLimits and one.limit == 600]
        assert limits
        begin = NOW // MINUTE * MINUTE - 700_000 * MINUTE
        span = TimeRange(begin, begin + 600_000 * MINUTE)

        async def main() -> Any:
            async with opened(exchange.url) as source:
                await source.markets()
                for one in limits:
                    one.limit = 100
                    one.usage()[0].limit = 100 if declared else 600  # exchangeInfo's
                return await walk(source, SeriesId("binance", "BTC/USDT", "1m"), span)

        walked = asyncio.run(main())
        statuses = [record.status for record in exchange.requests]
    assert walked.error is None
    assert statuses.count(429) < 6
    assert 418 not in statuses


def test_a_limit_below_one_request_ends_with_its_reason(opened: Callable[..., Any], clock: Any) -> None:
    """A limit that holds not even the one request is no cause to wait for ever."""
    with LocalExchange(ExchangeSettings(weight_limit=10), clock=clock) as exchange:

        async def main() -> None:
            async with opened(exchange.url) as source:
                with pytest.raises(ExchangeRefused, match="weight 20"):
                    await source.markets()

        asyncio.run(main())
        assert len(exchange.requests) <= 4
