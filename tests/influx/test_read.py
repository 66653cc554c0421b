"""Reading from a real server: bit for bit, whole candles only, complete or an error, from the right bucket or from none."""

from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
import polars as pl
import pytest

from chandlery.candle import SCHEMA
from chandlery.stores import influx_read
from chandlery.stores.influx_lines import SeriesTags, encode, key_of, key_of_point, text_line
from chandlery.stores.influx_query import EARLIEST, LATEST
from chandlery.stores.influx_read import Found, Reader
from chandlery.timerange import TimeRange

from .fixtures import Bucket
from .influx_server import InfluxServer

MINUTE = 60_000
START = 1_672_531_200_000
TAGS = SeriesTags("ohlcv", "binance", "BTC_USDT", "1m")
ALL = [TimeRange(EARLIEST, LATEST)]


def random_candles(count: int, seed: int, start: int = START) -> pl.DataFrame:
    """Candles with doubles of all magnitudes, the extreme ones among them; every third minute has none."""
    dice = np.random.default_rng(seed)
    bits = dice.integers(0, 0x7FE0_0000_0000_0000, (5, count), dtype=np.int64) | (
        dice.integers(0, 2, (5, count), dtype=np.int64) << 63
    )
    values = bits.view(np.float64)
    odd = [
        0.0,
        -0.0,
        5e-324,
        -5e-324,
        1e21,
        1e-7,
        0.1,
        1.7976931348623157e308,
        2.2250738585072014e-308,
        2**53 + 1.0,
    ]
    values[:, : len(odd)] = odd[:count]
    opens = start + MINUTE * np.flatnonzero(np.arange(2 * count) % 3 != 2)[:count]
    columns = dict(zip(("open", "high", "low", "close", "volume"), values, strict=True))
    return pl.DataFrame({"time": opens, **columns}).cast({"time": SCHEMA["time"]})


def write(server: InfluxServer, bucket: str, tags: SeriesTags, frame: pl.DataFrame) -> None:
    """Write candles."""
    assert server.write(encode(tags, frame).body, bucket).status == 204


def bits(frame: pl.DataFrame) -> list[bytes]:
    """A frame as bytes, so that -0.0 is not 0.0."""
    return [column.to_physical().to_numpy().tobytes() for column in frame]


# ---- candles ---------------------------------------------------------------------------------------------------------


def test_candles_come_back_bit_for_bit(bucket: Bucket, reader: Reader, seed: int) -> None:
    """20,000 candles of random doubles, with the smallest, the largest and -0.0, come back with every bit, in any ranges."""
    frame = random_candles(20_000, seed)
    write(bucket.server, bucket.name, TAGS, frame)

    assert reader._http.run(reader.candles(TAGS, ALL)).schema == SCHEMA
    assert bits(reader._http.run(reader.candles(TAGS, ALL))) == bits(frame)
    assert reader._http.run(reader.opens(TAGS, ALL)).tolist() == frame["time"].to_physical().to_list()

    dice = random.Random(seed)
    cuts = sorted(dice.sample(range(START, START + 40_000 * MINUTE), 40))
    spans = [TimeRange(a, b) for a, b in zip(cuts[::2], cuts[1::2], strict=True)]
    shuffled = [*dice.sample(spans, len(spans)), TimeRange(5, 5), spans[3]]
    opened = pl.col("time").to_physical()
    inside = pl.any_horizontal([(opened >= span.since) & (opened < span.until) for span in spans])
    assert bits(reader._http.run(reader.candles(TAGS, shuffled))) == bits(frame.filter(inside))
    assert reader._http.run(reader.counts([(TAGS, span) for span in spans])) == [
        frame.filter((opened >= span.since) & (opened < span.until)).height for span in spans
    ]


def test_pieces_side_by_side_make_one_whole(
    bucket: Bucket, reader: Reader, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read in pieces of 1,000 candles, 7,000 candles come back equal and in order, and empty years cost no questions."""
    monkeypatch.setattr(influx_read, "PIECE", 1000)
    monkeypatch.setattr(influx_read, "SMALL", 100)
    frame = random_candles(7000, seed)
    write(bucket.server, bucket.name, TAGS, frame)

    assert len(reader._http.run(reader._pieces(TAGS, ALL))) < 20
    assert bits(reader._http.run(reader.candles(TAGS, ALL))) == bits(frame)
    assert reader._http.run(reader.opens(TAGS, ALL)).tolist() == frame["time"].to_physical().to_list()


def test_nothing_is_no_candles(bucket: Bucket, reader: Reader) -> None:
    """An empty bucket, and no ranges, give frames of the schema without rows, no opens, no series, no texts, and 0."""
    for spans in ([], ALL, [TimeRange(START, START + MINUTE)]):
        frame = reader._http.run(reader.candles(TAGS, spans))
        assert (frame.schema, frame.height) == (SCHEMA, 0)
        opens = reader._http.run(reader.opens(TAGS, spans))
        assert (opens.dtype == np.int64, len(opens)) == (True, 0)
    assert reader._http.run(reader.found()) == []
    assert reader._http.run(reader.texts("chandlery_ledger", {})) == []
    assert reader._http.run(reader.counts([(TAGS, ALL[0])])) == [0]
    assert reader._http.run(reader.counts([])) == []
    assert reader._http.run(reader.partial(TAGS, ALL)) == []


def test_times_before_and_around_1970_are_read(bucket: Bucket, reader: Reader) -> None:
    """Candles at the earliest time that the server holds, before 1970, at 0, and within its first seconds come back."""
    tags = SeriesTags("ohlcv", "x", "y", "1s")
    opens = [EARLIEST, -86_400_000, -1000, 0, 1000, 4000, 5000, LATEST - 1]
    frame = pl.DataFrame(
        {"time": opens, **{name: [float(n) for n in range(len(opens))] for name in list(SCHEMA)[1:]}}
    ).cast({"time": SCHEMA["time"]})
    write(bucket.server, bucket.name, tags, frame)

    assert bits(reader._http.run(reader.candles(tags, ALL))) == bits(frame)
    assert reader._http.run(reader.opens(tags, ALL)).tolist() == opens
    (found,) = reader._http.run(reader.found())
    assert (found.rows, found.first, found.last) == (8, EARLIEST, LATEST - 1)


def test_half_a_candle_is_none(bucket: Bucket, reader: Reader) -> None:
    """Points without all five fields, with a text for a price, or between two milliseconds are left out everywhere, and named."""
    key = key_of(TAGS)
    whole = "open=1,high=2,low=0.5,close=1.5,volume=9"
    lines = [f"{key} {whole} {START + n * MINUTE}000000" for n in (0, 1, 2, 9, 11, 12)]
    # One point lacks each of the five fields: every field is there equally often.
    fields = whole.split(",")
    for n, lacking in enumerate(fields):
        rest = ",".join(part for part in fields if part != lacking)
        lines.append(f"{key} {rest} {START + (3 + n) * MINUTE}000000")
    lines.append(f"{key} close=7 {START - MINUTE}000000")
    lines.append(f"{key} {whole} {START + 10 * MINUTE}000001")
    bucket.server.write("\n".join(lines), bucket.name, precision="ns")
    later = START + 60 * 86_400_000  # a shard of its own, where the field has another type
    bucket.server.write(
        f"{key} {whole.replace('open=1', 'open=' + chr(34) + '1' + chr(34))} {later}", bucket.name
    )

    good = [START + n * MINUTE for n in (0, 1, 2, 9, 11, 12)]
    assert reader._http.run(reader.candles(TAGS, ALL))["time"].to_physical().to_list() == good
    assert reader._http.run(reader.opens(TAGS, ALL)).tolist() == good
    odd = [START - MINUTE, *(START + n * MINUTE for n in range(3, 8)), START + 10 * MINUTE, later]
    assert reader._http.run(reader.partial(TAGS, ALL)) == odd
    (found,) = reader._http.run(reader.found())
    assert (found.first, found.last) == (good[0], good[-1])
    assert reader._http.run(reader.partial(TAGS, [TimeRange(START, START + 3 * MINUTE)])) == []


def test_points_with_another_tag_are_another_series(bucket: Bucket, reader: Reader) -> None:
    """Points with our three tags and one more neither mix into a series nor count, and are no series of their own."""
    bucket.server.write(
        f"{key_of(TAGS)} open=1,high=2,low=0.5,close=1.5,volume=9 {START}\n"
        f"{key_of(TAGS, {'host': 'a'})} open=8,high=8,low=8,close=8,volume=8 {START}\n"
        f"{key_of(TAGS, {'host': 'a'})} open=8,high=8,low=8,close=8,volume=8 {START + MINUTE}\n"
        f"ohlcv,symbol=BTC_USDT,timeframe=1m open=8,high=8,low=8,close=8,volume=8 {START + MINUTE}",
        bucket.name,
    )

    assert reader._http.run(reader.candles(TAGS, ALL))["volume"].to_list() == [9.0]
    assert reader._http.run(reader.counts([(TAGS, ALL[0])])) == [1]
    assert reader._http.run(reader.found()) == [Found(TAGS, 1, START, START)]


# ---- series and texts ------------------------------------------------------------------------------------------------


def test_all_series_of_all_kinds_are_found(bucket: Bucket, reader: Reader, seed: int) -> None:
    """200 series of the three kinds are found with their number of candles, first and last, whatever else is in the bucket."""
    dice = random.Random(seed)
    wanted = []
    lines = []
    for number in range(200):
        measurement = ("ohlcv", "ohlcv_mark", "ohlcv_index")[number % 3]
        tags = SeriesTags(measurement, f"x{number % 7}", f"C{number} ü,=", dice.choice(["1m", "1M", "1d"]))
        opens = sorted(dice.sample(range(1000), dice.randint(1, 9)))
        lines += [
            f"{key_of(tags)} open=1,high=2,low=0.5,close=1.5,volume=9 {START + n * MINUTE}" for n in opens
        ]
        wanted.append(Found(tags, len(opens), START + opens[0] * MINUTE, START + opens[-1] * MINUTE))
    lines += ["cpu,host=a close=1 1000", f'chandlery_ledger,exchange=x entry="e" {START}']
    bucket.server.write("\n".join(lines), bucket.name)

    assert reader._http.run(reader.found()) == sorted(wanted, key=lambda one: one.tags)
    asks = [(one.tags, ALL[0]) for one in wanted] * 3
    assert reader._http.run(reader.counts(asks)) == [one.rows for one in wanted] * 3


def test_texts_come_back_as_they_were(bucket: Bucket, reader: Reader) -> None:
    """JSON with quotes, commas, backslashes, unicode and escaped line ends comes back equal, in the order of time."""
    entries: list[dict[str, Any]] = [
        {"n": n, "t": 'a"b,c\\d\n=é😀\u2028\x01' * (n % 3), "k": [1.5, None]} for n in range(300)
    ]
    lines = []
    for n, entry in enumerate(entries):
        tags = {"exchange": f"x{n % 3}", "symbol": "B TC,=ü", "writer": f"w{n % 2}"}
        stamp = START * 1_000_000 + (n * 7919) % 300
        lines.append(
            text_line(
                key_of_point("chandlery_ledger", tags),
                {"entry": json.dumps(entry, ensure_ascii=n % 2 == 0)},
                stamp,
            )
        )
    bucket.server.write(b"\n".join(lines), bucket.name, precision="ns")

    everything = reader._http.run(reader.texts("chandlery_ledger", {}))
    assert [text.stamp_ns - START * 1_000_000 for text in everything] == list(range(300))
    assert [json.loads(text.text) for text in everything] == sorted(
        entries, key=lambda entry: (entry["n"] * 7919) % 300
    )
    assert {tuple(text.tags) for text in everything} == {("exchange", "symbol", "writer")}

    some = reader._http.run(reader.texts("chandlery_ledger", {"exchange": "x1", "symbol": "B TC,=ü"}))
    assert {json.loads(text.text)["n"] % 3 for text in some} == {1}
    assert len(some) == 100
    assert reader._http.run(reader.texts("chandlery_ledger", {}, field="none")) == []
