"""What every shape of exchange must do, asked by the real ccxt class of each over HTTP."""

from __future__ import annotations

from typing import Any

import ccxt.async_support as ccxt
import pytest

from chandlery.exchange import ExchangeSettings, Fault, Faults, LocalExchange
from chandlery.exchange.outages import outages
from chandlery.exchange.server import _Mount
from chandlery.exchange.shapes import SHAPES, shape_of

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
MIDNIGHT = 1_717_200_000_000  # 2024-06-01
ROWS = {
    "binance": 1000,
    "binanceusdm": 1000,
    "bybit": 1000,
    "okx": 100,
    "kraken": 720,
    "coinbase": 300,
    "kucoin": 1500,
    "mexc": 500,
    "bitget": 200,
    "gate": 1000,
}
#: Rows of a page of a swap, where they are others.
SWAP_ROWS = {"mexc": 2000, "gate": 1999, "kucoin": 200}
#: Rows of a page of a timeframe, by exchange and symbol, where they are fewer.
FEWER_ROWS = {("bitget", "BTC/USDT:USDT", "1w"): 13, ("bitget", "BTC/USDT:USDT", "1M"): 4}
#: Timeframes that an exchange has for the other kind of market only.
NOT_OFFERED = {("kucoin", "BTC/USDT:USDT", "6h"), ("kucoin", "BTC/USDT:USDT", "1M")}
PATHS = {
    "binance": "/api/v3/klines",
    "binanceusdm": "/fapi/v1/klines",
    "bybit": "/v5/market/kline",
    "okx": "/api/v5/market/candles",
    "kraken": "/0/public/OHLC",
    "coinbase": "/api/v3/brokerage/market/products/BTC-USDT/candles",
    "kucoin": "/api/v1/market/candles",
    "mexc": "/api/v1/contract/kline/BTC_USDT",
    "bitget": "/api/v2/mix/market/candles",
    "gate": "/api/v4/futures/usdt/candlesticks",
}
QUERIES: dict[str, dict[str, Any]] = {
    "binance": {"symbol": "BTCUSDT", "interval": "1m", "startTime": MIDNIGHT - 20 * MINUTE, "limit": 10},
    "binanceusdm": {"symbol": "BTCUSDT", "interval": "1m", "startTime": MIDNIGHT - 20 * MINUTE, "limit": 10},
    "bybit": {
        "category": "linear",
        "symbol": "BTCUSDT",
        "interval": "1",
        "start": MIDNIGHT - 20 * MINUTE,
        "limit": 10,
    },
    "okx": {
        "instId": "BTC-USDT-SWAP",
        "bar": "1m",
        "before": MIDNIGHT - 20 * MINUTE - 1,
        "after": MIDNIGHT - 10 * MINUTE,
        "limit": 10,
    },
    "kraken": {"pair": "XBTUSDT", "interval": "1", "since": (MIDNIGHT - 10 * MINUTE) // 1000},
    "coinbase": {
        "granularity": "ONE_MINUTE",
        "start": (MIDNIGHT - 20 * MINUTE) // 1000,
        "end": (MIDNIGHT - 11 * MINUTE) // 1000,
    },
    "kucoin": {
        "symbol": "BTC-USDT",
        "type": "1min",
        "startAt": (MIDNIGHT - 20 * MINUTE) // 1000,
        "endAt": (MIDNIGHT - 10 * MINUTE) // 1000,
    },
    "mexc": {
        "interval": "Min1",
        "start": (MIDNIGHT - 20 * MINUTE) // 1000,
        "end": (MIDNIGHT - 10 * MINUTE) // 1000,
    },
    "bitget": {
        "symbol": "BTCUSDT",
        "productType": "USDT-FUTURES",
        "granularity": "1m",
        "startTime": MIDNIGHT - 20 * MINUTE,
        "endTime": MIDNIGHT - 10 * MINUTE,
    },
    "gate": {
        "contract": "BTC_USDT",
        "interval": "1m",
        "from": (MIDNIGHT - 20 * MINUTE) // 1000,
        "to": (MIDNIGHT - 11 * MINUTE) // 1000,
    },
}
LISTS = {
    "bybit": ("result", "list"),
    "okx": ("data",),
    "kraken": ("result", "XBTUSDT"),
    "coinbase": ("candles",),
    "kucoin": ("data",),
    "mexc": ("data",),
    "bitget": ("data",),
}
#: Exchanges that answer with columns, and those of time, prices and volume.
COLUMNS = {"mexc": ("time", "open", "high", "low", "close", "vol")}
#: How many candles back an exchange gives any.
DEPTHS = {"kraken": 720, "gate": 10_000}
SECONDS = {"kraken", "coinbase", "kucoin", "mexc", "gate"}
#: Exchanges that give a swap's volume in contracts, of the smallest lot each.
CONTRACTS = {"mexc", "gate", "kucoin"}
#: Where the volume of a row stands, if not at 5.
VOLUMES: dict[str, Any] = {"kraken": 6, "coinbase": "volume", "gate": "v"}
EVERY = pytest.mark.parametrize("name", list(SHAPES))
TIMEFRAMES = [
    (name, timeframe)
    for name in SHAPES
    for timeframe in ("1m", "1h", "4h", "6h", "1d", "1w", "1M")
    if timeframe in shape_of(name).timeframes()
    and (timeframe not in {"4h", "1d"} or name in {"kraken", "coinbase"})
]


def _symbols(name: str) -> list[str]:
    symbols = [listing.symbol for listing in shape_of(name).pairs]
    return [s for s in ("BTC/USDT", "BTC/USDT:USDT") if s in symbols]


def _most_rows(name: str, symbol: str) -> int:
    return SWAP_ROWS.get(name, ROWS[name]) if ":" in symbol else ROWS[name]


def _asked(name: str) -> str:
    """The symbol that `PATHS` and `QUERIES` ask for."""
    return _symbols(name)[0 if name in {"binance", "kucoin"} else -1]


def _rows(name: str, body: Any) -> list[Any]:
    for step in LISTS.get(name, ()):
        body = body[step]
    if name in COLUMNS:
        return [list(row) for row in zip(*(body[column] for column in COLUMNS[name]), strict=True)]
    return list(body)


def _base(name: str, symbol: str, rows: list[list[float]]) -> list[list[float]]:
    """Rows of ccxt with the volume in the base currency."""
    pair = next(pair for pair in shape_of(name).pairs if pair.symbol == symbol)
    if name not in CONTRACTS or pair.settle is None:
        return rows
    return [[*row[:5], row[5] / 10**pair.volume_decimals] for row in rows]


def _opened(name: str, row: Any) -> int:
    """A raw row's open time in milliseconds."""
    return int(_values(row)[0]) * (1000 if name in SECONDS else 1)


def _values(row: Any) -> list[Any]:
    return list(row.values()) if isinstance(row, dict) else list(row)


def _volume(name: str, row: Any) -> float:
    return float(row[VOLUMES.get(name, 5)])


def test_every_shape_is_tried() -> None:
    """No exchange that can be played is left out of this file."""
    assert set(SHAPES) == set(ROWS) == set(PATHS) == set(QUERIES)


@EVERY
def test_markets_load(several: Any, name: str) -> None:
    """load_markets of the real class gives every pair that is listed, with its precisions and kind."""
    markets = several.talk(name, lambda client: client.load_markets())

    listed = {pair.symbol: pair for pair in shape_of(name).pairs}
    traded = {symbol for symbol, pair in listed.items() if pair.delisted is None}
    assert traded <= set(markets) <= set(listed)
    assert {symbol for symbol, market in markets.items() if market["active"]} == traded
    for symbol in traded:
        market, pair = markets[symbol], listed[symbol]
        assert market["precision"]["price"] == pytest.approx(10**-pair.price_decimals)
        assert market["swap"] == (pair.settle is not None)
        assert market["linear"] is (True if pair.settle else None)


@EVERY
def test_time(several: Any, name: str) -> None:
    """fetch_time is the exchange's clock."""
    assert several.talk(name, lambda client: client.fetch_time()) == several.clock.now


@pytest.mark.parametrize(("name", "timeframe"), TIMEFRAMES)
def test_candles_are_the_truth(several: Any, name: str, timeframe: str) -> None:
    """Pages from a `since` on a candle, inside one and before the listing are the truth of exactly that stretch."""
    frame = shape_of(name).timeframes()[timeframe]

    async def walk(client: Any) -> None:
        for symbol in _symbols(name):
            if (name, symbol, timeframe) in NOT_OFFERED:
                continue
            rows = FEWER_ROWS.get((name, symbol, timeframe), _most_rows(name, symbol))
            back = min(3000, DEPTHS.get(name, 3000) - 10)
            opened = frame.floor(MIDNIGHT - min(back * frame.nominal_ms, 400 * DAY))
            whole = several.truth(name, symbol, timeframe, opened, several.clock.now)
            for since in (opened, opened + 1, frame.next(opened) - 1, frame.add(frame.floor(MIDNIGHT), -7)):
                page = await client.fetch_ohlcv(symbol, timeframe, since=since, limit=rows)
                page = _base(name, symbol, page)
                until = since + rows * frame.nominal_ms
                truth = [row for row in whole if row[0] >= since][:rows]
                if timeframe != "1M":
                    truth = [row for row in truth if row[0] < until]
                closed = [row for row in page if frame.next(row[0]) <= several.clock.now]
                assert closed == truth[: len(closed)]
                # A window of time may end before the rows of a page do, but no earlier.
                assert len(closed) >= min(len(truth), frame.count(since, until) - 1)
                assert closed

    several.talk(name, walk)


@EVERY
def test_walk_over_page_edges(several: Any, name: str) -> None:
    """Page after page, each from where the last one ended, over an outage and up to now: every candle once."""
    outage = outages(MIDNIGHT - 100 * DAY, MIDNIGHT)[-1]
    several.clock.now = outage.until + 700 * MINUTE + 30_000
    since = outage.since - min(1500, DEPTHS.get(name, 3000) - 702) * MINUTE
    symbol = _symbols(name)[-1]

    async def walk(client: Any) -> list[list[float]]:
        found: list[list[float]] = []
        begin = since
        while begin < several.clock.now:
            page = await client.fetch_ohlcv(symbol, "1m", since=begin, limit=_most_rows(name, symbol))
            found += _base(name, symbol, page)
            begin = page[-1][0] + MINUTE if page else begin + _most_rows(name, symbol) * MINUTE
        return found

    found = several.talk(name, walk)

    truth = several.truth(name, symbol, "1m", since, several.clock.now)
    assert found[:-1] == truth
    assert found[-1][0] == several.clock.now - 30_000


@EVERY
def test_latest_candles(several: Any, name: str) -> None:
    """Without since the last candles come, the one in progress at their end."""
    symbol = _symbols(name)[0]

    rows = several.talk(name, lambda client: client.fetch_ohlcv(symbol, "1m", limit=5))

    assert rows[:-1] == several.truth(name, symbol, "1m", MIDNIGHT - 4 * MINUTE, MIDNIGHT)
    assert rows[-1][0] == MIDNIGHT


@EVERY
def test_unknown_symbol(several: Any, name: str) -> None:
    """A symbol that is gone since the markets were loaded is BadSymbol in the real class."""
    gone = several.truth(name, _symbols(name)[0], "1m", 0, 1)
    assert gone == []

    async def ask(client: Any) -> None:
        await client.load_markets()
        market = client.markets[_symbols(name)[0]]
        market["id"] = "NOPE-USDT" if name == "okx" else "NOPEUSDT"
        await client.fetch_ohlcv(market["symbol"], "1m")

    # ccxt does not know some exchanges' own words for it.
    words = {
        "kraken": "Unknown asset pair",
        "coinbase": "ProductID is invalid",
        "bitget": "does not exist",
    }.get(name)
    with pytest.raises(ccxt.ExchangeError if words else ccxt.BadSymbol, match=words):
        several.talk(name, ask)


@EVERY
def test_documented_limits(name: str, http: Any) -> None:
    """Without a limit of one's own the documented one holds: what it allows passes, the next request is refused."""

    class Clock:
        now = MIDNIGHT + 500

        def now_ms(self) -> int:
            return self.now

    clock = Clock()
    # Requests of a page of 10, and milliseconds until asking is allowed again.
    allowed, wait = {
        "binance": (3000, 59_500),
        "binanceusdm": (2400, 59_500),
        "bybit": (600, 600_000),
        "okx": (40, 2_000),
        "kraken": (5, 5_000),
        "coinbase": (10, 1_000),
        "kucoin": (666, 30_000),
        "mexc": (20, 2_000),
        "bitget": (20, 1_000),
        "gate": (200, 10_000),
    }[name]
    with LocalExchange(ExchangeSettings(exchange=name), clock=clock) as exchange:
        shape = exchange._shapes[name]
        found = _Mount(shape).find(PATHS[name])
        assert found is not None
        endpoint = found[0]
        query = {key: str(value) for key, value in QUERIES[name].items()}
        weight = endpoint.weight if isinstance(endpoint.weight, int) else endpoint.weight(query)
        spent = [shape.limits.spend(weight, endpoint.group).status for _ in range(allowed - 1)]
        assert set(spent) == {200}
        first = http(exchange.url, PATHS[name], query)
        refused = http(exchange.url, PATHS[name], query)
        clock.now += wait - 1
        still = http(exchange.url, PATHS[name], query)
        clock.now += 1
        again = http(exchange.url, PATHS[name], query)

    assert len(_rows(name, first.json)) == 10
    assert refused.status == still.status == {"bybit": 403, "kraken": 200, "mexc": 200}.get(name, 429)
    if name == "kraken":
        assert refused.json == still.json == {"error": ["EGeneral:Too many requests"]}
    closed = [
        [row for row in _rows(name, page.json) if _opened(name, row) < MIDNIGHT] for page in (first, again)
    ]
    assert closed[0] == closed[1]
    assert len(closed[0]) >= 9


@EVERY
@pytest.mark.parametrize("kind", ["null_price", "duplicate_rows", "conflicting_rows", "shuffled_rows",
                                  "misaligned_rows", "since_ignored", "in_progress"])  # fmt: skip
def test_row_faults(several: Any, name: str, kind: str) -> None:
    """A fault aimed at the unified symbol and timeframe strikes the rows inside this exchange's answer, and nothing else."""
    good = several.get(name, PATHS[name], **QUERIES[name]).json
    symbol = _asked(name)
    rule = Fault(kind, symbol=symbol, interval="1m", exchange=name, since=MIDNIGHT - 20 * MINUTE)
    several.exchange.faults = Faults((rule,), seed=3)

    bad = several.get(name, PATHS[name], **QUERIES[name]).json

    assert several.exchange.requests[-1].fault == kind
    was, now = _rows(name, good), _rows(name, bad)
    assert was != now
    last = max((row for row in was if _opened(name, row) < MIDNIGHT), key=lambda row: _opened(name, row))
    differ = [row for row in now if row not in was]
    assert {
        "null_price": len(differ) == 1 and None in _values(differ[0]),
        "duplicate_rows": len(now) == 11 and not differ,
        "conflicting_rows": len(now) == 11 and len(differ) == 1,
        "shuffled_rows": sorted(now, key=str) == sorted(was, key=str),
        "misaligned_rows": all(_opened(name, row) % MINUTE for row in differ) and len(differ) >= 1,
        "since_ignored": len(differ) >= 10 and max(_opened(name, row) for row in now) == MIDNIGHT,
        "in_progress": len(differ) == 1 and 0 <= _volume(name, last) - 2 * _volume(name, differ[0]) <= 1,
    }[kind]


@EVERY
def test_rate_limit_fault(several: Any, name: str) -> None:
    """A scripted 429 is what the real class knows as too many requests, whatever status the exchange sends it with."""
    several.exchange.faults = Faults((Fault("429", path=PATHS[name]),))

    async def ask(client: Any) -> None:
        await client.fetch_ohlcv(_asked(name), "1m", limit=5)

    with pytest.raises((ccxt.RateLimitExceeded, ccxt.DDoSProtection)):
        several.talk(name, ask)
