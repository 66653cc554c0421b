"""Pages that are read as text give what ccxt gives, row by row: the same doubles, the same refusals."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from chandlery.candle import SeriesId
from chandlery.exchange import ExchangeSettings, LocalExchange
from chandlery.sources import asking, ccxt_rows
from chandlery.sources.ccxt_rows import rows_to_frame
from chandlery.sources.page_layouts import Layouts, ParseRow, cut_page
from chandlery.sources.page_text import carve, form_of
from chandlery.timerange import TimeRange
from chandlery.validate import NO_ROW

from .page_maker import MARKETS, Reader, answer, mutated, random_rows, rendered, same, theirs


@pytest.mark.parametrize(("exchange", "symbol"), MARKETS)
def test_pages_of_each_exchange_are_read_as_text(
    exchange: str, symbol: str, tmp_path: Path, seed: int
) -> None:
    """Random pages in each exchange's layout are read without decoding a row, and equal what ccxt's own class gives."""
    rng = random.Random(f"{seed} {exchange} {symbol}")

    async def run() -> None:
        text = Reader(exchange, symbol, tmp_path, by_text=True)
        slow = Reader(exchange, symbol, tmp_path, by_text=False)
        try:
            for _ in range(30):
                body = rendered(answer(exchange, symbol, random_rows(rng)))
                found = await text.read(body)
                assert same(found, await slow.read(body)), body
                assert not isinstance(found, str), body
            assert text.read_as_columns == 30
            assert slow.read_as_columns == 0
        finally:
            await text.client.close()
            await slow.client.close()

    asyncio.run(run())


@pytest.mark.parametrize(("exchange", "symbol"), MARKETS)
def test_whole_walks_parse_no_row(
    exchange: str, symbol: str, opened: Callable[..., Any], walk: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 2,500 candles of each exchange (Kraken has 720), asked for over HTTP, none is parsed on its own, and all are right."""
    parsed: list[object] = []

    def seen(raw: Sequence[object], parse_row: ParseRow) -> pl.DataFrame:
        parsed.extend(raw)
        return rows_to_frame(raw, parse_row)

    monkeypatch.setattr(ccxt_rows, "rows_to_frame", seen)
    monkeypatch.setattr(asking, "rows_to_frame", seen)
    until = 1_717_200_000_000
    span = TimeRange(until - (700 if exchange == "kraken" else 2_500) * 60_000, until)
    settings = ExchangeSettings(exchange=exchange, weight_limit=0, clock="2024-06-01T00:00:30Z,0")

    async def main(url: str) -> Any:
        async with opened(url, exchange) as source:
            return await walk(source, SeriesId(exchange, symbol, "1m"), span)

    with LocalExchange(settings) as local:
        walked = asyncio.run(main(local.url))
        truth = local.truth(symbol, "1m", span.since, span.until)
    assert walked.error is None
    assert pl.concat(page.candles for page in walked.pages).equals(truth)
    assert parsed == []


@pytest.mark.parametrize(("exchange", "symbol"), MARKETS)
def test_numbers_are_those_of_ccxt(exchange: str, symbol: str, tmp_path: Path, seed: int) -> None:
    """A page's frame equals the candles of the unchanged ccxt class, to the bit."""
    rng = random.Random(f"{seed} {exchange} {symbol} theirs")
    body = rendered(answer(exchange, symbol, random_rows(rng)))

    async def run() -> object:
        reader = Reader(exchange, symbol, tmp_path, by_text=True)
        try:
            return await reader.read(body)
        finally:
            await reader.client.close()

    found = asyncio.run(run())
    assert isinstance(found, tuple)
    frame = found[0].sort("time")
    candles = theirs(exchange, symbol, body)
    assert [list(row) for row in frame.with_columns(frame["time"].to_physical()).rows()] == candles


@pytest.mark.parametrize(("exchange", "symbol"), MARKETS)
def test_spoilt_pages_are_refused_alike(exchange: str, symbol: str, tmp_path: Path, seed: int) -> None:
    """Whatever is wrong with an answer, it becomes the rows or the error that reading row by row gives."""
    rng = random.Random(f"{seed} {exchange} {symbol} spoilt")

    async def run() -> None:
        text = Reader(exchange, symbol, tmp_path, by_text=True)
        slow = Reader(exchange, symbol, tmp_path, by_text=False)
        try:
            for _ in range(40):
                body = mutated(rng, rendered(answer(exchange, symbol, random_rows(rng))))
                assert same(await text.read(body), await slow.read(body)), body
        finally:
            await text.client.close()
            await slow.client.close()

    asyncio.run(run())


@pytest.mark.parametrize(
    "rows",
    [
        b'[[1,"2"],[1,"2",3]]', b'[[1,"2"],["1",2]]', b'[[1,"2"],[1,2]]', b"[[1,02]]", b"[[1,2.]]", b"[[1,.2]]",
        b'[[1,"1.2.3"]]', b'[[1,""]]', b"[[1,]]", b"[[1,-2]]", b"[[1,2e5]]", b"[[1, 2]]", b"[[1,null]]", b"[[]]",
        b"[[1,[2]]]", b'[[1,"2/3"]]', b'[{"a":1,"a":2}]', b'[{"a":1},{"b":1}]', b'[{"a":1},[1]]', b'[[1,"a"]]', b"[[1,2],]",
        b'[["1"2]]', b'[[1,"2"3]]', b"[[1,2]3,[1,2]]", b"[[1,2],4[1,2]]", b"[[1,2][1,2]]",
    ],
)  # fmt: skip
def test_rows_that_are_not_alike_are_left_alone(rows: bytes) -> None:
    """Rows of two forms, and what is no plain number, are never cut out."""
    assert carve(rows) is None


def test_what_stands_around_the_rows_is_kept() -> None:
    """An answer is cut into what is before its rows, the rows, and what is after them."""
    body = b'{"code":"0","data":[[17,"1.5"],[18,"10"]],"more":{"x":[]}}'
    found = carve(body)
    assert found is not None
    head, rows, tail = found
    assert (head, tail) == (b'{"code":"0","data":[', b'],"more":{"x":[]}}')
    assert json.loads(rows.json()) == [[17, "1.5"], [18, "10"]]
    assert rows.numbers([1]).tolist() == [[1.5, 10.0]]
    assert json.loads(rows.first()) == [17, "1.5"]


@pytest.mark.parametrize("text", [b'[,"",]', b'{"a":,"b":""}', b'["true",]', b"[true,]"])
def test_forms(text: bytes) -> None:
    """A form has a field for each value: numbers with or without quotes, and flags."""
    form = form_of(text)
    assert form is not None
    assert len(form.fields) == text.count(b",") + 1


def test_doubles_are_those_of_float(seed: int) -> None:
    """Numbers of any length, with the point anywhere, become the doubles that float() makes of them."""
    rng = random.Random(seed)
    texts = [
        "".join(rng.choices("0123456789", k=rng.randrange(1, 30))) + rng.choice(("", "." + "".join(rng.choices("0123456789", k=rng.randrange(1, 30)))))
        for _ in range(20_000)
    ]  # fmt: skip
    texts += [
        "9007199254740993",
        "9007199254740992.5",
        "0.1",
        "123456789012345.6",
        "0.30000000000000004",
        "1" * 19,
    ]
    for some in (texts, [t for t in texts if len(t) < 17], [t for t in texts if len(t) < 9]):
        found = carve(("[" + ",".join(f'[1,"{text}"]' for text in some) + "]").encode())
        assert found is not None
        assert found[1].numbers([1])[0].tolist() == [float(text) for text in some]


def test_rows_that_were_copied_unseen_are_refused(tmp_path: Path) -> None:
    """A copy of undecoded rows that Python did not make has rows that are none: never an empty answer."""
    reader = Reader("binance", "BTC/USDT", tmp_path, by_text=True)
    page, _ = cut_page(b'[[1717196400000,"1"],[1717196460000,"2"]]', Layouts())
    assert page is not None
    assert list(page) == [[1717196400000, "1"], [1717196460000, "2"]]
    copied: list[object] = list.copy(page)
    assert copied == [None, None]
    frame = rows_to_frame(copied, reader.client.ccxt.parse_ohlcv)
    assert frame["time"].to_physical().to_list() == [NO_ROW, NO_ROW]
