"""Sources that are closed leave memory, however many of them one process opens."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable
from typing import Any

from chandlery.exchange import ExchangeSettings, LocalExchange
from chandlery.sources.base import Source


def test_closed_sources_leave_memory(opened: Callable[..., Source]) -> None:
    """Of ten sources that were used one after the other, none is alive after they were closed and the garbage was collected."""
    with LocalExchange(ExchangeSettings(exchange="okx", weight_limit=0)) as exchange:
        alive: list[weakref.ref[Any]] = []

        async def use() -> None:
            async with opened(exchange.url, "okx") as source:
                await source.markets()
                alive.append(weakref.ref(source.ccxt))  # type: ignore[attr-defined]

        for _ in range(10):
            asyncio.run(use())
        gc.collect()
    assert [one() for one in alive] == [None] * 10


def test_closed_sources_leave_memory_while_another_stays_open(opened: Callable[..., Source]) -> None:
    """The same with one source that stays open all the time: at most the last one waits for it."""
    with LocalExchange(ExchangeSettings(exchange="okx", weight_limit=0)) as exchange:
        alive: list[weakref.ref[Any]] = []

        async def use() -> None:
            async with opened(exchange.url, "okx") as stays:
                await stays.markets()
                for _ in range(5):
                    async with opened(exchange.url, "okx") as source:
                        await source.markets()
                        alive.append(weakref.ref(source.ccxt))  # type: ignore[attr-defined]
                    del source
                gc.collect()
                assert sum(one() is not None for one in alive) <= 1

        asyncio.run(use())
