"""What the tests of writing into InfluxDB are made of: candles, hostile texts, and what the server then has."""

from __future__ import annotations

import csv
import io
import random
import urllib.parse
from collections.abc import Callable

import polars as pl

from chandlery.candle import VALUES
from chandlery.stores.influx_lines import SeriesTags

from .fixtures import Bucket

START = 1_704_067_200_000
MINUTE = 60_000
TAGS = SeriesTags("ohlcv", "binance", "BTC_USDT", "1m")


def frame(opens: list[int], *values: list[float | None]) -> pl.DataFrame:
    """Candles; without values all five are their number and a half."""
    given = values or [[n + 0.5 for n in range(len(opens))]] * 5
    columns = {name: pl.Series(column, dtype=pl.Float64) for name, column in zip(VALUES, given, strict=True)}
    return pl.DataFrame({"time": pl.Series(opens, dtype=pl.Int64).cast(pl.Datetime("ms", "UTC")), **columns})


def influxql(bucket: Bucket, query: str) -> list[dict[str, str]]:
    """The rows of an InfluxQL query; `tags` as the server writes them, times in epoch ns."""
    asked = urllib.parse.urlencode({"org": bucket.server.org, "db": bucket.name, "q": query, "epoch": "ns"})
    answer = bucket.server.ask("POST", f"/query?{asked}", b"", headers={"Accept": "application/csv"})
    assert answer.status == 200, answer.text
    return list(csv.DictReader(io.StringIO(answer.text, newline="")))


def hostile_text(dice: random.Random) -> str:
    """A tag's value: short, and thick with what has a meaning somewhere."""
    meaning = [
        "\\",
        ",",
        "=",
        " ",
        '"',
        "'",
        "\\\\",
        "\\n",
        "#",
        "_",
        "/",
        ":",
        ";",
        "$",
        "{",
        "}",
        "`",
        "|>",
        "--",
    ]
    rare = [
        "\n",
        "\r",
        "\t",
        "\x00",
        "\x1b",
        "\x7f",
        "\x85",
        "\u2028",
        "\ufeff",
        "\ufffd",
        "\ufffe",
        "\ud83d",
        "\U0010ffff",
    ]
    kinds: list[Callable[[], str]] = [
        lambda: dice.choice(meaning),
        lambda: dice.choice("abcXYZ019"),
        lambda: dice.choice("éßğЖ漢字ก\u0301\u200d\u202e\U0001f701\U0001d518"),
        lambda: chr(dice.choice([*range(0xA0, 0xD800, 97), *range(0xE000, 0x110000, 997)])),
    ]
    text = "".join(dice.choice(kinds)() for _ in range(dice.randint(1, 12)))
    if dice.random() < 0.1:
        at = dice.randint(0, len(text))
        text = text[:at] + dice.choice(rare) + text[at:]
    return text
