"""Kraken's spot REST API.

https://docs.kraken.com/api/docs/rest-api/get-ohlc-data. Not documented, and so assumed: weeks begin on Thursday, as all
intervals count from 1970-01-01; the documented one call a second holds as five in any five seconds, apart for candles and
for the rest; a `since` below 0 is 0; a pair is gone from all answers once it is delisted. The interval of 15 days is not there.
"""

from __future__ import annotations

from collections.abc import Callable
from email.utils import formatdate
from typing import Any

from chandlery.exchange.clock import TimeSource
from chandlery.exchange.klines import KlineBook
from chandlery.exchange.layout import RowLayout
from chandlery.exchange.limits import Limits, Verdict, Window, WindowLimits
from chandlery.exchange.market import Market
from chandlery.exchange.shape import (
    ApiError,
    CandleQuery,
    Endpoint,
    Page,
    Query,
    Shape,
    dump,
    intervals,
    whole,
)
from chandlery.exchange.symbols import Listing

ROWS = RowLayout('[<time_s>,"<open>","<high>","<low>","<close>","<vwap>","<volume>",<trades>]')
_MOST_ROWS = 720
_ONE_A_SECOND = Window(5, 5_000)
#: Currencies that Kraken listed early have an X or Z before their name, and two are called otherwise.
_CRYPTO = frozenset("XBT ETH LTC XRP XDG ZEC ETC XLM XMR REP MLN".split())  # noqa: SIM905
_FIAT = frozenset("USD EUR GBP CAD JPY AUD".split())  # noqa: SIM905
_OWN_NAMES = {"BTC": "XBT", "DOGE": "XDG"}


class Kraken(Shape):
    """Only the last 720 candles, whatever `since`, and of these the ones after it; the last row is always in progress."""

    id = "kraken"
    intervals = intervals(
        {
            "1": "1m",
            "5": "5m",
            "15": "15m",
            "30": "30m",
            "60": "1h",
            "240": "4h",
            "1440": "1d",
            "10080": "1w",
        },
        anchor=0,
    )

    def __init__(self, market: Market, book: KlineBook, clock: TimeSource, limits: Limits) -> None:
        super().__init__(market, book, clock, limits)
        self._alternatives = {_alternative(listing): listing for listing in market.listings.values()}
        candles = CandleQuery("pair", "interval", ("since",), _begin)
        self.endpoints = {
            "/0/public/Time": Endpoint(self._time, group="public"),
            "/0/public/Assets": Endpoint(self._assets, group="public"),
            "/0/public/AssetPairs": Endpoint(self._pairs, group="public"),
            "/0/public/OHLC": Endpoint(self._ohlc, group="ohlc", candles=candles),
        }

    @classmethod
    def make_limits(cls, most: int | None, clock: Callable[[], int]) -> WindowLimits:
        """One request a second."""
        return WindowLimits({"public": _ONE_A_SECOND, "ohlc": _ONE_A_SECOND}, clock, most=most)

    def name(self, listing: Listing) -> str:
        """XXBTZUSD where Kraken listed both currencies early, XBTUSDT otherwise."""
        base, quote = _asset(listing.base), _asset(listing.quote)
        early = base != _own(listing.base) and quote != _own(listing.quote)
        return base + quote if early else _alternative(listing)

    def find(self, name: str, query: Query) -> Listing | None:
        """By its name or its alternative one."""
        return self.named.get(name) or self._alternatives.get(name)

    def refusal(self, verdict: Verdict, until: int) -> ApiError:
        """EGeneral:Too many requests, with status 200."""
        return _error("EGeneral:Too many requests")

    def internal_error(self) -> ApiError:
        """EGeneral:Internal error."""
        return _error("EGeneral:Internal error", 500)

    def _ohlc(self, query: Query) -> Page:
        name = query.get("pair", "")
        if not name:
            raise _error("EGeneral:Invalid arguments")
        listing = self.listed(name, query)
        if listing is None or self.over(listing):
            raise _error("EQuery:Unknown asset pair")
        timeframe = self.offered(query.get("interval", "1"), listing)
        begin = _begin(query)
        if timeframe is None or (begin is None and "since" in query):
            raise _error("EGeneral:Invalid arguments")
        current = timeframe.floor(self.clock.now_ms())
        committed = timeframe.add(current, -1) // 1000
        head = f'{{"error":[],"result":{{"{self.name(listing)}":['
        return self.page(
            listing,
            timeframe,
            ROWS,
            since=begin,
            limit=_MOST_ROWS,
            newest=True,
            around=(head.encode(), f'],"last":{committed}}}}}'.encode()),
            path=("result", self.name(listing)),
        )

    def _time(self, _query: Query) -> bytes:
        seconds = self.clock.now_ms() // 1000
        return _answer({"unixtime": seconds, "rfc1123": formatdate(seconds, usegmt=True)})

    def _assets(self, _query: Query) -> bytes:
        names = {currency for one in self._traded() for currency in (one.base, one.quote)}
        return _answer(
            {
                _asset(currency): {
                    "aclass": "currency",
                    "altname": _own(currency),
                    "decimals": 10,
                    "display_decimals": 5,
                    "status": "enabled",
                }
                for currency in sorted(names)
            }
        )

    def _pairs(self, query: Query) -> bytes:
        wanted = (
            None if "pair" not in query else [self.find(name, query) for name in query["pair"].split(",")]
        )
        traded = self._traded()
        if wanted is not None and not all(one in traded for one in wanted):
            raise _error("EQuery:Unknown asset pair")
        return _answer({self.name(one): _pair(one) for one in traded if wanted is None or one in wanted})

    def _traded(self) -> list[Listing]:
        now = self.clock.now_ms()
        return [one for one in self.named.values() if one.listed <= now and not self.over(one)]


def _own(currency: str) -> str:
    """XBT for BTC."""
    return _OWN_NAMES.get(currency, currency)


def _asset(currency: str) -> str:
    """XXBT for BTC, ZUSD for USD, USDT for USDT."""
    name = _own(currency)
    if name in _CRYPTO:
        return "X" + name
    return "Z" + name if name in _FIAT else name


def _alternative(listing: Listing) -> str:
    return _own(listing.base) + _own(listing.quote)


def _pair(listing: Listing) -> dict[str, Any]:
    return {
        "altname": _alternative(listing),
        "wsname": f"{_own(listing.base)}/{_own(listing.quote)}",
        "aclass_base": "currency",
        "base": _asset(listing.base),
        "aclass_quote": "currency",
        "quote": _asset(listing.quote),
        "lot": "unit",
        "pair_decimals": listing.price_decimals,
        "cost_decimals": listing.price_decimals + listing.volume_decimals,
        "lot_decimals": listing.volume_decimals,
        "lot_multiplier": 1,
        "leverage_buy": [],
        "leverage_sell": [],
        "fees": [[0, 0.4]],
        "fees_maker": [[0, 0.25]],
        "fee_volume_currency": "ZUSD",
        "margin_call": 80,
        "margin_stop": 40,
        "ordermin": listing.lot,
        "costmin": "0.5",
        "tick_size": listing.tick,
        "status": "online",
    }


def _begin(query: Query) -> int | None:
    """`since` itself is excluded."""
    text = query.get("since", "")
    seconds = whole(text.removeprefix("-"))
    if seconds is None:
        return None
    return 0 if text.startswith("-") else seconds * 1000 + 1


def _answer(result: dict[str, Any]) -> bytes:
    return dump({"error": [], "result": result})


def _error(text: str, status: int = 200) -> ApiError:
    return ApiError(status, {"error": [text]})
