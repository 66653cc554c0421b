"""MEXC's spot API (v3) and its contract API (v1): spot pairs and linear perpetual swaps.

https://www.mexc.com/api-docs/spot-v3/market-data-endpoints/klinecandlestick-data and
https://www.mexc.com/api-docs/futures/market-endpoints/get-candlestick-data. A page of spot has 500 rows where the documentation
says 1,000 (ccxt's own finding), and `startTime` without `endTime` is ignored (mexcdevelop/mexc-api-sdk#28, #57). Not documented,
and so assumed: of a window wider than a page the oldest rows come; a contract's `start` and spot's `startTime` are included, `end`
and `endTime` are not; windows of the limits roll; the sixth request that spot refuses in ten seconds is a ban of 2 minutes for that
endpoint, and contracts know no ban; errors of contracts have status 200; a contract is the smallest lot; realOpen and its like are the
prices themselves; weeks open on Monday, days in UTC; a time without a trade is a flat row; and a pair is gone from all answers once it
is delisted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from chandlery.exchange.clock import TimeSource
from chandlery.exchange.klines import KlineBook
from chandlery.exchange.layout import ColumnLayout, RowLayout
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
from chandlery.timeframe import MINUTE, Timeframe

SPOT_ROWS = RowLayout('[<time>,"<open>","<high>","<low>","<close>","<volume>",<ends>,"<turnover>"]')
SWAP_COLUMNS = ColumnLayout(
    {
        "time": "<time_s>", "open": "<open>", "close": "<close>", "high": "<high>", "low": "<low>",
        "vol": "<contracts>", "amount": "<turnover>",
        "realOpen": "<open>", "realClose": "<close>", "realHigh": "<high>", "realLow": "<low>",
    }
)  # fmt: skip
_SPOT_ROWS, _SWAP_ROWS = 500, 2000
_SPOT = Window(500, 10_000, ban_ms=2 * MINUTE, patience=5)
_CONTRACT = "contract/"


class Mexc(Shape):
    """Spot in milliseconds and rows, contracts in seconds and columns; each endpoint has a budget of its own."""

    id = "mexc"
    pairs = (*GENERATED, *SWAPS)
    whole_contracts = True
    spot_intervals: ClassVar[Mapping[str, Timeframe]] = intervals(
        {
            "1m": "1m", "5m": "5m", "15m": "15m", "30m": "30m", "60m": "1h", "4h": "4h", "1d": "1d", "1W": "1w",
            "1M": "1M",
        }
    )  # fmt: skip
    swap_intervals: ClassVar[Mapping[str, Timeframe]] = intervals(
        {
            "Min1": "1m", "Min5": "5m", "Min15": "15m", "Min30": "30m", "Min60": "1h", "Hour4": "4h", "Hour8": "8h",
            "Day1": "1d", "Week1": "1w", "Month1": "1M",
        }
    )  # fmt: skip
    intervals: ClassVar[Mapping[str, Timeframe]] = {**spot_intervals, **swap_intervals}

    def __init__(self, market: Market, book: KlineBook, clock: TimeSource, limits: Limits) -> None:
        super().__init__(market, book, clock, limits)
        self.endpoints = {
            "/api/v3/ping": Endpoint(lambda _query: b"{}", group="ping"),
            "/api/v3/time": Endpoint(self._time, group="time"),
            "/api/v3/exchangeInfo": Endpoint(self._exchange_info, 10, "exchangeInfo"),
            "/api/v3/klines": Endpoint(self._klines, group="klines", candles=CandleQuery()),
            "/api/v1/contract/ping": Endpoint(self._contract_ping, group="contract/ping"),
            "/api/v1/contract/detail": Endpoint(self._contract_detail, group="contract/detail"),
            "/api/v1/contract/kline/{symbol}": Endpoint(
                self._contract_kline,
                group="contract/kline",
                candles=CandleQuery(window=("start", "end"), begin=_begin),
            ),
        }

    @classmethod
    def make_limits(cls, most: int | None, clock: Callable[[], int]) -> WindowLimits:
        """A weight of 500 in 10 seconds for each endpoint of spot; requests in some seconds for those of contracts."""
        spot = dict.fromkeys(("ping", "time", "exchangeInfo", "klines"), _SPOT)
        contract = {
            "contract/ping": Window(20, 2_000),
            "contract/detail": Window(1, 5_000),
            "contract/kline": Window(20, 2_000),
        }
        return WindowLimits({**spot, **contract}, clock, most=most)

    def name(self, listing: Listing) -> str:
        """BTCUSDT, and BTC_USDT for the swap."""
        return listing.base + ("" if listing.settle is None else "_") + listing.quote

    def offered(self, interval: str, listing: Listing) -> Timeframe | None:
        """Spot and contracts have names of their own for the timeframes."""
        names = self.spot_intervals if listing.settle is None else self.swap_intervals
        return super().offered(interval, listing) if interval in names else None

    def refusal(self, verdict: Verdict, until: int) -> ApiError:
        """429 with Retry-After, 418 for who is banned; contracts say 510."""
        if verdict.group.startswith(_CONTRACT):
            return _contract_error(510, "Requests are too frequent, please try again later!")
        return ApiError(
            verdict.status,
            {"code": verdict.status, "msg": "Too Many Requests"},
            {"Retry-After": str(verdict.retry_after)},
        )

    def internal_error(self) -> ApiError:
        """500."""
        return ApiError(500, {"code": 500, "msg": "Internal error"})

    def _klines(self, query: Query) -> Page:
        """The first rows of [startTime, endTime); the last ones before `endTime`, or of all, without a `startTime`."""
        name = query.get("symbol", "")
        listing = self._traded(name, query)
        if listing is None or listing.settle is not None:
            raise _spot_error(-1121, "Invalid symbol.")
        timeframe = self.offered(query.get("interval", ""), listing)
        if timeframe is None:
            raise _spot_error(-1120, "Invalid interval.")
        start, end, limit = (_number(query, part) for part in ("startTime", "endTime", "limit"))
        if end is None:
            start = None
        return self.page(
            listing,
            timeframe,
            SPOT_ROWS,
            since=start,
            until=end,
            limit=min(limit or _SPOT_ROWS, _SPOT_ROWS),
            newest=start is None,
        )

    def _contract_kline(self, query: Query) -> Page:
        """The first rows from `start`, else the last ones before `end`."""
        listing = self._traded(query.get("symbol", ""), query)
        if listing is None or listing.settle is None:
            raise _contract_error(1001, "Contract does not exist!")
        timeframe = self.offered(query.get("interval", "Min1"), listing)
        start, end = (whole(query.get(part)) for part in ("start", "end"))
        wrong = [part for part in ("start", "end") if part in query and whole(query[part]) is None]
        if timeframe is None or wrong:
            raise _contract_error(600, "Parameter error!")
        return self.page(
            listing,
            timeframe,
            SWAP_COLUMNS,
            since=None if start is None else start * 1000,
            until=None if end is None else end * 1000,
            limit=_SWAP_ROWS,
            newest=start is None,
            around=(b'{"success":true,"code":0,"data":{', b"}}"),
            path=("data",),
        )

    def _traded(self, name: str, query: Query) -> Listing | None:
        listing = self.listed(name, query)
        return None if listing is None or self.over(listing) else listing

    def _time(self, _query: Query) -> bytes:
        return dump({"serverTime": self.clock.now_ms()})

    def _contract_ping(self, _query: Query) -> bytes:
        return dump({"success": True, "code": 0, "data": self.clock.now_ms()})

    def _exchange_info(self, query: Query) -> bytes:
        wanted = [name for part in ("symbol", "symbols") for name in query.get(part, "").split(",") if name]
        pairs = [name for name, one in self.named.items() if one.settle is None]
        infos = [_spot_info(name, one) for name in wanted or pairs if (one := self._traded(name, query))]
        if len(infos) < len(wanted):
            raise _spot_error(-1121, "Invalid symbol.")
        return dump(
            {
                "timezone": "CST",
                "serverTime": self.clock.now_ms(),
                "rateLimits": [],
                "exchangeFilters": [],
                "symbols": infos,
            }
        )

    def _contract_detail(self, query: Query) -> bytes:
        infos = [
            _contract_info(name, one)
            for name, one in self.named.items()
            if one.settle is not None and self._traded(name, query) and query.get("symbol", name) == name
        ]
        if "symbol" in query:
            if not infos:
                raise _contract_error(1001, "Contract does not exist!")
            return dump({"success": True, "code": 0, "data": infos[0]})
        return dump({"success": True, "code": 0, "data": infos})


def _spot_info(name: str, listing: Listing) -> dict[str, Any]:
    return {
        "symbol": name,
        "status": "1",
        "baseAsset": listing.base,
        "baseAssetPrecision": listing.volume_decimals,
        "quoteAsset": listing.quote,
        "quotePrecision": listing.price_decimals,
        "quoteAssetPrecision": listing.price_decimals,
        "baseCommissionPrecision": listing.volume_decimals,
        "quoteCommissionPrecision": listing.price_decimals,
        "orderTypes": ["LIMIT", "MARKET", "LIMIT_MAKER"],
        "isSpotTradingAllowed": True,
        "isMarginTradingAllowed": False,
        "quoteAmountPrecision": "1",
        "baseSizePrecision": listing.lot,
        "permissions": ["SPOT"],
        "filters": [],
        "maxQuoteAmount": "2000000",
        "makerCommission": "0",
        "takerCommission": "0.0005",
    }


def _contract_info(name: str, listing: Listing) -> dict[str, Any]:
    return {
        "symbol": name,
        "displayNameEn": f"{name} PERPETUAL",
        "positionOpenType": 3,
        "baseCoin": listing.base,
        "quoteCoin": listing.quote,
        "settleCoin": listing.settle,
        "contractSize": 10.0**-listing.volume_decimals,
        "minLeverage": 1,
        "maxLeverage": 125,
        "priceScale": listing.price_decimals,
        "volScale": 0,
        "amountScale": 4,
        "priceUnit": 10.0**-listing.price_decimals,
        "volUnit": 1,
        "minVol": 1,
        "maxVol": 1_000_000,
        "takerFeeRate": 0.0002,
        "makerFeeRate": 0,
        "state": 0,
        "createTime": listing.listed,
        "isHidden": False,
        "apiAllowed": True,
    }


def _begin(query: Query) -> int | None:
    start = whole(query.get("start"))
    return None if start is None else start * 1000


def _number(query: Query, name: str) -> int | None:
    number = whole(query.get(name))
    if number is None and name in query:
        raise _spot_error(700004, f"Mandatory parameter '{name}' was not sent, was empty/null, or malformed.")
    return number


def _spot_error(code: int, text: str) -> ApiError:
    return ApiError(400, {"code": code, "msg": text, "_extend": None})


def _contract_error(code: int, text: str) -> ApiError:
    return ApiError(200, {"success": False, "code": code, "message": text})
