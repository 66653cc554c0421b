"""What the tests of profiles share: a moment, a clock that stands, the symbols, and profiles learnt with other habits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from chandlery.sources.profile import SPOT
from chandlery.sources.profile_book import ProfileBook, shipped
from chandlery.timeframe import MINUTE

NOW = 1_717_200_030_000  # 2024-06-01T00:00:30Z
CURRENT = NOW - NOW % MINUTE
BTC = "BTC/USDT"
SWAP = "BTC/USDT:USDT"
HAS_SWAPS = ("binance", "binanceusdm", "bybit", "okx", "kucoin", "mexc", "bitget", "gate")


class SetClock:
    """The time of the exchange and of the source, which tests move."""

    now = NOW

    def now_ms(self) -> int:
        return self.now


def learn(tmp_path: Path, exchange: str, market: str = SPOT, **habits: Any) -> None:
    """Keep a learnt profile: the shipped one with some habits changed."""
    known = shipped(exchange)
    assert known is not None
    changed = {**known.markets, market: replace(known.markets[market], **habits)}
    ProfileBook(tmp_path / "state").save(replace(known, markets=changed, origin="probed"))
