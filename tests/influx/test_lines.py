"""The lines of InfluxDB's line protocol: exactly the schema, every double and text, and what is refused by name."""

from __future__ import annotations

import csv
import json
import math
import random
import struct

import numpy as np
import polars as pl
import pytest

from chandlery.candle import VALUES, SeriesId
from chandlery.errors import UsageError
from chandlery.stores.influx_lines import (
    LAST_MS,
    LONGEST_TEXT,
    Lines,
    SeriesTags,
    encode,
    joined,
    key_of,
    tags_of,
    text_line,
)

from .fixtures import Bucket
from .scenes import MINUTE, START, TAGS, frame, hostile_text, influxql

# ---- candles ---------------------------------------------------------------------------------------------------------


def test_a_candle_is_the_line_of_the_schema() -> None:
    """A candle is one line with the tags sorted, the five fields as floats in the order of the schema, and its open time in ms."""
    lines = encode(TAGS, frame([START, START + MINUTE], *[[50000.0, n + 0.5] for n in range(5)]))

    assert lines.body.decode() == (
        "ohlcv,exchange=binance,symbol=BTC_USDT,timeframe=1m"
        " open=50000.0,high=50000.0,low=50000.0,close=50000.0,volume=50000.0 1704067200000\n"
        "ohlcv,exchange=binance,symbol=BTC_USDT,timeframe=1m open=0.5,high=1.5,low=2.5,close=3.5,volume=4.5 1704067260000\n"
    )
    assert lines.count == 2


@pytest.mark.parametrize(
    ("series", "tags"),
    [
        (SeriesId("binance", "BTC/USDT", "1h"), SeriesTags("ohlcv", "binance", "BTC_USDT", "1h")),
        (
            SeriesId("okx", "BTC/USDT:USDT", "1d", "mark"),
            SeriesTags("ohlcv_mark", "okx", "BTC_USDT:USDT", "1d"),
        ),
        (SeriesId("okx", "A/B/C", "1d", "index"), SeriesTags("ohlcv_index", "okx", "A_B_C", "1d")),
    ],
)
def test_a_series_is_called_as_the_schema_says(series: SeriesId, tags: SeriesTags) -> None:
    """The pair's slash becomes an underscore, and each kind of candles has its measurement."""
    assert tags_of(series) == tags


def test_no_candles_are_no_lines() -> None:
    """An empty frame is an empty body."""
    assert encode(TAGS, frame([])) == Lines(b"", 0)


def test_many_candles_are_as_many_lines() -> None:
    """A frame of more candles than become text in one go is one line for each, in their order."""
    opens = [START + n * MINUTE for n in range(45_001)]
    lines = encode(TAGS, frame(opens))

    assert lines.count == len(lines.split()) == 45_001
    assert [int(line.rpartition(b" ")[2]) for line in lines.split()] == opens


@pytest.mark.parametrize("bad", [None, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("place", [0, 20_000, 29_999])
def test_a_value_that_is_no_finite_number_is_named(bad: float | None, name: str, place: int) -> None:
    """A null, NaN or infinity in any field raises with the series and the open time; nothing is encoded."""
    columns: dict[str, list[float | None]] = {field: [1.0] * 30_000 for field in VALUES}
    columns[name][place] = bad
    when = f"{np.datetime64(START + place * MINUTE, 'ms').astype('datetime64[s]')}Z"

    with pytest.raises(
        ValueError, match=f"binance BTC_USDT 1m: the candle at {when} is not five finite"
    ) as error:
        encode(TAGS, frame([START + n * MINUTE for n in range(30_000)], *columns.values()))
    assert f"{name} {bad}" in str(error.value)


@pytest.mark.parametrize(
    ("opens", "said"),
    [
        ([START, START], "the candle at 2024-01-01T00:00:00Z does not follow"),
        ([START + MINUTE, START], "the candle at 2024-01-01T00:00:00Z does not follow"),
        ([START, LAST_MS + 1], "the open time 9223372036855 ms|the open time 2262-04-11T23:47:16Z"),
        ([-LAST_MS - 1], "the open time 1677-09-21T00:12:43Z"),
        ([1 << 62], "the open time 4611686018427387904 ms is none"),
        ([None], "the open time null"),
        ([*range(20_000), 19_999], "the candle at 1970-01-01T00:00:19Z does not follow"),
    ],
)
def test_a_time_that_cannot_be_is_named(opens: list[int], said: str) -> None:
    """An open time that comes twice, goes back, is missing or outside the server's range raises, and is named."""
    with pytest.raises(ValueError, match=said):
        encode(TAGS, frame(opens))


def test_a_frame_of_another_shape_is_refused() -> None:
    """A column of integers, a missing column or a time of another unit is no frame of candles."""
    good = frame([START])
    for bad in (
        good.with_columns(pl.col("volume").cast(pl.Int64)),
        good.drop("volume"),
        good.with_columns(pl.col("time").cast(pl.Datetime("us", "UTC"))),
    ):
        with pytest.raises(ValueError, match="not a frame of candles"):
            encode(TAGS, bad)


def test_columns_beyond_the_five_do_not_reach_a_line() -> None:
    """Extra columns of a frame, and the order of its columns, change nothing."""
    good = frame([START])
    more = good.with_columns(trades=pl.lit(7)).select("trades", *reversed(good.columns))

    assert encode(TAGS, more) == encode(TAGS, good)


def test_lines_are_put_together_and_taken_apart() -> None:
    """Joining parts keeps lines and their order, and splitting gives each line without its newline."""
    first, second = encode(TAGS, frame([START])), Lines.of([b"a b=1i 1", b"c d=2i 2"])
    whole = joined([first, second])

    assert whole.count == 3
    assert whole.split() == [first.body[:-1], b"a b=1i 1", b"c d=2i 2"]
    assert joined([]) == Lines.of([]) == Lines(b"", 0)
    with pytest.raises(AssertionError, match="1 rows became 2 lines"):
        Lines.of([b"a b=1i 1\nc d=2i 2"])


def test_every_double_reads_back_bit_for_bit(bucket: Bucket, seed: int) -> None:
    """Zero with its sign, subnormals, the largest double and random bit patterns read back as the same 64 bits."""
    dice = random.Random(seed)
    doubles = [
        0.0,
        -0.0,
        5e-324,
        -5e-324,
        2.225e-308,
        1.7976931348623157e308,
        1e15,
        1e16,
        1e22,
        123456789012345680.0,
    ]
    doubles += [0.1, 1 / 3, 1e-7, 1.5e-5, 50000.0, float(2**53), float(2**53 + 2), -1.0]
    while len(doubles) < 3_000:
        found = struct.unpack("<d", dice.randbytes(8))[0]
        doubles += [found] if math.isfinite(found) else []
    columns: list[list[float | None]] = [[*doubles[n:], *doubles[:n]] for n in range(5)]
    opens = [START + n * MINUTE for n in range(len(doubles))]

    answer = bucket.server.write(encode(TAGS, frame(opens, *columns)).body, bucket.name)
    assert answer.status == 204, answer.text
    rows = influxql(bucket, 'SELECT open, high, low, close, volume FROM "ohlcv"')

    assert [int(row["time"]) for row in rows] == [open_ * 1_000_000 for open_ in opens]
    for name, column in zip(VALUES, columns, strict=True):
        wanted = [struct.pack("<d", value) for value in column]
        assert [struct.pack("<d", float(row[name])) for row in rows] == wanted


def test_the_first_and_the_last_time_that_fit_read_back(bucket: Bucket) -> None:
    """The outermost open times that are let through are stored by the server as they are."""
    opens = [-LAST_MS, -1, 0, LAST_MS]
    assert bucket.server.write(encode(TAGS, frame(opens)).body, bucket.name).status == 204
    where = "time >= -9223372036854775806 AND time <= 9223372036854775806"
    rows = influxql(bucket, f'SELECT close FROM "ohlcv" WHERE {where}')

    assert [int(row["time"]) for row in rows] == [open_ * 1_000_000 for open_ in opens]


# ---- our own measurements --------------------------------------------------------------------------------------------


def test_a_text_reads_back_whole(bucket: Bucket, seed: int) -> None:
    """Texts with quotes, backslashes and any Unicode, up to the longest that is let through, read back equal."""
    dice = random.Random(seed)
    texts = [
        "",
        '"',
        "\\",
        '\\"',
        "a\\",
        '{"a": "b\\\\n\\u0000"}',
        "x" * LONGEST_TEXT,
        "é🜁",
        "a,b=c d",
        "\\n",
        "\x7f\x85",
    ]
    while len(texts) < 300:
        text = hostile_text(dice)
        texts += [text] if all(one >= " " and one != "\ud83d" for one in text) else []
    key = key_of(SeriesTags("chandlery_ledger", "e", "s", "1m"), {"kind": "trade"})
    lines = [
        text_line(key, {"entry": text, "number": n}, START * 1_000_000 + n) for n, text in enumerate(texts)
    ]
    assert not any(b"\n" in line for line in lines)

    for first in range(0, len(lines), 100):
        answer = bucket.server.write(Lines.of(lines[first : first + 100]).body, bucket.name, precision="ns")
        assert answer.status == 204, answer.text[:300]
    csv.field_size_limit(2_000_000)
    rows = influxql(bucket, 'SELECT entry, "number" FROM "chandlery_ledger"')

    assert [int(row["number"]) for row in rows] == list(range(len(texts)))
    assert [row["entry"] for row in rows] == texts


def test_a_field_keeps_its_type(bucket: Bucket) -> None:
    """Text, int and float fields are stored as string, integer and float, the whole range of 64 bits included."""
    fields = {
        "text": "a",
        "least": -(1 << 63),
        "most": (1 << 63) - 1,
        "yes": True,
        "number": 2.0,
        "small": 5e-324,
    }
    line = text_line(key_of(TAGS), fields, START * 1_000_000)

    assert line.endswith(
        b' text="a",least=-9223372036854775808i,most=9223372036854775807i,yes=1i,number=2.0,small=5e-324 '
        b"1704067200000000000"
    )
    assert bucket.server.write(line, bucket.name, precision="ns").status == 204
    types = {row["fieldKey"]: row["fieldType"] for row in influxql(bucket, "SHOW FIELD KEYS")}
    assert types == {
        "text": "string",
        "least": "integer",
        "most": "integer",
        "yes": "integer",
        "number": "float",
        "small": "float",
    }


@pytest.mark.parametrize(
    ("value", "error", "said"),
    [
        ("a\nb", UsageError, "control character"),
        ("a\x00b", UsageError, "control character"),
        ("a\ud800b", UsageError, "control character"),
        ("x" * (LONGEST_TEXT + 1), UsageError, "900,001 bytes"),
        ('"' * (LONGEST_TEXT // 2 + 1), UsageError, "900,002 bytes"),
        (1 << 63, ValueError, "does not fit 64 bits"),
        (math.nan, ValueError, "no number"),
        (math.inf, ValueError, "no number"),
    ],
)
def test_a_field_that_no_line_can_hold_is_refused(
    value: str | float, error: type[Exception], said: str
) -> None:
    """A text with a line break or too long, and a number that the server cannot hold, are refused by the field's name."""
    with pytest.raises(error, match=said) as raised:
        text_line("a", {"entry": value}, 0)
    assert "entry" in str(raised.value)


@pytest.mark.parametrize(
    ("key", "fields", "stamp"),
    [("", {"a": 1}, 0), ("a\nb", {"a": 1}, 0), ("a", {}, 0), ("a", {"a": 1}, 1 << 63)],
)
def test_a_line_that_is_none_is_refused(key: str, fields: dict[str, int], stamp: int) -> None:
    """A line without a key or fields, with a newline in its key or with a time outside 64 bits is refused."""
    with pytest.raises(ValueError):
        text_line(key, fields, stamp)


def test_json_is_always_a_text_that_a_line_can_hold(seed: int) -> None:
    """Whatever text JSON carries, its document has no character that a line refuses."""
    dice = random.Random(seed)
    for _ in range(200):
        text = hostile_text(dice)
        assert b"\n" not in text_line("a", {"entry": json.dumps(text)}, 0)
