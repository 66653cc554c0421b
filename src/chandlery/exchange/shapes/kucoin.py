"""KuCoin's spot REST API.

https://www.kucoin.com/docs-new/rest/spot-trading/market-data/get-klines. Not documented, and so assumed: of a window wider
than a page the newest rows come, without `startAt` the last page before `endAt`; the windows of the limit roll; the candle in
progress is there; errors but those of the limit have status 400; months are the calendar's in UTC; and a pair is gone from all
answers once it is delisted. There are no contracts, allTickers says fees only, and 429000 comes for too many requests, never at
random.
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
from chandlery.exchange.symbols import Listing

ROWS = RowLayout('["<time_s>","<open>","<close>","<high>","<low>","<volume>","<turnover>"]', descending=True)
_MOST_ROWS = 1500
_POOL = Window(2000, 30_000)


class Kucoin(Shape):
    """Candles newest first from `startAt` to before `endAt`, both in seconds; none where nothing was traded."""

    id = "kucoin"
    omits_empty = True
    intervals = intervals(
        {
            "1min": "1m", "3min": "3m", "5min": "5m", "15min": "15m", "30min": "30m", "1hour": "1h", "2hour": "2h",
            "4hour": "4h", "6hour": "6h", "8hour": "8h", "12hour": "12h", "1day": "1d", "1week": "1w", "1month": "1M",
        },
        anchor=0,
    )  # fmt: skip

    def __init__(self, market: Market, book: KlineBook, clock: TimeSource, limits: Limits) -> None:
        super().__init__(market, book, clock, limits)
        candles = CandleQuery("symbol", "type", ("startAt", "endAt"), _begin)
        self.endpoints = {
            "/api/v1/timestamp": Endpoint(self._time, 3, "public"),
            "/api/v2/symbols": Endpoint(self._symbols, 4, "public"),
            "/api/v3/currencies": Endpoint(self._currencies, 3, "public"),
            "/api/v1/market/allTickers": Endpoint(self._tickers, 15, "public"),
            "/api/v1/market/candles": Endpoint(self._candles, 3, "public", candles),
            # ccxt asks for contracts too when it loads markets.
            "/api/v1/contracts/active": Endpoint(lambda _query: _answer([]), 3, "public"),
        }

    @classmethod
    def make_limits(cls, most: int | None, clock: Callable[[], int]) -> WindowLimits:
        """A weight of 2,000 in 30 seconds for all public endpoints; one of candles weighs 3."""
        return WindowLimits({"public": _POOL}, clock, most=most)

    def name(self, listing: Listing) -> str:
        """BTC-USDT."""
        return f"{listing.base}-{listing.quote}"

    def headers(self, verdict: Verdict) -> dict[str, str]:
        """What the pool still holds, and in how many milliseconds it is full again."""
        most = self.limits.most("public") if isinstance(self.limits, WindowLimits) else 0
        if not most:
            return {}
        return {
            "gw-ratelimit-limit": str(most),
            "gw-ratelimit-remaining": str(max(0, most - verdict.used)),
            "gw-ratelimit-reset": str(verdict.wait_ms or _POOL.ms),
        }

    def refusal(self, verdict: Verdict, until: int) -> ApiError:
        """429000; KuCoin does not ban."""
        return _error("429000", "Too many requests, please try again later", 429)

    def internal_error(self) -> ApiError:
        """500000."""
        return _error("500000", "Internal Server Error", 500)

    def _candles(self, query: Query) -> Page:
        name = query.get("symbol", "")
        listing = self.listed(name, query)
        if listing is None or self.over(listing):
            raise _error("400100", "Unsupported trading pair.")
        timeframe = self.offered(query.get("type", ""), listing)
        if timeframe is None:
            raise _error("400100", "This type of Candlestick is currently not provided.")
        start, end = (_seconds(query, part) for part in ("startAt", "endAt"))
        return self.page(
            listing,
            timeframe,
            ROWS,
            since=start * 1000,
            until=end * 1000 if end else None,
            limit=_MOST_ROWS,
            newest=True,
            around=(b'{"code":"200000","data":[', b"]}"),
            path=("data",),
        )

    def _traded(self) -> dict[str, Listing]:
        now = self.clock.now_ms()
        return {name: one for name, one in self.named.items() if one.listed <= now and not self.over(one)}

    def _time(self, _query: Query) -> bytes:
        return dump({"code": "200000", "msg": "success", "data": self.clock.now_ms()})

    def _symbols(self, _query: Query) -> bytes:
        return _answer([_info(name, one) for name, one in self._traded().items()])

    def _currencies(self, _query: Query) -> bytes:
        codes = sorted({code for one in self._traded().values() for code in (one.base, one.quote)})
        return _answer([_currency(code) for code in codes])

    def _tickers(self, _query: Query) -> bytes:
        fees = {
            "takerFeeRate": "0.001",
            "makerFeeRate": "0.001",
            "takerCoefficient": "1",
            "makerCoefficient": "1",
        }
        tickers = [{"symbol": name, "symbolName": name, **fees} for name in self._traded()]
        return _answer({"time": self.clock.now_ms(), "ticker": tickers})


def _info(name: str, listing: Listing) -> dict[str, Any]:
    return {
        "symbol": name,
        "name": name,
        "baseCurrency": listing.base,
        "quoteCurrency": listing.quote,
        "feeCurrency": listing.quote,
        "market": "USDS",
        "baseMinSize": listing.lot,
        "quoteMinSize": "0.1",
        "baseMaxSize": "10000000000",
        "quoteMaxSize": "99999999",
        "baseIncrement": listing.lot,
        "quoteIncrement": listing.tick,
        "priceIncrement": listing.tick,
        "priceLimitRate": "0.1",
        "minFunds": "0.1",
        "isMarginEnabled": False,
        "enableTrading": True,
    }


def _currency(code: str) -> dict[str, Any]:
    chain = {
        "chainName": code,
        "chainId": code.lower(),
        "withdrawalMinSize": "0",
        "withdrawalMinFee": "0",
        "withdrawPrecision": 8,
        "isWithdrawEnabled": False,
        "isDepositEnabled": False,
        "confirms": 1,
    }
    return {"currency": code, "name": code, "fullName": code, "precision": 8, "chains": [chain]}


def _begin(query: Query) -> int | None:
    start = whole(query.get("startAt"))
    return None if start is None else start * 1000


def _seconds(query: Query, name: str) -> int:
    """A bound of the query; 0 is none."""
    number = whole(query.get(name, "0"))
    if number is None:
        raise _error("400100", f"{name} is invalid")
    return number


def _answer(data: Any) -> bytes:
    return dump({"code": "200000", "data": data})


def _error(code: str, text: str, status: int = 400) -> ApiError:
    return ApiError(status, {"code": code, "msg": text})
