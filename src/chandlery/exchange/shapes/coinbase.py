"""Coinbase's Advanced Trade API: the public market endpoints, spot pairs.

https://docs.cdp.coinbase.com/api-reference/advanced-trade-api/rest-api/public/get-public-product-candles. At most 300
intervals are given, as callers find, though the documentation speaks of 350 rows. Not documented, and so assumed: both bounds
are included, `limit` keeps the newest rows, the candle in progress is there, the codes and texts of errors, the error of
api/v2 for too many requests everywhere, and that a pair is gone from all answers once it is delisted. Of exchange-rates there
are only the currencies that stand for a dollar.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import NAMESPACE_DNS, uuid5

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
from chandlery.timeframe import HOUR

ROWS = RowLayout(
    '{"start":"<time_s>","low":"<low>","high":"<high>","open":"<open>","close":"<close>","volume":"<volume>"}',
    descending=True,
)
_MOST_INTERVALS = 300
_PRODUCTS = "/api/v3/brokerage/market/products"
_FIAT = frozenset({"USD", "EUR", "GBP"})
_DOLLARS = frozenset({"USD", "USDT", "USDC"})


class Coinbase(Shape):
    """Candles newest first between `start` and `end`, both wanted; none where nothing was traded."""

    id = "coinbase"
    omits_empty = True
    intervals = intervals(
        {
            "ONE_MINUTE": "1m", "FIVE_MINUTE": "5m", "FIFTEEN_MINUTE": "15m", "THIRTY_MINUTE": "30m",
            "ONE_HOUR": "1h", "TWO_HOUR": "2h", "SIX_HOUR": "6h", "ONE_DAY": "1d",
        }
    )  # fmt: skip

    def __init__(self, market: Market, book: KlineBook, clock: TimeSource, limits: Limits) -> None:
        super().__init__(market, book, clock, limits)
        candles = CandleQuery("product_id", "granularity", ("start", "end"), _begin, self._latest)
        self.endpoints = {
            "/v2/time": Endpoint(self._time, group="v2"),
            "/v2/currencies": Endpoint(self._fiat, group="v2"),
            "/v2/currencies/crypto": Endpoint(self._crypto, group="v2"),
            "/v2/exchange-rates": Endpoint(self._rates, group="v2"),
            "/api/v3/brokerage/time": Endpoint(self._brokerage_time, group="public"),
            _PRODUCTS: Endpoint(self._products, group="public"),
            _PRODUCTS + "/{product_id}": Endpoint(self._product, group="public"),
            _PRODUCTS + "/{product_id}/candles": Endpoint(self._candles, group="public", candles=candles),
        }

    @classmethod
    def make_limits(cls, most: int | None, clock: Callable[[], int]) -> WindowLimits:
        """10 requests a second, 10,000 an hour of api/v2."""
        return WindowLimits({"public": Window(10, 1_000), "v2": Window(10_000, HOUR)}, clock, most=most)

    def name(self, listing: Listing) -> str:
        """BTC-USDT."""
        return f"{listing.base}-{listing.quote}"

    def refusal(self, verdict: Verdict, until: int) -> ApiError:
        """rate_limit_exceeded; Coinbase does not ban."""
        return _failure(429, "rate_limit_exceeded", "Too many requests")

    def internal_error(self) -> ApiError:
        """internal_server_error."""
        return _failure(500, "internal_server_error", "Internal server error")

    def _candles(self, query: Query) -> Page:
        name = query["product_id"]
        listing = self.listed(name, query)
        if listing is None or self.over(listing):
            raise _invalid("ProductID is invalid")
        timeframe = self.offered(query.get("granularity", ""), listing)
        if timeframe is None:
            raise _invalid("granularity argument is invalid")
        start, end = whole(query.get("start")), whole(query.get("end"))
        if start is None or end is None or start > end:
            raise _invalid("start and end argument is invalid")
        if (end - start) * 1000 > _MOST_INTERVALS * timeframe.nominal_ms:
            raise _invalid(
                "start and end argument is invalid - number of candles requested should be less than "
                f"{_MOST_INTERVALS}"
            )
        limit = whole(query.get("limit"))
        if limit is None and "limit" in query:
            raise _invalid("limit argument is invalid")
        return self.page(
            listing,
            timeframe,
            ROWS,
            since=start * 1000,
            until=end * 1000 + 1,
            limit=min(limit or _MOST_INTERVALS + 1, _MOST_INTERVALS + 1),
            newest=True,
            around=(b'{"candles":[', b"]}"),
            path=("candles",),
        )

    def _latest(self, query: Query) -> Query:
        """The window of the latest candles."""
        timeframe, now = self.intervals.get(query.get("granularity", "")), self.clock.now_ms() // 1000
        if timeframe is None:
            return query
        begin = now - _MOST_INTERVALS * timeframe.nominal_ms // 1000
        return {**query, "start": str(begin), "end": str(now)}

    def _products(self, query: Query) -> bytes:
        kind = query.get("product_type", "SPOT")
        wanted = query["product_ids"].split(",") if "product_ids" in query else self.named
        products = [
            _info(name, one) for name, one in self._traded().items() if kind == "SPOT" and name in wanted
        ]
        return dump({"products": products, "num_products": len(products)})

    def _product(self, query: Query) -> bytes:
        name = query["product_id"]
        listing = self._traded().get(name)
        if listing is None:
            raise _error(404, "NOT_FOUND", "valid product_id is required")
        return dump(_info(name, listing))

    def _traded(self) -> dict[str, Listing]:
        now = self.clock.now_ms()
        return {name: one for name, one in self.named.items() if one.listed <= now and not self.over(one)}

    def _time(self, _query: Query) -> bytes:
        seconds = self.clock.now_ms() // 1000
        return dump({"data": {"iso": _iso(seconds), "epoch": seconds}})

    def _brokerage_time(self, _query: Query) -> bytes:
        now = self.clock.now_ms()
        seconds = now // 1000
        return dump({"iso": _iso(seconds), "epochSeconds": str(seconds), "epochMillis": str(now)})

    def _currencies(self) -> list[str]:
        return sorted({code for one in self._traded().values() for code in (one.base, one.quote)})

    def _fiat(self, _query: Query) -> bytes:
        codes = [code for code in self._currencies() if code in _FIAT]
        return dump({"data": [{"id": code, "name": code, "min_size": "0.01"} for code in codes]})

    def _crypto(self, _query: Query) -> bytes:
        codes = [code for code in self._currencies() if code not in _FIAT]
        data = [
            {"asset_id": str(uuid5(NAMESPACE_DNS, code)), "code": code, "name": code, "type": "crypto",
             "exponent": 8, "sort_index": 100 + place}
            for place, code in enumerate(codes)
        ]  # fmt: skip
        return dump({"data": data})

    def _rates(self, _query: Query) -> bytes:
        rates = {code: "1.0" for code in self._currencies() if code in _DOLLARS}
        return dump({"data": {"currency": "USD", "rates": {"USD": "1.0", **rates}}})


def _info(name: str, listing: Listing) -> dict[str, Any]:
    return {
        "product_id": name,
        "base_increment": listing.lot,
        "quote_increment": listing.tick,
        "price_increment": listing.tick,
        "quote_min_size": "1",
        "quote_max_size": "150000000",
        "base_min_size": listing.lot,
        "base_max_size": "1000000",
        "base_name": listing.base,
        "quote_name": listing.quote,
        "is_disabled": False,
        "new": False,
        "status": "online",
        "cancel_only": False,
        "limit_only": False,
        "post_only": False,
        "trading_disabled": False,
        "auction_mode": False,
        "product_type": "SPOT",
        "quote_currency_id": listing.quote,
        "base_currency_id": listing.base,
        "alias": "",
        "alias_to": [],
        "view_only": False,
        "display_name": name,
        "product_venue": "CBE",
    }


def _iso(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _begin(query: Query) -> int | None:
    start = whole(query.get("start"))
    return None if start is None else start * 1000


def _invalid(text: str) -> ApiError:
    return _error(400, "INVALID_ARGUMENT", text)


def _error(status: int, code: str, text: str) -> ApiError:
    return ApiError(status, {"error": code, "error_details": text, "message": text})


def _failure(status: int, code: str, text: str) -> ApiError:
    return ApiError(status, {"errors": [{"id": code, "message": text}]})
