"""What the tests of the local exchange share: exchanges that run, and a bare HTTP client."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest

from chandlery.exchange import ExchangeSettings, Faults, LocalExchange

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
