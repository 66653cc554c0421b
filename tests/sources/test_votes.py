"""A candle that answers give different values is believed only once they clearly agree."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from chandlery.candle import SeriesId
from chandlery.sources.asking import VOTES, Anchor
from chandlery.timerange import TimeRange

MINUTE = 60_000
NOW = 1_717_200_030_000
LAST = NOW // MINUTE * MINUTE
BEGIN = LAST - 500 * MINUTE
BTC = SeriesId("binance", "BTC/USDT", "1m")


@pytest.mark.parametrize("right", [(2,), (2, 4), (1,), (1, 3), (2, 4, 6)])
def test_half_way_now_and_then(
    tiny: Any, opened: Callable[..., Any], walk: Any, make_klines: Any, right: tuple[int, ...]
) -> None:
    """A candle given as it stood half-way, with the right values in between, is kept with the right ones."""
    rows = make_klines(BEGIN, 500)
    exchange = tiny(rows)
    count = 0

    def answer(query: dict[str, str], due: list[Any]) -> Any:
        nonlocal count
        if not due or due[-1][0] != LAST - MINUTE or query["interval"] != "1m":
            return due
        count += 1
        last = due[-1]
        half = [*last[:2], "10.6", "9.9", "10.1", "1.5", *last[6:]]
        return due if count - 1 in right or count > 7 else [*due[:-1], half]

    exchange.answer = answer

    async def main() -> Any:
        async with exchange.serving() as url, opened(url) as source:
            return await walk(source, BTC, TimeRange(BEGIN, LAST))

    said = asyncio.run(main())
    assert said.error is None
    assert said.candles["volume"].to_list() == [3.25] * 500
    assert said.candles["close"][-1] == float(rows[-1][4])


def test_votes_are_bounded() -> None:
    """Values that no answers agree on for long are believed by the most votes after a bounded number."""
    anchor = Anchor(0)
    one, other = (1.0, 2.0, 1.0, 1.5, 5.0), (1.0, 2.0, 1.0, 1.4, 5.0)
    for turn in range(VOTES - 1):
        anchor.votes[(one, other)[turn % 2]] += 1
        assert anchor.believes((one, other)[turn % 2]) == (turn == 0)
    anchor.votes[other] += 1
    assert anchor.believes(other)
