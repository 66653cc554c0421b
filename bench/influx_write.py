"""Candles into a real InfluxDB 2, and each number beside its limit: `python bench/influx_write.py [PART]...`.

Parts: `memory`, `encoder`, `rate`, `original`; and by name only `whole_store`, the whole way of a store with its ledger.
The server is the one that `tools/influxd/install --find` finds, or INFLUXD; it runs on a loopback port with a new data
folder in the current one, and shares this computer's cores with what is measured. Needs `influxdb-client`
(`chandlery[original]`) to measure against.
"""

from __future__ import annotations

import asyncio
import gc
import os
import platform
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Self

import aiohttp
import numpy as np
import polars as pl
from store import market, page, row

from chandlery.candle import SeriesId
from chandlery.stores.influx_http import InfluxHttp
from chandlery.stores.influx_lines import Lines, SeriesTags, encode
from chandlery.stores.influx_place import InfluxPlace
from chandlery.stores.influx_send import IN_FLIGHT, Sender, _batches
from chandlery.timeframe import MINUTE

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "influx"))
from influx_server import InfluxServer, find_program

START = 1_672_531_200_000  # 2023-01-01
TAGS = SeriesTags("ohlcv", "binance", "BTC_USDT", "1m")
PIECE = 10_000
ROWS = int(os.environ.get("ROWS", "500000"))
ROUNDS = int(os.environ.get("ROUNDS", "7"))


def year(rows: int) -> pl.DataFrame:
    """So many candles of one minute."""
    return market(np.arange(START, START + rows * MINUTE, MINUTE))


def encoded(candles: pl.DataFrame) -> Iterator[Lines]:
    """What a store gives to the sender: a frame, a piece at a time."""
    for since in range(0, candles.height, PIECE):
        yield encode(TAGS, candles.slice(since, PIECE))


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def sent(server: InfluxServer, bucket: str, lines: Iterable[Lines]) -> None:
    """Through our sender."""
    http = InfluxHttp(InfluxPlace(server.url, server.org, bucket, server.token))
    try:
        if refused := http.run(Sender(http).send(lines)):
            raise RuntimeError(f"{len(refused)} lines refused: {refused[0]}")
    finally:
        http.close()


def posted(server: InfluxServer, bucket: str, bodies: list[bytes]) -> None:
    """By a bare client: nothing but aiohttp, as many in flight."""

    async def post() -> None:
        left = iter(bodies)
        headers = {"Authorization": f"Token {server.token}"}
        where = {"org": server.org, "bucket": bucket, "precision": "ms"}

        async def one() -> None:
            for body in left:
                async with client.post(f"{server.url}/api/v2/write", params=where, data=body) as reply:
                    if reply.status != 204:
                        raise RuntimeError(await reply.text())

        async with aiohttp.ClientSession(headers=headers) as client:
            await asyncio.gather(*(one() for _ in range(IN_FLIGHT)))

    asyncio.run(post())


def points(candles: pl.DataFrame) -> Iterator[object]:
    """The candles as the original makes them."""
    from influxdb_client import Point, WritePrecision

    for stamp, open_, high, low, close, volume in candles.iter_rows():
        yield (
            Point("ohlcv")
            .tag("symbol", "BTC_USDT")
            .tag("timeframe", "1m")
            .tag("exchange", "binance")
            .field("open", open_)
            .field("high", high)
            .field("low", low)
            .field("close", close)
            .field("volume", volume)
            .time(stamp, WritePrecision.MS)
        )


def written_by_points(server: InfluxServer, bucket: str, candles: pl.DataFrame) -> None:
    """The original way: points, a thousand a batch, each write waited for."""
    from influxdb_client import InfluxDBClient
    from influxdb_client.client.write_api import SYNCHRONOUS

    with InfluxDBClient(server.url, server.token, org=server.org) as client:
        api = client.write_api(write_options=SYNCHRONOUS)
        for since in range(0, candles.height, 1_000):
            api.write(bucket, record=list(points(candles.slice(since, 1_000))))


def counted(server: InfluxServer, bucket: str, rows: int) -> None:
    if (found := server.count(bucket=bucket)) != rows:
        raise RuntimeError(f"{bucket} has {found:,} candles of {rows:,}")


# ---- parts -----------------------------------------------------------------------------------------------------------


def encoder(_: InfluxServer) -> None:
    """Frame to line protocol, beside `Point(...).to_line_protocol()`; both in this thread, pieces of 5,000."""
    candles = year(100_000)
    ratios, ours, theirs = [], [], []
    for _round in range(5):
        fast = seconds(
            lambda: [encode(TAGS, candles.slice(n, 5_000)) for n in range(0, candles.height, 5_000)]
        )
        few = candles.head(10_000)
        slow = seconds(lambda few=few: [point.to_line_protocol() for point in points(few)])
        ours.append(candles.height / fast)
        theirs.append(few.height / slow)
        ratios.append(ours[-1] / theirs[-1])
    row("encoder beside Point(...).to_line_protocol()", statistics.median(ratios), "x", 15, least=True)
    print(f"    {statistics.median(ours):,.0f} rows/s, Point {statistics.median(theirs):,.0f} rows/s")


def rate(server: InfluxServer) -> None:
    """Frames to acknowledged rows, beside the same bodies posted by a bare client; in turn, into new buckets."""
    candles = year(ROWS)
    place = InfluxHttp(InfluxPlace(server.url, server.org, server.bucket, server.token))
    bodies = [batch.body for batch in _batches(encoded(candles), Sender(place))]
    ways = {
        "bare": lambda bucket: posted(server, bucket, bodies),
        "ours": lambda bucket: sent(server, bucket, encoded(candles)),
    }
    took: dict[str, list[float]] = {"bare": [], "ours": []}
    for number in range(ROUNDS + 1):
        for way in sorted(ways, reverse=bool(number % 2)):
            bucket = server.new_bucket()
            gc.collect()
            took[way].append(seconds(lambda way=way, bucket=bucket: ways[way](bucket)))
            counted(server, bucket, ROWS)
            server.delete_bucket(bucket)
    ours, bare = took["ours"][1:], took["bare"][1:]  # the first round warms up
    shares = [b / a for a, b in zip(ours, bare, strict=True)]
    # Each round by itself: other work on the machine comes and goes, and meets both ways of a round.
    row(
        "end to end beside bare posts of the same bodies",
        100 * statistics.median(shares),
        "%",
        85,
        least=True,
    )
    print(
        f"    {ROWS / statistics.median(ours):,.0f} rows/s, bare {ROWS / statistics.median(bare):,.0f} rows/s;"
        f" by round {', '.join(f'{share:.0%}' for share in shares)}; {len(bodies)} bodies, {ROUNDS} rounds"
    )


def original(server: InfluxServer) -> None:
    """Frames to acknowledged rows, beside the original way with a fifth of them; in turn, into new buckets."""
    candles, fewer = year(ROWS), year(ROWS // 5)
    ratios, ours, theirs = [], [], []
    for number in range(6):
        fast, slow = server.new_bucket(), server.new_bucket()
        ours.append(ROWS / seconds(lambda fast=fast: sent(server, fast, encoded(candles))))
        theirs.append(fewer.height / seconds(lambda slow=slow: written_by_points(server, slow, fewer)))
        counted(server, fast, ROWS)
        counted(server, slow, fewer.height)
        if number:  # the first round warms up
            ratios.append(ours[-1] / theirs[-1])
    row(
        "end to end beside Point and 1,000 a synchronous write", statistics.median(ratios), "x", 5, least=True
    )
    print(
        f"    {statistics.median(ours[1:]):,.0f} rows/s, the original way {statistics.median(theirs[1:]):,.0f} rows/s;"
        f" by round {', '.join(f'{ratio:.1f}' for ratio in ratios)}"
    )


def memory(server: InfluxServer) -> None:
    """5,000,000 candles made, encoded and sent a piece at a time: how much this process grows after the first 200,000."""
    rows = 5_000_000
    bucket = server.new_bucket()

    def made(since: int, until: int) -> Iterator[Lines]:
        for first in range(since, until, 50_000):
            opens = np.arange(START - first * MINUTE - 50_000 * MINUTE, START - first * MINUTE, MINUTE)
            yield from encoded(market(opens, first))

    sent(server, bucket, made(0, 200_000))
    gc.collect()
    before = resident_mb()
    with Peak() as peak:
        took = seconds(lambda: sent(server, bucket, made(200_000, rows)))
    row("growth while 5,000,000 candles are written", peak.mb - before, "MB", 50)
    print(f"    from {before:.0f} MB, {(rows - 200_000) / took:,.0f} rows/s, making them included")
    counted(server, bucket, rows)


def whole_store(server: InfluxServer) -> None:
    """The whole way of a store, with reading back, counting and ledger: pages of 5,000 through `Store.write`."""
    from chandlery.config import load_settings
    from chandlery.stores import open_store
    from chandlery.stores.base import Ask

    candles = year(min(ROWS, 300_000))
    series = SeriesId("binance", "BTC/USDT", "1m")
    pages = [page(series, candles.slice(n, 5_000)) for n in range(0, candles.height, 5_000)]
    for at_once in (1, 10):
        bucket = server.new_bucket()
        os.environ["INFLUXDB_TOKEN"] = server.token
        with open_store(server.store_url(bucket), settings=load_settings()) as store:
            answered = pages[0].page.answered
            whole = type(answered)(answered.since, pages[-1].page.answered.until)
            store.write([Ask(series, whole, pages[0].page.at, 0)])
            took = seconds(
                lambda store=store, at_once=at_once: [
                    store.write(pages[n : n + at_once]) for n in range(0, len(pages), at_once)
                ]
            )
        counted(server, bucket, candles.height)
        print(f"whole store, {at_once} pages of 5,000 a write: {candles.height / took:,.0f} rows/s")


# ---- memory of this process ------------------------------------------------------------------------------------------


def resident_mb() -> float:
    pages_ = int(Path("/proc/self/statm").read_text().split()[1])
    return pages_ * os.sysconf("SC_PAGE_SIZE") / 1e6


class Peak:
    """The most memory that this process has, looked at every 5 ms."""

    def __init__(self) -> None:
        self.mb = resident_mb()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.005):
            self.mb = max(self.mb, resident_mb())


def main() -> None:
    parts = [globals()[name] for name in sys.argv[1:]] or [memory, encoder, rate, original]
    program = find_program()
    if program is None:
        sys.exit("there is no InfluxDB 2 server; tools/influxd/install builds one")
    place = Path(tempfile.mkdtemp(prefix="bench-influx-", dir="."))
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, polars {pl.__version__}"
    )
    try:
        for part in parts:
            with InfluxServer(program, (place / part.__name__).resolve()) as server:
                part(server)
            shutil.rmtree(place / part.__name__)
    finally:
        shutil.rmtree(place)
        print(
            f"other work on this computer makes the last two worse: load {os.getloadavg()[0]:.1f} in the last minute"
        )


if __name__ == "__main__":
    main()
