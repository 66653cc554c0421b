"""What the tests of sources share: a virtual clock, a source on it, and a small exchange that says what it is told to."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from aiohttp import web

from chandlery.candle import CandlePage, Rejected, SeriesId, no_candles
from chandlery.errors import DataPipelineError
from chandlery.exchange import ExchangeSettings, LocalExchange
from chandlery.exchange.shapes import SHAPES
from chandlery.ledger import Fact
from chandlery.sources import open_source
from chandlery.sources.base import Source
from chandlery.timeframe import parse_timeframe
from chandlery.timerange import RangeSet, TimeRange

from .profiles import SetClock

MINUTE = 60_000
NOW = 1_717_200_030_000  # 2024-06-01T00:00:30Z


class VirtualClock:
    """Time that moves only when someone waits."""

    def __init__(self, now: float = NOW) -> None:
        self.now = now
        self.waits: list[float] = []

    def now_ms(self) -> int:
        return int(self.now)

    def monotonic(self) -> float:
        return self.now / 1000

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds * 1000
        await asyncio.sleep(0)


@dataclass
class Walked:
    """All that a walk said."""

    pages: list[CandlePage] = field(default_factory=list)
    facts: list[Fact] = field(default_factory=list)
    error: Exception | None = None

    @property
    def candles(self) -> pl.DataFrame:
        return pl.concat([p.candles for p in self.pages]) if self.pages else no_candles()

    @property
    def times(self) -> list[int]:
        return self.candles["time"].dt.epoch("ms").to_list()

    @property
    def answered(self) -> RangeSet:
        return RangeSet(p.answered for p in self.pages)

    @property
    def rejected(self) -> list[Rejected]:
        return [row for page in self.pages for row in page.rejected]

    def left(self, span: TimeRange) -> RangeSet:
        return RangeSet([span]) - self.answered - RangeSet(f.range for f in self.facts)


async def walk_span(
    source: Source, series: SeriesId, span: TimeRange, *, now: int = NOW, settle: int = 10_000
) -> Walked:
    """Walk a span to its end, or to the error that ends it; checks what every walk promises."""
    walked = Walked()
    try:
        async for said in source.pages(series, span, now=now, settle=settle):
            (walked.facts if isinstance(said, Fact) else walked.pages).append(said)  # type: ignore[arg-type]
    except DataPipelineError as error:
        walked.error = error
    done = span.since
    for page in walked.pages:
        assert page.answered.since >= done
        assert page.answered.until <= span.until
        done = page.answered.until
        times = page.candles["time"].dt.epoch("ms")
        assert times.is_sorted()
        assert times.n_unique() == len(times)
        assert all(time in page.answered for time in times)
    return walked


Row = Sequence[Any]


class TinyExchange:
    """An exchange in Binance's shape (or MEXC's, with bounded windows) whose rows and answers a test sets.

    `rows` is the truth, ascending; `answer` may replace any answer: it gets the query and the rows that are due, and
    returns rows, text, or a web.Response.
    """

    def __init__(self, rows: list[Row] | None = None, *, page: int = 1000, bounded: bool = False) -> None:
        self.rows = rows or []
        self.page = page
        self.bounded = bounded
        self.status = "TRADING"
        self.asked: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.now = NOW
        self.symbol = ("BTC", "USDT")
        self.rate_limits: list[dict[str, Any]] = []
        self.told: Callable[[], Any] = lambda: self.now
        self.date: Callable[[], int | None] = lambda: self.now
        self.answer: Callable[[dict[str, str], list[Row]], Any] = lambda _, rows: rows

    def due(self, query: dict[str, str]) -> list[Row]:
        length = parse_timeframe(query["interval"]).nominal_ms
        since = int(query.get("startTime", 0))
        limit = min(int(query.get("limit", 500)), self.page)
        until = int(query.get("endTime", self.now))
        if self.bounded:
            until = min(until, since + limit * length)
        rows = [r for r in self.aggregated(query["interval"]) if since <= r[0] <= until]
        return rows[:limit]

    def aggregated(self, interval: str) -> list[Row]:
        """The truth at a longer timeframe: slots that hold a row (open times only matter)."""
        if interval == "1m":
            return self.rows
        opens = {parse_timeframe(interval).floor(row[0]) for row in self.rows}
        return [kline(t) for t in sorted(opens)]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        response = await self.respond(request)
        date = self.date()
        # An empty header stands for none: the server would put in its own.
        response.headers["Date"] = "" if date is None else formatdate(date / 1000, usegmt=True)
        return response

    async def respond(self, request: web.Request) -> web.StreamResponse:
        self.paths.append(request.path)
        self.headers.append(dict(request.headers))
        name = request.path.rsplit("/", 1)[-1]
        if name == "time":
            return web.json_response({"serverTime": self.told()})
        if name == "exchangeInfo":
            return web.json_response(self.info())
        if name != "klines":
            return web.json_response({"success": True, "code": 0, "data": []})
        query = dict(request.query)
        query["interval"] = {"60m": "1h", "1W": "1w"}.get(query["interval"], query["interval"])
        self.asked.append(query)
        said = self.answer(query, self.due(query))
        if isinstance(said, web.StreamResponse):
            return said
        if isinstance(said, str):
            return web.Response(text=said, content_type="application/json")
        return web.Response(text=json.dumps(said), content_type="application/json")

    def info(self) -> dict[str, Any]:
        base, quote = self.symbol
        return {
            "timezone": "UTC",
            "serverTime": self.now,
            "rateLimits": self.rate_limits,
            "symbols": [
                {
                    "symbol": base + quote,
                    "status": self.status if not self.bounded else "1",
                    "baseAsset": base,
                    "quoteAsset": quote,
                    "isSpotTradingAllowed": True,
                    "permissions": ["SPOT"],
                    "baseAssetPrecision": 8,
                    "quoteAssetPrecision": 8,
                    "quotePrecision": 8,
                    "baseSizePrecision": "0.0001",
                    "quoteAmountPrecision": "1",
                    "filters": [],
                }
            ],
        }

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", self.handle)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()


def kline(time: int, close: float = 10.5) -> list[Any]:
    """One row in Binance's layout."""
    return [time, "10.0", "11.0", "9.5", f"{close}", "3.25", time + MINUTE - 1, "34.1", 7, "1.5", "15.7", "0"]


def klines(since: int, count: int) -> list[Row]:
    """Minute rows, each with a close of its own."""
    return [kline(since + n * MINUTE, 10 + n % 90 / 100) for n in range(count)]


@pytest.fixture
def clock() -> VirtualClock:
    """A clock that only waiting moves."""
    return VirtualClock()


@pytest.fixture
def opened(clock: VirtualClock, tmp_path: Path) -> Callable[..., Source]:
    """Open a source on the virtual clock, with a state folder of its own."""

    def make(url: str, exchange: str = "binance", **options: Any) -> Source:
        options.setdefault("state_dir", tmp_path / "state")
        options.setdefault("timeout_seconds", 5.0)
        return open_source(exchange, url=url, clock=clock, **options)

    return make


@pytest.fixture
def tiny() -> type[TinyExchange]:
    """The class of small exchanges."""
    return TinyExchange


@pytest.fixture
def walk() -> Callable[..., Awaitable[Walked]]:
    """Walk a span, and check what every walk promises."""
    return walk_span


@pytest.fixture
def make_klines() -> Callable[[int, int], list[Row]]:
    """Make minute rows: (since, count)."""
    return klines


@pytest.fixture(scope="module")
def playing() -> Iterator[tuple[LocalExchange, SetClock]]:
    """One server that plays every exchange."""
    clock = SetClock()
    with LocalExchange(ExchangeSettings(exchange=tuple(SHAPES), weight_limit=0), clock=clock) as exchange:
        yield exchange, clock


@pytest.fixture
def server(playing: tuple[LocalExchange, SetClock]) -> LocalExchange:
    """That server at NOW, without a past."""
    exchange, clock = playing
    clock.now = SetClock.now
    exchange.forget_requests()
    return exchange


@pytest.fixture
def source(server: LocalExchange, opened: Callable[..., Source]) -> Callable[..., Source]:
    """Open the source of one of the exchanges."""
    return lambda name, **options: opened(server.url_of(name), name, **options)
