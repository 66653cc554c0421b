"""Answers in the exchanges' layouts with invented numbers: lists, objects and columns; text and numbers; seconds,
milliseconds and dates; open-close-high-low and other orders; ascending and descending; nulls and rows that are wrong.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from chandlery.timeframe import HOUR
from chandlery.validate import OFF_GRID

from .answers import Answer, Candle

START = 1_700_002_800_000  # 2023-11-14T23:00Z

Row = tuple[
    int, str, str, str, str, str
]  # open time in ms; open, high, low, close, volume as the exchange writes them
Layout = Callable[[Sequence[Row]], Any]


def _invented(dice: random.Random, count: int = 24) -> list[Row]:
    """Candles of an hour each: prices and volumes of any size, in up to ten digits."""
    rows = []
    for n in range(count):
        digits = dice.randint(0, 8)
        low = dice.uniform(0.1, 10 ** dice.randint(0, 5))
        opened, close, high = (low + dice.uniform(0.01, low) for _ in range(3))
        high = max(opened, close, high)
        prices = [f"{max(value, 1):.{digits}f}" for value in (opened, high, low, close)]
        rows.append((START + n * HOUR, *prices, f"{dice.uniform(0, 1e6):.{dice.randint(0, 9)}f}"))
    return rows  # type: ignore[return-value]


def _iso(moment: int, end: str = ".000Z") -> str:
    return datetime.fromtimestamp(moment / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S") + end


def _numbers(row: Row) -> list[Any]:
    return [row[0], *map(float, row[1:])]


def _binance(rows: Sequence[Row]) -> Any:
    return [[t, o, h, low, c, v, t + HOUR - 1, "1.5", 7, "0.5", "0.7", "0"] for t, o, h, low, c, v in rows]


def _kraken(rows: Sequence[Row]) -> Any:
    listed = [[t // 1000, o, h, low, c, "1.0", v, 3] for t, o, h, low, c, v in rows]
    return {"error": [], "result": {"XBTUSDT": listed, "last": rows[-1][0] // 1000 - 3600}}


def _coinbase(rows: Sequence[Row]) -> Any:
    names = ("start", "open", "high", "low", "close", "volume")
    return {"candles": [dict(zip(names, (str(r[0] // 1000), *r[1:]), strict=True)) for r in reversed(rows)]}


def _okx(rows: Sequence[Row]) -> Any:
    listed = [[str(t), o, h, low, c, v, "5.5", "5.5", "1"] for t, o, h, low, c, v in reversed(rows)]
    return {"code": "0", "msg": "", "data": listed}


def _okx_swap(rows: Sequence[Row]) -> Any:
    listed = [[str(t), o, h, low, c, "77", v, "5.5", "1"] for t, o, h, low, c, v in reversed(rows)]
    return {"code": "0", "msg": "", "data": listed}


def _bybit(rows: Sequence[Row]) -> Any:
    listed = [[str(t), o, h, low, c, v, "5.5"] for t, o, h, low, c, v in reversed(rows)]
    return {"retCode": 0, "retMsg": "OK", "result": {"category": "spot", "symbol": "BTCUSDT", "list": listed}}


def _kucoin(rows: Sequence[Row]) -> Any:
    return {
        "code": "200000",
        "data": [[str(t // 1000), o, c, h, low, v, "5.5"] for t, o, h, low, c, v in reversed(rows)],
    }


def _bitget(rows: Sequence[Row]) -> Any:
    listed = [[str(t), o, h, low, c, v, "5.5", "5.5"] for t, o, h, low, c, v in rows]
    return {"code": "00000", "msg": "success", "requestTime": START, "data": listed}


def _gate(rows: Sequence[Row]) -> Any:
    return [[str(t // 1000), "5.5", c, h, low, o, v, "true"] for t, o, h, low, c, v in rows]


def _columns(rows: Sequence[Row]) -> Any:
    columns = list(zip(*map(_numbers, rows), strict=True))
    names = ("ticks", "open", "high", "low", "close", "volume")
    return {"jsonrpc": "2.0", "result": {**dict(zip(names, columns, strict=True)), "status": "ok"}}


def _mexc_swap(rows: Sequence[Row]) -> Any:
    times = [row[0] // 1000 for row in rows]
    columns = {
        name: [None if row[at] is None else row[at] if row[at] == "n/a" else float(row[at]) for row in rows]
        for name, at in (("open", 1), ("close", 4), ("high", 2), ("low", 3), ("vol", 5), ("amount", 5))
    }
    return {"success": True, "code": 0, "data": {"time": times, **columns}}


def _bitstamp(rows: Sequence[Row]) -> Any:
    names = ("timestamp", "open", "high", "low", "close", "volume")
    listed = [dict(zip(names, (str(r[0] // 1000), *r[1:]), strict=True)) for r in rows]
    return {"data": {"pair": "BTC/USDT", "ohlc": listed}}


def _upbit(rows: Sequence[Row]) -> Any:
    return [
        {
            "market": "USDT-BTC", "candle_date_time_utc": _iso(t, ""), "timestamp": t + 1234, "unit": 60,
            "opening_price": float(o), "high_price": float(h), "low_price": float(low), "trade_price": float(c),
            "candle_acc_trade_volume": float(v),
        }
        for t, o, h, low, c, v in reversed(rows)
    ]  # fmt: skip


def _hitbtc(rows: Sequence[Row]) -> Any:
    names = ("open", "max", "min", "close", "volume")
    return [{"timestamp": _iso(r[0]), **dict(zip(names, r[1:], strict=True))} for r in rows]


def _htx(rows: Sequence[Row]) -> Any:
    names = ("open", "high", "low", "close", "amount")
    listed = [
        {"id": r[0] // 1000, **dict(zip(names, map(float, r[1:]), strict=True))} for r in reversed(rows)
    ]
    return {"status": "ok", "ts": START, "ch": "market.btcusdt.kline.60min", "data": listed}


def _cryptocom(rows: Sequence[Row]) -> Any:
    listed = [dict(zip("ohlcv", r[1:], strict=True)) | {"t": r[0]} for r in rows]
    return {"id": -1, "code": 0, "result": {"interval": "1h", "data": listed, "instrument_name": "BTC_USDT"}}


def _poloniex(rows: Sequence[Row]) -> Any:
    return [
        [low, h, o, c, "1.5", v, "0.7", "0.3", 9, t + 5, "1.1", "HOUR_1", t, t + HOUR - 1]
        for t, o, h, low, c, v in rows
    ]


def _digifinex(rows: Sequence[Row]) -> Any:
    listed = [[t // 1000, v, c, h, low, o] for t, o, h, low, c, v in map(_numbers, rows)]
    return {"code": 0, "data": listed}


#: Exchange, symbol, and how it writes rows down.
LAYOUTS: Sequence[tuple[str, str, Layout]] = (
    ("binance", "BTC/USDT", _binance),
    ("binanceusdm", "BTC/USDT:USDT", _binance),
    ("bybit", "BTC/USDT", _bybit),
    ("bybit", "BTC/USDT:USDT", _bybit),
    ("okx", "BTC/USDT", _okx),
    ("okx", "BTC/USDT:USDT", _okx_swap),
    ("kraken", "BTC/USDT", _kraken),
    ("coinbase", "BTC/USDT", _coinbase),
    ("kucoin", "BTC/USDT", _kucoin),
    ("mexc", "BTC/USDT", lambda rows: [[*row, row[0] + HOUR, "5.5"] for row in rows]),
    ("mexc", "BTC/USDT:USDT", _mexc_swap),
    ("bitget", "BTC/USDT", _bitget),
    ("bitget", "BTC/USDT:USDT", _bitget),
    ("gate", "BTC/USDT", _gate),
    ("deribit", "BTC/USDT", _columns),
    ("bitstamp", "BTC/USDT", _bitstamp),
    ("bitfinex", "BTC/USDT", lambda rows: [[t, o, c, h, low, v] for t, o, h, low, c, v in map(_numbers, reversed(rows))]),
    ("coinbaseexchange", "BTC/USDT", lambda rows: [[t // 1000, low, h, o, c, v] for t, o, h, low, c, v in map(_numbers, reversed(rows))]),
    ("upbit", "BTC/USDT", _upbit),
    ("hitbtc", "BTC/USDT", _hitbtc),
    ("htx", "BTC/USDT", _htx),
    ("cryptocom", "BTC/USDT", _cryptocom),
    ("poloniex", "BTC/USDT", _poloniex),
    ("digifinex", "BTC/USDT", _digifinex),
)  # fmt: skip


def layouts(seed: int) -> list[Answer]:
    """A clean answer of every layout."""
    made = []
    for exchange, symbol, layout in LAYOUTS:
        rows = _invented(random.Random(f"{seed} {exchange} {symbol}"))
        candles: list[Candle] = [_numbers(row) for row in rows]
        made.append(
            Answer(
                f"made-{exchange}-{symbol}",
                exchange,
                symbol,
                "1h",
                layout(rows),
                candles,
                START,
                24,
                whole=True,
            )
        )
    return made


def _spoilt(kind: str, row: Row) -> tuple[Row, str]:
    t, o, h, low, c, v = row
    lost: Any = None
    cases: dict[str, tuple[Row, str]] = {
        "null price": ((t, o, lost, low, c, v), "a price is not a finite number"),
        "null volume": ((t, o, h, low, c, lost), "volume is not a finite number"),
        "no number": ((t, o, h, low, "n/a", v), "a price is not a finite number"),
        "off the grid": ((t + 7_000, o, h, low, c, v), OFF_GRID),
        "high below close": ((t, o, o, low, str(float(h) + 1), v), "high is below open or close"),
        "low above open": ((t, o, h, h + "9", c, v), "low is above open or close"),
        "negative volume": ((t, o, h, low, c, "-1"), "volume is below zero"),
        "no price": ((t, o, h, "0", c, v), "a price is not above zero"),
    }
    return cases[kind]


SPOILT = (
    "null price", "null volume", "no number", "off the grid", "high below close", "low above open", "negative volume",
    "no price",
)  # fmt: skip


def spoilt(seed: int) -> list[Answer]:
    """An answer with one wrong row, of every kind, in the layouts of the big exchanges."""
    made = []
    for exchange, symbol, layout in LAYOUTS[:14]:
        for kind in SPOILT:
            dice = random.Random(f"{seed} {exchange} {symbol} {kind}")
            rows = _invented(dice)
            place = dice.randrange(1, len(rows) - 1)
            candles: list[Candle] = [_numbers(row) for n, row in enumerate(rows) if n != place]
            rows[place], reason = _spoilt(kind, rows[place])
            made.append(
                Answer(
                    f"made-{exchange}-{symbol}-{kind}", exchange, symbol, "1h", layout(rows), candles, START, 24,
                    whole=True, refused=((rows[place][0], reason),),
                )
            )  # fmt: skip
    return made
