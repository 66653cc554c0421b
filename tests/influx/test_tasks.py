"""Downsampling on a real server: long candles equal the exchange's own, and incomplete ones are not written."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import numpy as np
import polars as pl
import pytest

from chandlery.candle import SeriesId
from chandlery.errors import StoreUnreadable, UsageError
from chandlery.exchange import ExchangeSettings, LocalExchange
from chandlery.ledger import Answered, Ledger
from chandlery.stores.influx_downsample import explained, rerun, targets
from chandlery.stores.influx_http import InfluxHttp
from chandlery.stores.influx_lines import Lines, encode, tags_of
from chandlery.stores.influx_place import InfluxPlace
from chandlery.stores.influx_tasks import Downsampling, downsampling, pieces, task_flux, touched, whole
from chandlery.timeframe import DAY, HOUR, MINUTE, parse_timeframe
from chandlery.timerange import RangeSet, TimeRange

from .fixtures import Bucket

# The end of a week, of a month and of a leap February lie inside.
SINCE = int(datetime(2024, 2, 27, tzinfo=UTC).timestamp() * 1000)
UNTIL = SINCE + 5 * DAY
VALUES = ["open", "high", "low", "close", "volume"]


@pytest.fixture(scope="module")
def exchange() -> Iterator[LocalExchange]:
    """A local exchange of two pairs whose clock stands still."""
    settings = ExchangeSettings(clock="2024-06-01T00:01Z,0", symbols=("BTC/USDT", "ETH/USDT"))
    with LocalExchange(settings) as running:
        yield running


@pytest.fixture
def http(bucket: Bucket) -> Iterator[InfluxHttp]:
    """The bucket, for the code under test."""
    running = InfluxHttp(InfluxPlace(bucket.server.url, bucket.server.org, bucket.name, bucket.token))
    yield running
    running.close()


def series_of(symbol: str, timeframe: str = "1m", kind: Any = "trade") -> SeriesId:
    """A series of the local exchange."""
    return SeriesId("binance", symbol, timeframe, kind)


def put(bucket: Bucket, series: SeriesId, frame: pl.DataFrame) -> None:
    """Write candles as the store does."""
    lines: Lines = encode(tags_of(series), frame)
    answer = bucket.server.write(lines.body, bucket.name)
    assert answer.status == 204, answer.text


def target_of(bucket: Bucket, timeframe: str, *, retention_seconds: int = 0) -> Downsampling:
    """Make the bucket of long candles as `chandlery influx setup` does, and return what it is for."""
    made = downsampling(bucket.name, timeframe)
    rules = [{"type": "expire", "everySeconds": retention_seconds}]
    document = {"orgID": bucket.server.org_id, "name": made.target, "retentionRules": rules}
    bucket.server._wanted(201, "POST", "/api/v2/buckets", {**document, "description": made.name})
    return made


def kept(bucket: Bucket, made: Downsampling, symbol: str, measurement: str = "ohlcv") -> pl.DataFrame:
    """The long candles of one symbol, read with the standard library: time in epoch ms, and the five values."""
    flux = (
        f"from(bucket: {json.dumps(made.target)}) |> range(start: 2000-01-01T00:00:00Z)"
        f" |> filter(fn: (r) => r._measurement == {json.dumps(measurement)} and r.symbol == {json.dumps(symbol)}"
        f' and r.timeframe == "{made.timeframe}" and r.exchange == "binance")'
        ' |> pivot(rowKey: ["_time"], columnKey: ["_field"], valueColumn: "_value") |> sort(columns: ["_time"])'
    )
    rows = bucket.server.rows(flux)
    return pl.DataFrame(
        {
            "time": [int(datetime.fromisoformat(row["_time"]).timestamp() * 1000) for row in rows],
            **{name: [float(row[name]) for row in rows] for name in VALUES},
        },
        schema={"time": pl.Int64, **dict.fromkeys(VALUES, pl.Float64)},
    )


def assert_equal(found: pl.DataFrame, truth: pl.DataFrame) -> None:
    """The same candles: prices to the bit, volumes within 1e-9 of each other."""
    assert truth.height > 0
    assert found["time"].to_list() == truth["time"].dt.epoch("ms").to_list()
    assert found.select(VALUES[:4]).equals(truth.select(VALUES[:4]))
    np.testing.assert_allclose(found["volume"].to_numpy(), truth["volume"].to_numpy(), rtol=1e-9, atol=0)


def at_start(frame: pl.DataFrame, since: int) -> pl.DataFrame:
    """The candles that open at `since` or later."""
    return frame.filter(pl.col("time").dt.epoch("ms") >= since)


@pytest.mark.parametrize("timeframe", ["5m", "1h", "4h", "1d"])
def test_long_candles_equal_the_exchanges_own(
    bucket: Bucket, http: InfluxHttp, exchange: LocalExchange, timeframe: str
) -> None:
    """All of history downsampled equals the candles that the exchange itself gives, over the ends of week and month."""
    for symbol in ("BTC/USDT", "ETH/USDT"):
        put(bucket, series_of(symbol), exchange.truth(symbol, "1m", SINCE, UNTIL))
    made = target_of(bucket, timeframe)
    written = http.run(rerun(http))
    for symbol in ("BTC/USDT", "ETH/USDT"):
        truth = exchange.truth(symbol, timeframe, SINCE, UNTIL)
        assert_equal(kept(bucket, made, symbol.replace("/", "_")), truth)
    assert written == {timeframe: 2 * truth.height}


def test_only_the_five_fields_and_our_tags_are_written(
    bucket: Bucket, http: InfluxHttp, exchange: LocalExchange
) -> None:
    """The points of long candles have the schema of all candles: measurement, three tags, five floats, and no more."""
    put(bucket, series_of("BTC/USDT"), exchange.truth("BTC/USDT", "1m", SINCE, SINCE + HOUR))
    made = target_of(bucket, "1h")
    http.run(rerun(http))
    rows = bucket.server.rows(f'from(bucket: "{made.target}") |> range(start: 2000-01-01T00:00:00Z)')
    assert sorted(row["_field"] for row in rows) == sorted(VALUES)
    standard = {"result", "table", "_start", "_stop", "_time", "_value", "_field", "_measurement"}
    assert {name for row in rows for name in row} - standard == {"exchange", "symbol", "timeframe"}


def test_incomplete_candles_are_not_written(
    bucket: Bucket, http: InfluxHttp, exchange: LocalExchange
) -> None:
    """An hour with a minute missing, the last hour still going on, and a day that is not whole are left out."""
    minutes = exchange.truth("BTC/USDT", "1m", SINCE, SINCE + 6 * HOUR + 30 * MINUTE)
    hole = SINCE + 2 * HOUR + 59 * MINUTE
    put(bucket, series_of("BTC/USDT"), minutes.filter(pl.col("time").dt.epoch("ms") != hole))
    hour, day = target_of(bucket, "1h"), target_of(bucket, "1d")
    assert http.run(rerun(http)) == {"1h": 5, "1d": 0}
    opens = kept(bucket, hour, "BTC_USDT")["time"].to_list()
    assert opens == [SINCE + n * HOUR for n in (0, 1, 3, 4, 5)]
    assert kept(bucket, day, "BTC_USDT").is_empty()


def test_a_minute_without_all_its_fields_does_not_count(
    bucket: Bucket, http: InfluxHttp, exchange: LocalExchange
) -> None:
    """An hour of 60 closes and 59 volumes, as another program may leave it, is not complete."""
    put(bucket, series_of("BTC/USDT"), exchange.truth("BTC/USDT", "1m", SINCE, SINCE + 59 * MINUTE))
    tags = "ohlcv,exchange=binance,symbol=BTC_USDT,timeframe=1m"
    bucket.server.write(f"{tags} open=1.0,high=1.0,low=1.0,close=1.0 {SINCE + 59 * MINUTE}", bucket.name)
    target_of(bucket, "1h")
    assert http.run(rerun(http)) == {"1h": 0}


def test_a_range_filled_later_is_made_anew(bucket: Bucket, http: InfluxHttp, exchange: LocalExchange) -> None:
    """Minutes that arrive later complete their hours when those ranges are run again, and only those are touched."""
    truth = exchange.truth("BTC/USDT", "1m", SINCE, SINCE + 2 * DAY)
    late = pl.col("time").dt.epoch("ms").is_between(SINCE + 90 * MINUTE, SINCE + 200 * MINUTE)
    put(bucket, series_of("BTC/USDT"), truth.filter(~late))
    hour, day = target_of(bucket, "1h"), target_of(bucket, "1d")
    assert http.run(rerun(http)) == {"1h": 45, "1d": 1}
    put(bucket, series_of("BTC/USDT"), truth.filter(late))
    ranges = RangeSet.of(SINCE + 90 * MINUTE, SINCE + 200 * MINUTE)
    assert http.run(rerun(http, ranges, tags=tags_of(series_of("BTC/USDT")))) == {"1h": 3, "1d": 1}
    for made in (hour, day):
        own = exchange.truth("BTC/USDT", made.timeframe, SINCE, SINCE + 2 * DAY)
        assert_equal(kept(bucket, made, "BTC_USDT"), own)


def test_a_quiet_market_is_complete_where_the_ledger_says_so(bucket: Bucket, http: InfluxHttp) -> None:
    """Hours that lack minutes are written where every slot was answered, and not where one is missing or refused."""
    settings = ExchangeSettings(clock="2024-06-01T00:01Z,0", omit_flat=True, seed=7)
    with LocalExchange(settings) as quiet:
        pairs = ((s, quiet.truth(s, "1m", SINCE, SINCE + DAY)) for s in quiet.symbols)
        symbol, minutes = min(pairs, key=lambda pair: pair[1].height or DAY)
        own = quiet.truth(symbol, "1h", SINCE, SINCE + DAY)
    assert 0 < minutes.height < 1440
    series = series_of(symbol)
    put(bucket, series, minutes)
    made = target_of(bucket, "1h")
    frame = parse_timeframe("1m")
    answered = (
        Answered(TimeRange(SINCE, SINCE + 5 * HOUR + MINUTE), None),
        Answered(
            TimeRange(SINCE + 5 * HOUR + 2 * MINUTE, SINCE + DAY), None
        ),  # one minute was never answered
    )
    ledger = Ledger(
        frame,
        RangeSet.of(SINCE, SINCE + DAY),
        answered,
        quarantined=(SINCE + 7 * HOUR + MINUTE,),
        clock=SINCE + DAY,
    )
    http.run(rerun(http, tags=tags_of(series), ledger=ledger))
    opens = pl.col("time").dt.epoch("ms")
    counts = minutes.group_by(opens // HOUR * HOUR).len()
    full = set(counts.filter(pl.col("len") == 60)["time"].to_list())
    unsure = {SINCE + 5 * HOUR, SINCE + 7 * HOUR} - full
    assert unsure
    assert_equal(kept(bucket, made, symbol.replace("/", "_")), own.filter(~opens.is_in(sorted(unsure))))


def test_only_explained_slots_are_explained() -> None:
    """What is missing, pending or refused is not explained; what was answered, before the listing or absent is."""
    frame = parse_timeframe("1m")
    asked = RangeSet.of(0, DAY)
    ledger = Ledger(
        frame, asked, (Answered(TimeRange(0, HOUR), None),), quarantined=(30 * MINUTE,), clock=2 * HOUR
    )
    assert explained(ledger, asked) == RangeSet([TimeRange(0, 30 * MINUTE), TimeRange(31 * MINUTE, HOUR)])


def test_other_kinds_and_other_timeframes_stay_apart(
    bucket: Bucket, http: InfluxHttp, exchange: LocalExchange
) -> None:
    """Mark candles become mark candles; 1h candles that stand in the same bucket are not taken for minutes."""
    minutes = exchange.truth("BTC/USDT", "1m", SINCE, SINCE + HOUR)
    put(bucket, series_of("BTC/USDT"), minutes)
    put(
        bucket,
        series_of("BTC/USDT", kind="mark"),
        minutes.with_columns(pl.col("close") * 2, pl.col("high") * 2),
    )
    put(bucket, series_of("BTC/USDT", "1h"), exchange.truth("BTC/USDT", "1h", SINCE, UNTIL))
    made = target_of(bucket, "1h")
    assert http.run(rerun(http)) == {"1h": 2}
    trade, mark = kept(bucket, made, "BTC_USDT"), kept(bucket, made, "BTC_USDT", "ohlcv_mark")
    assert mark["close"].to_list() == [trade["close"][0] * 2]


def test_candles_older_than_the_target_keeps_are_not_sent(
    bucket: Bucket, http: InfluxHttp, exchange: LocalExchange
) -> None:
    """A target that keeps a month takes no candle of years ago, and that is no error; the source has them still."""
    put(bucket, series_of("BTC/USDT"), exchange.truth("BTC/USDT", "1m", SINCE, SINCE + HOUR))
    now = time.time_ns() // 1_000_000 // HOUR * HOUR
    fresh = exchange.truth("BTC/USDT", "1m", SINCE, SINCE + HOUR)
    moved = fresh.with_columns(pl.col("time") + pl.duration(milliseconds=now - 3 * HOUR - SINCE))
    put(bucket, series_of("BTC/USDT"), moved)
    made = target_of(bucket, "1h", retention_seconds=30 * 86_400)
    assert http.run(rerun(http)) == {"1h": 1}
    assert kept(bucket, made, "BTC_USDT")["time"].to_list() == [now - 3 * HOUR]


@pytest.mark.parametrize("timeframe", ["1h", "1d"])
def test_a_task_runs_on_the_server(bucket: Bucket, exchange: LocalExchange, timeframe: str) -> None:
    """The task as it is made runs on the server for its own moment, and makes the last days' candles up to it."""
    put(bucket, series_of("BTC/USDT"), exchange.truth("BTC/USDT", "1m", SINCE, UNTIL))
    made = target_of(bucket, timeframe)
    server = bucket.server
    document = {"orgID": server.org_id, "flux": task_flux(made), "status": "active"}
    task = server._wanted(201, "POST", "/api/v2/tasks", document)
    assert task["name"] == made.name
    moment = SINCE + 4 * DAY + 5 * HOUR  # the fifth day is not over
    when = datetime.fromtimestamp(moment / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    path = f"/api/v2/tasks/{task['id']}/runs"
    run = server._wanted(201, "POST", path, {"scheduledFor": when})
    until = time.monotonic() + 60
    while run["status"] not in ("success", "failed", "canceled"):
        assert time.monotonic() < until, run
        time.sleep(0.05)
        answer = server.ask("GET", f"{path}/{run['id']}")
        if answer.status != 404:  # for a moment it is neither among the running nor among the done
            run = answer.json
    assert run["status"] == "success", run
    server._wanted(204, "DELETE", f"/api/v2/tasks/{task['id']}")
    frame = parse_timeframe(timeframe)
    truth = exchange.truth("BTC/USDT", timeframe, SINCE, frame.floor(moment))
    assert_equal(kept(bucket, made, "BTC_USDT"), truth)


def test_a_token_that_may_not_write_there_is_told(bucket: Bucket, exchange: LocalExchange) -> None:
    """A token that may read the target but not write to it gets an error that names the mend."""
    put(bucket, series_of("BTC/USDT"), exchange.truth("BTC/USDT", "1m", SINCE, SINCE + HOUR))
    made = target_of(bucket, "1h")
    token = bucket.server.new_token(read=[bucket.name, made.target], write=[bucket.name])
    http = InfluxHttp(InfluxPlace(bucket.server.url, bucket.server.org, bucket.name, token))
    try:
        with pytest.raises(StoreUnreadable) as caught:
            http.run(rerun(http))
    finally:
        http.close()
    assert "--new-tokens" in caught.value.hint


def test_targets_are_known_by_what_they_say(bucket: Bucket, http: InfluxHttp) -> None:
    """Only buckets that say they hold long candles of this very bucket are targets, shortest candles first."""
    server = bucket.server
    day, hour = target_of(bucket, "1d"), target_of(bucket, "1h")
    other = downsampling("other", "1h").name
    document = {"orgID": server.org_id, "name": f"{bucket.name}_4h", "description": other}
    server._wanted(201, "POST", "/api/v2/buckets", {**document, "retentionRules": []})
    assert [target.made for target in http.run(targets(http))] == [hour, day]


@pytest.mark.parametrize("timeframe", ["1m", "30s", "7m", "3d", "1w", "1M", "1y", "36h"])
def test_timeframes_that_depend_on_a_calendar_are_refused(timeframe: str) -> None:
    """A timeframe that does not divide a day, or is no longer than a minute, is refused by name."""
    with pytest.raises(UsageError, match=timeframe):
        downsampling("trading", timeframe)


def test_ranges_become_whole_candles() -> None:
    """Ranges grow to the candles that they touch, shrink to those they hold whole, and are cut in whole candles."""
    made = downsampling("trading", "1h")
    ranges = RangeSet([TimeRange(10 * MINUTE, 3 * HOUR + MINUTE), TimeRange(9 * HOUR, 9 * HOUR + MINUTE)])
    assert touched(made, ranges) == RangeSet([TimeRange(0, 4 * HOUR), TimeRange(9 * HOUR, 10 * HOUR)])
    assert whole(made, ranges) == RangeSet([TimeRange(HOUR, 3 * HOUR)])
    assert pieces(made, RangeSet.of(0, 5 * HOUR), 2) == [
        TimeRange(0, 2 * HOUR),
        TimeRange(2 * HOUR, 4 * HOUR),
        TimeRange(4 * HOUR, 5 * HOUR),
    ]


def test_a_bucket_name_cannot_change_the_query(bucket: Bucket) -> None:
    """A bucket whose name holds what Flux gives a meaning to is downsampled as any other."""
    server = bucket.server
    name = server.new_bucket(f"b ${{x}} \\ ') |> yield() // {bucket.name}")
    odd = Bucket(server, name)
    made = target_of(odd, "1h")
    assert made.target == f"{name}_1h"
    minute = "open=1.0,high=2.0,low=0.5,close=1.5,volume=3.0"
    tags = "ohlcv,exchange=binance,symbol=A_B,timeframe=1m"
    server.write("\n".join(f"{tags} {minute} {SINCE + n * MINUTE}" for n in range(60)), name)
    http = InfluxHttp(InfluxPlace(server.url, server.org, name, server.token))
    try:
        assert http.run(rerun(http)) == {"1h": 1}
    finally:
        http.close()
    document = {"orgID": server.org_id, "flux": task_flux(made), "status": "inactive"}
    assert server._wanted(201, "POST", "/api/v2/tasks", document)["name"] == made.name
