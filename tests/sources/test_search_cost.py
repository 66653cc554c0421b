"""What searches for the ends of a market cost, on every exchange played, and that they find what is there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from chandlery.backfill import Backfill
from chandlery.candle import SeriesId
from chandlery.exchange import ExchangeSettings, LocalExchange
from chandlery.exchange.shapes import SHAPES
from chandlery.report import RunReport
from chandlery.sources.base import Source
from chandlery.stores import open_store
from chandlery.wanted import Want
from chandlery.when import parse_when

NOW = 1_717_200_030_000  # 2024-06-01T00:00:30Z
SWAP = "BTC/USDT:USDT"


class _Clock:
    def now_ms(self) -> int:
        return NOW


@pytest.fixture(scope="module")
def playing() -> Iterator[LocalExchange]:
    """One server that plays every exchange."""
    with LocalExchange(ExchangeSettings(exchange=tuple(SHAPES), weight_limit=0), clock=_Clock()) as exchange:
        yield exchange


@pytest.fixture
def fetched(
    playing: LocalExchange, opened: Callable[..., Source], tmp_path: Path
) -> Callable[..., tuple[RunReport, Source]]:
    """Fetch series of one exchange into a new store: what the run says, and the source with its traffic."""

    def fetch(
        exchange: str, *series: tuple[str, str], since: Any = "listing", until: int | None = None
    ) -> tuple[RunReport, Source]:
        async def run() -> tuple[RunReport, Source]:
            wants = [Want(SeriesId(exchange, symbol, text), since, until) for symbol, text in series]
            store = open_store(tmp_path / "candles")
            try:
                async with opened(playing.url_of(exchange), exchange) as source:
                    return await Backfill(source, store).run(wants), source
            finally:
                store.close()

        return asyncio.run(run())

    return fetch


def at(text: str) -> int:
    """Epoch ms of a day."""
    return parse_when(text, now=NOW)


def counts(report: RunReport) -> dict[str, int]:
    """Slots of all series by state, those that are not nought."""
    told = [(str(state), count) for one in report.series if one.counts for state, count in one.counts.items()]
    return {state: sum(n for s, n in told if s == state) for state in {s for s, n in told if n}}


@pytest.mark.parametrize("symbol", ["BTC/USDT", SWAP])
def test_depth_beyond_1970(fetched: Callable[..., tuple[RunReport, Source]], symbol: str) -> None:
    """Gate gives its last 10,000 weeks, which is all there are: no answer is asked for from before 1970."""
    report, source = fetched("gate", (symbol, "1w"))
    assert [one.error for one in report.series] == [None]
    assert set(counts(report)) <= {"stored", "pending"}
    assert counts(report)["stored"] > 200
    assert source.traffic.retries == 0
