"""The two Flux queries of the original schema, as they are written there, on candles of this very day."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from chandlery.candle import SeriesId
from chandlery.exchange import ExchangeSettings, LocalExchange
from chandlery.stores.influx_lines import encode, tags_of
from chandlery.timeframe import DAY, HOUR, parse_timeframe
from chandlery.when import parse_when

from .fixtures import StartInfluxd
from .influx_server import InfluxServer

LATEST_HOUR = """\
from(bucket: "trading")
  |> range(start: -2h)
  |> filter(fn: (r) => r._measurement == "ohlcv")
  |> filter(fn: (r) => r.symbol == "BTC_USDT")
  |> filter(fn: (r) => r.timeframe == "1h")
  |> last()
"""
THIRTY_DAYS = """\
from(bucket: "trading")
  |> range(start: -30d)
  |> filter(fn: (r) => r._measurement == "ohlcv")
  |> filter(fn: (r) => r.symbol == "ETH_USDT")
  |> filter(fn: (r) => r.timeframe == "1d")
"""
VALUES = ["close", "high", "low", "open", "volume"]

DOCS = Path(__file__).resolve().parents[2] / "docs" / "influxdb.md"


@pytest.fixture
def today(start_influxd: StartInfluxd) -> tuple[InfluxServer, LocalExchange]:
    """A bucket `trading` with the closed candles of two pairs up to now, at 1h and 1d, as the store writes them."""
    server = start_influxd()
    with LocalExchange(ExchangeSettings(symbols=("BTC/USDT", "ETH/USDT"))) as exchange:
        now = exchange.now_ms()
        for symbol in ("BTC/USDT", "ETH/USDT"):
            for timeframe, back in (("1h", 48 * HOUR), ("1d", 60 * DAY)):
                frame = exchange.truth(symbol, timeframe, now - back, parse_timeframe(timeframe).floor(now))
                lines = encode(tags_of(SeriesId("binance", symbol, timeframe)), frame)
                assert server.write(lines.body).status == 204
    return server, exchange


def test_the_latest_hourly_candle(today: tuple[InfluxServer, LocalExchange]) -> None:
    """The first query gives the five fields of the newest closed BTC/USDT hour, one table each, and nothing else."""
    server, exchange = today
    before = time.time_ns() // 1_000_000
    rows = server.rows(LATEST_HOUR)
    after = time.time_ns() // 1_000_000
    assert sorted(row["_field"] for row in rows) == VALUES
    opens = {parse_when(row["_time"], now=0) for row in rows}
    assert opens <= {now // HOUR * HOUR - HOUR for now in (before - 60_000, before, after)}
    (opened,) = opens
    truth = exchange.truth("BTC/USDT", "1h", opened, opened + HOUR)
    assert {row["_field"]: float(row["_value"]) for row in rows} == {name: truth[name][0] for name in VALUES}


def test_the_daily_candles_of_thirty_days(today: tuple[InfluxServer, LocalExchange]) -> None:
    """The second query gives every field of each ETH/USDT day that opened in the last 30 times 24 hours."""
    server, exchange = today
    rows = server.rows(THIRTY_DAYS)
    start = parse_when(rows[0]["_start"], now=0)
    stop = parse_when(rows[0]["_stop"], now=0)
    assert stop - start == 30 * DAY
    first = -(-start // DAY) * DAY
    truth = exchange.truth("ETH/USDT", "1d", first, (stop - 60_000) // DAY * DAY)
    assert truth.height in (29, 30)
    opens = truth["time"].dt.epoch("ms").to_list()
    for name in VALUES:
        found = [(parse_when(r["_time"], now=0), float(r["_value"])) for r in rows if r["_field"] == name]
        assert found[: len(opens)] == list(zip(opens, truth[name].to_list(), strict=True))
    assert len(rows) - 5 * truth.height in (0, 5)  # a day may have ended in between


def test_the_queries_are_in_the_docs_as_they_run() -> None:
    """docs/influxdb.md shows both queries word for word."""
    blocks = re.findall(r"```flux\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    assert {LATEST_HOUR, THIRTY_DAYS} <= set(blocks)
