"""Gate's v4 REST API: spot pairs and linear perpetual swaps (futures, settled in USDT).

https://www.gate.com/docs/developers/apiv4/en/#market-k-line-chart and #futures-market-k-line-chart. That nothing is older than 10,000
points, and in which words, is known from reports (ccxt/ccxt#27887 for spot, enarjord/passivbot#563 for swaps); so is that a window is
counted from the candle that holds `from` (ccxt/ccxt#17464) and that `limit` beside `from` or `to` is refused
(gateio/gateapi-python#100). Not documented, and so assumed: that candle is also the first row; 10,000 points are counted back from the
candle in progress, without it; a `limit` over the most is refused; windows of the limits roll; a time without a trade is a flat row;
a contract is the smallest lot; and a pair is gone from all answers once it is delisted. There are no inverse swaps, dated futures,
options or margin pairs, and no 10s and 30d candles.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from chandlery.exchange.clock import TimeSource
from chandlery.exchange.klines import KlineBook
from chandlery.exchange.layout import RowLayout
from chandlery.exchange.limits import Limits, Verdict, Window, WindowLimits
from chandlery.exchange.market import Market
from chandlery.exchange.shape import ApiError, CandleQuery, Endpoint, Page, Query, Shape, dump, whole
from chandlery.exchange.shape import intervals as unified
from chandlery.exchange.symbols import GENERATED, SWAPS, Listing
from chandlery.timeframe import Timeframe, parse_timeframe

_SPOT = '["<time_s>","<turnover>","<close>","<high>","<low>","<open>","<volume>",'
SPOT_ROWS = RowLayout(_SPOT + '"true"]', in_progress=_SPOT + '"false"]')
SWAP_ROWS = RowLayout(
    '{"t":<time_s>,"v":<contracts>,"c":"<close>","h":"<high>","l":"<low>","o":"<open>","sum":"<turnover>"}'
)
_DEFAULT_ROWS = 100
_POINTS = 10_000  # how far back there are any
_SPOT_PATH, _FUTURES = "/api/v4/spot/", "/api/v4/futures/{settle}/"


class Gate(Shape):
    """Candles from `from` to `to`, both included and in seconds, or the last `limit`; 200 requests in 10 s per endpoint."""

    id = "gate"
    pairs = (*GENERATED, *SWAPS)
    whole_contracts = True
    #: 1w is the week from Monday, 7d the one from Thursday; ccxt's 1w asks for 7d.
    intervals: ClassVar[Mapping[str, Timeframe]] = {
        **unified("1m 5m 15m 30m 1h 2h 4h 8h 1d 1w"),
        "7d": parse_timeframe("1w", 0),
    }
    #: Rows per page.
    spot_rows: ClassVar[int] = 1000
    swap_rows: ClassVar[int] = 2000

    def __init__(self, market: Market, book: KlineBook, clock: TimeSource, limits: Limits) -> None:
        super().__init__(market, book, clock, limits)
        self._all = {(one.settle is not None, self.name(one)): one for one in market.listings.values()}
        spot = CandleQuery("currency_pair", "interval", ("from", "to"), _begin)
        swap = CandleQuery("contract", "interval", ("from", "to"), _begin)
        self.endpoints = {
            _SPOT_PATH + "time": Endpoint(self._time, group="spot/time"),
            _SPOT_PATH + "currencies": Endpoint(self._currencies, group="spot/currencies"),
            _SPOT_PATH + "currency_pairs": Endpoint(self._pairs, group="spot/currency_pairs"),
            _SPOT_PATH + "candlesticks": Endpoint(self._spot, 1, "spot/candlesticks", spot),
            _FUTURES + "contracts": Endpoint(self._contracts, group="futures/contracts"),
            _FUTURES + "candlesticks": Endpoint(self._swap, 1, "futures/candlesticks", swap),
            # ccxt asks for the markets of all kinds when it loads them.
            "/api/v4/margin/currency_pairs": Endpoint(_nothing, group="margin/currency_pairs"),
            "/api/v4/delivery/{settle}/contracts": Endpoint(_nothing, group="delivery/contracts"),
            "/api/v4/options/underlyings": Endpoint(_nothing, group="options/underlyings"),
        }

    @classmethod
    def make_limits(cls, most: int | None, clock: Callable[[], int]) -> WindowLimits:
        """200 requests in 10 seconds, for each endpoint."""
        groups = (
            "spot/time", "spot/currencies", "spot/currency_pairs", "spot/candlesticks", "futures/contracts",
            "futures/candlesticks", "margin/currency_pairs", "delivery/contracts", "options/underlyings",
        )  # fmt: skip
        return WindowLimits(dict.fromkeys(groups, Window(200, 10_000)), clock, most=most)

    def name(self, listing: Listing) -> str:
        """BTC_USDT, of spot and swap alike: a swap's path has its settlement currency."""
        return f"{listing.base}_{listing.quote}"

    def find(self, name: str, query: Query) -> Listing | None:
        """The swap of that name below the currency it is settled in, else the spot pair."""
        settle = query.get("settle")
        listing = self._all.get((settle is not None, name))
        return listing if listing is None or (listing.settle or "").lower() == (settle or "") else None

    def headers(self, verdict: Verdict) -> dict[str, str]:
        """What is left of the endpoint's window, and the second when there is room again."""
        most = self.limits.most(verdict.group) if isinstance(self.limits, WindowLimits) else 0
        if not most:
            return {}
        return {
            "X-Gate-RateLimit-Limit": str(most),
            "X-Gate-RateLimit-Requests-Remain": str(max(0, most - verdict.used)),
            "X-Gate-RateLimit-Reset-Timestamp": str((self.clock.now_ms() + verdict.wait_ms) // 1000),
        }

    def refusal(self, verdict: Verdict, until: int) -> ApiError:
        """TOO_MANY_REQUESTS; Gate does not ban."""
        return _error("TOO_MANY_REQUESTS", "Request Rate limit Exceeded", 429)

    def internal_error(self) -> ApiError:
        """SERVER_ERROR."""
        return _error("SERVER_ERROR", "Internal server error", 500)

    def _spot(self, query: Query) -> Page:
        name = query.get("currency_pair", "")
        listing = self._traded(name, query)
        if listing is None:
            raise _error("INVALID_CURRENCY_PAIR", f"Invalid currency pair {name}")
        return self._candles(listing, query, "30m", SPOT_ROWS, self.spot_rows)

    def _swap(self, query: Query) -> Page:
        listing = self._traded(query.get("contract", ""), query)
        if listing is None:
            raise _error("CONTRACT_NOT_FOUND", "contract not found")
        return self._candles(listing, query, "5m", SWAP_ROWS, self.swap_rows)

    def _candles(self, listing: Listing, query: Query, default: str, layout: RowLayout, most: int) -> Page:
        timeframe = self.offered(query.get("interval", default), listing)
        if timeframe is None:
            raise _invalid("invalid argument: interval")
        bounds = "from" in query or "to" in query
        limit = _number(query, "limit")
        if limit is not None and (bounds or not 1 <= limit <= most):
            raise _invalid(f"Invalid request parameter `limit` value: {limit}")
        current = timeframe.floor(self.clock.now_ms())
        last = min(timeframe.floor((_number(query, "to") or current // 1000) * 1000), current)
        start = _number(query, "from")
        if start is None:
            first = timeframe.add(last, 1 - (limit or _DEFAULT_ROWS))
        else:
            first = timeframe.floor(start * 1000)
        if first <= last and timeframe.count(first, last + 1) > most:
            raise _invalid(f"Candlestick range too broad. Maximum {most} data points are allowed per request")
        if bounds and timeframe.count(first, current) > _POINTS:
            ago = "ago" if listing.settle is None else "recently"
            raise _invalid(f"Candlestick too long ago. Maximum {_POINTS} points {ago} are allowed")
        return self.page(listing, timeframe, layout, since=first, until=last + 1, limit=most)

    def _traded(self, name: str, query: Query) -> Listing | None:
        listing = self.listed(name, query)
        return None if listing is None or self.over(listing) else listing

    def _names(self, *, swaps: bool) -> dict[str, Listing]:
        now = self.clock.now_ms()
        return {
            name: one
            for (swap, name), one in self._all.items()
            if swap == swaps and one.listed <= now and not self.over(one)
        }

    def _time(self, _query: Query) -> bytes:
        return dump({"server_time": self.clock.now_ms()})

    def _currencies(self, _query: Query) -> bytes:
        pairs = self._names(swaps=False).values()
        codes = sorted({code for one in pairs for code in (one.base, one.quote)})
        return dump([_currency(code) for code in codes])

    def _pairs(self, _query: Query) -> bytes:
        return dump([_pair(name, one) for name, one in self._names(swaps=False).items()])

    def _contracts(self, query: Query) -> bytes:
        swaps = self._names(swaps=True) if query["settle"] == "usdt" else {}
        return dump([self._contract(name, one) for name, one in swaps.items()])

    def _contract(self, name: str, listing: Listing) -> dict[str, Any]:
        price = str(listing.price)
        return {
            "name": name,
            "type": "direct",
            "quanto_multiplier": listing.lot,
            "mark_type": "index",
            "last_price": price,
            "mark_price": price,
            "index_price": price,
            "order_price_round": listing.tick,
            "mark_price_round": listing.tick,
            "order_price_deviate": "0.5",
            "order_size_min": 1,
            "order_size_max": 1_000_000,
            "enable_decimal": False,
            "leverage_min": "1",
            "leverage_max": "100",
            "maker_fee_rate": "-0.0001",
            "taker_fee_rate": "0.00075",
            "funding_interval": 28_800,
            "create_time": listing.listed // 1000,
            "launch_time": listing.listed // 1000,
            "in_delisting": False,
            "status": "trading",
        }


def _currency(code: str) -> dict[str, Any]:
    return {
        "currency": code,
        "name": code,
        "delisted": False,
        "withdraw_disabled": True,
        "withdraw_delayed": False,
        "deposit_disabled": True,
        "trade_disabled": False,
        "chain": code,
        "chains": [],
    }


def _pair(name: str, listing: Listing) -> dict[str, Any]:
    return {
        "id": name,
        "base": listing.base,
        "base_name": listing.base,
        "quote": listing.quote,
        "quote_name": listing.quote,
        "fee": "0.2",
        "min_base_amount": listing.lot,
        "min_quote_amount": "1",
        "amount_precision": listing.volume_decimals,
        "precision": listing.price_decimals,
        "trade_status": "tradable",
        "sell_start": 0,
        "buy_start": listing.listed // 1000,
        "type": "normal",
    }


def _nothing(_query: Query) -> bytes:
    return b"[]"


def _begin(query: Query) -> int | None:
    start = whole(query.get("from"))
    return None if start is None else start * 1000


def _number(query: Query, name: str) -> int | None:
    number = whole(query.get(name))
    if number is None and name in query:
        raise _invalid(f"invalid argument: {name}")
    return number


def _invalid(text: str) -> ApiError:
    return _error("INVALID_PARAM_VALUE", text)


def _error(label: str, text: str, status: int = 400) -> ApiError:
    return ApiError(status, {"label": label, "message": text})
