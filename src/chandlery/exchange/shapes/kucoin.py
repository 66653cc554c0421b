"""KuCoin's REST APIs: spot pairs, and linear perpetual swaps of api-futures.

https://www.kucoin.com/docs-new/rest/spot-trading/market-data/get-klines and
https://www.kucoin.com/docs-new/rest/futures-trading/market-data/get-klines, of whose 500 rows ccxt asks for 200. That a swap's `to` is
included is seen in a recorded answer. Not documented, and so assumed: of a window wider than a page the newest rows come, without a
start the last page before the end; the windows of the limit roll; the candle in progress is there; a time without a trade has no row,
of swaps too; errors but those of the limit have status 400; weeks of swaps begin on Thursday as those of spot do, months are the
calendar's in UTC; a contract is the smallest lot; and a pair is gone from all answers once it is delisted. allTickers says fees only,
and 429000 comes for too many requests, never at random.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

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
from chandlery.timeframe import Timeframe

ROWS = RowLayout('["<time_s>","<open>","<close>","<high>","<low>","<volume>","<turnover>"]', descending=True)
SWAP_ROWS = RowLayout("[<time>,<open>,<high>,<low>,<close>,<contracts>,<turnover>]")
_SPOT_ROWS, _SWAP_ROWS = 1500, 500
_POOL = Window(2000, 30_000)


class Kucoin(Shape):
    """Spot newest first, in seconds, without its end; swaps oldest first, in milliseconds, with it; one pool of weight."""

    id = "kucoin"
    pairs = (*GENERATED, *SWAPS)
    omits_empty = True
    whole_contracts = True
    spot_intervals: ClassVar[Mapping[str, Timeframe]] = intervals(
        {
            "1min": "1m", "3min": "3m", "5min": "5m", "15min": "15m", "30min": "30m", "1hour": "1h", "2hour": "2h",
            "4hour": "4h", "6hour": "6h", "8hour": "8h", "12hour": "12h", "1day": "1d", "1week": "1w", "1month": "1M",
        },
        anchor=0,
    )  # fmt: skip
    swap_intervals: ClassVar[Mapping[str, Timeframe]] = intervals(
        {
            "1": "1m", "5": "5m", "15": "15m", "30": "30m", "60": "1h", "120": "2h", "240": "4h", "480": "8h",
            "720": "12h", "1440": "1d", "10080": "1w",
        },
        anchor=0,
    )  # fmt: skip
    intervals: ClassVar[Mapping[str, Timeframe]] = {**spot_intervals, **swap_intervals}

    def __init__(self, market: Market, book: KlineBook, clock: TimeSource, limits: Limits) -> None:
        super().__init__(market, book, clock, limits)
        candles = CandleQuery("symbol", "type", ("startAt", "endAt"), _begin)
        swaps = CandleQuery("symbol", "granularity", ("from", "to"), lambda query: whole(query.get("from")))
        self.endpoints = {
            "/api/v1/timestamp": Endpoint(self._time, 3, "public"),
            "/api/v2/symbols": Endpoint(self._symbols, 4, "public"),
            "/api/v3/currencies": Endpoint(self._currencies, 3, "public"),
            "/api/v1/market/allTickers": Endpoint(self._tickers, 15, "public"),
            "/api/v1/market/candles": Endpoint(self._candles, 3, "public", candles),
            "/api/v1/contracts/active": Endpoint(self._contracts, 3, "public"),
            "/api/v1/kline/query": Endpoint(self._swap_candles, 3, "public", swaps),
        }

    @classmethod
    def make_limits(cls, most: int | None, clock: Callable[[], int]) -> WindowLimits:
        """A weight of 2,000 in 30 seconds for all public endpoints, of both hosts; one of candles weighs 3."""
        return WindowLimits({"public": _POOL}, clock, most=most)

    def name(self, listing: Listing) -> str:
        """BTC-USDT, and XBTUSDTM for the swap."""
        if listing.settle is None:
            return f"{listing.base}-{listing.quote}"
        return f"{_contract_base(listing)}{listing.quote}M"

    def offered(self, interval: str, listing: Listing) -> Timeframe | None:
        """Spot and swaps have names of their own for the timeframes."""
        names = self.spot_intervals if listing.settle is None else self.swap_intervals
        return super().offered(interval, listing) if interval in names else None

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
        listing = self._traded(settled=False).get(query.get("symbol", ""))
        if listing is None:
            raise _error("400100", "Unsupported trading pair.")
        timeframe = self.offered(query.get("type", ""), listing)
        if timeframe is None:
            raise _error("400100", "This type of Candlestick is currently not provided.")
        start, end = (_bound(query, part) for part in ("startAt", "endAt"))
        return self.page(
            listing,
            timeframe,
            ROWS,
            since=start * 1000,
            until=end * 1000 if end else None,
            limit=_SPOT_ROWS,
            newest=True,
            around=(b'{"code":"200000","data":[', b"]}"),
            path=("data",),
        )

    def _swap_candles(self, query: Query) -> Page:
        listing = self._traded(settled=True).get(query.get("symbol", ""))
        if listing is None:
            raise _error("400100", "Contract does not exist.")
        timeframe = self.offered(query.get("granularity", ""), listing)
        if timeframe is None:
            raise _error("400100", "granularity is invalid")
        start, end = (_bound(query, part) for part in ("from", "to"))
        return self.page(
            listing,
            timeframe,
            SWAP_ROWS,
            since=start,
            until=end + 1 if end else None,
            limit=_SWAP_ROWS,
            newest=True,
            around=(b'{"code":"200000","data":[', b"]}"),
            path=("data",),
        )

    def _traded(self, *, settled: bool) -> dict[str, Listing]:
        now = self.clock.now_ms()
        return {
            name: one
            for name, one in self.named.items()
            if (one.settle is not None) == settled and one.listed <= now and not self.over(one)
        }

    def _time(self, _query: Query) -> bytes:
        return dump({"code": "200000", "msg": "success", "data": self.clock.now_ms()})

    def _symbols(self, _query: Query) -> bytes:
        return _answer([_info(name, one) for name, one in self._traded(settled=False).items()])

    def _currencies(self, _query: Query) -> bytes:
        codes = sorted(
            {code for one in self._traded(settled=False).values() for code in (one.base, one.quote)}
        )
        return _answer([_currency(code) for code in codes])

    def _tickers(self, _query: Query) -> bytes:
        fees = {
            "takerFeeRate": "0.001",
            "makerFeeRate": "0.001",
            "takerCoefficient": "1",
            "makerCoefficient": "1",
        }
        tickers = [{"symbol": name, "symbolName": name, **fees} for name in self._traded(settled=False)]
        return _answer({"time": self.clock.now_ms(), "ticker": tickers})

    def _contracts(self, _query: Query) -> bytes:
        return _answer([_contract(name, one) for name, one in self._traded(settled=True).items()])


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


def _contract_base(listing: Listing) -> str:
    return "XBT" if listing.base == "BTC" else listing.base


def _contract(name: str, listing: Listing) -> dict[str, Any]:
    return {
        "symbol": name,
        "rootSymbol": listing.settle,
        "type": "FFWCSX",
        "firstOpenDate": listing.listed,
        "expireDate": None,
        "settleDate": None,
        "baseCurrency": _contract_base(listing),
        "quoteCurrency": listing.quote,
        "settleCurrency": listing.settle,
        "maxOrderQty": 1_000_000,
        "maxPrice": 1_000_000.0,
        "lotSize": 1,
        "tickSize": 10.0**-listing.price_decimals,
        "indexPriceTickSize": 10.0**-listing.price_decimals,
        "multiplier": 10.0**-listing.volume_decimals,
        "initialMargin": 0.01,
        "maintainMargin": 0.005,
        "makerFeeRate": 0.0002,
        "takerFeeRate": 0.0006,
        "isDeleverage": True,
        "isQuanto": True,
        "isInverse": False,
        "markMethod": "FairPrice",
        "fairMethod": "FundingRate",
        "status": "Open",
        "nextFundingRateTime": 14_400_000,
        "maxLeverage": 100,
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


def _bound(query: Query, name: str) -> int:
    """A bound of the query; 0 is none."""
    number = whole(query.get(name, "0"))
    if number is None:
        raise _error("400100", f"{name} is invalid")
    return number


def _answer(data: Any) -> bytes:
    return dump({"code": "200000", "data": data})


def _error(code: str, text: str, status: int = 400) -> ApiError:
    return ApiError(status, {"code": code, "msg": text})
