"""A local exchange and a pipeline that talks to it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import chandlery as ch
from chandlery.exchange import ExchangeSettings, Faults, LocalExchange
from chandlery.when import parse_when

CLOCK = "2024-06-01T00:10Z"
NOW = parse_when(CLOCK, now=0)


@pytest.fixture(scope="module")
def shared_exchange() -> Iterator[LocalExchange]:
    """One local exchange for the tests of this file."""
    with LocalExchange(ExchangeSettings(clock=CLOCK)) as local:
        yield local


@pytest.fixture
def exchange(
    shared_exchange: LocalExchange, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[LocalExchange]:
    """The exchange in EXCHANGE_URL, without faults and with an empty log, and an empty folder to work in."""
    monkeypatch.setenv("EXCHANGE_URL", shared_exchange.url)
    monkeypatch.chdir(tmp_path)
    shared_exchange.forget_requests()
    yield shared_exchange
    shared_exchange.faults = Faults()


@pytest.fixture
def pipeline(exchange: LocalExchange) -> Iterator[ch.DataPipeline]:
    """A pipeline of the exchange that stores into ./candles and repeats at once."""
    with ch.DataPipeline(retry_delay=0) as made:
        yield made
