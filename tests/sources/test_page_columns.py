"""Answers that come as columns give what ccxt gives: the same doubles, the same refusals."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import ccxt.async_support
import pytest

from chandlery.sources.ccxt_rows import rows_for
from chandlery.sources.page_columns import ColumnRows, column_rows, learnt_columns
from chandlery.sources.page_layouts import Layout, Layouts

from .page_maker import SWAP, Reader, answer, random_rows, rendered, same, theirs

NAMES = ("time", "open", "high", "low", "close", "vol")
NOON = 1_717_243_200


def page(**columns: str) -> bytes:
    """An answer of two candles, with these columns in place of the plain ones; without those that are empty."""
    plain = {
        "time": f"[{NOON},{NOON + 60}]",
        "open": "[1.5,2]",
        "close": "[1.25,3]",
        "high": "[2,3.5]",
        "low": "[1,1.5]",
    }
    plain |= {"vol": "[7,8.0]", "amount": "[9.5,1]"} | columns
    return _around(",".join(f'"{name}":{text}' for name, text in plain.items() if text))


def _around(text: str) -> bytes:
    return f'{{"success":true,"code":0,"data":{{{text}}}}}'.encode()


def read(body: bytes, folder: Path) -> tuple[Any, Any, int]:
    """What both ways make of an answer, and how many times it was not parsed row by row."""

    async def run() -> tuple[Any, Any, int]:
        columns = Reader("mexc", SWAP, folder, by_text=True)
        rows = Reader("mexc", SWAP, folder, by_text=False)
        try:
            return await columns.read(body), await rows.read(body), columns.read_as_columns
        finally:
            await columns.client.close()
            await rows.client.close()

    return asyncio.run(run())


PLAIN = {
    "numbers": page(),
    "one name twice": page(amount='[1,2],"open":[5,6]'),
    "signs and exponents": page(low="[-1.5E-7,-0.0]", vol="[1e22,1.18E-5]"),
    "long numbers": page(open="[9007199254740993,18446744073709551617]", close="[0.30000000000000004,9007199254740992.5]"),
    "blanks": page(open="[ 1.5,\n2 ]"),
    "a column that is no candle's": page(amount='[null,"x"]'),
    "newest first": page(time=f"[{NOON + 60},{NOON}]"),
    "something beside": page()[:-1] + b',"message":"x"}',
}  # fmt: skip


@pytest.mark.parametrize("name", PLAIN)
def test_plain_columns(name: str, tmp_path: Path) -> None:
    """Columns of numbers become the frame as they are, equal to what ccxt's own class makes of them."""
    found, usual, count = read(PLAIN[name], tmp_path)
    assert same(found, usual)
    assert count == 1
    frame = found[0].sort("time")
    assert [list(row) for row in frame.with_columns(frame["time"].to_physical()).rows()] == theirs(
        "mexc", SWAP, PLAIN[name]
    )


OTHER = {
    "a column too short": page(open="[1.5]"),
    "a column too long": page(vol="[7,8,9]"),
    "another column too short": page(amount="[1]"),
    "no times": page(time=""),
    "no prices": page(low=""),
    "no candles": page(**dict.fromkeys((*NAMES, "amount"), "[]")),
    "no columns": _around(""),
    "null": page(high="[null,2]"),
    "a column that is null": page(high="null"),
    "text of numbers": page(close='["1.5","2"]'),
    "text": page(close='[1.5,"x"]'),
    "a flag": page(vol="[true,2]"),
    "a list": page(vol="[[1],2]"),
    "not a number": page(low="[NaN,1]"),
    "no end": page(low="[1,Infinity]"),
    "too large": page(vol="[1e999,1]"),
    "too large without an exponent": page(vol=f"[{'9' * 400},1]"),
    "a time with a fraction": page(time=f"[{NOON}.5,{NOON + 60}]"),
    "a time with a point": page(time=f"[{NOON}.0,{NOON + 60}.0]"),
    "times in milliseconds": page(time=f"[{NOON}000,{NOON}001]"),
    "one time in milliseconds": page(time=f"[{NOON},{NOON}001]"),
    "a time without end": page(time=f"[{NOON},{'9' * 30}]"),
    "a time before all": page(time=f"[{NOON},-5]"),
    "times as text": page(time=f'["{NOON}","{NOON + 60}"]'),
    "a value beside the columns": page(amount="5"),
    "rows": b'{"success":true,"code":0,"data":[[1717243200,1,2,3,4,5]]}',
    "data is null": b'{"success":true,"code":0,"data":null}',
    "no data": b'{"success":true,"code":0}',
    "an error": b'{"success":false,"code":1001,"message":"Contract does not exist!"}',
    "an error of limits": b'{"success":false,"code":510,"message":"Requests are too frequent"}',
    "an error with candles": page().replace(b'true,"code":0', b'false,"code":600'),
    "columns by no name": page()[page().index(b"[") : page().rindex(b"]") + 1],
    "cut": page()[:-1],
    "cut within a number": page()[: page().rindex(b".")],
    "two answers": page() * 2,
    "nothing": b"",
}  # fmt: skip


@pytest.mark.parametrize("name", OTHER)
def test_anything_else_is_parsed_row_by_row(name: str, tmp_path: Path) -> None:
    """Whatever is not plain columns of numbers becomes the rows or the error that the usual way gives."""
    found, usual, count = read(OTHER[name], tmp_path)
    assert same(found, usual)
    assert count == 0


@pytest.mark.parametrize(("names", "ms", "digits"), [(NAMES, False, 10), (tuple("tohlcv"), True, 13)])
def test_ccxts_parser_tells_which_column_is_what(names: tuple[str, ...], ms: bool, digits: int) -> None:
    """Columns of any names and in any order are told by what ccxt makes of them, and seconds from milliseconds."""
    client = ccxt.async_support.mexc()
    order = (names[5], "more", *names[:5])

    def convert(data: Any) -> Any:
        return client.convert_trading_view_to_ohlcv(data, *names, ms)

    assert learnt_columns(order, digits, convert, client.parse_ohlcv) == Layout(2, digits, (3, 4, 5, 6, 0))
    assert learnt_columns(order, 23 - digits, convert, client.parse_ohlcv) is None
    assert learnt_columns(order[1:], digits, convert, client.parse_ohlcv) is None


RECKONING = {
    "doubles": lambda row: [row[0], row[1] * 2, *row[2:]],
    "means": lambda row: [row[0], (row[1] + row[3]) / 2, *row[2:]],
    "leaves out": lambda row: [row[0], None, *row[2:]],
    "gives five": lambda row: row[:5],
    "gives seven": lambda row: [*row, row[1]],
    "falls": lambda row: row[9],
    "looks at numbers": lambda row: row if row[1] % 2 else [row[0], row[2], row[1], *row[3:]],
    "gives none": lambda row: None,
}


@pytest.mark.parametrize("name", RECKONING)
def test_parsers_that_reckon_are_asked_for_each_row(name: str) -> None:
    """Where made-up numbers do not come out as they went in, each row is parsed as it is."""
    client = ccxt.async_support.mexc()
    data: dict[str, Any] = {"time": [NOON, NOON + 60], **{name: [1.5, 2.5] for name in NAMES[1:]}}
    rows = column_rows(data, lambda found: client.convert_trading_view_to_ohlcv(found, *NAMES), "", Layouts())
    assert isinstance(rows, ColumnRows)
    assert rows.columns("BTC", RECKONING[name]) is None
    assert rows.columns("ETH", client.parse_ohlcv) is not None
    assert list(rows) == [[NOON * 1000, *[1.5] * 5], [NOON * 1000 + 60_000, *[2.5] * 5]]
    frame = rows_for({"symbol": "ETH"})(rows, client.parse_ohlcv)
    assert frame["time"].to_physical().to_list() == [NOON * 1000, NOON * 1000 + 60_000]


def test_one_broken_page_spoils_nothing(tmp_path: Path, seed: int) -> None:
    """What a column is does not depend on the page that it was learnt with: after a broken one the next is read as columns."""
    rng = random.Random(seed)

    async def run() -> None:
        reader = Reader("mexc", SWAP, tmp_path, by_text=True)
        try:
            for body in (page(time="[5,6]"), page(open="[null,1]"), b"[", page(vol='["1",2]')):
                await reader.read(body)
                assert reader.read_as_columns == 0
            for done in range(1, 5):
                await reader.read(rendered(answer("mexc", SWAP, random_rows(rng))))
                assert reader.read_as_columns == done
        finally:
            await reader.client.close()

    asyncio.run(run())
