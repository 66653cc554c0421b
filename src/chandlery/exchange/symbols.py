"""The pairs of the generated market. Names and most listing dates are like real ones; the prices are invented."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime


@dataclass(frozen=True, slots=True)
class Listing:
    """A pair that the exchange trades or traded.

    `price` and `volume` (per minute, in the base currency) are the generated market's middle values, `deviation` the
    usual change of the price in a minute, as a share of it. `activity` is the share of minutes that see a trade.
    A listing with a `settle` currency is a linear perpetual swap; one contract is 10**-contract_decimals of the base.
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
    settle: str | None = None
    contract_decimals: int = 0

    @property
    def symbol(self) -> str:
        """The unified symbol, such as BTC/USDT, or BTC/USDT:USDT for a swap."""
        pair = f"{self.base}/{self.quote}"
        return pair if self.settle is None else f"{pair}:{self.settle}"

    @property
    def id(self) -> str:
        """The market's own name, such as BTCUSDT, or BTCUSDT:USDT for a swap."""
        pair = self.base + self.quote
        return pair if self.settle is None else f"{pair}:{self.settle}"

    @property
    def tick(self) -> str:
        """The smallest step of the price, such as 0.01."""
        return step(self.price_decimals)

    @property
    def lot(self) -> str:
        """The smallest step of the volume, such as 0.00001."""
        return step(self.volume_decimals)


def step(decimals: int) -> str:
    """10**-decimals without an exponent, such as 0.01."""
    return f"{10.0**-decimals:.{max(decimals, 0)}f}"


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
    # So that every exchange has twenty pairs that trade in 2024 and later.
    Listing("BNB", "BTC", 6, 3, _at("2017-07-14T04:00"), price=0.0075, volume=60, deviation=0.0005),
    Listing("LTC", "BTC", 6, 3, _at("2017-07-14T04:00"), price=0.002, volume=35, deviation=0.0006),
    Listing("ETC", "USDT", 2, 2, _at("2018-06-12T09:00"), price=26, volume=500, deviation=0.0009),
    Listing("XLM", "USDT", 4, 0, _at("2018-05-31T09:30"), price=0.11, volume=120_000, deviation=0.0008),
    Listing("TRX", "USDT", 5, 1, _at("2018-06-11T11:30"), price=0.1, volume=400_000, deviation=0.0006),
    Listing("ATOM", "USDT", 3, 2, _at("2019-04-29T04:00"), price=9, volume=2_200, deviation=0.0009),
    Listing("ALGO", "USDT", 4, 0, _at("2019-06-22T00:00"), price=0.18, volume=80_000, deviation=0.0009),
    Listing("UNI", "USDT", 3, 2, _at("2020-09-17T03:00"), price=7.5, volume=1_700, deviation=0.0010),
    Listing("NEAR", "USDT", 3, 1, _at("2020-10-14T05:00"), price=5, volume=4_500, deviation=0.0011),
    Listing("FIL", "USDT", 3, 2, _at("2020-10-15T08:00"), price=6, volume=3_000, deviation=0.0010),
)


def _swap(
    base: str,
    price_decimals: int,
    volume_decimals: int,
    contract_decimals: int,
    listed: str,
    delisted: str | None = None,
    **middle: float,
) -> Listing:
    return Listing(
        base,
        "USDT",
        price_decimals,
        volume_decimals,
        _at(listed),
        None if delisted is None else _at(delisted),
        settle="USDT",
        contract_decimals=contract_decimals,
        **middle,
    )


#: Linear perpetual swaps, with prices of their own.
SWAPS: tuple[Listing, ...] = (
    _swap("BTC", 1, 4, 2, "2019-09-08T17:57", price=42_000, volume=160, deviation=0.0006),
    _swap("ETH", 2, 3, 1, "2019-11-27T07:45", price=2_500, volume=1_900, deviation=0.0007),
    _swap("XRP", 4, 0, 0, "2020-01-06T08:00", price=0.55, volume=600_000, deviation=0.0008),
    _swap("DOGE", 5, 0, 0, "2020-07-10T09:00", price=0.12, volume=4_000_000, deviation=0.0009),
    _swap("SOL", 3, 1, 0, "2020-09-14T07:00", price=95, volume=9_000, deviation=0.0010),
    # Young: a few days old on 2024-06-01.
    _swap("IO", 3, 1, 0, "2024-05-28T14:30", price=4.1, volume=30_000, deviation=0.0016),
    # Delisted.
    _swap("SRM", 4, 0, 0, "2020-09-07T07:00", "2022-11-28T09:00", price=2.5, volume=20_000, deviation=0.0010),
    # So that every exchange of swaps has twenty that trade in 2024 and later.
    _swap("BCH", 2, 3, 1, "2019-12-03T06:00", price=320, volume=260, deviation=0.0009),
    _swap("LTC", 2, 3, 1, "2020-01-09T08:00", price=85, volume=1_400, deviation=0.0008),
    _swap("TRX", 5, 0, 0, "2020-01-15T08:00", price=0.1, volume=1_500_000, deviation=0.0006),
    _swap("ETC", 3, 2, 0, "2020-01-16T08:00", price=26, volume=2_100, deviation=0.0009),
    _swap("LINK", 3, 2, 0, "2020-01-17T08:00", price=14, volume=9_000, deviation=0.0009),
    _swap("XLM", 5, 0, 0, "2020-01-20T08:00", price=0.11, volume=500_000, deviation=0.0008),
    _swap("ADA", 5, 0, 0, "2020-01-31T08:00", price=0.45, volume=400_000, deviation=0.0008),
    _swap("ATOM", 3, 2, 0, "2020-02-07T08:00", price=9, volume=9_500, deviation=0.0009),
    _swap("BNB", 2, 2, 1, "2020-02-10T08:00", price=320, volume=700, deviation=0.0006),
    _swap("ALGO", 4, 1, 0, "2020-03-27T08:00", price=0.18, volume=300_000, deviation=0.0009),
    _swap("DOT", 3, 1, 0, "2020-08-22T07:00", price=7, volume=22_000, deviation=0.0009),
    _swap("UNI", 4, 0, 0, "2020-09-18T07:00", price=7.5, volume=7_000, deviation=0.0010),
    _swap("AVAX", 3, 0, 0, "2020-09-23T07:00", price=32, volume=5_200, deviation=0.0010),
    _swap("NEAR", 4, 0, 0, "2020-10-15T07:00", price=5, volume=18_000, deviation=0.0011),
    _swap("AAVE", 2, 1, 0, "2020-10-16T07:00", price=95, volume=420, deviation=0.0010),
    _swap("FIL", 3, 1, 0, "2020-10-16T09:00", price=6, volume=13_000, deviation=0.0010),
)
