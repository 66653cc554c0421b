"""Binance's spot REST API, as far as market data needs it: paths, weights, parameters, error codes and texts."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from chandlery.exchange.clock import TimeSource
from chandlery.exchange.klines import KlineBook
from chandlery.exchange.limits import RequestLimits, Verdict
from chandlery.exchange.market import TIMEFRAMES, Market
from chandlery.exchange.symbols import Listing
from chandlery.timeframe import Timeframe

Query = Mapping[str, str]

_SYMBOL = re.compile(r"[A-Z0-9-_.]{1,20}")
_NUMBER = re.compile(r"[0-9]{1,20}")
_DEFAULT_ROWS, _MOST_ROWS = 500, 1000


class ApiError(Exception):
    """An answer of the form {"code": ..., "msg": ...}."""

    def __init__(self, code: int, text: str, status: int = 400) -> None:
        super().__init__(text)
        self.code = code
        self.text = text
        self.status = status

    @property
    def body(self) -> bytes:
        """The answer's JSON."""
        return _dump({"code": self.code, "msg": self.text})


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What a path costs and how it is answered."""

    weight: int
    answer: Callable[[Query], bytes]


class BinanceApi:
    """Answers for a market at the time of a clock; `endpoints` maps paths to them."""

    def __init__(self, market: Market, book: KlineBook, clock: TimeSource, limits: RequestLimits) -> None:
        self._market = market
        self._book = book
        self._clock = clock
        self._limits = limits
        self.endpoints: Mapping[str, Endpoint] = {
            "/api/v3/ping": Endpoint(1, lambda _query: b"{}"),
            "/api/v3/time": Endpoint(1, self._time),
            "/api/v3/exchangeInfo": Endpoint(20, self._exchange_info),
            "/api/v3/klines": Endpoint(2, self._klines),
            "/api/v3/uiKlines": Endpoint(2, self._klines),
            "/api/v3/ticker/price": Endpoint(2, self._ticker_price),
            # Derivatives markets without a contract: ccxt asks for them when it loads Binance's markets.
            "/fapi/v1/exchangeInfo": Endpoint(1, self._no_contracts),
            "/dapi/v1/exchangeInfo": Endpoint(1, self._no_contracts),
        }

    def listing(self, query: Query) -> Listing:
        """The pair that a query names; raises `ApiError`."""
        name = _required(query, "symbol")
        if not _SYMBOL.fullmatch(name):
            raise _illegal("symbol", _SYMBOL)
        listing = self._market.listings.get(name)
        if listing is None or listing.listed > self._clock.now_ms():
            raise ApiError(-1121, "Invalid symbol.")
        return listing

    def timeframe(self, query: Query, listing: Listing) -> Timeframe:
        """The interval that a query names, if the pair has it; raises `ApiError`."""
        timeframe = TIMEFRAMES.get(_required(query, "interval"))
        if timeframe is None or self._market.base(listing, timeframe) is None:
            raise ApiError(-1120, "Invalid interval.")
        return timeframe

    def _klines(self, query: Query) -> bytes:
        listing = self.listing(query)
        timeframe = self.timeframe(query, listing)
        start, end = _optional_number(query, "startTime"), _optional_number(query, "endTime")
        limit = _optional_number(query, "limit")
        if limit == 0:
            raise ApiError(-1130, "Data sent for parameter 'limit' is not valid.")
        rows = min(limit or _DEFAULT_ROWS, _MOST_ROWS)
        return self._book.page(listing, timeframe, start=start, end=end, limit=rows, now=self._clock.now_ms())

    def _time(self, _query: Query) -> bytes:
        return _dump({"serverTime": self._clock.now_ms()})

    def _exchange_info(self, query: Query) -> bytes:
        listings = list(self._market.listings.values())
        if "symbol" in query:
            listings = [self.listing(query)]
        elif "symbols" in query:
            try:
                names = [str(name) for name in json.loads(query["symbols"])]
            except (ValueError, TypeError):
                raise _illegal(
                    "symbols", re.compile(r'\["[A-Z0-9-_.]{1,20}"(,"[A-Z0-9-_.]{1,20}"){0,}\]')
                ) from None
            listings = [self.listing({"symbol": name}) for name in names]
        now = self._clock.now_ms()
        # A pair is unknown until it is listed, as on the real exchange.
        symbols = [_symbol_info(listing, now) for listing in listings if listing.listed <= now]
        return _dump({**self._info(), "symbols": symbols})

    def _no_contracts(self, _query: Query) -> bytes:
        return _dump({**self._info(), "assets": [], "symbols": []})

    def _info(self) -> dict[str, Any]:
        limits = []
        if self._limits.limit:
            limits.append(
                {
                    "rateLimitType": "REQUEST_WEIGHT",
                    "interval": "MINUTE",
                    "intervalNum": 1,
                    "limit": self._limits.limit,
                }
            )
        return {
            "timezone": "UTC",
            "serverTime": self._clock.now_ms(),
            "rateLimits": limits,
            "exchangeFilters": [],
        }

    def _ticker_price(self, query: Query) -> bytes:
        now = self._clock.now_ms()
        if "symbol" in query:
            return _dump(self._price(self.listing(query), now))
        listings = self._market.listings.values()
        return _dump([self._price(one, now) for one in listings if one.listed <= now])

    def _price(self, listing: Listing, now: int) -> dict[str, str]:
        """The close of the last candle that there is."""
        shortest = next(tf for tf in TIMEFRAMES.values() if self._market.base(listing, tf) is not None)
        rows = json.loads(self._book.page(listing, shortest, start=None, end=None, limit=1, now=now))
        return {"symbol": listing.id, "price": rows[-1][4] if rows else "0.00000000"}


def refusal(verdict: Verdict, limit: int, banned_until: int) -> ApiError:
    """What Binance says to who has spent the budget (429) or is banned (418)."""
    if verdict.status == 418:
        return ApiError(
            -1003,
            f"Way too much request weight used; IP banned until {banned_until}. "
            "Please use WebSocket Streams for live updates to avoid bans.",
            418,
        )
    return ApiError(
        -1003,
        f"Too much request weight used; current limit is {limit} request weight per 1 MINUTE. "
        "Please use WebSocket Streams for live updates to avoid polling the API.",
        429,
    )


def _required(query: Query, name: str) -> str:
    value = query.get(name)
    if value is None:
        raise ApiError(-1102, f"Mandatory parameter '{name}' was not sent, was empty/null, or malformed.")
    if not value:
        raise ApiError(-1105, f"Parameter '{name}' was empty.")
    return value


def _optional_number(query: Query, name: str) -> int | None:
    value = query.get(name)
    if value is None:
        return None
    if not value:
        raise ApiError(-1105, f"Parameter '{name}' was empty.")
    if not _NUMBER.fullmatch(value):
        raise _illegal(name, _NUMBER)
    return min(int(value), 253_402_300_799_999)  # the end of year 9999


def _illegal(name: str, legal: re.Pattern[str]) -> ApiError:
    return ApiError(
        -1100, f"Illegal characters found in parameter '{name}'; legal range is '^{legal.pattern}$'."
    )


def _symbol_info(listing: Listing, now: int) -> dict[str, Any]:
    tick, lot = (f"{10.0**-d:.8f}" for d in (listing.price_decimals, listing.volume_decimals))
    over = listing.delisted is not None and listing.delisted <= now
    return {
        "symbol": listing.id,
        "status": "BREAK" if over else "TRADING",
        "baseAsset": listing.base,
        "baseAssetPrecision": 8,
        "quoteAsset": listing.quote,
        "quotePrecision": 8,
        "quoteAssetPrecision": 8,
        "baseCommissionPrecision": 8,
        "quoteCommissionPrecision": 8,
        "orderTypes": ["LIMIT", "LIMIT_MAKER", "MARKET"],
        "icebergAllowed": True,
        "ocoAllowed": True,
        "quoteOrderQtyMarketAllowed": True,
        "allowTrailingStop": False,
        "cancelReplaceAllowed": True,
        "isSpotTradingAllowed": True,
        "isMarginTradingAllowed": False,
        "filters": [
            {
                "filterType": "PRICE_FILTER",
                "minPrice": tick,
                "maxPrice": "1000000.00000000",
                "tickSize": tick,
            },
            {"filterType": "LOT_SIZE", "minQty": lot, "maxQty": "9000000000.00000000", "stepSize": lot},
            {"filterType": "ICEBERG_PARTS", "limit": 10},
            {
                "filterType": "NOTIONAL",
                "minNotional": "5.00000000",
                "applyMinToMarket": True,
                "maxNotional": "9000000.00000000",
                "applyMaxToMarket": False,
                "avgPriceMins": 5,
            },
        ],
        "permissions": ["SPOT"],
        "permissionSets": [["SPOT"]],
        "defaultSelfTradePreventionMode": "NONE",
        "allowedSelfTradePreventionModes": ["NONE"],
    }


def _dump(document: Any) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()
