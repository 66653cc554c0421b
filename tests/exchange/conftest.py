"""What the tests of the local exchange share: exchanges that run, and a bare HTTP client."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlencode, urlsplit

import ccxt.async_support as ccxt
import pytest

from chandlery.exchange import ExchangeSettings, Faults, LocalExchange
from chandlery.exchange.shapes import SHAPES

NOW = 1_717_200_030_000  # 2024-06-01T00:00:30Z


class VirtualClock:
    """A clock that a test moves."""

    def __init__(self, now: int) -> None:
        self.now = now

    def now_ms(self) -> int:
        return self.now


@dataclass
class Answer:
    """What came back over the wire."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def request(url: str, path: str, query: dict[str, Any], *, method: str = "GET", body: Any = None) -> Answer:
    """One request on a connection of its own; nothing is retried or interpreted."""
    connection = HTTPConnection(urlsplit(url).netloc, timeout=5)
    try:
        target = path + ("?" + urlencode(query) if query else "")
        connection.request(method, target, None if body is None else json.dumps(body))
        response = connection.getresponse()
        return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
    finally:
        connection.close()


@pytest.fixture(scope="module")
def clock() -> VirtualClock:
    """The clock that `exchange` goes by; a test may move it."""
    return VirtualClock(NOW)


@pytest.fixture(scope="module")
def running(clock: VirtualClock) -> Iterator[LocalExchange]:
    """One server for all tests of a file."""
    with LocalExchange(ExchangeSettings(weight_limit=0), clock=clock) as exchange:
        yield exchange


@pytest.fixture
def exchange(running: LocalExchange, clock: VirtualClock) -> LocalExchange:
    """An exchange at 2024-06-01T00:00:30Z without faults, limits or a past."""
    clock.now = NOW
    running.faults = Faults()
    running.forget_requests()
    return running


@pytest.fixture
def ask(exchange: LocalExchange) -> Callable[..., Answer]:
    """Ask the exchange for klines; keyword arguments become the query."""

    def klines(symbol: str = "BTCUSDT", interval: str = "1m", **query: Any) -> Answer:
        return request(exchange.url, "/api/v3/klines", {"symbol": symbol, "interval": interval, **query})

    return klines


@pytest.fixture
def http() -> Callable[..., Answer]:
    """The bare client: `http(url, path, query, method=, body=)`."""
    return request


def moved(urls: Any, url: str) -> Any:
    """A ccxt class's addresses with another scheme and host."""
    if isinstance(urls, dict):
        return {name: moved(value, url) for name, value in urls.items()}
    return re.sub(r"^https?://[^/]+", url, urls) if isinstance(urls, str) else urls


class Several:
    """A local exchange that plays all shapes, and the real ccxt classes that talk to it."""

    def __init__(self, exchange: LocalExchange, clock: VirtualClock) -> None:
        self.exchange = exchange
        self.clock = clock

    def talk(
        self, name: str, use: Callable[[Any], Awaitable[Any]], *, kind: str | None = None, **options: Any
    ) -> Any:
        """Run `use` with a ccxt client of that exchange (of the class `kind`), whose clock is the exchange's."""

        async def run() -> Any:
            client = getattr(ccxt, kind or name)({"enableRateLimit": False, **options})
            client.urls["api"] = moved(client.urls["api"], self.exchange.url_of(name))
            client.milliseconds = self.exchange.now_ms
            client.seconds = lambda: self.exchange.now_ms() // 1000
            try:
                return await use(client)
            finally:
                await client.close()

        return asyncio.run(run())

    def truth(self, name: str, symbol: str, timeframe: str, since: int, until: int) -> list[list[float]]:
        """The closed candles of [since, until) in ccxt's rows."""
        frame = self.exchange.truth(symbol, timeframe, since, until, exchange=name)
        times = frame["time"].to_physical().to_list()
        values = [frame[column].to_list() for column in frame.columns[1:]]
        return [list(row) for row in zip(times, *values, strict=True)]

    def get(self, name: str, path: str, **query: Any) -> Answer:
        """A bare request to one of the exchanges."""
        return request(self.exchange.url, f"/{name}{path}", query)


@pytest.fixture(scope="module")
def all_running() -> Iterator[Several]:
    """One server that plays every exchange, for all tests of a file."""
    clock = VirtualClock(NOW)
    with LocalExchange(ExchangeSettings(exchange=tuple(SHAPES), weight_limit=0), clock=clock) as exchange:
        yield Several(exchange, clock)


@pytest.fixture
def several(all_running: Several) -> Several:
    """Every exchange at 2024-06-01T00:00:30Z, without faults, limits or a past."""
    all_running.clock.now = NOW
    all_running.exchange.faults = Faults()
    all_running.exchange.forget_requests()
    return all_running
