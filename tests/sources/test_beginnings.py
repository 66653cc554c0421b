"""Where the candles of a market begin is found on every exchange played, whatever its history and the timeframe."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chandlery.anchors import frame_of
from chandlery.candle import SeriesId
from chandlery.exchange import Faults
from chandlery.ledger import State
from chandlery.sources import open_source
from chandlery.testing.clock import VirtualClock
from chandlery.testing.source_scenes import Said, Scene, SceneExchange, same_bits, walk
from chandlery.timeframe import DAY, HOUR, MINUTE
from chandlery.timerange import TimeRange
from chandlery.when import parse_when

NOW = 1_718_841_630_500  # 2024-06-20T00:00:30Z
Walked = Callable[..., Said]


@pytest.fixture
def scene_walked(tmp_path: Path) -> Walked:
    """Walk a scene from so many days before its listing to now; asserts that all that is there is stored, and nothing else."""

    def walked(exchange: str, scene: Scene, timeframe: str, since: int, faults: Faults | None = None) -> Said:
        clock = VirtualClock(NOW)
        series = SeriesId(exchange, scene.symbol, timeframe)
        frame = frame_of(exchange, timeframe)
        span = TimeRange(frame.ceil(since), frame.floor(NOW - 30_000))

        async def main(url: str) -> Said:
            async with open_source(exchange, url=url, clock=clock, state_dir=tmp_path / "state") as source:
                return await walk(source, series, span, now=NOW)

        with SceneExchange(exchange, scene, clock=clock) as playing:
            playing.faults = faults or Faults()
            said = asyncio.run(main(playing.url))
            assert said.error is None
            assert same_bits(said.candles, playing.truth(scene.symbol, timeframe, span.since, span.until))
        return said

    return walked


@pytest.mark.parametrize("timeframe", ["1d", "1w", "1M"])
@pytest.mark.parametrize("exchange", ["binance", "bybit", "okx", "kucoin", "mexc", "bitget"])
@pytest.mark.parametrize("listed", ["2024-03-02", "2021-08-31T23:00Z"])
def test_listed_inside(scene_walked: Walked, exchange: str, timeframe: str, listed: str) -> None:
    """Days, weeks and months of a market listed inside the span come whole, whichever month its first week begins in."""
    begin = parse_when(listed, now=NOW)
    frame = frame_of(exchange, timeframe)
    said = scene_walked(exchange, Scene("BTC/USDT", begin), timeframe, begin - 400 * DAY)
    before = TimeRange(said.span.since, frame.floor(begin))
    assert list(said.ranges(State.BEFORE_LISTING)) == [before]
    assert not said.missing
    assert not said.absent


@pytest.mark.parametrize("times", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("spared", ["", "5m", "5m 1h 1d 1w 1M"])
def test_latest_whatever_is_asked(
    tiny: Any, opened: Any, walk: Any, make_klines: Any, times: int, spared: str
) -> None:
    """After an outage, some answers with the latest candles instead of those asked for put none out of reach."""
    now = 1_717_200_030_000
    last = now // MINUTE * MINUTE
    rows = make_klines(last - 3000 * MINUTE, 2900)
    exchange = tiny(rows)
    left = times

    def answer(query: dict[str, str], due: list[Any]) -> Any:
        nonlocal left
        if not left or query["interval"] in spared.split():
            return due
        left -= 1
        return exchange.aggregated(query["interval"])[-100:]

    exchange.answer = answer
    span = TimeRange(rows[0][0] - 500 * MINUTE, rows[0][0] + 500 * MINUTE)

    async def main() -> Any:
        async with exchange.serving() as url, opened(url) as source:
            return await walk(source, SeriesId("binance", "BTC/USDT", "1m"), span)

    said = asyncio.run(main())
    assert said.error is None
    assert [fact.state for fact in said.facts] == [State.BEFORE_LISTING]
    assert said.times == [row[0] for row in rows[:500]]


@pytest.mark.parametrize("exchange", ["coinbase", "okx", "bitget"])
@pytest.mark.parametrize("ago", [130, 300, 900])
def test_stopped_silently(scene_walked: Walked, exchange: str, ago: int) -> None:
    """A market that traded for 45 days only, and stopped long ago, is found by answers that cover a bounded time each."""
    begin = NOW // DAY * DAY - (ago + 45) * DAY
    stopped = TimeRange(begin + 45 * DAY + 9 * HOUR, NOW + DAY)
    said = scene_walked(exchange, Scene("BTC/USDT", begin, holes=(stopped,)), "1d", begin - 400 * DAY)
    assert list(said.ranges(State.BEFORE_LISTING)) == [TimeRange(said.span.since, begin)]
    assert len(said.candles) == 46
    assert not said.absent
