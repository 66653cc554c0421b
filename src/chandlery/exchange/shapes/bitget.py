"""Bitget's v2 REST API: spot pairs and linear perpetual swaps (mix, USDT-FUTURES).

https://www.bitget.com/api-doc/spot/market/Get-Candle-Data, https://www.bitget.com/api-doc/contract/market/Get-Candle-Data and the
pages of the history beside them. How far the recent candles reach and how many of a long timeframe come are ccxt's findings, which
differ from the documentation; so is that the end of the window is what pages are counted back from, and that the history of spot
has no `startTime`. Not documented, and so assumed: `startTime` is included and `endTime` is not (as ccxt's walks show); a `limit`
over the most is cut to it; the history leaves the candle in progress out; windows of the limits roll, and refusals carry no
Retry-After; the 6,000 requests a minute for the whole address are not counted; weeks open on Monday, 3d candles count from 1970;
a time without a trade is a flat row; and a pair is gone from all answers once it is delisted.
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
    whole,
)
from chandlery.exchange.shape import intervals as unified
from chandlery.exchange.symbols import GENERATED, SWAPS, Listing
from chandlery.timeframe import DAY, HOUR, MONDAY, Timeframe, parse_timeframe

_PRICES = '"<time>","<open>","<high>","<low>","<close>","<volume>"'
SPOT_ROWS = RowLayout(f'[{_PRICES},"<turnover>","<turnover>"]')
SWAP_ROWS = RowLayout(f'[{_PRICES},"<turnover>"]')
_DEFAULT_ROWS = 100
_HONG_KONG = -8 * HOUR  # from 6h on candles open by UTC+8, unless the granularity ends in utc
_UTC = {"6Hutc": "6h", "12Hutc": "12h", "1Dutc": "1d", "3Dutc": "3d", "1Wutc": "1w", "1Mutc": "1M"}
#: How many days back the endpoint of recent candles reaches.
_RECENT_DAYS = {
    "1m": 30, "3m": 30, "5m": 30, "15m": 30, "30m": 30, "1h": 60, "2h": 120, "4h": 240, "6h": 360, "12h": 720,
    "1d": 1440, "3d": 4320, "1w": 10_080, "1M": 43_200,
}  # fmt: skip
#: Most recent rows of a page, where they are fewer than for the others: those of 90 days for swaps.
_SPOT_ROWS_OF = {"1d": 300, "3d": 100, "1w": 100, "1M": 100}
_SWAP_ROWS_OF = {"4h": 540, "6h": 360, "12h": 180, "1d": 90, "3d": 30, "1w": 13, "1M": 4}
_PRODUCTS = {f"{kind}-FUTURES" for kind in ("USDT", "COIN", "USDC", "SUSDT", "SCOIN", "SUSDC")}


def _names(days: str, minutes_and_hours: Mapping[str, str]) -> Mapping[str, Timeframe]:
    """The granularities of one kind of market; `days` is how it writes those by UTC+8."""
    local = dict(zip(("6h", "12h", "1d", "1w"), days.split(), strict=True))
    week = {local.pop("1w"): parse_timeframe("1w", MONDAY + _HONG_KONG)}
    return {
        **unified(minutes_and_hours),
        **{name: parse_timeframe(text, _HONG_KONG) for text, name in local.items()},
        **week,
        **unified(_UTC),
    }


class Bitget(Shape):
    """Candles up to `endTime`, 1,000 of the recent ones or 200 of the history; 20 requests a second for each endpoint."""

    id = "bitget"
    pairs = (*GENERATED, *SWAPS)
    spot_intervals: ClassVar[Mapping[str, Timeframe]] = _names(
        "6h 12h 1day 1week",
        {"1min": "1m", "3min": "3m", "5min": "5m", "15min": "15m", "30min": "30m", "1h": "1h", "4h": "4h"},
    )
    swap_intervals: ClassVar[Mapping[str, Timeframe]] = _names(
        "6H 12H 1D 1W",
        {
            "1m": "1m",
            "3m": "3m",
            "5m": "5m",
            "15m": "15m",
            "30m": "30m",
            "1H": "1h",
            "2H": "2h",
            "4H": "4h",
        },
    )
    #: Those in UTC last: they are the ones that ccxt means.
    intervals: ClassVar[Mapping[str, Timeframe]] = dict(
        sorted({**spot_intervals, **swap_intervals}.items(), key=lambda item: item[0] in _UTC)
    )
    #: Rows per page, of the recent candles and of the history.
    recent_rows: ClassVar[int] = 1000
    history_rows: ClassVar[int] = 200

    def __init__(self, market: Market, book: KlineBook, clock: TimeSource, limits: Limits) -> None:
        super().__init__(market, book, clock, limits)
        self._all = {(one.settle is not None, self.name(one)): one for one in market.listings.values()}
        asked = CandleQuery(interval="granularity")
        history = CandleQuery(interval="granularity", latest=self._until_now)
        self.endpoints = {
            "/api/v2/public/time": Endpoint(self._time, group="time"),
            "/api/v2/spot/public/coins": Endpoint(self._coins, group="spot/coins"),
            "/api/v2/spot/public/symbols": Endpoint(self._symbols, group="spot/symbols"),
            "/api/v2/spot/market/candles": Endpoint(self._recent, 1, "spot/candles", asked),
            "/api/v2/spot/market/history-candles": Endpoint(
                self._history, 1, "spot/history-candles", history
            ),
            "/api/v2/mix/market/contracts": Endpoint(self._contracts, group="mix/contracts"),
            "/api/v2/mix/market/candles": Endpoint(self._recent, 1, "mix/candles", asked),
            "/api/v2/mix/market/history-candles": Endpoint(self._history, 1, "mix/history-candles", history),
            # ccxt asks which currencies can be borrowed when it loads markets: none.
            "/api/v2/margin/currencies": Endpoint(lambda _query: self._answer([]), group="margin/currencies"),
        }

    @classmethod
    def make_limits(cls, most: int | None, clock: Callable[[], int]) -> WindowLimits:
        """Requests in a second, by endpoint."""
        requests = {
            "time": 20, "spot/coins": 3, "spot/symbols": 20, "spot/candles": 20, "spot/history-candles": 20,
            "mix/contracts": 20, "mix/candles": 20, "mix/history-candles": 20, "margin/currencies": 10,
        }  # fmt: skip
        return WindowLimits({name: Window(n, 1_000) for name, n in requests.items()}, clock, most=most)

    def name(self, listing: Listing) -> str:
        """BTCUSDT, of spot and swap alike: a swap's query has a productType."""
        return listing.base + listing.quote

    def find(self, name: str, query: Query) -> Listing | None:
        """The swap of that name where the query is about one, else the spot pair."""
        return self._all.get(("productType" in query and query["productType"] != "SPOT", name))

    def offered(self, interval: str, listing: Listing) -> Timeframe | None:
        """Spot and swaps have names of their own for the timeframes."""
        names = self.spot_intervals if listing.settle is None else self.swap_intervals
        timeframe = names.get(interval)
        return timeframe if timeframe and self.market.base(listing, timeframe) is not None else None

    def refusal(self, verdict: Verdict, until: int) -> ApiError:
        """429; Bitget does not ban."""
        return self._error("429", "Too Many Requests", 429)

    def internal_error(self) -> ApiError:
        """40725."""
        return self._error("40725", "service return an error", 500)

    def _until_now(self, query: Query) -> Query:
        return {**query, "endTime": str(self.clock.now_ms())}

    def _recent(self, query: Query) -> Page:
        listing, timeframe = self._series(query)
        start, end, limit = (self._number(query, part) for part in ("startTime", "endTime", "limit"))
        table = _SPOT_ROWS_OF if listing.settle is None else _SWAP_ROWS_OF
        most = min(self.recent_rows, table.get(timeframe.text, self.recent_rows))
        reach = self.clock.now_ms() - _RECENT_DAYS[timeframe.text] * DAY
        return self._page(listing, timeframe, max(start or 0, reach), end, min(limit or _DEFAULT_ROWS, most))

    def _history(self, query: Query) -> Page:
        listing, timeframe = self._series(query)
        start, end, limit = (self._number(query, part) for part in ("startTime", "endTime", "limit"))
        current = timeframe.floor(self.clock.now_ms())
        if listing.settle is None:
            if end is None:
                raise self._error("40019", "Parameter endTime cannot be empty")
            start = None
        elif start is not None and (current if end is None else end) - start > 90 * DAY:
            raise self._error("40705", "The start and end time cannot exceed 90 days")
        end = current if end is None else min(end, current)
        return self._page(listing, timeframe, start, end, min(limit or _DEFAULT_ROWS, self.history_rows))

    def _page(
        self, listing: Listing, timeframe: Timeframe, start: int | None, end: int | None, limit: int
    ) -> Page:
        """The last `limit` rows of [start, end)."""
        return self.page(
            listing,
            timeframe,
            SPOT_ROWS if listing.settle is None else SWAP_ROWS,
            since=start,
            until=end,
            limit=limit,
            newest=True,
            around=(f"{self._head()}[".encode(), b"]}"),
            path=("data",),
        )

    def _series(self, query: Query) -> tuple[Listing, Timeframe]:
        name = query.get("symbol", "")
        if not name:
            raise self._error("40019", "Parameter symbol cannot be empty")
        if "productType" in query and query["productType"].upper() not in {*_PRODUCTS, "SPOT"}:
            raise self._error("40020", "Parameter productType error")
        listing = self.listed(name, query)
        if listing is None or self.over(listing):
            raise self._error("40034", f"Parameter {name} does not exist")
        timeframe = self.offered(query.get("granularity", ""), listing)
        if timeframe is None:
            raise self._error("40020", "Parameter granularity error")
        return listing, timeframe

    def _number(self, query: Query, name: str) -> int | None:
        number = whole(query.get(name))
        if number is None and name in query:
            raise self._error("40020", f"Parameter {name} error")
        return number

    def _traded(self, *, swaps: bool) -> dict[str, Listing]:
        now = self.clock.now_ms()
        return {
            name: one
            for (swap, name), one in self._all.items()
            if swap == swaps and one.listed <= now and not self.over(one)
        }

    def _time(self, _query: Query) -> bytes:
        return self._answer({"serverTime": str(self.clock.now_ms())})

    def _coins(self, query: Query) -> bytes:
        pairs = self._traded(swaps=False).values()
        codes = sorted({code for one in pairs for code in (one.base, one.quote)})
        coins = [_coin(number, code) for number, code in enumerate(codes) if query.get("coin", code) == code]
        return self._answer(coins)

    def _symbols(self, query: Query) -> bytes:
        pairs = self._traded(swaps=False)
        return self._answer([_symbol(n, one) for n, one in pairs.items() if query.get("symbol", n) == n])

    def _contracts(self, query: Query) -> bytes:
        product = query.get("productType", "").upper()
        if product not in _PRODUCTS:
            raise self._error("40020", "Parameter productType error")
        swaps = self._traded(swaps=True) if product == "USDT-FUTURES" else {}
        return self._answer([_contract(n, one) for n, one in swaps.items() if query.get("symbol", n) == n])

    def _head(self) -> str:
        return f'{{"code":"00000","msg":"success","requestTime":{self.clock.now_ms()},"data":'

    def _answer(self, data: Any) -> bytes:
        return self._head().encode() + dump(data) + b"}"

    def _error(self, code: str, text: str, status: int = 400) -> ApiError:
        body = {"code": code, "msg": text, "requestTime": self.clock.now_ms(), "data": None}
        return ApiError(status, body)


def _coin(number: int, code: str) -> dict[str, Any]:
    return {"coinId": str(number + 1), "coin": code, "transfer": "true", "chains": [], "areaCoin": "no"}


def _symbol(name: str, listing: Listing) -> dict[str, Any]:
    return {
        "symbol": name,
        "baseCoin": listing.base,
        "quoteCoin": listing.quote,
        "minTradeAmount": "0",
        "maxTradeAmount": "900000000000000000000",
        "takerFeeRate": "0.002",
        "makerFeeRate": "0.002",
        "pricePrecision": str(listing.price_decimals),
        "quantityPrecision": str(listing.volume_decimals),
        "quotePrecision": str(listing.price_decimals),
        "status": "online",
        "minTradeUSDT": "1",
        "buyLimitPriceRatio": "0.05",
        "sellLimitPriceRatio": "0.05",
    }


def _contract(name: str, listing: Listing) -> dict[str, Any]:
    return {
        "symbol": name,
        "baseCoin": listing.base,
        "quoteCoin": listing.quote,
        "buyLimitPriceRatio": "0.01",
        "sellLimitPriceRatio": "0.01",
        "feeRateUpRatio": "0.005",
        "makerFeeRate": "0.0002",
        "takerFeeRate": "0.0006",
        "openCostUpRatio": "0.01",
        "supportMarginCoins": [listing.settle],
        "minTradeNum": listing.lot,
        "priceEndStep": "1",
        "volumePlace": str(listing.volume_decimals),
        "pricePlace": str(listing.price_decimals),
        "sizeMultiplier": listing.lot,
        "symbolType": "perpetual",
        "minTradeUSDT": "5",
        "symbolStatus": "normal",
        "offTime": "-1",
        "limitOpenTime": "-1",
        "deliveryTime": "",
        "deliveryStartTime": "",
        "launchTime": str(listing.listed),
        "fundInterval": "8",
        "minLever": "1",
        "maxLever": "125",
    }
