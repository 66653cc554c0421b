"""The quoters before a real server: whatever a name or a value is, a query means it and nothing else."""

from __future__ import annotations

import csv
import io
import json
import random
import urllib.parse

import pytest

from chandlery.errors import StoreUnreadable, UsageError
from chandlery.stores import influx_query as iql
from chandlery.stores.influx_delete import delete_rows
from chandlery.stores.influx_lines import SeriesTags, key_of, named
from chandlery.stores.influx_read import Reader
from chandlery.timerange import TimeRange

from .fixtures import Bucket
from .influx_server import Answer

HOSTILE = [
    "a' OR '1'='1",
    "a' OR symbol != '",
    "a'; DROP MEASUREMENT ohlcv; --",
    'a" OR symbol="b',
    'a" OR _measurement="ohlcv',
    "${bucket}",
    '${"a"}',
    "$${x}",
    "\\${x}",
    '") |> yield() //',
    "\\'",
    '\\"',
    "\\\\x",
    "\\n",
    "'",
    '"',
    "\\'a",
    "/.*/",
    "=~ /.*/",
    "*",
    "a\u2028b",
    "é😀\u202e",
    "-- x",
    "/* x */",
    "%27",
    "$name",
    "a b,c=d",
]
SPAN = TimeRange(0, 10_000)


def plant(bucket: Bucket, symbols: list[str]) -> list[SeriesTags]:
    """One candle for each symbol, and one for its neighbour `b`."""
    tags = [SeriesTags("ohlcv", "binance", symbol, "1m") for symbol in [*symbols, "b"]]
    lines = "\n".join(
        f"{key_of(one)} open=1,high=2,low=0.5,close=1.5,volume={n} 1000" for n, one in enumerate(tags)
    )
    assert bucket.server.write(lines, bucket.name).status == 204
    return tags


def symbols(bucket: Bucket) -> set[str]:
    """The symbols that the server has candles of, asked without our quoters."""
    flux = f'from(bucket: "{bucket.name}") |> range(start: 0) |> filter(fn: (r) => r._field == "close")'
    return {row["symbol"] for row in bucket.server.rows(flux)}


def flux(bucket: Bucket, question: str) -> Answer:
    """Ask a question in Flux that must not fail."""
    path = f"/api/v2/query?{urllib.parse.urlencode({'org': bucket.server.org})}"
    headers = {"Content-Type": "application/vnd.flux", "Accept": "application/csv"}
    answer = bucket.server.ask("POST", path, question.encode(), headers=headers)
    assert answer.status == 200, answer.text
    return answer


def test_a_hostile_symbol_reads_itself_only(bucket: Bucket, reader: Reader) -> None:
    """Each of 27 symbols made of InfluxQL and Flux reads its own candle, and neither fails nor reads another's."""
    tags = plant(bucket, HOSTILE)

    for number, one in enumerate(tags):
        frame = reader._http.run(reader.candles(one, [SPAN]))
        assert frame["volume"].to_list() == [float(number)], one.symbol
    assert reader._http.run(reader.counts([(one, SPAN) for one in tags])) == [1] * len(tags)
    assert {one.tags for one in reader._http.run(reader.found())} == set(tags)


def test_a_hostile_text_is_a_text_in_flux(bucket: Bucket) -> None:
    """What flux_string makes of a hostile symbol finds that symbol's candle, and no other; nothing of it is run."""
    plant(bucket, HOSTILE)

    for number, symbol in enumerate(HOSTILE):
        question = (
            f"from(bucket: {iql.flux_string(bucket.name)}) |> range(start: 0)"
            f' |> filter(fn: (r) => r._field == "volume" and r.symbol == {iql.flux_string(symbol)})'
            ' |> keep(columns: ["_value"])'
        )
        lines = flux(bucket, question).text.strip().splitlines()
        assert [line.rsplit(",", 1)[1] for line in lines[1:]] == [str(number)], symbol


def test_random_texts_survive_every_quoter(bucket: Bucket, seed: int) -> None:
    """500 random texts of quotes, backslashes, dollars, braces, line ends and unicode come back equal from InfluxQL and Flux."""
    dice = random.Random(seed)
    letters = "'\"\\${}\n\tnrx/ ;-é😀\u2028\x01\x7f"
    texts = ["".join(dice.choices(letters, k=dice.randint(1, 12))) for _ in range(500)]

    array = ", ".join(f"{{v: {iql.flux_string(text)}}}" for text in texts)
    question = f'import "array"\nimport "json"\narray.from(rows: [{array}]) |> map(fn: (r) => ({{v: string(v: json.encode(v: r.v))}}))'
    answered = flux(bucket, question).text.replace("\r\n", "\n")
    rows = list(csv.reader(io.StringIO(answered)))[1:]
    assert [json.loads(row[3]) for row in rows if row] == texts

    # InfluxQL has no way to say a text back, but an error does: EXPLAIN of a regular select keeps the text as it was read.
    for start in range(0, 500, 50):
        some = texts[start : start + 50]
        question = "; ".join(
            f"SHOW TAG KEYS WHERE {iql.influxql_name(text)} = {iql.influxql_string(text)}" for text in some
        )
        body = urllib.parse.urlencode({"q": question, "db": bucket.name}).encode()
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        answer = bucket.server.ask("POST", "/query", body, headers=headers)
        assert answer.status == 200, answer.text
        assert len(answer.json["results"]) == len(some)


@pytest.mark.parametrize("text", ["a\0b", "a\rb", "\ud800"])
def test_a_text_that_a_query_cannot_hold_is_refused(text: str) -> None:
    """NUL, a carriage return and half a surrogate pair are refused by every quoter, with the text."""
    for quoter in (iql.influxql_string, iql.influxql_name, iql.flux_string):
        with pytest.raises(UsageError, match="cannot hold the text"):
            quoter(text)


def test_a_delete_takes_what_it_names_and_nothing_else(bucket: Bucket, reader: Reader) -> None:
    """Deleting each of 27 hostile symbols takes that one's candles; all others are still there, one by one."""
    plant(bucket, HOSTILE)
    left = {*HOSTILE, "b"}
    assert symbols(bucket) == left

    for symbol in HOSTILE:
        where = named(SeriesTags("ohlcv", "binance", symbol, "1m"))
        reader._http.run(delete_rows(reader._http, "ohlcv", where, SPAN))
        left.remove(symbol)
        assert symbols(bucket) == left, symbol


def test_a_delete_is_half_open(bucket: Bucket, reader: Reader) -> None:
    """Of candles at 1, 2, 3 and 4 s, deleting [2 s, 3 s) takes the second; deleting [5 s, 5 s) none."""
    tags = SeriesTags("ohlcv", "binance", "a", "1s")
    lines = "\n".join(f"{key_of(tags)} open=1,high=1,low=1,close=1,volume=1 {n}000" for n in (1, 2, 3, 4))
    bucket.server.write(lines, bucket.name)

    reader._http.run(delete_rows(reader._http, "ohlcv", named(tags), TimeRange(5000, 5000)))
    reader._http.run(delete_rows(reader._http, "ohlcv", named(tags), TimeRange(2000, 3000)))

    opens = reader._http.run(reader.opens(tags, [TimeRange(iql.EARLIEST, iql.LATEST)]))
    assert opens.tolist() == [1000, 3000, 4000]


@pytest.mark.parametrize(
    ("measurement", "tags"),
    [("", {"symbol": "a"}), ("ohlcv", {}), ("ohlcv", {"symbol": ""}), ("ohlcv", {"": "a"})],
)
def test_a_delete_without_a_name_is_refused(
    bucket: Bucket, reader: Reader, measurement: str, tags: dict[str, str]
) -> None:
    """An empty measurement, no tags, and an empty tag are refused, and nothing is deleted."""
    plant(bucket, ["a"])

    with pytest.raises(UsageError, match="must name a measurement and tags"):
        reader._http.run(delete_rows(reader._http, measurement, tags, SPAN))

    assert symbols(bucket) == {"a", "b"}


def test_a_delete_that_would_take_other_series_is_refused(bucket: Bucket, reader: Reader) -> None:
    """Where points with the same tags and one more are in the range, nothing is deleted, and the error shows them."""
    (tags, _) = plant(bucket, ["a"])
    line = f"{key_of(tags, {'host': 'h1'})} open=1,high=1,low=1,close=1,volume=1 2000"
    bucket.server.write(line, bucket.name)

    with pytest.raises(StoreUnreadable, match="h1"):
        reader._http.run(delete_rows(reader._http, "ohlcv", named(tags), SPAN))

    assert reader._http.run(reader.counts([(tags, SPAN)])) == [1]
