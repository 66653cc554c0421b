"""What stands between chandlery and ccxt: errors, rows, URLs, and the ids it knows."""

from __future__ import annotations

import asyncio
import inspect
import random
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import ccxt
import ccxt.async_support
import numpy as np
import orjson
import pytest

from chandlery.errors import (
    BadAnswer,
    ExchangeError,
    ExchangeRefused,
    ExchangeUnavailable,
    RateLimited,
    UnknownExchange,
    UnknownSymbol,
    UsageError,
)
from chandlery.sources import open_source
from chandlery.sources.bans import LONGEST_WAIT_MS
from chandlery.sources.ccxt_errors import CLASSES, Reply, class_of, to_error, wait_told
from chandlery.sources.ccxt_rows import rows_for, rows_to_frame
from chandlery.sources.page_layouts import Layouts, cut_page
from chandlery.sources.redirect import redirect_url

NOW = 1_717_200_030_000
THEIRS = [c for _, c in inspect.getmembers(ccxt, inspect.isclass) if issubclass(c, ccxt.BaseError)]


def test_every_ccxt_error_is_mapped() -> None:
    """Each error class of the installed ccxt has a class here, by a rule of its own unless it says nothing at all."""
    assert len(THEIRS) > 30
    silent = {ccxt.BaseError, ccxt.ExchangeError}
    for theirs in THEIRS:
        assert issubclass(class_of(theirs("x")), ExchangeError)
        assert theirs in silent or any(issubclass(theirs, known) for known, _ in CLASSES), theirs


@pytest.mark.parametrize(
    ("error", "status", "ours"),
    [
        (ccxt.ExchangeNotAvailable, 403, ExchangeRefused),
        (ccxt.ExchangeNotAvailable, 451, ExchangeRefused),
        (ccxt.ExchangeNotAvailable, 404, ExchangeRefused),
        (ccxt.ExchangeNotAvailable, 503, ExchangeUnavailable),
        (ccxt.RequestTimeout, 504, ExchangeUnavailable),
        (ccxt.NetworkError, 0, ExchangeUnavailable),
        (ccxt.OnMaintenance, 200, ExchangeUnavailable),
        (ccxt.DDoSProtection, 429, RateLimited),
        (ccxt.DDoSProtection, 418, RateLimited),
        (ccxt.DDoSProtection, 200, RateLimited),
        (ccxt.BadSymbol, 400, UnknownSymbol),
        (ccxt.BadRequest, 400, ExchangeRefused),
        (ccxt.BadResponse, 200, BadAnswer),
        (ccxt.NullResponse, 200, BadAnswer),
        (ccxt.AuthenticationError, 401, ExchangeRefused),
        (ccxt.ExchangeError, 200, ExchangeUnavailable),
    ],
)
def test_status_and_class_decide(error: Any, status: int, ours: type[ExchangeError]) -> None:
    """The status decides before the class, so that a 403 is not asked for again and a 429 is waited for."""
    made = to_error(error("https://x/?signature=abc"), Reply(status=status), exchange="binance", now=NOW)
    assert type(made) is ours
    assert "signature" not in str(made) or status == 0


@pytest.mark.parametrize(
    ("headers", "body", "wait"),
    [
        ({"retry-after": "7"}, "", 7_000),
        ({"retry-after": "0.5"}, "", 5_000),
        ({"retry-after": "-3"}, "", 5_000),
        ({"retry-after": "soon"}, "", 5_000),
        ({"retry-after": "nan"}, "", 5_000),
        ({"retry-after": "inf"}, "", LONGEST_WAIT_MS),
        ({"retry-after": "999999999999"}, "", LONGEST_WAIT_MS),
        (
            {"retry-after": "Sat, 01 Jun 2024 00:01:30 GMT", "date": "Sat, 01 Jun 2024 00:00:30 GMT"},
            "",
            60_000,
        ),
        (
            {"retry-after": "Sat, 01 Jun 2024 00:00:00 GMT", "date": "Sat, 01 Jun 2024 00:00:30 GMT"},
            "",
            5_000,
        ),
        ({}, f"IP banned until {NOW + 123_456}. Please use websocket", 123_456),
        ({"retry-after": "200"}, f"IP banned until {NOW + 123_456}.", 200_000),
        ({}, "IP banned until 9999999999999.", 5_000),
        ({}, "", 5_000),
    ],
)
def test_told_to_wait(headers: dict[str, str], body: str, wait: int) -> None:
    """Seconds, an HTTP date or the end of a ban in the text are obeyed; junk, negative and absurd ones are not."""
    assert wait_told(Reply(status=429, headers=headers, body=body), NOW) == wait


def test_fast_rows_equal_ccxt(seed: int) -> None:
    """The fast reader of Binance's rows gives the very doubles that ccxt's own parser gives, row by row."""
    dice = random.Random(seed)
    exchange = ccxt.binance()
    market = {"inverse": False}
    rows = [
        [NOW + n * 60_000, *(f"{dice.uniform(0, 10 ** dice.randint(-8, 7)):.8f}" for _ in range(5)), 0, "1", 2, "3", "4", "0"]
        for n in range(3000)
    ]  # fmt: skip
    parse: Callable[[object], Any] = lambda row: exchange.parse_ohlcv(row, market)  # noqa: E731
    page, _ = cut_page(orjson.dumps(rows), Layouts())
    assert page is not None
    slow, fast = rows_to_frame(rows, parse), rows_for(market)(page, parse)
    assert fast.equals(slow)
    theirs = np.array([parse(row) for row in rows])
    assert (fast.drop("time").to_numpy() == theirs[:, 1:]).all()


@pytest.mark.parametrize(
    "row", [None, 5, "text", [], {}, [None] * 6, ["x"] * 12, [[1]] * 12, [NOW, "1", None]]
)
def test_rows_of_any_shape(row: object) -> None:
    """A row that is no row is refused with its text, and takes none of its neighbours with it."""
    exchange = ccxt.binance()
    good = [NOW, "1", "2", "0.5", "1.5", "9", 0, "1", 2, "3", "4", "0"]
    frame = rows_to_frame([good, row, good], lambda r: exchange.parse_ohlcv(r, None))
    assert len(frame) == 3
    assert frame["close"].to_list()[0] == frame["close"].to_list()[-1] == 1.5
    assert cut_page(orjson.dumps([good, row, good]), Layouts())[0] is None


def test_exchange_url() -> None:
    """Scheme, host and port are replaced, the URL's own path is put in front, the rest is kept, also of WebSockets."""
    base = "http://127.0.0.1:8080/binance"
    assert redirect_url("https://api.binance.com/api/v3", base) == "http://127.0.0.1:8080/binance/api/v3"
    assert redirect_url("wss://stream.binance.com:9443/ws?x=1", base) == "ws://127.0.0.1:8080/binance/ws?x=1"
    assert redirect_url("wss://x.y", "https://z") == "wss://z"
    assert redirect_url("/relative", base) == "/relative"


def test_every_candle_exchange_can_be_opened(tmp_path: Any) -> None:
    """A source opens and closes for exchanges of each family, each with all its URLs pointed at the given one."""

    async def main() -> None:
        for name in ("binance", "okx", "kraken", "bybit", "htx", "bitfinex", "btcturk", "bitopro", "mercado"):
            async with open_source(name, url="http://127.0.0.1:9", state_dir=tmp_path) as source:
                assert await source.timeframes()
                text = str(source.ccxt.urls["api"])  # type: ignore[attr-defined]
                assert "https://" not in text
                assert "{hostname}" not in text

    asyncio.run(main())


def test_unknown_exchange() -> None:
    """An id that ccxt does not know gets the nearest ones as hint; a budget or URL that cannot be is named."""
    with pytest.raises(UnknownExchange) as caught:
        open_source("binanse")
    assert "binance" in caught.value.hint
    with pytest.raises(UsageError):
        open_source("binance", budget=0)
    with pytest.raises(UsageError):
        open_source("binance", url="localhost:1")


def test_importing_sources_imports_no_ccxt() -> None:
    """The package of sources can be imported without paying for ccxt or polars."""
    code = "import sys, chandlery.sources; assert not {'ccxt', 'polars'} & set(sys.modules), 'imported'"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize(
    "params",
    [
        {}, {"symbol": "BTCUSDT", "startTime": 1, "limit": 1000}, {"a": True, "b": "x"}, {"a": "x y", "b": "ü"},
        {"pair": "BTC/USDT"}, {"a": 1.5, "b": None}, {"a b": "1"}, {"a": "1&b=2"}, {"a": "~._-"}, {1: "a"}, {"a": ["x", "y"]},
    ],
)  # fmt: skip
def test_parameters_are_written_as_ccxt_writes_them(params: dict[Any, Any], tmp_path: Any) -> None:
    """Whatever the parameters are, the text of them in a URL is ccxt's."""

    async def main() -> str:
        async with open_source("binance", state_dir=tmp_path) as source:
            return str(source.ccxt.urlencode(params))  # type: ignore[attr-defined]

    assert asyncio.run(main()) == ccxt.Exchange.urlencode(params)
