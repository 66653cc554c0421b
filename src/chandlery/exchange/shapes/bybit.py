"""Bybit's v5 REST API: spot pairs and linear perpetual swaps.

https://bybit-exchange.github.io/docs/v5/market/kline. Not documented, and so assumed: with `start` and `end` wider than a
page the newest rows come, a `limit` over 1,000 is cut to it, and a pair is gone from all answers once it is delisted.
"""

from __future__ import annotations

from collections.abc import Callable
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
from chandlery.exchange.symbols import GENERATED, SWAPS, Listing
from chandlery.timeframe import MINUTE

ROWS = RowLayout('["<time>","<open>","<high>","<low>","<close>","<volume>","<turnover>"]', descending=True)
_DEFAULT_ROWS, _MOST_ROWS = 200, 1000
_CATEGORIES = ("spot", "linear", "inverse", "option")


class Bybit(Shape):
    """Candles newest first, from the one that contains `start`; one budget of requests for everything."""

    id = "bybit"
    pairs = (*GENERATED, *SWAPS)
    intervals = intervals(
        {
            "1": "1m", "3": "3m", "5": "5m", "15": "15m", "30": "30m", "60": "1h", "120": "2h", "240": "4h",
            "360": "6h", "720": "12h", "D": "1d", "W": "1w", "M": "1M",
        }
    )  # fmt: skip

    def __init__(self, market: Market, book: KlineBook, clock: TimeSource, limits: Limits) -> None:
        super().__init__(market, book, clock, limits)
        self._traded = {
            (_category(listing), self.name(listing)): listing for listing in market.listings.values()
        }
        candles = CandleQuery(window=("start", "end"), begin=lambda query: whole(query.get("start")))
        self.endpoints = {
            "/v5/market/time": Endpoint(self._time, group="ip"),
            "/v5/market/instruments-info": Endpoint(self._instruments, group="ip"),
            "/v5/market/kline": Endpoint(self._kline, group="ip", candles=candles),
        }

    @classmethod
    def make_limits(cls, most: int | None, clock: Callable[[], int]) -> WindowLimits:
        """600 requests in 5 seconds; who asks for more waits 10 minutes."""
        return WindowLimits({"ip": Window(600, 5_000, ban_ms=10 * MINUTE)}, clock, most=most)

    def name(self, listing: Listing) -> str:
        """BTCUSDT, of spot and swap alike: the category tells them apart."""
        return listing.id.partition(":")[0]

    def find(self, name: str, query: Query) -> Listing | None:
        """The pair of that name in the query's category, linear by default."""
        return self._traded.get((query.get("category", "linear"), name))

    def refusal(self, verdict: Verdict, until: int) -> ApiError:
        """403 for the address that is banned, retCode 10006 with the time of the reset otherwise."""
        if verdict.status == 418:
            return ApiError(403, b"403, access too frequent", {"Content-Type": "text/plain"})
        headers = {"X-Bapi-Limit-Status": "0", "X-Bapi-Limit-Reset-Timestamp": str(until)}
        return self._error(10006, "Too many visits. Exceeded the API Rate Limit.", headers=headers)

    def internal_error(self) -> ApiError:
        """10016."""
        return self._error(10016, "Internal server error", 500)

    def _kline(self, query: Query) -> Page:
        category = query.get("category", "linear")
        if category not in _CATEGORIES[:3]:
            raise self._error(10001, "params error: category only support linear, inverse, spot")
        name = query.get("symbol", "")
        listing = self.listed(name, query)
        if listing is None or self.over(listing):
            raise self._error(10001, "Not supported symbols")
        timeframe = self.offered(query.get("interval", ""), listing)
        if timeframe is None:
            raise self._error(10001, "Invalid period!")
        start, end, limit = (self._number(query, part) for part in ("start", "end", "limit"))
        head = f'{{"retCode":0,"retMsg":"OK","result":{{"category":"{category}","symbol":"{name}","list":['
        tail = f']}},"retExtInfo":{{}},"time":{self.clock.now_ms()}}}'
        return self.page(
            listing,
            timeframe,
            ROWS,
            since=None if start is None else timeframe.floor(start),
            until=None if end is None else end + 1,
            limit=min(_DEFAULT_ROWS if limit is None else limit, _MOST_ROWS),
            newest=start is None or end is not None,
            around=(head.encode(), tail.encode()),
            path=("result", "list"),
        )

    def _number(self, query: Query, name: str) -> int | None:
        number = whole(query.get(name))
        if number is None and name in query:
            raise self._error(10001, f"params error: {name} invalid")
        return number

    def _time(self, _query: Query) -> bytes:
        now = self.clock.now_ms()
        return self._answer({"timeSecond": str(now // 1000), "timeNano": f"{now}000000"})

    def _instruments(self, query: Query) -> bytes:
        category = query.get("category", "")
        if category not in _CATEGORIES:
            raise self._error(10001, "params error: category invalid")
        listings = [] if query.get("status", "Trading") != "Trading" else self._traded.values()
        now = self.clock.now_ms()
        infos = [
            self._instrument(one)
            for one in listings
            if _category(one) == category
            and one.listed <= now
            and not self.over(one)
            and query.get("symbol", self.name(one)) == self.name(one)
        ]
        cursor = {} if category == "spot" else {"nextPageCursor": ""}
        return self._answer({"category": category, "list": infos, **cursor})

    def _instrument(self, listing: Listing) -> dict[str, Any]:
        common = {
            "symbol": self.name(listing),
            "baseCoin": listing.base,
            "quoteCoin": listing.quote,
            "status": "Trading",
        }
        price = {"tickSize": listing.tick}
        if listing.settle is None:
            lot = {"basePrecision": listing.lot, "quotePrecision": "0.00000001", "minOrderQty": listing.lot,
                   "maxOrderQty": "1000000", "minOrderAmt": "1", "maxOrderAmt": "2000000"}  # fmt: skip
            return {
                **common,
                "innovation": "0",
                "marginTrading": "none",
                "lotSizeFilter": lot,
                "priceFilter": price,
            }
        return {
            **common,
            "contractType": "LinearPerpetual",
            "settleCoin": listing.settle,
            "launchTime": str(listing.listed),
            "deliveryTime": "0",
            "priceScale": str(listing.price_decimals),
            "lotSizeFilter": {"qtyStep": listing.lot, "minOrderQty": listing.lot, "maxOrderQty": "1000000",
                              "minNotionalValue": "5"},
            "priceFilter": {"minPrice": listing.tick, "maxPrice": "1999999", **price},
            "leverageFilter": {"minLeverage": "1", "maxLeverage": "50.00", "leverageStep": "0.01"},
        }  # fmt: skip

    def _answer(self, result: dict[str, Any]) -> bytes:
        return dump({**_envelope(0, "OK", self.clock.now_ms()), "result": result})

    def _error(
        self, code: int, text: str, status: int = 200, headers: dict[str, str] | None = None
    ) -> ApiError:
        return ApiError(status, _envelope(code, text, self.clock.now_ms()), headers)


def _category(listing: Listing) -> str:
    return "spot" if listing.settle is None else "linear"


def _envelope(code: int, text: str, now: int) -> dict[str, Any]:
    return {"retCode": code, "retMsg": text, "result": {}, "retExtInfo": {}, "time": now}
