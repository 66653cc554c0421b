"""What a market must be able to tell the exchange; the generated one and the one from files both do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from chandlery.exchange.candles import Candles
from chandlery.exchange.symbols import Listing
from chandlery.timeframe import Timeframe, parse_timeframe
from chandlery.timerange import TimeRange

#: What Binance offers, without 1s.
TIMEFRAMES: Mapping[str, Timeframe] = {
    text: parse_timeframe(text)
    for text in "1m 3m 5m 15m 30m 1h 2h 4h 6h 8h 12h 1d 3d 1w 1M".split()  # noqa: SIM905
}


class Market(Protocol):
    """Pairs and their candles, past and future: what is not yet over is hidden by the exchange, not by the market."""

    listings: Mapping[str, Listing]  # by the exchange's own name

    def base(self, listing: Listing, timeframe: Timeframe) -> Timeframe | None:
        """The timeframe whose candles make up those of `timeframe`; None if it is not offered for this pair."""
        ...

    def span(self, listing: Listing, base: Timeframe) -> TimeRange:
        """From the first open time to the end of the last candle."""
        ...

    def candles(self, listing: Listing, base: Timeframe, since: int, until: int) -> Candles:
        """Candles of the base timeframe that open in [since, until)."""
        ...
