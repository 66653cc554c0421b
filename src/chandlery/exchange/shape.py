"""What makes one exchange's API: a shape names its endpoints, intervals, limits, errors and the layout of its rows.

To write one, put a subclass of `Shape` into a file of `chandlery.exchange.shapes` and its name into that package's table.
docs/local-exchange.md says what is needed, shapes/bybit.py is a short example.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from chandlery.exchange.clock import TimeSource
from chandlery.exchange.klines import FOR_EVER, KlineBook
from chandlery.exchange.layout import ColumnLayout, RowLayout
from chandlery.exchange.limits import Limits, Verdict
from chandlery.exchange.market import Market
from chandlery.exchange.symbols import GENERATED, Listing
from chandlery.timeframe import Timeframe, parse_timeframe

Query = Mapping[str, str]

_WHOLE = re.compile(r"[0-9]{1,20}")


def dump(document: Any) -> bytes:
    """Compact JSON."""
    return json.dumps(document, separators=(",", ":")).encode()


class ApiError(Exception):
    """An answer that is an error: its status, its body (bytes, or anything JSON can hold) and further headers."""

    def __init__(self, status: int, body: Any, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(body)
        self.status = status
        self.body = body if isinstance(body, bytes) else dump(body)
        self.headers = dict(headers or {})


@dataclass(frozen=True, slots=True)
class Page:
    """An answer with candles, and what a fault must know to spoil it.

    `path` leads to the list of rows inside the JSON, or to the object of columns where there are `columns`.
    """

    body: bytes
    layout: RowLayout
    timeframe: Timeframe
    path: tuple[str | int, ...] = ()
    columns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CandleQuery:
    """How a query for candles names its parts.

    `window` are the parameters that a server which ignores the wanted time leaves out of account; `begin` is the earliest
    open time asked for, in milliseconds, from the query; None where it has none or one that is not a number. Where a query
    without a window is an error, `latest` makes that for the latest candles of one. `find` takes the place of the shape's,
    where names mean something else at this path.
    """

    symbol: str = "symbol"
    interval: str = "interval"
    window: tuple[str, ...] = ("startTime", "endTime")
    begin: Callable[[Query], int | None] = field(default=lambda query: whole(query.get("startTime")))
    latest: Callable[[Query], Query] = field(default=lambda query: query)
    find: Callable[[str, Query], Listing | None] | None = None

    def ignored(self, query: Query) -> Query:
        """The query as a server that ignores the wanted time understands it."""
        return self.latest({name: value for name, value in query.items() if name not in self.window})


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What a path costs, by which of the exchange's limits (`group`), and how it is answered.

    `answer` raises `ApiError`. `weight` may depend on the query. An endpoint of candles says how it is asked.
    """

    answer: Callable[[Query], bytes | Page]
    weight: int | Callable[[Query], int] = 1
    group: str = ""
    candles: CandleQuery | None = None


class Shape(ABC):
    """One exchange's market data API over a market, at the time of a clock.

    `endpoints` maps paths to what answers them; a path may hold {names}, whose values are added to the query.
    """

    #: ccxt's id of the exchange.
    id: ClassVar[str]
    #: The timeframes as the exchange writes them.
    intervals: ClassVar[Mapping[str, Timeframe]]
    #: The pairs of the generated market that it trades.
    pairs: ClassVar[tuple[Listing, ...]] = GENERATED
    #: Whether it gives no candle where nothing was traded.
    omits_empty: ClassVar[bool] = False
    #: Whether a swap's contract is its smallest lot, so that volumes in contracts are whole numbers.
    whole_contracts: ClassVar[bool] = False

    endpoints: Mapping[str, Endpoint]

    def __init__(self, market: Market, book: KlineBook, clock: TimeSource, limits: Limits) -> None:
        self.market = market
        self.book = book
        self.clock = clock
        self.limits = limits
        self.named = {self.name(listing): listing for listing in market.listings.values()}

    @classmethod
    @abstractmethod
    def make_limits(cls, most: int | None, clock: Callable[[], int]) -> Limits:
        """The documented limits; `most` takes their place, 0 is no limit."""

    @abstractmethod
    def name(self, listing: Listing) -> str:
        """The exchange's own name of a pair."""

    @abstractmethod
    def refusal(self, verdict: Verdict, until: int) -> ApiError:
        """What it says to who asks too much (429) or is banned (418); `until` is the exchange's time when that ends."""

    @abstractmethod
    def internal_error(self) -> ApiError:
        """An error of the exchange's own, with status 500."""

    def headers(self, verdict: Verdict) -> dict[str, str]:
        """Headers of every answer."""
        return {}

    @classmethod
    def timeframes(cls) -> dict[str, Timeframe]:
        """The same as `intervals`, by the unified names."""
        return {timeframe.text: timeframe for timeframe in cls.intervals.values()}

    def find(self, name: str, query: Query) -> Listing | None:
        """The pair that a query calls by `name`, whether it is listed yet or not."""
        return self.named.get(name)

    def listed(self, name: str, query: Query) -> Listing | None:
        """The pair of that name, None before its listing."""
        listing = self.find(name, query)
        return listing if listing is not None and listing.listed <= self.clock.now_ms() else None

    def over(self, listing: Listing) -> bool:
        """Whether the pair is delisted by now."""
        return listing.delisted is not None and listing.delisted <= self.clock.now_ms()

    def offered(self, interval: str, listing: Listing) -> Timeframe | None:
        """The timeframe of the exchange's own name, if the pair has it."""
        timeframe = self.intervals.get(interval)
        return timeframe if timeframe and self.market.base(listing, timeframe) is not None else None

    def page(
        self,
        listing: Listing,
        timeframe: Timeframe,
        layout: RowLayout | ColumnLayout,
        *,
        since: int | None = None,
        until: int | None = None,
        limit: int,
        newest: bool = False,
        around: tuple[bytes, bytes] = (b"[", b"]"),
        path: tuple[str | int, ...] = (),
    ) -> Page:
        """At most `limit` candles that open in [since, until): the first ones, or with `newest` the last ones.

        The rows stand between the two texts of `around`, which bring the brackets of the list (or of the object, where the
        layout is one of columns); `path` leads to it.
        """
        now = self.clock.now_ms()

        def rows(one: RowLayout) -> bytes:
            return self.book.rows(
                listing,
                timeframe,
                one,
                since=since or 0,
                until=FOR_EVER if until is None else until,
                limit=limit,
                now=now,
                newest=newest,
            )

        if isinstance(layout, RowLayout):
            return Page(around[0] + rows(layout) + around[1], layout, timeframe, path)
        lists = b",".join(
            b'"%b":[%b]' % (name.encode(), rows(column)) for name, column in layout.columns.items()
        )
        return Page(around[0] + lists + around[1], layout.rows, timeframe, path, tuple(layout.columns))


def intervals(names: Mapping[str, str] | str, anchor: int | None = None) -> dict[str, Timeframe]:
    """The exchange's names of the unified timeframes given, as {"1H": "1h"} or, where they are the same, "1m 1h".

    `anchor` is where weeks begin, for an exchange whose weeks are not Monday's.
    """
    table = {name: name for name in names.split()} if isinstance(names, str) else names
    return {
        name: parse_timeframe(text, anchor if text.endswith("w") else None) for name, text in table.items()
    }


def whole(text: str | None) -> int | None:
    """A whole number of a query, no later than the end of year 9999 in milliseconds; None for anything else."""
    return min(int(text), FOR_EVER - 1) if text is not None and _WHOLE.fullmatch(text) else None
