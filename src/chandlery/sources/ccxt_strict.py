"""What makes a ccxt class strict: its requests go through our `Client`, and its hooks see every answer before ccxt believes it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import ccxt.async_support

from chandlery.sources.ccxt_errors import Reply
from chandlery.sources.page_columns import ColumnRows, column_rows
from chandlery.sources.page_layouts import symbol_of

if TYPE_CHECKING:
    from chandlery.sources.ccxt_client import Client

_PLAIN = re.compile(r"[A-Za-z0-9_.~-]*").fullmatch


@dataclass(slots=True)
class Call:
    """What one call of ours saw on its way through ccxt: the last reply, and the rows before ccxt filters them."""

    reply: Reply = field(default_factory=Reply)
    rows: Sequence[object] | None = None
    market: Mapping[str, Any] | None = None
    dry: bool = False  # nothing is to be sent
    parsed: bool = False  # the rows are parsed already: [open time, open, high, low, close, volume]
    for_candles: bool = False


#: The call that this task is making, in a list of one which is emptied when the call ends: connections and timers keep copies
#: of the context, and with it would keep the rows of every page for minutes.
CALL: ContextVar[list[Call]] = ContextVar("chandlery_ccxt_call")
#: What ccxt says that the request weighs which this task is about to send.
COST: ContextVar[float] = ContextVar("chandlery_ccxt_cost", default=1.0)


def current_call() -> Call | None:
    """The call that this task is making, None outside of one."""
    current = CALL.get(None)
    return current[0] if current else None


class StrictMixin:
    """What makes a ccxt class strict; it stands before the class in the bases of the one made at run time."""

    chandlery: Client

    async def fetch2(
        self,
        path: Any,
        api: Any = "public",
        method: Any = "GET",
        params: Any = {},  # noqa: B006 - ccxt's signature
        config: Any = {},  # noqa: B006
    ) -> Any:
        """Note what ccxt says that the request weighs; it is sent by `fetch`."""
        cost = self.calculate_rate_limiter_cost(api, method, path, params, config)  # type: ignore[attr-defined]
        token = COST.set(float(cost) if isinstance(cost, int | float) else 1.0)
        try:
            return await super().fetch2(path, api, method, params, config)  # type: ignore[misc]
        finally:
            COST.reset(token)

    async def fetch(self, url: Any, method: Any = "GET", headers: Any = None, body: Any = None) -> Any:
        """Send one request through the budget of its host, and refuse what is not an answer."""
        return await self.chandlery.send(str(url), str(method), headers, body)

    def parse_ohlcvs(
        self,
        ohlcvs: Any,
        market: Any = None,
        timeframe: Any = "1m",
        since: Any = None,
        limit: Any = None,
        tail: Any = False,
    ) -> Any:
        """Keep the rows as they came; neither sort nor filter them, so that an ignored `since` shows."""
        call = current_call()
        ours = getattr(super(), "parse_ohlcvs")  # noqa: B009 - mypy does not know the base
        if call is None:
            return ours(ohlcvs, market, timeframe, since, limit, tail)
        call.market = market
        if self.chandlery.parses_pages:
            if not isinstance(ohlcvs, dict | list):
                raise ccxt.BadResponse(f"{self.chandlery.id}: candles are a {type(ohlcvs).__name__}")
            call.rows, call.parsed = ours(ohlcvs, market, timeframe, None, None, False), True
            return call.rows
        if not isinstance(ohlcvs, list):
            raise ccxt.BadResponse(f"{self.chandlery.id}: candles are a {type(ohlcvs).__name__}, not a list")
        if isinstance(ohlcvs, ColumnRows) and not self._reads(ohlcvs, market):
            ohlcvs = ohlcvs.decoded()  # here, where what ccxt raises is the answer's fault
        call.rows = ohlcvs
        return []

    def convert_trading_view_to_ohlcv(self, ohlcvs: Any, *names: Any, **named: Any) -> Any:
        """Leave candles that come as columns as they are, where that is known to do."""
        ours = getattr(super(), "convert_trading_view_to_ohlcv")  # noqa: B009 - as above
        call, layouts = current_call(), self.chandlery.layouts
        if call is None or not call.for_candles or layouts is None or self.chandlery.parses_pages:
            return ours(ohlcvs, *names, **named)
        name = names, tuple(sorted(named.items()))
        return column_rows(ohlcvs, lambda columns: ours(columns, *names, **named), name, layouts)

    def _reads(self, rows: ColumnRows, market: Any) -> bool:
        parse = self.parse_ohlcv  # type: ignore[attr-defined]
        return rows.columns(symbol_of(market), lambda row: parse(row, market)) is not None

    @staticmethod
    def urlencode(params: Any = {}, doseq: Any = False, sort: Any = False) -> Any:  # noqa: B006
        """Parameters as ccxt writes them into a URL; where nothing needs to be escaped, at a tenth of the time."""
        texts = [*params, *params.values()]
        if not doseq and {type(text) for text in texts} <= {str, int} and _PLAIN("".join(map(str, texts))):
            return "&".join([f"{name}={value}" for name, value in params.items()])
        return ccxt.async_support.Exchange.urlencode(params, doseq, sort)

    def insert_missing_candles(self, candles: Any, *_: Any) -> Any:
        """Some exchange classes fill holes with made-up candles; nothing is invented here."""
        return candles
