"""OKX's v5 REST API: spot pairs and linear perpetual swaps.

https://www.okx.com/docs-v5/en/#order-book-trading-market-data-get-candlesticks. Not documented, and so assumed: a `limit`
over the most is cut to it, windows of the request limits roll, refusals carry no Retry-After, history-candles leave the
candle in progress out, and a pair is gone from all answers once it is delisted. Bars of months in UTC+8 are not there.
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
from chandlery.exchange.symbols import GENERATED, SWAPS, Listing, step
from chandlery.timeframe import HOUR, MONDAY, Timeframe, parse_timeframe

_PRICES = '"<time>","<open>","<high>","<low>","<close>"'
_SPOT = f'[{_PRICES},"<volume>","<turnover>","<turnover>",'
_SWAP = f'[{_PRICES},"<contracts>","<volume>","<turnover>",'
SPOT_ROWS = RowLayout(_SPOT + '"1"]', in_progress=_SPOT + '"0"]', descending=True)
SWAP_ROWS = RowLayout(_SWAP + '"1"]', in_progress=_SWAP + '"0"]', descending=True)
_DEFAULT_ROWS = 100
_HONG_KONG = -8 * HOUR  # bars from 6H on open by UTC+8, unless their name ends in utc


class Okx(Shape):
    """Candles newest first between `before` and `after`, both excluded; the last 1,440 and the history are two endpoints."""

    id = "okx"
    pairs = (*GENERATED, *SWAPS)
    intervals: ClassVar[Mapping[str, Timeframe]] = {
        **unified({"1m": "1m", "3m": "3m", "5m": "5m", "15m": "15m", "30m": "30m"}),
        **unified({"1H": "1h", "2H": "2h", "4H": "4h"}),
        **{name: parse_timeframe(name.lower(), _HONG_KONG) for name in ("6H", "12H", "1D")},
        "1W": parse_timeframe("1w", MONDAY + _HONG_KONG),
        **unified(
            {"6Hutc": "6h", "12Hutc": "12h", "1Dutc": "1d", "1Wutc": "1w", "1Mutc": "1M", "3Mutc": "3M"}
        ),
    }
    #: Rows per page, and how many bars back the endpoint of the latest candles reaches.
    recent_rows: ClassVar[int] = 300
    recent_bars: ClassVar[int] = 1440
    history_rows: ClassVar[int] = 100

    def __init__(self, market: Market, book: KlineBook, clock: TimeSource, limits: Limits) -> None:
        super().__init__(market, book, clock, limits)
        candles = CandleQuery("instId", "bar", ("before", "after"), _begin)
        self.endpoints = {
            "/api/v5/public/time": Endpoint(self._time, group="time"),
            "/api/v5/public/instruments": Endpoint(self._instruments, group="instruments"),
            "/api/v5/market/candles": Endpoint(self._recent, group="candles", candles=candles),
            "/api/v5/market/history-candles": Endpoint(self._history, group="history", candles=candles),
        }

    @classmethod
    def make_limits(cls, most: int | None, clock: Callable[[], int]) -> WindowLimits:
        """Requests in 2 seconds, by endpoint."""
        requests = {"time": 10, "instruments": 20, "candles": 40, "history": 20}
        return WindowLimits({name: Window(n, 2_000) for name, n in requests.items()}, clock, most=most)

    def name(self, listing: Listing) -> str:
        """BTC-USDT, BTC-USDT-SWAP."""
        pair = f"{listing.base}-{listing.quote}"
        return pair if listing.settle is None else f"{pair}-SWAP"

    def refusal(self, verdict: Verdict, until: int) -> ApiError:
        """50011; OKX does not ban."""
        return _error(50011, "Too Many Requests", 429)

    def internal_error(self) -> ApiError:
        """50026."""
        return _error(50026, "System error. Try again later", 500)

    def _recent(self, query: Query) -> Page:
        return self._candles(query, self.recent_rows, history=False)

    def _history(self, query: Query) -> Page:
        return self._candles(query, self.history_rows, history=True)

    def _candles(self, query: Query, most: int, *, history: bool) -> Page:
        """The newest rows with before < time < after."""
        name = query.get("instId", "")
        if not name:
            raise _error(50014, "Parameter instId can not be empty.", 400)
        listing = self.listed(name, query)
        if listing is None or self.over(listing):
            raise _error(51001, "Instrument ID, Instrument ID code, or Spread ID doesn't exist.")
        timeframe = self.offered(query.get("bar", "1m"), listing)
        if timeframe is None:
            raise _error(51000, "Parameter bar error", 400)
        before, after, limit = (_number(query, part) for part in ("before", "after", "limit"))
        since = 0 if before is None else before + 1
        current = timeframe.floor(self.clock.now_ms())
        if not history:
            since = max(since, timeframe.add(current, 1 - self.recent_bars))
        elif after is None or after > current:
            after = current
        return self.page(
            listing,
            timeframe,
            SPOT_ROWS if listing.settle is None else SWAP_ROWS,
            since=since,
            until=after,
            limit=min(limit or _DEFAULT_ROWS, most),
            newest=True,
            around=(b'{"code":"0","msg":"","data":[', b"]}"),
            path=("data",),
        )

    def _time(self, _query: Query) -> bytes:
        return _answer([{"ts": str(self.clock.now_ms())}])

    def _instruments(self, query: Query) -> bytes:
        kind = query.get("instType", "")
        if kind not in {"SPOT", "MARGIN", "SWAP", "FUTURES", "OPTION"}:
            raise _error(51000, "Parameter instType error", 400)
        now = self.clock.now_ms()
        infos = [
            self._instrument(one)
            for name, one in self.named.items()
            if kind == ("SPOT" if one.settle is None else "SWAP")
            and one.listed <= now
            and not self.over(one)
            and query.get("instId", name) == name
        ]
        if not infos and "instId" in query:
            raise _error(51001, "Instrument ID, Instrument ID code, or Spread ID doesn't exist.")
        return _answer(infos)

    def _instrument(self, listing: Listing) -> dict[str, Any]:
        common = {
            "instId": self.name(listing),
            "tickSz": listing.tick,
            "listTime": str(listing.listed),
            "expTime": "",
            "state": "live",
            "maxLmtSz": "9999999999",
            "maxMktSz": "1000000",
        }
        pair = f"{listing.base}-{listing.quote}"
        if listing.settle is None:
            return {
                **common,
                "instType": "SPOT", "baseCcy": listing.base, "quoteCcy": listing.quote, "settleCcy": "",
                "uly": "", "instFamily": "", "lever": "", "ctVal": "", "ctMult": "", "ctValCcy": "", "ctType": "",
                "lotSz": listing.lot, "minSz": listing.lot,
            }  # fmt: skip
        lot = step(max(0, listing.volume_decimals - listing.contract_decimals))
        return {
            **common,
            "instType": "SWAP", "baseCcy": "", "quoteCcy": "", "settleCcy": listing.settle,
            "uly": pair, "instFamily": pair, "lever": "50", "ctVal": step(listing.contract_decimals), "ctMult": "1",
            "ctValCcy": listing.base, "ctType": "linear", "lotSz": lot, "minSz": lot,
        }  # fmt: skip


def _begin(query: Query) -> int | None:
    before = whole(query.get("before"))
    return None if before is None else before + 1


def _number(query: Query, name: str) -> int | None:
    number = whole(query.get(name))
    if number is None and name in query:
        raise _error(51000, f"Parameter {name} error", 400)
    return number


def _answer(data: list[dict[str, Any]]) -> bytes:
    return dump({"code": "0", "msg": "", "data": data})


def _error(code: int, text: str, status: int = 200) -> ApiError:
    return ApiError(status, {"code": str(code), "msg": text, "data": []})
