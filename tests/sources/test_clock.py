"""The exchange's time: believed when it agrees with the Date of its own answer, asked for again when it does not."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from chandlery.errors import BadAnswer, ExchangeUnavailable
from chandlery.exchange import ExchangeSettings, LocalExchange

NOW = 1_717_200_030_000
HOUR = 3_600_000


def told(tiny: Any, opened: Callable[..., Any], moments: list[int], date: int | None) -> tuple[int, int]:
    """What a source takes for the time when answers tell `moments`, the last one from then on, and how often it asks."""
    exchange = tiny()
    turns: Iterator[int] = iter(moments)
    exchange.told = lambda: next(turns, moments[-1])
    exchange.date = lambda: date

    async def main() -> Any:
        async with exchange.serving() as url, opened(url) as source:
            return await source.now()

    return asyncio.run(main()), sum(path.endswith("/time") for path in exchange.paths)


@pytest.mark.parametrize("wrong", [NOW + 30 * HOUR, NOW - 30 * HOUR, NOW * 1000, NOW // 1000, 0, -1])
def test_time_wrong_once(tiny: Any, opened: Callable[..., Any], wrong: int) -> None:
    """A time that is hours off, or in another unit, is asked for again; the right one costs one request."""
    assert told(tiny, opened, [wrong, NOW], NOW) == (NOW, 2)
    assert told(tiny, opened, [NOW], NOW) == (NOW, 1)


def test_time_and_date_keep_apart(
    tiny: Any, opened: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Where the time and the Date header stay apart the earlier one is taken, with a warning."""
    with caplog.at_level(logging.WARNING):
        assert told(tiny, opened, [NOW + 30 * HOUR], NOW) == (NOW, 2)
    assert "the earlier one is taken" in caplog.text
    assert told(tiny, opened, [NOW], NOW + 400 * HOUR) == (NOW, 2)
    assert told(tiny, opened, [NOW + n * HOUR for n in range(9)], NOW - 10 * HOUR)[0] == NOW - 10 * HOUR


def test_no_date_header(tiny: Any, opened: Callable[..., Any]) -> None:
    """Without a Date header a time a day ahead of the local clock must be told three times."""
    assert told(tiny, opened, [NOW + 30 * HOUR, NOW], None) == (NOW, 2)
    assert told(tiny, opened, [NOW + 30 * HOUR], None) == (NOW + 30 * HOUR, 3)
    assert told(tiny, opened, [NOW - 30 * HOUR], None) == (NOW - 30 * HOUR, 1)


def test_time_in_microseconds_for_ever(tiny: Any, opened: Callable[..., Any]) -> None:
    """A time that never is one ends with an error that says what was told."""
    with pytest.raises(BadAnswer, match=str(NOW * 1000)) as caught:
        told(tiny, opened, [NOW * 1000], NOW)
    assert caught.value.hint


def test_nothing_answers(opened: Callable[..., Any]) -> None:
    """A host that does not answer is named together with what to check."""

    async def main() -> None:
        async with opened("http://127.0.0.1:9") as source:
            with pytest.raises(ExchangeUnavailable) as caught:
                await source.now()
            assert "--exchange-url" in caught.value.hint

    asyncio.run(main())


def test_local_exchange_in_the_past(opened: Callable[..., Any]) -> None:
    """The local exchange sends the Date of its own clock, so that its time is believed at once."""
    with LocalExchange(ExchangeSettings(clock="2020-02-01T00:00Z,0")) as exchange:

        async def main() -> Any:
            async with opened(exchange.url) as source:
                return await source.now()

        assert asyncio.run(main()) == 1_580_515_200_000
        assert len(exchange.requests) == 1
