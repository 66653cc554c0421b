"""Answers of nine exchanges, made of random candles, and what can be wrong with them; read by text and row by row."""

from __future__ import annotations

import asyncio
import json
import random
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ccxt.async_support
import numpy as np
import polars as pl

from chandlery.errors import DataPipelineError, RateLimited
from chandlery.sources.base import Traffic
from chandlery.sources.ccxt_client import Client
from chandlery.sources.ccxt_rows import rows_for
from chandlery.sources.http_requests import Answer
from chandlery.sources.pacing import Pacer
from chandlery.sources.page_layouts import ParseRow, UnreadRows, symbol_of

MINUTE = 60_000
SPOT, SWAP = "BTC/USDT", "BTC/USDT:USDT"
#: The markets of each exchange that have rows of a form of their own.
MARKETS = tuple(
    (name, symbol)
    for name in ("binance", "binanceusdm", "bybit", "okx", "kraken", "coinbase", "kucoin", "mexc", "bitget", "gate")
    for symbol in ((SWAP,) if name == "binanceusdm" else (SPOT,) if name in {"kraken", "coinbase"} else (SPOT, SWAP))
)  # fmt: skip

Row = dict[str, str]  # t, o, h, l, c, v and others, as numbers in text


def answer(exchange: str, symbol: str, rows: list[Row]) -> Any:
    """The document that holds these rows, as the exchange lays it out."""
    swap = symbol == SWAP
    ms, s = "t", "s"
    if exchange.startswith("binance"):
        return [
            [_n(r[ms]), *_pick(r, "ohlcv"), _n(r[ms]) + 59_999, r["q"], 7, r["v"], r["q"], "0"] for r in rows
        ]
    if exchange == "bybit":
        listed = [[r[ms], *_pick(r, "ohlcvq")] for r in rows]
        return {
            "retCode": 0, "retMsg": "OK", "result": {"symbol": "BTCUSDT", "list": listed}, "retExtInfo": {}, "time": 5,
        }  # fmt: skip
    if exchange == "okx":
        return {"code": "0", "msg": "", "data": [[r[ms], *_pick(r, "ohlcvvq"), "1"] for r in rows]}
    if exchange == "kraken":
        listed = [[_n(r[s]), *_pick(r, "ohlcqv"), 3] for r in rows]
        return {"error": [], "result": {"ID": listed, "last": 1_700_000_000}}
    if exchange == "coinbase":
        names = {"start": "s", "low": "l", "high": "h", "open": "o", "close": "c", "volume": "v"}
        return {"candles": [{name: r[key] for name, key in names.items()} for r in rows]}
    if exchange == "kucoin":
        listed = [[_n(r[ms]), *(_n(x) for x in _pick(r, "ohlcvq"))] if swap else [r[s], *_pick(r, "ochlvq")] for r in rows]  # fmt: skip
        return {"code": "200000", "data": listed}
    if exchange == "mexc" and swap:
        columns = {"time": [_n(r[s]) for r in rows]}
        columns |= {name: [_n(r[name[0]]) for r in rows] for name in ("open", "close", "high", "low", "vol")}
        columns |= {"amount": [_n(r["q"]) for r in rows], "realOpen": [_n(r["o"]) for r in rows]}
        return {"success": True, "code": 0, "data": columns}
    if exchange == "mexc":
        return [[_n(r[ms]), *_pick(r, "ohlcv"), _n(r[ms]) + 60_000, r["q"]] for r in rows]
    if exchange == "bitget":
        return {"code": "00000", "msg": "success", "requestTime": 5, "data": [[r[ms], *_pick(r, "ohlcvqq")] for r in rows]}  # fmt: skip
    assert exchange == "gate"
    if swap:
        return [{"o": r["o"], "v": _n(r["v"]), "t": _n(r[s]), "c": r["c"], "l": r["l"], "h": r["h"], "sum": r["q"]} for r in rows]  # fmt: skip
    last = len(rows) - 1
    return [[r[s], *_pick(r, "qchlov"), "false" if n == last else "true"] for n, r in enumerate(rows)]


def _pick(row: Row, keys: str) -> list[str]:
    return [row[key] for key in keys]


class _Bare(float):
    """A number with the digits that it was written with."""

    text: str

    def __repr__(self) -> str:
        return self.text


def _n(text: str) -> Any:
    if text.isdecimal():
        return int(text)
    found = _Bare(text)
    found.text = text
    return found


def rendered(document: Any) -> bytes:
    """Compact JSON, in which numbers keep their digits."""
    if isinstance(document, dict):
        return (
            b"{" + b",".join(json.dumps(k).encode() + b":" + rendered(v) for k, v in document.items()) + b"}"
        )
    if isinstance(document, list):
        return b"[" + b",".join(map(rendered, document)) + b"]"
    return repr(document).encode() if isinstance(document, _Bare) else json.dumps(document).encode()


def random_rows(rng: random.Random) -> list[Row]:
    """Rows as exchanges have them: with one number of decimals, or each with its own; long and short numbers."""
    start = rng.randrange(1_400_000_000, 1_800_000_000) // 60 * 60
    whole, places = rng.randrange(0, 7), rng.randrange(0, 10)
    steady, long = rng.random() < 0.5, rng.random() < 0.2

    def number(digits: int) -> str:
        decimals = places if steady else rng.randrange(0, 10)
        if long and rng.random() < 0.3:
            decimals, digits = rng.randrange(0, 20), rng.randrange(0, 19)
        left = str(rng.randrange(10**digits))
        return f"{left}.{''.join(rng.choices('0123456789', k=decimals))}" if decimals else left

    rows = []
    for n in range(rng.choice((1, 2, 3, 8, 20))):
        second = start + 60 * n
        row = {"s": str(second), "t": str(second * 1000), "v": number(whole + 2), "q": number(whole + 4)}
        rows.append(row | {key: number(whole) for key in "ohlc"})
    return rows[:: rng.choice((1, 1, -1))]


_WRONG = (
    "null", '""', '"NaN"', "NaN", '"text"', "1e5", '"1e5"', "-1", '"-1.5"', '"+1"', '" 1"', "1.", '"1."', ".5", '".5"',
    "01", '"01.5"', '"1_0"', "true", "false", "[]", "{}", "[1]", '"1.2.3"', "1.2.3", "1/2", '"1/2"', "17172000000000",
    "1717200000000.5", '"1717200000000.5"', "9" * 25, '"' + "9" * 25 + '"', '"0.' + "1" * 25 + '"', '"\\u0661"', '"\\ud800"',
    "0", '"0"', "1717200000", "999999999999", "",
)  # fmt: skip
_NUMBER = re.compile(rb'"?[0-9.]+"?')


def mutated(rng: random.Random, body: bytes) -> bytes:
    """An answer with something wrong: values replaced, bytes flipped, cut, doubled, moved."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        kind = rng.randrange(7)
        numbers = list(_NUMBER.finditer(body))
        at, other = rng.randrange(len(body)), rng.randrange(len(body))
        if kind <= 1 and numbers:
            match = rng.choice(numbers)
            body = body[: match.start()] + rng.choice(_WRONG).encode() + body[match.end() :]
        elif kind == 2:
            flipped = rng.choice((rng.randrange(256), *b'0123456789.",[]{}:-e tf/'))
            body = body[:at] + bytes([flipped]) + body[at + 1 :]
        elif kind == 3:
            body = body[:at] if rng.random() < 0.5 else body[:at] + body[at + rng.randrange(1, 9) :]
        elif kind == 4:
            low, high = sorted((at, other))
            body = body[:high] + body[low:high] + body[high:]
        elif kind == 5 and len(numbers) > 1:
            one, two = sorted(rng.sample(numbers, 2), key=lambda m: m.start())
            body = body[: one.start()] + two[0] + body[one.end() : two.start()] + one[0] + body[two.end() :]
        else:
            body = (
                body[:at]
                + rng.choice((b" ", b"\n", b",", b',"x"', b",5", b"0", b".", b'"', b"\\", b"\xff"))
                + body[at:]
            )
        if not body:
            return b"["
    return body


class _Still:
    """A clock that stands still, so that times in messages are the same."""

    def now_ms(self) -> int:
        return 1_717_200_030_000

    def monotonic(self) -> float:
        return 0.0

    async def sleep(self, _seconds: float) -> None:
        await asyncio.sleep(0)


class _Network:
    """Gives the answer that it is told to."""

    def __init__(self) -> None:
        self.body = b""

    async def send(self, _url: str, _method: str, _headers: Any, _body: Any) -> Answer:
        return Answer(200, {"content-type": "application/json"}, self.body)

    async def close(self) -> None:
        pass


class Reader:
    """One exchange's answers as chandlery reads them: `by_text`, or as columns where they come so; or row by row."""

    def __init__(self, exchange: str, symbol: str, folder: Path, *, by_text: bool) -> None:
        self.folder = folder
        self.client = Client(exchange, pacer=self._pacer(), traffic=Traffic())
        self.client.ccxt.set_markets([market_of(self.client.ccxt, symbol)])
        self.symbol = symbol
        self.network = _Network()
        self.client._requests = self.network  # type: ignore[assignment]
        self.layouts = self.client.layouts
        self.by_text = by_text
        self.read_as_columns = 0  # answers that were not parsed row by row

    def _pacer(self) -> Pacer:
        place = Path(tempfile.mkdtemp(dir=self.folder))
        return Pacer(clock=_Still(), state_dir=place, max_wait_seconds=1, share=1.0)

    async def read(self, body: bytes) -> tuple[pl.DataFrame, list[Any]] | str:
        """The frame and the raw rows that an answer becomes, or the error that it is refused with."""
        self.network.body = body
        self.client.layouts = self.layouts if self.by_text else None
        try:
            found, call = await self.client.call("fetch_ohlcv", self.symbol, "1m", 1_700_000_000_000, 100)
        except DataPipelineError as error:
            if isinstance(
                error, RateLimited
            ):  # the answer said so: the next one shall be asked for all the same
                self.client.pacer = self._pacer()
            return f"{type(error).__name__}: {error}"
        raw = call.rows if call.rows is not None else found
        if not isinstance(raw, list):
            return f"a {type(raw).__name__}"
        parse: ParseRow = lambda row: self.client.ccxt.parse_ohlcv(row, call.market)  # noqa: E731
        frame = rows_for(call.market)(raw, parse)
        self.read_as_columns += (
            isinstance(raw, UnreadRows) and raw.columns(symbol_of(call.market), parse) is not None
        )
        return frame, list(raw)


def market_of(exchange: Any, symbol: str) -> Mapping[str, Any]:
    """A market as ccxt has it after loading."""
    swap = symbol == SWAP
    made: Mapping[str, Any] = exchange.safe_market_structure(
        {
            "id": "ID", "symbol": symbol, "base": "BTC", "quote": "USDT", "type": "swap" if swap else "spot",
            "spot": not swap, "swap": swap, "contract": swap, "linear": True if swap else None, "option": False,
            "inverse": False if swap else None, "settle": "USDT" if swap else None, "future": False, "active": True,
            "contractSize": 1.0 if swap else None, "settleId": "usdt" if swap else None,
        }
    )  # fmt: skip
    return made


def same(one: tuple[pl.DataFrame, list[Any]] | str, other: tuple[pl.DataFrame, list[Any]] | str) -> bool:
    """Whether two readings are equal to the bit, not-a-number included."""
    if isinstance(one, str) or isinstance(other, str):
        return isinstance(one, str) and one == other
    if one[0].schema != other[0].schema or one[0].height != other[0].height:
        return False
    bits = [
        [column.to_physical().to_numpy().view(np.int64) for column in frame.get_columns()]
        for frame in (one[0], other[0])
    ]
    nans = [
        [np.isnan(column.to_numpy()) for column in frame.get_columns()[1:]] for frame in (one[0], other[0])
    ]
    equal = (bits[0][0] == bits[1][0]).all() and all(
        ((a == b) | (m & n)).all() for a, b, m, n in zip(bits[0][1:], bits[1][1:], *nans, strict=True)
    )
    return bool(equal) and repr(one[1]) == repr(other[1])


def theirs(exchange: str, symbol: str, body: bytes) -> list[list[Any]]:
    """What ccxt's own class, unchanged, makes of an answer."""

    async def run() -> list[list[Any]]:
        client = getattr(ccxt.async_support, exchange)({"enableRateLimit": False})
        client.set_markets([market_of(client, symbol)])

        async def fetch(*_: Any, **__: Any) -> Any:
            return client.parse_json(body.decode())

        client.fetch = fetch
        try:
            found: list[list[Any]] = await client.fetch_ohlcv(symbol, "1m")
            return found
        finally:
            await client.close()

    return asyncio.run(run())
