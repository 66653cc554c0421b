"""The content of exports: exact digits, names that harm nobody, many series and timeframes."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import random
import struct
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import chandlery.export
from chandlery.candle import SCHEMA, VALUES, SeriesId
from chandlery.export import digest, export_file
from chandlery.stores.memory import MemoryStore

from .exporting import BTC, ETH, HOUR, START, exported, keep, plain_store

# The values a float writer gets wrong first: shortest digits, exponents, the ends of the range, a signed zero.
EXTREMES = (
    1e-8,
    1e22,
    5e-324,
    0.1 + 0.2,
    -0.0,
    1.0,
    1e16,
    123456789.12345678,
    1.7976931348623157e308,
    1 / 3,
    1e-5,
    2.0**53,
)


def bits(value: float) -> bytes:
    """The eight bytes of a double: tells -0.0 from 0.0."""
    return struct.pack("<d", value)


def test_csv_is_what_the_contract_says() -> None:
    """The header, epoch milliseconds, rows ascending, and numbers as their shortest digits."""
    assert exported(plain_store(BTC), [BTC]).decode() == (
        "timestamp,open,high,low,close,volume\n"
        "1704067200000,100.5,103.0,99.0,101.0,7.25\n"
        "1704070800000,101.5,103.0,99.0,101.0,7.25\n"
        "1704078000000,103.5,103.0,99.0,101.0,7.25\n"
    )


def test_jsonl_has_the_same_keys() -> None:
    """Each line is one candle with csv's names as keys."""
    lines = exported(plain_store(BTC), [BTC], "jsonl").decode().splitlines()

    assert json.loads(lines[2]) == {
        "timestamp": START + 3 * HOUR,
        "open": 103.5,
        "high": 103.0,
        "low": 99.0,
        "close": 101.0,
        "volume": 7.25,
    }


def test_parquet_has_the_columns_of_a_frame(tmp_path: Path) -> None:
    """An exported Parquet file reads back as the frame that the store gives."""
    store = plain_store(BTC)
    export_file(store, [BTC], tmp_path / "x.parquet")

    assert pl.read_parquet(tmp_path / "x.parquet").equals(store.read(BTC))
    assert pl.read_parquet(tmp_path / "x.parquet").schema == SCHEMA


@pytest.mark.parametrize("fmt", ["csv", "jsonl", "parquet"])
def test_several_series_are_told_apart(fmt: str) -> None:
    """With several series each row leads with exchange, symbol and timeframe, in the order asked."""
    content = exported(plain_store(BTC, ETH), [ETH, BTC], fmt)
    read = {"csv": pl.read_csv, "jsonl": pl.read_ndjson, "parquet": pl.read_parquet}[fmt]
    frame = read(io.BytesIO(content))

    assert frame.columns[:3] == ["exchange", "symbol", "timeframe"]
    assert frame["symbol"].to_list() == ["ETH/USDT"] * 3 + ["BTC/USDT"] * 3
    assert frame["timeframe"].to_list() == ["4h"] * 3 + ["1h"] * 3
    assert frame["open"].to_list() == [101.5, 102.5, 104.5, 100.5, 101.5, 103.5]


def test_bounds_are_half_open() -> None:
    """`since` is exported, `until` is not."""
    text = exported(plain_store(BTC), [BTC], since=START + HOUR, until=START + 3 * HOUR).decode()

    assert [line.split(",")[0] for line in text.splitlines()[1:]] == [str(START + HOUR)]


@pytest.mark.parametrize("fmt", ["csv", "jsonl", "parquet"])
def test_a_range_without_candles_is_an_empty_file_of_its_kind(fmt: str) -> None:
    """Nothing in the range: a header, no line, or a Parquet file of the right columns without rows."""
    content = exported(plain_store(BTC), [BTC], fmt, until=START)

    if fmt == "parquet":
        assert pl.read_parquet(io.BytesIO(content)).schema == SCHEMA
        assert pl.read_parquet(io.BytesIO(content)).height == 0
    else:
        assert content.decode() == ("timestamp,open,high,low,close,volume\n" if fmt == "csv" else "")


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.one_of(st.floats(allow_nan=False, allow_infinity=False), st.sampled_from(EXTREMES)),
        min_size=5,
        max_size=40,
    )
)
def test_text_reads_back_to_the_same_doubles(numbers: list[float]) -> None:
    """Any finite double in csv and jsonl reads back to the same eight bytes, in no more digits than Python needs."""
    rows = {n: tuple(numbers[(n + k) % len(numbers)] for k in range(5)) for n in range(len(numbers))}
    store = MemoryStore()
    keep(store, BTC, rows)
    stored = [value for slot in sorted(rows) for value in rows[slot]]

    table = list(csv.reader(io.StringIO(exported(store, [BTC]).decode())))[1:]
    cells = [cell for line in table for cell in line[1:]]
    objects = [json.loads(line) for line in exported(store, [BTC], "jsonl").decode().splitlines()]

    assert [bits(float(c)) for c in cells] == [bits(v) for v in stored]
    assert [bits(o[name]) for o in objects for name in VALUES] == [bits(v) for v in stored]
    assert all(_digits(c) <= _digits(repr(v)) for c, v in zip(cells, stored, strict=True))


def _digits(text: str) -> int:
    """How many significant digits a number is written with."""
    return len(text.lstrip("-").split("e")[0].replace(".", "").strip("0"))


def test_a_csv_of_random_doubles_reads_back(seed: int) -> None:
    """A hundred thousand doubles of random bits survive the csv bit for bit."""
    rng = random.Random(seed)
    numbers: list[float] = []
    while len(numbers) < 100_000:
        value = struct.unpack("<d", rng.randbytes(8))[0]
        if abs(value) < float("inf"):
            numbers.append(value)
    store = MemoryStore()
    keep(store, BTC, {n: tuple(numbers[5 * n : 5 * n + 5]) for n in range(20_000)})

    lines = exported(store, [BTC]).decode().splitlines()[1:]

    read = [float(cell) for line in lines for cell in line.split(",")[1:]]
    assert struct.pack("<100000d", *read) == struct.pack("<100000d", *numbers)


@pytest.mark.parametrize("name", ["=1+1", "+cmd", "-2", "@sum", "=CMD|' /C calc'!A0"])
def test_a_symbol_is_no_formula_in_csv(name: str) -> None:
    """A symbol that a spreadsheet would run as a formula has an apostrophe before it in csv, and only there."""
    hostile = SeriesId("binance", f"{name}/USDT", "1h")
    store = plain_store(BTC, hostile)

    table = list(csv.DictReader(io.StringIO(exported(store, [BTC, hostile]).decode(), newline="")))
    objects = [json.loads(x) for x in exported(store, [BTC, hostile], "jsonl").decode().splitlines()]

    assert {row["symbol"] for row in table} == {"BTC/USDT", f"'{name}/USDT"}
    assert {o["symbol"] for o in objects} == {"BTC/USDT", f"{name}/USDT"}


def test_a_csv_holds_no_control_character() -> None:
    """NUL, line breaks, escapes and direction marks in a symbol are written out in csv; jsonl gives the very name back."""
    name = "a\x00b\nc\rd\te\x1b[2J\x7f\x9b\u202ef"
    series = [BTC, SeriesId("binance", name, "1h"), SeriesId("binance", f"\t={name}", "1h")]
    store = plain_store(*series)

    text = exported(store, series).decode()
    objects = [json.loads(x) for x in exported(store, series, "jsonl").decode().split("\n") if x]

    assert all(c.isprintable() or c == "\n" for c in text)
    assert len(text.splitlines()) == 1 + 9
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    shown = r"a\x00b\nc\rd\te\x1b[2J\x7f\x9b\u202ef"
    assert {row["symbol"] for row in rows} == {"BTC/USDT", shown, rf"\t={shown}"}
    assert {o["symbol"] for o in objects} == {"BTC/USDT", name, f"\t={name}"}


def test_hostile_symbols_stay_in_their_cell() -> None:
    """Commas and quotes in a symbol are quoted, so that the csv reads back to the same names."""
    names = ['a,b"c', "ünï", "x" * 300]
    series = [SeriesId("binance", name, "1h") for name in names]

    table = csv.DictReader(io.StringIO(exported(plain_store(*series), series).decode(), newline=""))

    assert [row["symbol"] for row in table] == [name for name in names for _ in range(3)]


def test_a_kind_other_than_trade_adds_its_column() -> None:
    """Trade and mark candles of one symbol are told apart by a column `kind`."""
    mark = SeriesId("binance", "BTC/USDT", "1h", "mark")
    text = exported(plain_store(BTC, mark), [BTC, mark]).decode()

    assert text.splitlines()[0].startswith("exchange,symbol,timeframe,kind,timestamp")
    assert [line.split(",")[3] for line in text.splitlines()[1:]] == ["trade"] * 3 + ["mark"] * 3


@pytest.mark.parametrize("fmt", ["csv", "jsonl", "parquet"])
def test_reading_in_pieces_changes_nothing(fmt: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An export that is read two slots at a time has the same content as one read at once."""
    store = plain_store(BTC, ETH)
    whole = exported(store, [BTC, ETH], fmt)
    monkeypatch.setattr(chandlery.export, "SLOTS_AT_ONCE", 2)

    pieces = exported(store, [BTC, ETH], fmt)

    if fmt == "parquet":
        assert pl.read_parquet(io.BytesIO(pieces)).equals(pl.read_parquet(io.BytesIO(whole)))
    else:
        assert pieces == whole


@pytest.mark.parametrize("timeframe", ["1m", "15m", "1h", "1d", "1w", "1M", "3M", "1y"])
def test_every_timeframe_is_exported(timeframe: str) -> None:
    """Fixed timeframes, weeks, months and years come out whole."""
    series = SeriesId("binance", "BTC/USDT", timeframe)
    store = MemoryStore()
    keep(store, series, dict.fromkeys(range(30), (1.0, 2.0, 0.5, 1.5, 9.0)))
    lines = exported(store, [series]).decode().splitlines()
    opens = [series.frame.add(START, n) for n in range(30)]
    assert [int(line.split(",")[0]) for line in lines[1:]] == opens


def test_more_than_there_ever_was_is_all_there_is() -> None:
    """The newest 100,000 months of a store are those that it has."""
    series = SeriesId("binance", "BTC/USDT", "1M")
    store = MemoryStore()
    keep(store, series, dict.fromkeys(range(30), (1.0, 2.0, 0.5, 1.5, 9.0)))
    assert store.newest(series, 100_000).height == 30


def test_the_digest_is_that_of_the_csv() -> None:
    """`digest` is what sha256sum says of the csv export, of the series named or of all in the store's order."""
    store = plain_store(ETH, BTC)

    assert digest(store, BTC) == hashlib.sha256(exported(store, [BTC])).hexdigest()
    assert digest(store) == hashlib.sha256(exported(store, [BTC, ETH])).hexdigest()
    assert digest(store) != digest(plain_store(BTC, SeriesId("binance", "ETH/USDT", "2h")))
