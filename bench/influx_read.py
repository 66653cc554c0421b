"""Measure reading a year of 1m from InfluxDB: `python bench/influx_read.py [RUNS]`.

Starts an influxd of its own (`tools/influxd/install --find`), writes 525,600 candles, and reads them in turns with
`influxdb_client`'s `query_data_frame` (with pivot) and with our reader; the frames must be equal bit for bit. Needs the
extra `original`. Prints the medians, and whether the reader is at least 12 times as fast.
"""

from __future__ import annotations

import platform
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from influxdb_client import InfluxDBClient
from influxdb_client.client.warnings import MissingPivotFunction

from chandlery.candle import SCHEMA, VALUES
from chandlery.stores.influx_http import InfluxHttp
from chandlery.stores.influx_lines import SeriesTags, encode
from chandlery.stores.influx_place import InfluxPlace
from chandlery.stores.influx_read import Reader
from chandlery.timerange import TimeRange

PROJECT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(PROJECT / "tests" / "influx"), str(PROJECT / "bench")]
from influx_server import InfluxServer, find_program  # noqa: E402
from store import START, YEAR, market  # noqa: E402

TAGS = SeriesTags("ohlcv", "binance", "BTC_USDT", "1m")
MINUTE = 60_000
TIMES = 12.0


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    program = find_program()
    if program is None:
        sys.exit("no influxd: `make influxd` builds one")
    warnings.simplefilter("ignore", MissingPivotFunction)
    print(
        f"Python {platform.python_version()}, polars {pl.__version__}, {program}; medians of {runs}, in turns"
    )
    candles = market(START + MINUTE * np.arange(525_600))
    with (
        tempfile.TemporaryDirectory(prefix="chandlery-bench-") as folder,
        InfluxServer(program, Path(folder)) as server,
    ):
        for at in range(0, candles.height, 50_000):
            answer = server.write(encode(TAGS, candles.slice(at, 50_000)).body)
            assert answer.status == 204, answer.text
        compare(server, candles, runs)
        many_series(server)
        many_texts(server)


def compare(server: InfluxServer, candles: pl.DataFrame, runs: int) -> None:
    http = InfluxHttp(InfluxPlace(server.url, server.org, server.bucket, server.token))
    reader = Reader(http)
    ways: dict[str, Callable[[], Any]] = {
        "influxdb_client query_data_frame, pivot": lambda: with_pivot(server),
        "chandlery Reader.candles": lambda: http.run(reader.candles(TAGS, [YEAR])),
        "chandlery Reader.opens": lambda: http.run(reader.opens(TAGS, [YEAR])),
        "chandlery Reader.counts": lambda: http.run(reader.counts([(TAGS, YEAR)])),
    }
    took: dict[str, list[float]] = {name: [] for name in ways}
    read: dict[str, Any] = {}
    try:
        for _ in range(runs):
            for name, way in ways.items():
                began = time.perf_counter()
                read[name] = way()
                took[name].append(time.perf_counter() - began)
    finally:
        http.close()
    theirs, ours, opens, counts = read.values()
    wanted = bits(candles)
    assert bits(ours) == wanted, "the reader's candles are not those that were written"
    assert bits(theirs) == wanted, "the client's candles are not those that were written"
    assert opens.tobytes() == wanted[0]
    assert counts == [candles.height]
    medians = {name: statistics.median(seconds) for name, seconds in took.items()}
    for name, seconds in medians.items():
        print(f"{name:<44}{seconds:>9.3f} s {candles.height / seconds:>14,.0f} candles/s")
    slow, fast, *_ = medians.values()
    print(
        f"candles, bit for bit the same: {slow / fast:.1f} x  >= {TIMES:.0f} x  "
        f"{'ok' if slow / fast >= TIMES else 'MISSED'}"
    )


def with_pivot(server: InfluxServer) -> pl.DataFrame:
    """The original way, to the same frame."""
    flux = (
        f'from(bucket: "{server.bucket}") |> range(start: {YEAR.since // 1000}, stop: {YEAR.until // 1000})'
        f' |> filter(fn: (r) => r._measurement == "ohlcv" and r.symbol == "{TAGS.symbol}"'
        f' and r.timeframe == "{TAGS.timeframe}" and r.exchange == "{TAGS.exchange}")'
        ' |> pivot(rowKey: ["_time"], columnKey: ["_field"], valueColumn: "_value")'
    )
    with InfluxDBClient(server.url, server.token, org=server.org, timeout=600_000) as client:
        found = client.query_api().query_data_frame(flux)
    return pl.DataFrame(
        {
            "time": found["_time"].to_numpy("datetime64[ms]").astype(np.int64),
            **{name: found[name].to_numpy() for name in VALUES},
        }
    ).cast({"time": SCHEMA["time"]})


def bits(frame: pl.DataFrame) -> list[bytes]:
    return [column.to_physical().to_numpy().tobytes() for column in frame]


def many_series(server: InfluxServer, series: int = 10_000, each: int = 20) -> None:
    """How long it takes to find 10,000 series, and to count each."""
    bucket = server.new_bucket()
    frame = market(START + MINUTE * np.arange(each))
    tags = [SeriesTags("ohlcv", "binance", f"C{number}_USDT", "1m") for number in range(series)]
    for at in range(0, series, 1000):
        assert (
            server.write(b"".join(encode(one, frame).body for one in tags[at : at + 1000]), bucket).status
            == 204
        )
    http = InfluxHttp(InfluxPlace(server.url, server.org, bucket, server.token))
    reader = Reader(http)
    try:
        began = time.perf_counter()
        found = http.run(reader.found())
        took = time.perf_counter() - began
        assert [one.rows for one in found] == [each] * series
        print(f"found: {series:,} series of {each} candles {took:>23.3f} s")
        began = time.perf_counter()
        counts = http.run(
            reader.counts([(one, TimeRange(START, START + each * MINUTE)) for one in tags[:1000]])
        )
        took = time.perf_counter() - began
        assert counts == [each] * 1000
        print(f"counts: 1,000 of them, each by itself {took:>26.3f} s")
    finally:
        http.close()


def many_texts(server: InfluxServer, texts: int = 20_000) -> None:
    """How long it takes to read 20,000 entries of a ledger, in 200 series."""
    bucket = server.new_bucket()
    entry = (
        r"{\"kind\": \"rows\", \"since\": 1672531200000, \"until\": 1672617600000, \"source\": \"ccxt_rest\"}"
    )
    lines = [
        f'chandlery_ledger,symbol=C{n % 200} entry="{entry}" {START * 1_000_000 + n}' for n in range(texts)
    ]
    assert server.write("\n".join(lines), bucket, precision="ns").status == 204
    http = InfluxHttp(InfluxPlace(server.url, server.org, bucket, server.token))
    try:
        began = time.perf_counter()
        found = http.run(Reader(http).texts("chandlery_ledger", {}))
        took = time.perf_counter() - began
        assert len(found) == texts
        print(f"texts: {texts:,} entries of 200 series {took:>24.3f} s")
    finally:
        http.close()


if __name__ == "__main__":
    main()
