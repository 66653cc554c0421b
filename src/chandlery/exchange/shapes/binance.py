"""Binance's REST API, as far as market data needs it: paths, weights, parameters, error codes and texts.

`BinanceSpot` is /api/v3, and /fapi/v1 of the USD-M swaps beside it, as ccxt's class asks both; what they have in common is
`BinanceApi`. The hosts have a budget of weight each. COIN-M, /dapi/v1, has no contract.
"""

from __future__ import annotations

import json
import re
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from chandlery.exchange.clock import TimeSource
from chandlery.exchange.klines import KlineBook
from chandlery.exchange.layout import RowLayout
from chandlery.exchange.limits import HostLimits, Limits, RequestLimits, Verdict
from chandlery.exchange.market import TIMEFRAMES, Market
from chandlery.exchange.shape import ApiError, CandleQuery, Endpoint, Page, Query, Shape, dump
from chandlery.exchange.symbols import GENERATED, SWAPS, Listing
from chandlery.timeframe import Timeframe

KLINES = RowLayout(
    '[<time>,"<open>","<high>","<low>","<close>","<volume>",<closes>,"<turnover>",<trades>,"<taker>","<taker_turnover>","0"]',
    decimals=8,
)
_SYMBOL = re.compile(r"[A-Z0-9-_.]{1,20}")
_NUMBER = re.compile(r"[0-9]{1,20}")
_DEFAULT_ROWS = 500


def error(code: int, text: str, status: int = 400, headers: dict[str, str] | None = None) -> ApiError:
    """An answer of the form {"code": ..., "msg": ...}."""
    return ApiError(status, {"code": code, "msg": text}, headers)


class BinanceApi(Shape):
    """What Binance's spot and futures APIs have in common."""

    intervals = TIMEFRAMES
    #: The host that the endpoints are on, and the weight per minute of each host.
    host: ClassVar[str]
    weight_limits: ClassVar[Mapping[str, int]]
    #: Rows per page.
    most_rows: ClassVar[int]
    #: Whether this host trades swaps.
    settled: ClassVar[bool]

    def __init__(self, market: Market, book: KlineBook, clock: TimeSource, limits: Limits) -> None:
        super().__init__(market, book, clock, limits)
        self.named = {
            name: one for one in market.listings.values() if self._is_here(one) and (name := self.name(one))
        }
        self.endpoints = self.table()

    @abstractmethod
    def table(self) -> dict[str, Endpoint]:
        """The endpoints."""

    @abstractmethod
    def symbol_info(self, listing: Listing) -> dict[str, Any]:
        """A pair as exchangeInfo tells it."""

    @classmethod
    def make_limits(cls, most: int | None, clock: Callable[[], int]) -> HostLimits:
        """Weight per minute, of each host."""
        return HostLimits(
            {
                host: RequestLimits(weight if most is None else most, clock, group=host)
                for host, weight in cls.weight_limits.items()
            }
        )

    def name(self, listing: Listing) -> str:
        """BTCUSDT."""
        return listing.id.partition(":")[0]

    def headers(self, verdict: Verdict) -> dict[str, str]:
        """The weight used in this minute."""
        return {"X-MBX-USED-WEIGHT": str(verdict.used), "X-MBX-USED-WEIGHT-1M": str(verdict.used)}

    def listing(self, query: Query) -> Listing:
        """The pair that a query names; raises `ApiError`."""
        name = _required(query, "symbol")
        if not _SYMBOL.fullmatch(name):
            raise _illegal("symbol", _SYMBOL)
        listing = self.listed(name, query)
        if listing is None:
            raise error(-1121, "Invalid symbol.")
        return listing

    def timeframe(self, query: Query, listing: Listing) -> Timeframe:
        """The interval that a query names, if the pair has it; raises `ApiError`."""
        timeframe = self.offered(_required(query, "interval"), listing)
        if timeframe is None:
            raise error(-1120, "Invalid interval.")
        return timeframe

    def klines(self, query: Query) -> Page:
        """With startTime the next candles from there, else the last ones up to endTime; both are inclusive."""
        listing = self.listing(query)
        timeframe = self.timeframe(query, listing)
        start, end = _optional_number(query, "startTime"), _optional_number(query, "endTime")
        limit = _optional_number(query, "limit")
        if limit == 0:
            raise error(-1130, "Data sent for parameter 'limit' is not valid.")
        return self.page(
            listing,
            timeframe,
            KLINES,
            since=start,
            until=None if end is None else end + 1,
            limit=min(limit or _DEFAULT_ROWS, self.most_rows),
            newest=start is None,
        )

    def time(self, _query: Query) -> bytes:
        """The exchange's clock."""
        return dump({"serverTime": self.clock.now_ms()})

    def exchange_info(self, query: Query) -> bytes:
        """Limits and pairs; `symbol=` and `symbols=` narrow them."""
        listings = list(self.named.values())
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
        now = self.clock.now_ms()
        # A pair is unknown until it is listed, as on the real exchange.
        symbols = [self.symbol_info(listing) for listing in listings if listing.listed <= now]
        return dump({**self.info(), "symbols": symbols})

    def info(self) -> dict[str, Any]:
        """What exchangeInfo tells besides the pairs."""
        limits = []
        if most := self._limit(self.host):
            limits.append(
                {
                    "rateLimitType": "REQUEST_WEIGHT",
                    "interval": "MINUTE",
                    "intervalNum": 1,
                    "limit": most,
                }
            )
        return {
            "timezone": "UTC",
            "serverTime": self.clock.now_ms(),
            "rateLimits": limits,
            "exchangeFilters": [],
        }

    def ticker_price(self, query: Query) -> bytes:
        """The last price of one pair or of all."""
        now = self.clock.now_ms()
        if "symbol" in query:
            return dump(self._price(self.listing(query)))
        return dump([self._price(one) for one in self.named.values() if one.listed <= now])

    def refusal(self, verdict: Verdict, until: int) -> ApiError:
        """-1003 with Retry-After: 429 when the weight is spent, 418 for who is banned."""
        wait = {"Retry-After": str(verdict.retry_after)}
        if verdict.status == 418:
            text = f"Way too much request weight used; IP banned until {until}. "
            return error(
                -1003, text + "Please use WebSocket Streams for live updates to avoid bans.", 418, wait
            )
        text = f"Too much request weight used; current limit is {self._limit(verdict.group)} request weight per 1 MINUTE. "
        return error(
            -1003, text + "Please use WebSocket Streams for live updates to avoid polling the API.", 429, wait
        )

    def internal_error(self) -> ApiError:
        """-1001."""
        return error(-1001, "Internal error; unable to process your request. Please try again.", 500)

    def _is_here(self, listing: Listing) -> bool:
        return (listing.settle is not None) == self.settled

    def _limit(self, host: str) -> int:
        return next((usage.limit for usage in self.limits.usage() if usage.group == host), 0)

    def _price(self, listing: Listing) -> dict[str, str]:
        """The close of the last candle that there is."""
        shortest = next(tf for tf in TIMEFRAMES.values() if self.market.base(listing, tf) is not None)
        rows = json.loads(self.page(listing, shortest, KLINES, limit=1, newest=True).body)
        return {"symbol": self.name(listing), "price": rows[-1][4] if rows else "0.00000000"}


class BinanceSpot(BinanceApi):
    """Binance spot, /api/v3, and the USD-M swaps beside it."""

    id = "binance"
    pairs = (*GENERATED, *SWAPS)
    host = "api"
    weight_limits: ClassVar[Mapping[str, int]] = {"api": 6000, "fapi": 2400, "dapi": 2400}
    most_rows = 1000
    settled = False

    def table(self) -> dict[str, Endpoint]:
        """The endpoints."""
        from chandlery.exchange.shapes.binanceusdm import BinanceUsdm

        futures = BinanceUsdm(self.market, self.book, self.clock, self.limits)
        klines = Endpoint(self.klines, 2, self.host, CandleQuery())
        return {
            "/api/v3/ping": Endpoint(lambda _query: b"{}", group=self.host),
            "/api/v3/time": Endpoint(self.time, group=self.host),
            "/api/v3/exchangeInfo": Endpoint(self.exchange_info, 20, self.host),
            "/api/v3/klines": klines,
            "/api/v3/uiKlines": klines,
            "/api/v3/ticker/price": Endpoint(self.ticker_price, 2, self.host),
            **futures.endpoints,
            # ccxt asks for COIN-M contracts too when it loads Binance's markets.
            "/dapi/v1/exchangeInfo": Endpoint(self._no_contracts, group="dapi"),
        }

    def _no_contracts(self, _query: Query) -> bytes:
        return dump({**self.info(), "rateLimits": [], "symbols": []})

    def symbol_info(self, listing: Listing) -> dict[str, Any]:
        """Status, assets and filters."""
        tick, lot = (f"{10.0**-d:.8f}" for d in (listing.price_decimals, listing.volume_decimals))
        return {
            "symbol": self.name(listing),
            "status": "BREAK" if self.over(listing) else "TRADING",
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


def _required(query: Query, name: str) -> str:
    value = query.get(name)
    if value is None:
        raise error(-1102, f"Mandatory parameter '{name}' was not sent, was empty/null, or malformed.")
    if not value:
        raise error(-1105, f"Parameter '{name}' was empty.")
    return value


def _optional_number(query: Query, name: str) -> int | None:
    value = query.get(name)
    if value is None:
        return None
    if not value:
        raise error(-1105, f"Parameter '{name}' was empty.")
    if not _NUMBER.fullmatch(value):
        raise _illegal(name, _NUMBER)
    return min(int(value), 253_402_300_799_999)  # the end of year 9999


def _illegal(name: str, legal: re.Pattern[str]) -> ApiError:
    return error(
        -1100, f"Illegal characters found in parameter '{name}'; legal range is '^{legal.pattern}$'."
    )
