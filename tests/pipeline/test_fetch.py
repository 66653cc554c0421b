"""fetch_ohlcv and fetch_and_store of DataPipeline, against the local exchange through the real ccxt."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

import chandlery as ch
from chandlery.exchange import Fault, Faults, LocalExchange
from chandlery.ledger import SLOTS
from chandlery.timeframe import DAY, HOUR
from chandlery.when import parse_when

CLOCK = "2024-06-01T00:10Z"
NOW = parse_when(CLOCK, now=0)


def klines(exchange: LocalExchange) -> int:
    """How many requests for candles the exchange saw."""
    return sum("klines" in record.path for record in exchange.requests)


def as_rows(frame: Any) -> list[list[float]]:
    """A frame of candles as fetch_ohlcv gives them."""
    return [list(row) for row in frame.with_columns(frame["time"].dt.epoch("ms")).rows()]


# -- fetch_ohlcv -----------------------------------------------------------------------------------------------------


def test_fetch_ohlcv_gives_the_last_candles_and_the_open_one(
    pipeline: ch.DataPipeline, exchange: LocalExchange, tmp_path: Path
) -> None:
    """Without since: the last 5, ascending, the candle that is still open last, and nothing is stored."""
    rows = pipeline.fetch_ohlcv("BTC/USDT", "1h", limit=5)

    opens = [row[0] for row in rows]
    newest = NOW // HOUR * HOUR
    assert opens == [newest - back * HOUR for back in (4, 3, 2, 1, 0)]
    assert rows[:-1] == as_rows(exchange.truth("BTC/USDT", "1h", newest - 4 * HOUR, newest))
    assert all(type(row) is list and type(row[0]) is int and len(row) == 6 for row in rows)
    assert list(tmp_path.iterdir()) == []


def test_without_since_the_rows_are_those_of_plain_ccxt(
    pipeline: ch.DataPipeline, exchange: LocalExchange
) -> None:
    """Over outages too: the last `limit` candles that the exchange has, row by row as ccxt gives them."""
    client = pipeline.exchange
    for timeframe, limits in (("1h", (1, 2, 24, 997, 998, 999, 1000)), ("1m", (3, 1000)), ("1d", (500,))):
        for limit in limits:
            plain = client.fetch_ohlcv("BTC/USDT", timeframe, None, limit)
            ours = pipeline.fetch_ohlcv("BTC/USDT", timeframe, None, limit)
            assert len(ours) == len(plain) == limit
            assert ours[:-1] == plain[:-1]
            assert ours[-1][0] == plain[-1][0]


def test_fetch_ohlcv_begins_at_the_listing(pipeline: ch.DataPipeline, exchange: LocalExchange) -> None:
    """`listing` begins with the first candle that the exchange has."""
    rows = pipeline.fetch_ohlcv("BTC/USDT", "1d", "listing", 3)

    assert rows == pipeline.fetch_ohlcv("BTC/USDT", "1d", 0, 3)


@pytest.mark.parametrize("name", ["fetch_ohlcv", "fetch_and_store"])
def test_a_symbol_that_is_none_is_a_usage_error(pipeline: ch.DataPipeline, name: str) -> None:
    """None for a symbol is named as such, not a TypeError from the depths."""
    with pytest.raises(ch.UsageError, match="symbol is None"):
        getattr(pipeline, name)(None, "1h", "1d")


def test_fetch_ohlcv_begins_at_since(pipeline: ch.DataPipeline, exchange: LocalExchange) -> None:
    """With since: the first candles from there on, at most limit of them, as ms, date, datetime or text."""
    since = NOW // DAY * DAY - 10 * DAY
    expected = as_rows(exchange.truth("ETH/USDT", "1h", since, since + 24 * HOUR))

    assert len(expected) == 24
    for moment in (since, datetime.fromtimestamp(since / 1000, UTC), date(2024, 5, 22), "2024-05-22"):
        assert pipeline.fetch_ohlcv("ETH/USDT", "1h", moment, 24) == expected


def test_fetch_ohlcv_gives_one_answers_worth(pipeline: ch.DataPipeline, exchange: LocalExchange) -> None:
    """A limit above the exchange's page is one request for candles and at most that page."""
    rows = pipeline.fetch_ohlcv("BTC/USDT", "1h", NOW - 400 * DAY, 5_000)

    assert klines(exchange) == 1
    assert 900 < len(rows) <= 1000
    assert rows == sorted(rows)


@pytest.mark.parametrize("kind", ["5xx", "html", "cut", "empty"])
@pytest.mark.parametrize(("used", "tries"), [(0, 4), (2, 2), (3, 1)])
def test_network_errors_are_repeated_as_the_original_did(
    pipeline: ch.DataPipeline, exchange: LocalExchange, kind: str, used: int, tries: int
) -> None:
    """An exchange that never answers is asked once and then as often as retry_count leaves of 3; then ExchangeError."""
    pipeline.fetch_ohlcv("BTC/USDT", "1h", limit=1)
    exchange.faults = Faults((Fault(kind, path="klines"),))
    exchange.forget_requests()

    with pytest.raises(ch.ExchangeError):
        pipeline.fetch_ohlcv("BTC/USDT", "1h", None, 10, used)
    assert klines(exchange) == tries


def test_a_passing_error_is_survived(pipeline: ch.DataPipeline, exchange: LocalExchange) -> None:
    """Three broken answers and then a good one: the candles come."""
    exchange.faults = Faults((Fault("5xx", path="klines", requests=(1, 2, 3)),))

    assert len(pipeline.fetch_ohlcv("BTC/USDT", "1h", limit=3)) == 3


def test_a_permanent_error_is_not_repeated(pipeline: ch.DataPipeline, exchange: LocalExchange) -> None:
    """An unknown symbol or timeframe is an ExchangeError at once, which names it; no candle is asked for."""
    with pytest.raises(ch.ExchangeError, match="BTC/USDX") as error:
        pipeline.fetch_ohlcv("BTC/USDX")
    assert isinstance(error.value, ch.UnknownSymbol)
    assert "BTC/USDT" in error.value.hint
    with pytest.raises(ch.ExchangeError, match="7h"):
        pipeline.fetch_ohlcv("BTC/USDT", "7h")
    assert klines(exchange) == 0


@pytest.mark.parametrize("limit", [0, -1, True, 2.5])
def test_a_limit_that_cannot_be_is_refused(pipeline: ch.DataPipeline, limit: Any) -> None:
    """A limit that is no whole number above 0 is a UsageError that names it."""
    with pytest.raises(ch.UsageError, match=str(limit)):
        pipeline.fetch_ohlcv("BTC/USDT", limit=limit)


# -- fetch_and_store -------------------------------------------------------------------------------------------------


def test_fetch_and_store_stores_what_the_exchange_has(
    pipeline: ch.DataPipeline, exchange: LocalExchange, tmp_path: Path
) -> None:
    """The closed candles from start_date to the exchange's now are in ./candles, equal to the exchange's own."""
    report = pipeline.fetch_and_store("BTC/USDT", "1h", "2024-05-20")

    truth = exchange.truth("BTC/USDT", "1h", NOW - 12 * DAY - 10 * 60_000, NOW)
    kept = ch.open_store(tmp_path / "candles").read(ch.SeriesId("binance", "BTC/USDT", "1h"))
    assert as_rows(kept) == as_rows(truth)
    assert report
    assert report.written == len(truth)


def test_the_report_has_the_fields_of_fetch_json(pipeline: ch.DataPipeline) -> None:
    """Every field is a key and an attribute, of the run and of its series; the whole is JSON."""
    report = pipeline.fetch_and_store("BTC/USDT", "1h", "2024-05-30", "2024-05-31")

    run = {"ok", "seconds", "requests", "retries", "weight", "series", "mirrors"}
    series = {
        "exchange",
        "symbol",
        "timeframe",
        "kind",
        "since",
        "until",
        "fetched",
        "written",
        "error",
        "volume_unit",
    }
    assert set(report) == run | series | set(SLOTS)
    assert all(getattr(report, key) == report[key] for key in report)
    assert (report.ok, report["symbol"], report.error) == (True, "BTC/USDT", None)
    assert (report.since, report.until) == ("2024-05-30T00:00:00Z", "2024-05-31T00:00:00Z")
    assert report.fetched == report.written == 24 - report.absent
    assert report.series[0]["written"] == report.written
    assert json.loads(json.dumps(dict(report))) == dict(report)
    with pytest.raises(AttributeError, match="nonsense"):
        report.nonsense  # noqa: B018
    with pytest.raises(KeyError):
        report["nonsense"]


@pytest.mark.parametrize(
    "start",
    [
        "2024-05-30",
        "2024-05-30T02:00+02:00",
        date(2024, 5, 30),
        datetime(2024, 5, 30),  # noqa: DTZ001 - naive on purpose
        datetime(2024, 5, 30, tzinfo=UTC),
        1_717_027_200_000,
    ],
)
def test_a_start_may_be_written_in_many_ways(pipeline: ch.DataPipeline, start: Any) -> None:
    """Text, date, naive datetime (UTC), aware datetime and milliseconds mean the same moment."""
    report = pipeline.fetch_and_store("ETH/USDT", "4h", start, "2024-05-31")

    assert (report.since, report.written) == ("2024-05-30T00:00:00Z", 6)


def test_a_second_call_writes_nothing_and_goes_on_from_the_first(
    pipeline: ch.DataPipeline, exchange: LocalExchange
) -> None:
    """What is there is neither written nor asked for again; an earlier start fetches only what lies before."""
    pipeline.fetch_and_store("BTC/USDT", "1h", "2024-05-10", "2024-05-20")
    exchange.forget_requests()
    again = pipeline.fetch_and_store("BTC/USDT", "1h", "2024-05-10", "2024-05-20")
    assert (again.written, klines(exchange), bool(again)) == (0, 0, True)

    wider = pipeline.fetch_and_store("BTC/USDT", "1h", "2024-05-09", "2024-05-20")
    assert wider.written == 24 - wider.absent + again.absent


def test_each_report_counts_its_own_requests(pipeline: ch.DataPipeline, exchange: LocalExchange) -> None:
    """The requests of a report are those of its run, not of all runs of the pipeline so far."""
    pipeline.fetch_and_store("BTC/USDT", "1h", "2024-03-01", "2024-05-20")
    exchange.forget_requests()
    report = pipeline.fetch_and_store("BTC/USDT", "4h", "2024-05-10", "2024-05-20")

    assert 0 < report.requests <= len(exchange.requests)


@pytest.mark.parametrize(
    ("symbol", "timeframe", "start", "end", "named"),
    [
        ("BTC/NONE", "1h", "7d", None, "BTC/NONE"),
        ("BTC/USDT", "7h", "7d", None, "7h"),
        ("BTC/USDT", "1h", "yesterday", None, "yesterday"),
        ("BTC/USDT", "1h", "2024-05-02", "2024-05-01", "2024-05-02"),
        ("BTC/USDT", "1h", "2030-01-01", None, "2030-01-01"),
        ("BTC/USDT", "1h", object(), None, "object"),
    ],
)
def test_what_cannot_be_is_an_error_that_names_it_and_makes_no_store(
    pipeline: ch.DataPipeline, tmp_path: Path, symbol: str, timeframe: str, start: Any, end: Any, named: str
) -> None:
    """A wrong symbol, timeframe or range is a UsageError with the value and a hint; no folder appears."""
    with pytest.raises(ch.UsageError, match=named) as error:
        pipeline.fetch_and_store(symbol, timeframe, start, end)
    assert error.value.hint
    assert list(tmp_path.iterdir()) == []


def test_total_failure_raises(pipeline: ch.DataPipeline, exchange: LocalExchange) -> None:
    """An exchange that refuses every request for candles raises ExchangeError."""
    exchange.faults = Faults((Fault("418", path="klines", retry_after=100_000),))

    with pytest.raises(ch.ExchangeError):
        pipeline.fetch_and_store("BTC/USDT", "1h", "2024-05-01")


def test_partial_failure_is_a_report_that_is_false(
    pipeline: ch.DataPipeline, exchange: LocalExchange, tmp_path: Path
) -> None:
    """Pages, then a ban: the report is false, names the error and what is missing, and the pages are kept."""
    day = 400 * DAY
    exchange.faults = Faults((Fault("418", path="klines", retry_after=100_000, since=NOW - day // 2),))
    report = pipeline.fetch_and_store("BTC/USDT", "1h", NOW - day)

    assert not report
    assert report.error
    assert report.missing > 0
    kept = ch.open_store(tmp_path / "candles").read(ch.SeriesId("binance", "BTC/USDT", "1h")).height
    assert kept == report.written > 0


def test_mirrors_follow_the_store(exchange: LocalExchange, tmp_path: Path) -> None:
    """A pipeline's mirrors hold what its store does when the call returns; one that cannot is named and stops nothing."""
    (tmp_path / "file").write_text("in the way")
    mirrors = [tmp_path / "mirror", str(tmp_path / "file")]
    with ch.DataPipeline(store=tmp_path / "store", mirrors=mirrors, exchange_url=exchange.url) as pipeline:
        report = pipeline.fetch_and_store("BTC/USDT", "1h", "2024-05-30", "2024-05-31")
    assert report
    assert [(m["url"], m["ok"]) for m in report.mirrors] == [
        (str(url), n == 0) for n, url in enumerate(mirrors)
    ]
    series = ch.SeriesId("binance", "BTC/USDT", "1h")
    with (
        ch.open_store(tmp_path / "store") as store,
        ch.open_store(tmp_path / "mirror", create=False) as mirror,
    ):
        assert mirror.read(series).equals(store.read(series))
        assert mirror.ledger(series) == store.ledger(series)
    with pytest.raises(ch.DataPipelineError, match="is the store itself"):
        ch.DataPipeline(store=tmp_path / "store", mirrors=[tmp_path / "store"])
