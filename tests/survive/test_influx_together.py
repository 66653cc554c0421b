"""Several processes write into one bucket at once: journal numbers without gap or repeat, and one writer to a series."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.influx.influx_server import InfluxServer

from chandlery.candle import SeriesId
from chandlery.exchange import ExchangeSettings, Fault, Faults, LocalExchange

from .influx_run import CLOCK, check_whole, fetch_words, running, still_exchange

SPAN = "2024-02-01/2024-02-20"
SYMBOLS = ("BTC/USDT", "ETH/USDT", "SOL/USDT", "XRP/USDT")
ROUNDS = 10


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_fetches_of_other_series(
    influxd: InfluxServer, tmp_path: Path, proven_count: Callable[[int], int]
) -> None:
    """Two fetches into one bucket at once both end complete, and share one row of journal numbers."""
    wanted = [(SeriesId("binance", symbol, "1m"), SPAN) for symbol in SYMBOLS]
    for number in range(proven_count(ROUNDS)):
        with still_exchange() as exchange, running(exchange, influxd, tmp_path / str(number)) as run:
            both = [
                run.start(*fetch_words(part, "1m", SPAN), "--json") for part in (SYMBOLS[:2], SYMBOLS[2:])
            ]
            for process in both:
                out, err = process.communicate(timeout=300)
                assert process.returncode == 0, out + err
            with run.store() as store:
                entries = list(store.journal())
            writers = [entry.series.symbol in SYMBOLS[:2] for entry in entries]
            turns = sum(one != other for one, other in itertools.pairwise(writers))
            assert turns > 1, "the two never wrote side by side"
            check_whole(run, wanted, fetch_words(SYMBOLS, "1m", SPAN))  # the numbers are looked at there


@pytest.fixture
def slow_exchange() -> Iterator[LocalExchange]:
    """An exchange that takes its time for each page."""
    slow = Faults((Fault("latency", path="klines", ms=200),))
    with LocalExchange(ExchangeSettings(clock=CLOCK, weight_limit=0, faults=slow)) as running_exchange:
        yield running_exchange


@pytest.mark.slow
def test_two_fetches_of_one_series(
    slow_exchange: LocalExchange, influxd: InfluxServer, tmp_path: Path
) -> None:
    """The second writer of a series is turned away with 5 and the first one's pid; its other series goes on."""
    span = "2024-02-01/2024-02-10"
    with running(slow_exchange, influxd, tmp_path) as run:
        first = run.start(*fetch_words(SYMBOLS[:1], "1m", span))
        run.wait_for_requests(2, first)
        second = run.command(*fetch_words(SYMBOLS[:2], "1h", span, "-t", "1m"), "--json")
        assert second.code == 5, second.err
        assert re.search(rf"\b{first.pid}\b", second.err), second.err
        failed = [one for one in second.json["series"] if one["error"] is not None]
        assert [(one["symbol"], one["timeframe"]) for one in failed] == [("BTC/USDT", "1m")]
        assert failed[0]["error"]["kind"] == "SeriesLocked"
        out, err = first.communicate(timeout=120)
        assert first.returncode == 0, out + err
        wanted = [(SeriesId("binance", s, t), span) for s in SYMBOLS[:2] for t in ("1h", "1m")]
        check_whole(run, wanted, fetch_words(SYMBOLS[:2], "1h", span, "-t", "1m"))
