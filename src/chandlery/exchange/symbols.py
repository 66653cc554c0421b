"""The pairs of the generated market. Names and most listing dates are like real ones; the prices are invented."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime


@dataclass(frozen=True, slots=True)
class Listing:
    """A pair that the exchange trades or traded.

    `price` and `volume` (per minute, in the base currency) are the generated market's middle values, `deviation` the
    usual change of the price in a minute, as a share of it. `activity` is the share of minutes that see a trade.
    """

    base: str
    quote: str
    price_decimals: int
    volume_decimals: int
    listed: int = 0
    delisted: int | None = None
    price: float = 0.0
    volume: float = 0.0
    deviation: float = 0.0007
    activity: float = 1.0

    @property
    def symbol(self) -> str:
        """The unified symbol, such as BTC/USDT."""
        return f"{self.base}/{self.quote}"

    @property
    def id(self) -> str:
        """The exchange's own name, such as BTCUSDT."""
        return self.base + self.quote


def _at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1000


GENERATED: tuple[Listing, ...] = (
    Listing("BTC", "USDT", 2, 5, _at("2017-08-17T04:00"), price=42_000, volume=18, deviation=0.0006),
    Listing("ETH", "USDT", 2, 4, _at("2017-08-17T04:00"), price=2_500, volume=210, deviation=0.0007),
    Listing("ETH", "BTC", 5, 3, _at("2017-07-14T04:00"), price=0.055, volume=40, deviation=0.0004),
    Listing("BNB", "USDT", 2, 3, _at("2017-11-06T03:00"), price=320, volume=420, deviation=0.0006),
    Listing("LTC", "USDT", 2, 3, _at("2017-12-13T03:00"), price=85, volume=300, deviation=0.0008),
    Listing("ADA", "USDT", 4, 1, _at("2018-04-17T04:00"), price=0.45, volume=90_000, deviation=0.0008),
    Listing("XRP", "USDT", 4, 0, _at("2018-05-04T08:00"), price=0.55, volume=150_000, deviation=0.0008),
    Listing("LINK", "USDT", 3, 2, _at("2019-01-16T10:00"), price=14, volume=2_500, deviation=0.0009),
    Listing("DOGE", "USDT", 5, 0, _at("2019-07-05T12:00"), price=0.12, volume=900_000, deviation=0.0009),
    Listing("SOL", "USDT", 2, 3, _at("2020-08-11T06:00"), price=95, volume=1_900, deviation=0.0010),
    Listing("DOT", "USDT", 3, 2, _at("2020-08-18T23:00"), price=7, volume=5_000, deviation=0.0009),
    Listing("AVAX", "USDT", 2, 2, _at("2020-09-22T06:30"), price=32, volume=1_100, deviation=0.0010),
    # Quiet: two minutes in three see no trade.
    Listing(
        "ZEC", "BNB", 3, 3, _at("2019-07-10T08:00"), price=0.1, volume=2, deviation=0.0012, activity=0.33
    ),
    # Young: a few days old on 2024-06-01.
    Listing("IO", "USDT", 3, 2, _at("2024-05-28T12:00"), price=4.1, volume=9_000, deviation=0.0016),
    # Delisted.
    Listing(
        "BCC",
        "USDT",
        2,
        5,
        _at("2017-11-14T09:00"),
        _at("2018-11-15T06:00"),
        price=900,
        volume=6,
        deviation=0.0010,
    ),
)
