"""Tags in InfluxDB's line protocol: complete escaping, and what would not read back is refused by name."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from chandlery.candle import SeriesId
from chandlery.errors import UsageError
from chandlery.stores.influx_lines import (
    LONGEST_KEY,
    SeriesTags,
    encode,
    key_of,
    tags_of,
    text_line,
)

from .fixtures import Bucket
from .scenes import MINUTE, START, TAGS, frame, hostile_text, influxql


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("", "symbol is empty"),
        ("a\nb", r"symbol 'a\\nb' has a control character"),
        ("a\rb", "control character"),
        ("a\tb", "control character"),
        ("a\x00b", "control character"),
        ("a\x7fb", "control character"),
        ("a\x85b", "control character"),
        ("a\\", "ends with a backslash"),
        ("a\\\\", "ends with a backslash"),
        ("a\\ b", "a backslash before a space"),
        ("a\\,b", "a backslash before a space, comma"),
        ("a\\=b", "a backslash before"),
        ("a\ud800b", "not Unicode text"),
        ("x" * 70_000, "symbol 'xxx.* is too long"),
    ],
)
@pytest.mark.parametrize("name", ["symbol", "exchange", "timeframe"])
def test_a_tag_that_would_not_read_back_is_refused_by_name(name: str, value: str, said: str) -> None:
    """What a tag cannot hold raises UsageError with the tag, the value, the reason and the mend."""
    tags = SeriesTags("ohlcv", **{"exchange": "e", "symbol": "s", "timeframe": "1m", name: value})

    with pytest.raises(UsageError, match=said.replace("symbol", name)) as error:
        key_of(tags)
    assert error.value.hint
    assert len(str(error.value)) < 200


def test_a_series_that_a_tag_cannot_hold_is_refused() -> None:
    """`tags_of` refuses a symbol that no tag can hold, before anything is encoded."""
    with pytest.raises(UsageError, match="control character"):
        tags_of(SeriesId("binance", "BTC/USDT\n", "1h"))


@pytest.mark.parametrize(
    "name", ["_field", "_measurement", "time", "", "a b", "a,b", "a=b", "a\nb", "#a", "é"]
)
def test_a_name_that_the_server_keeps_is_refused(name: str) -> None:
    """Names of tags and fields that are reserved, empty or need escaping are refused."""
    with pytest.raises(UsageError, match="a tag cannot be named"):
        key_of(TAGS, {name: "x"})
    with pytest.raises(UsageError, match="a field cannot be named"):
        text_line("a", {name: 1}, 0)


def test_more_tags_are_sorted_among_the_others() -> None:
    """Extra tags take their place in the order, and cannot replace one of the three."""
    key = key_of(SeriesTags("chandlery_ledger", "b", "A_B", "1m"), {"writer": "a b", "kind": "trade"})

    assert key == r"chandlery_ledger,exchange=b,kind=trade,symbol=A_B,timeframe=1m,writer=a\ b"
    with pytest.raises(UsageError, match="two tags are named symbol"):
        key_of(TAGS, {"symbol": "x"})


def test_the_longest_key_is_stored(bucket: Bucket) -> None:
    """A key of the greatest length that is let through is stored, and reads back whole."""
    tags = SeriesTags("ohlcv", "binance", "", "1m")
    room = LONGEST_KEY - len(key_of(SeriesTags("ohlcv", "binance", "x", "1m"))) + 1
    tags = SeriesTags("ohlcv", "binance", "é" * (room // 2), "1m")

    assert bucket.server.write(encode(tags, frame([START])).body, bucket.name).status == 204
    assert [row["symbol"] for row in influxql(bucket, 'SELECT close, symbol FROM "ohlcv"')] == [tags.symbol]


def test_random_tags_read_back_equal_or_are_refused(
    bucket: Bucket, seed: int, proven_count: Callable[[int], int]
) -> None:
    """20,000 random texts as symbol, exchange or timeframe: each is refused by name, or reads back equal; none collide."""
    dice = random.Random(seed)
    kept: dict[int, SeriesTags] = {}
    bodies: list[bytes] = []
    refused: list[str] = []
    seen: set[SeriesTags] = set()
    while len(seen) < proven_count(20_000):
        values = {
            "exchange": "e",
            "symbol": "s",
            "timeframe": "1m",
            dice.choice(["exchange", "symbol"]): hostile_text(dice),
        }
        values["timeframe"] = hostile_text(dice) if dice.random() < 0.3 else "1m"
        tags = SeriesTags("ohlcv", **values)
        if tags in seen:
            continue
        seen.add(tags)
        number = len(seen)
        try:
            body = encode(tags, frame([START + number], *[[float(number)]] * 5)).body
        except UsageError as error:
            refused.append(error.message)
            continue
        kept[number] = tags
        bodies.append(body)
    for first in range(0, len(bodies), 2_000):
        answer = bucket.server.write(b"".join(bodies[first : first + 2_000]), bucket.name)
        assert answer.status == 204, answer.text

    rows = influxql(bucket, 'SELECT close, exchange, symbol, timeframe FROM "ohlcv"')
    found = {
        int(float(row["close"])): SeriesTags("ohlcv", row["exchange"], row["symbol"], row["timeframe"])
        for row in rows
    }
    assert found == kept
    assert len(rows) == len(kept)
    assert all(int(row["time"]) == (START + int(float(row["close"]))) * 1_000_000 for row in rows)
    assert len(refused) < len(seen) // 2
    assert all(message.startswith(("exchange ", "symbol ", "timeframe ")) for message in refused)


@pytest.mark.parametrize(
    "symbol",
    ["A,exchange=evil", 'A" open=9,high="', "A =B,c=d", "#comment", '"', "A\\nB", "\\'", 'a\\b="'],
)
def test_a_hostile_symbol_is_one_series(bucket: Bucket, symbol: str) -> None:
    """A symbol that looks like line protocol is one series of that name with one point, and takes nothing from the next line."""
    lines = encode(tags_of(SeriesId("binance", symbol, "1m")), frame([START]))
    other = encode(TAGS, frame([START + MINUTE]))
    assert bucket.server.write(lines.body + other.body, bucket.name).status == 204
    rows = influxql(bucket, 'SELECT close, exchange, symbol FROM "ohlcv"')

    assert [(row["exchange"], row["symbol"]) for row in rows] == [
        ("binance", symbol),
        ("binance", "BTC_USDT"),
    ]


@pytest.mark.parametrize(
    "symbol", ["A open=9 1\nohlcv,symbol=B open=9", "A\r\nohlcv open=9", "A\\,B", "A\\ open=9,B=\\"]
)
def test_a_symbol_that_could_end_a_line_is_refused(symbol: str) -> None:
    """A symbol that would begin a line of its own, or unescape what follows it, is refused."""
    with pytest.raises(UsageError, match="symbol 'A"):
        tags_of(SeriesId("binance", symbol, "1m"))
