"""The source contract, held by `ccxt_rest` against every shape of the local exchange, spot and swaps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from chandlery.exchange.shapes import SHAPES, shape_of
from chandlery.sources import open_source
from chandlery.sources.base import Source
from chandlery.testing import SourceContract
from chandlery.testing.clock import VirtualClock
from chandlery.testing.source_contract import NOW
from chandlery.testing.source_scenes import Scene, SceneExchange


class LocalStage:
    """A scene on the local exchange, and the sources on it in one virtual time."""

    def __init__(
        self, exchange: SceneExchange, name: str, symbol: str, clock: VirtualClock, state: Path
    ) -> None:
        self.exchange = exchange
        self.symbol = symbol
        self.name = name
        self.clock = clock
        self.state = state

    def source(self) -> Source:
        """A source of its own, which remembers what the ones before it have learnt of budgets."""
        return open_source(self.name, url=self.exchange.url, clock=self.clock, state_dir=self.state)

    def truth(self, timeframe: str, since: int, until: int) -> pl.DataFrame:
        """What the exchange has there."""
        return self.exchange.truth(self.symbol, timeframe, since, until)


class LocalContract(SourceContract):
    """The contract on the local exchange."""

    @contextmanager
    def stage(self, scene: Scene, tmp_path: Path) -> Iterator[LocalStage]:
        """Play a scene over HTTP."""
        clock = VirtualClock(NOW)
        with SceneExchange(self.exchange, scene, clock=clock) as exchange:
            yield LocalStage(exchange, self.exchange, scene.symbol, clock, tmp_path / "state")


#: What the contract must know of each exchange. Rows are those of the page that costs least of its limits.
SPOT: Mapping[str, Mapping[str, Any]] = {
    "binance": {"page": 1000, "keeps_ended": True},
    "bybit": {"page": 1000},
    "okx": {"page": 100, "bounded": True},
    "kraken": {"page": 720, "depth": 720, "unit": 100, "pages": 1, "timeframes": ("5m", "1h", "1d", "1w")},
    "coinbase": {"page": 300, "bounded": True, "timeframes": ("5m", "1h", "1d")},
    "kucoin": {"page": 1500, "bounded": True},
    "mexc": {"page": 500, "bounded": True},
    "bitget": {"page": 1000, "pages": 40, "bounded": True},
    "gate": {"page": 1000, "depth": 10_000, "bounded": True, "timeframes": ("5m", "1h", "1d", "1w")},
}
SWAPS: Mapping[str, Mapping[str, Any]] = {
    "binance": {"page": 499, "keeps_ended": True},
    "binanceusdm": {"page": 499, "keeps_ended": True},
    "bybit": {"page": 1000},
    "okx": {"page": 100, "bounded": True},
    "kucoin": {"page": 499, "bounded": True, "timeframes": ("5m", "1h", "1d", "1w")},
    "mexc": {"page": 2000},
    "bitget": {"page": 1000, "pages": 40, "bounded": True},
    "gate": {"page": 1999, "depth": 10_000, "bounded": True, "timeframes": ("5m", "1h", "1d", "1w")},
}


def _contracts() -> Iterator[tuple[str, type[LocalContract]]]:
    for kinds, symbol, word in ((SPOT, "BTC/USDT", ""), (SWAPS, "BTC/USDT:USDT", "Swaps")):
        for exchange, facts in kinds.items():
            if exchange in SHAPES and any(one.symbol == symbol for one in shape_of(exchange).pairs):
                name = f"Test{exchange.title()}{word}"
                yield name, type(name, (LocalContract,), {"exchange": exchange, "symbol": symbol, **facts})


globals().update(_contracts())


@pytest.mark.parametrize("exchange", list(SHAPES))
def test_every_shape_is_held(exchange: str) -> None:
    """No exchange that can be played is left out of this file, nor one of its kinds of market."""
    symbols = {one.symbol for one in shape_of(exchange).pairs}
    assert ("BTC/USDT" in symbols) == (exchange in SPOT)
    assert ("BTC/USDT:USDT" in symbols) == (exchange in SWAPS)
