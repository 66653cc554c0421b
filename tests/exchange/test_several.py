"""Several exchanges on one server, and what a shape is made of: layouts, paths with names in them, windows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chandlery.errors import UsageError
from chandlery.exchange import ExchangeSettings, Fault, Faults, LocalExchange
from chandlery.exchange.candles import Candles
from chandlery.exchange.generated import GeneratedMarket
from chandlery.exchange.klines import KlineBook
from chandlery.exchange.layout import ColumnLayout, RowLayout
from chandlery.exchange.limits import Window, WindowLimits
from chandlery.exchange.market import TIMEFRAMES
from chandlery.exchange.render import render_rows
from chandlery.exchange.server import _Mount
from chandlery.exchange.shape import CandleQuery, Endpoint
from chandlery.exchange.shapes.binance import BinanceSpot
from chandlery.exchange.shapes.mexc import Mexc
from chandlery.exchange.symbols import GENERATED, SWAPS

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
MIDNIGHT = 1_717_200_000_000  # 2024-06-01
EVERYTHING = (
    '{"t":<time_s>,"o":"<open>","h":<high>,"l":"<low>","c":"<close>","v":"<volume>","q":"<turnover>",'
    '"n":<trades>,"b":"<taker>","k":"<contracts>","w":"<vwap>","i":<lots>,"e":<closes>,"x":<ends>,"again":"<open>"}'
)


def test_each_below_its_name_and_the_first_at_the_root(http: Any) -> None:
    """The first exchange named answers at / and below its name, the others below theirs; the log tells them apart."""
    with LocalExchange(ExchangeSettings(exchange=("okx", "bybit"), weight_limit=0)) as exchange:
        paths = ["/api/v5/public/time", "/okx/api/v5/public/time", "/bybit/v5/market/time", "/v5/market/time"]
        statuses = [http(exchange.url, path, {}).status for path in paths]

        assert statuses == [200, 200, 200, 404]
        assert [r.exchange for r in exchange.requests] == ["okx", "okx", "bybit", "okx"]
        assert [r.path for r in exchange.requests] == [paths[0], paths[0], "/v5/market/time", paths[3]]
        assert exchange.url_of("bybit") == exchange.url + "/bybit"
        assert "BTC/USDT:USDT" in exchange.symbols_of("bybit")
        assert exchange.truth("SOL/USDT:USDT", "1h", MIDNIGHT, MIDNIGHT + DAY, exchange="bybit").height == 24


def test_each_plays_the_script_and_has_its_budget(http: Any) -> None:
    """Counts of a fault and budgets of requests are each exchange's own; `exchange` aims a fault at one of them."""
    settings = ExchangeSettings(exchange=("okx", "bybit"), weight_limit=2)
    with LocalExchange(settings) as exchange:
        exchange.faults = Faults((Fault("empty", requests=(1,)), Fault("html", exchange="bybit")))
        for path in ("/okx/api/v5/public/time", "/bybit/v5/market/time"):
            for _ in range(2):
                http(exchange.url, path, {})

        assert [r.fault for r in exchange.requests] == ["empty", None, "empty", "html"]
        assert [r.status for r in exchange.requests] == [200] * 4


def test_wrong_settings() -> None:
    """An exchange that is not known, none, or one named twice is refused with what there is."""
    for exchange in ("mtgox", ("binance", "mtgox")):
        with pytest.raises(UsageError, match="cannot play 'mtgox'") as caught:
            ExchangeSettings(exchange=exchange)
        assert "okx" in caught.value.hint
    for several in ((), ("okx", "okx")):
        with pytest.raises(UsageError, match="one exchange or several different ones"):
            ExchangeSettings(exchange=several)


def test_symbols_of_several() -> None:
    """A symbol goes to the exchanges that trade it; one that none of them has is refused."""
    settings = ExchangeSettings(
        exchange=("binance", "binanceusdm", "okx"), symbols=("BTC/USDT", "ETH/USDT:USDT")
    )
    exchange = LocalExchange(settings)

    assert exchange.symbols_of("binance") == ["BTC/USDT", "ETH/USDT:USDT"]
    assert exchange.symbols_of("binanceusdm") == ["ETH/USDT:USDT"]
    assert exchange.symbols_of("okx") == ["BTC/USDT", "ETH/USDT:USDT"]
    with pytest.raises(UsageError, match="no pair 'BTC/USDT:USDT'"):
        LocalExchange(ExchangeSettings(exchange="kraken", symbols=("BTC/USDT:USDT",)))


def test_swaps_from_files(tmp_path: Path, http: Any) -> None:
    """Files of an exchange of swaps need not name the settlement currency, others do; each gets its own files."""
    text = (
        f"timestamp_ms,open,high,low,close,volume\n{MIDNIGHT},1.5,2.5,0.5,1,10\n{MIDNIGHT + HOUR},1,3,1,2,7\n"
    )
    for name in ("binanceusdm_BTC_USDT_1h", "okx_BTC_USDT_1h", "okx_ETH_USDT:USDT_1h"):
        (tmp_path / f"{name}.csv").write_text(text)

    with LocalExchange(ExchangeSettings(csv=tmp_path, exchange=("binanceusdm", "okx"))) as exchange:
        assert exchange.symbols_of("binanceusdm") == ["BTC/USDT:USDT"]
        assert exchange.symbols_of("okx") == ["BTC/USDT", "ETH/USDT:USDT"]
        query = {"instId": "ETH-USDT-SWAP", "bar": "1H", "before": "0"}
        rows = http(exchange.url, "/okx/api/v5/market/history-candles", query).json["data"]
        assert [[float(v) for v in row[1:7]] for row in rows] == [
            [1, 3, 1, 2, 7, 7],
            [1.5, 2.5, 0.5, 1, 10, 10],
        ]


def test_contracts_of_swaps_from_files(tmp_path: Path, http: Any) -> None:
    """Where contracts are whole, a file's smallest step of volume is one; finer ones than eight decimals are told as they are."""
    header = "timestamp_ms,open,high,low,close,volume\n"
    (tmp_path / "gate_ETH_USDT:USDT_1h.csv").write_text(f"{header}{MIDNIGHT},1,3,1,2,7.25\n")
    (tmp_path / "gate_SOL_USDT:USDT_1h.csv").write_text(f"{header}{MIDNIGHT},1,3,1,2,0.1234567891\n")
    with LocalExchange(ExchangeSettings(csv=tmp_path, exchange="gate")) as exchange:
        contracts = http(exchange.url, "/api/v4/futures/usdt/contracts", {}).json
        sizes = {one["name"]: one["quanto_multiplier"] for one in contracts}
        rows = {
            name: http(
                exchange.url, "/api/v4/futures/usdt/candlesticks", {"contract": name, "interval": "1h"}
            ).json
            for name in sizes
        }

    assert sizes == {"ETH_USDT": "0.01", "SOL_USDT": "0.00000001"}
    assert [row["v"] for row in rows["ETH_USDT"]] == [725]
    assert [row["v"] for row in rows["SOL_USDT"]] == [pytest.approx(12_345_678.91)]


@pytest.mark.parametrize("newest", [False, True])
def test_columns_hold_what_rows_do(newest: bool) -> None:
    """An answer of columns has the elements of the rows, over block edges and with the candle in progress."""

    class Now:
        def now_ms(self) -> int:
            return MIDNIGHT + 30_000

    market = GeneratedMarket(SWAPS[:1], seed=1)
    shape = Mexc(market, KlineBook(market), Now(), WindowLimits({}, Now().now_ms))
    columns = ColumnLayout({"t": "<time_s>", "o": "<open>", "v": "<volume>"})

    pages = [
        json.loads(
            shape.page(
                SWAPS[0],
                TIMEFRAMES["1m"],
                layout,
                since=MIDNIGHT - 2500 * MINUTE,
                limit=2300 if newest else 3000,
                newest=newest,
                around=around,
            ).body
        )
        for layout, around in ((columns, (b"{", b"}")), (columns.rows, (b"[", b"]")))
    ]

    assert [list(row) for row in zip(*pages[0].values(), strict=True)] == pages[1]
    assert (len(pages[1]), pages[1][-1][0]) == (2300 if newest else 2501, MIDNIGHT // 1000)


def _pair() -> tuple[Any, Candles]:
    listing = SWAPS[0]
    market = GeneratedMarket(SWAPS, seed=1)
    return listing, market.candles(listing, TIMEFRAMES["1m"], MIDNIGHT - HOUR, MIDNIGHT)


def test_any_layout_is_exact() -> None:
    """Objects, seconds, numbers without quotes, contracts and averages: every field is the market's own number."""
    listing, c = _pair()
    body, ends = render_rows(c, c.time + MINUTE - 1, RowLayout(EVERYTHING), contract_decimals=2)
    rows = json.loads(b"[" + body[:-1] + b"]")

    assert ends[-1] == len(body)
    assert len(rows) == 60
    prices = dict(zip("ohlc", c.columns[1:5], strict=True))
    for name, column in prices.items():
        assert [float(row[name]) for row in rows] == (column / 10**listing.price_decimals).tolist()
    volume = (c.volume / 10**listing.volume_decimals).tolist()
    assert [float(row["v"]) for row in rows] == volume
    assert [float(row["k"]) for row in rows] == (c.volume / 10**2).tolist()
    assert [row["i"] for row in rows] == c.volume.tolist()
    assert [row["t"] for row in rows] == (c.time // 1000).tolist()
    assert [row["e"] for row in rows] == (c.time + MINUTE - 1).tolist()
    assert [row["x"] for row in rows] == (c.time + MINUTE).tolist()
    assert [row["again"] for row in rows] == [row["o"] for row in rows]
    for row, low, high in zip(rows, c.low, c.high, strict=True):
        assert low <= round(float(row["w"]) * 10) <= high


def test_slow_and_fast_rendering_agree() -> None:
    """The same candles as whole ticks and as doubles give rows with the same prices and volumes."""
    _, c = _pair()
    nothing = np.zeros(len(c), dtype=np.int64)
    floats = Candles.of([c.time, *c.prices(), nothing, nothing, nothing, nothing], None, None)
    layout = RowLayout('["<time>",<open>,"<high>",<low>,<close>,"<volume>","<contracts>",<closes>]')

    rows = [
        json.loads(b"[" + render_rows(one, c.time + MINUTE - 1, layout, contract_decimals=2)[0][:-1] + b"]")
        for one in (c, floats)
    ]

    for fast, slow in zip(*rows, strict=True):
        assert [float(v) for v in slow] == pytest.approx([float(v) for v in fast], rel=1e-14)


def test_layouts_that_cannot_be() -> None:
    """A field that no candle has, or a text that is not JSON, is refused when the layout is made."""
    with pytest.raises(ValueError, match="no field of a candle: price"):
        RowLayout('["<time>","<price>"]')
    with pytest.raises(ValueError, match="Expecting"):
        RowLayout('["<time>"')


@pytest.mark.parametrize("newest", [False, True])
@pytest.mark.parametrize(("since", "until"), [(0, 10), (5, 3000), (100, 101), (7, 7), (2040, 2060)])
def test_descending_is_the_same_upside_down(newest: bool, since: int, until: int) -> None:
    """A descending page holds the rows of the ascending one, over block edges and with the candle in progress."""
    market = GeneratedMarket(GENERATED[:1], seed=1)
    book = KlineBook(market)
    up, down = (RowLayout("[<time>,<close>]", descending=d) for d in (False, True))
    start = MIDNIGHT - 2100 * MINUTE
    window = {
        "since": start + since * MINUTE,
        "until": start + until * MINUTE,
        "limit": 400,
        "newest": newest,
    }

    rows = [
        json.loads(
            b"[" + book.rows(GENERATED[0], TIMEFRAMES["1m"], one, now=MIDNIGHT + 30_000, **window) + b"]"
        )
        for one in (up, down)
    ]

    assert rows[0] == rows[1][::-1]
    times = [row[0] for row in rows[0]]
    last = min(window["until"], MIDNIGHT + MINUTE)
    wanted = list(range(window["since"], last, MINUTE))
    assert times == (wanted[-400:] if newest else wanted[:400])


def test_empty_candles_are_left_out() -> None:
    """With `omit_empty` minutes without a trade are not there, of any timeframe, and pages count only what is there."""
    quiet = next(listing for listing in GENERATED if listing.id == "ZECBNB")
    market = GeneratedMarket([quiet], seed=1)
    full, sparse = KlineBook(market), KlineBook(market, omit_empty=True)
    layout = RowLayout('[<time>,"<volume>"]')

    def rows(book: KlineBook, limit: int) -> list[Any]:
        found = book.rows(
            quiet, TIMEFRAMES["1m"], layout, since=MIDNIGHT - DAY, limit=limit, now=MIDNIGHT + 1
        )
        return list(json.loads(b"[" + found + b"]"))

    traded = [row for row in rows(full, 1440) if float(row[1])]
    assert 300 < len(traded) < 700
    assert rows(sparse, 1440)[: len(traded)] == traded
    assert rows(sparse, 10) == traded[:10]
    closed = sparse.closed(quiet, TIMEFRAMES["1m"], MIDNIGHT - DAY, MIDNIGHT, MIDNIGHT)
    assert closed.time.tolist() == [row[0] for row in traded]


def test_names_in_paths() -> None:
    """A path may hold names: what stands there is part of the query, for the answer and for faults."""

    class Paths(BinanceSpot):
        def table(self) -> dict[str, Endpoint]:
            asked = CandleQuery("product", "every", ("since",))
            return {"/v1/{product}/candles/{every}": Endpoint(lambda _query: b"[]", candles=asked)}

    market = GeneratedMarket(GENERATED, seed=1)

    class Still:
        def now_ms(self) -> int:
            return MIDNIGHT

    mount = _Mount(Paths(market, KlineBook(market), Still(), WindowLimits({}, Still().now_ms)))
    found = mount.find("/v1/BTCUSDT/candles/1m")

    assert found is not None
    assert found[1] == {"product": "BTCUSDT", "every": "1m"}
    assert mount.asked(found[0], "/v1/BTCUSDT/candles/1m", found[1]).unified == "BTC/USDT"
    assert mount.find("/v1/BTC/USDT/candles/1m") is None


def test_windows_roll() -> None:
    """A window holds its weight in any stretch of its length, refused requests do not count, other groups are apart."""
    now = [MIDNIGHT]
    limits = WindowLimits({"a": Window(3, 1000), "b": Window(1, 1000)}, lambda: now[0])

    assert [limits.spend(1, "a").status for _ in range(2)] == [200, 200]
    now[0] += 600
    assert [limits.spend(1, "a").status for _ in range(2)] == [200, 429]
    assert limits.spend(1, "a").wait_ms == 400
    now[0] += 399
    assert limits.spend(1, "a").status == 429
    now[0] += 1
    assert [limits.spend(1, "a").status for _ in range(3)] == [200, 200, 429]
    assert (limits.spend(1, "b").status, limits.spend(1, "free").status) == (200, 200)


def test_window_bans() -> None:
    """Where the exchange bans, every request is refused until the ban is over, and then the window is empty."""
    now = [MIDNIGHT]
    limits = WindowLimits({"": Window(2, 1000, ban_ms=60_000)}, lambda: now[0])

    assert [limits.spend(1).status for _ in range(4)] == [200, 200, 418, 418]
    now[0] += 59_999
    assert limits.spend(1).wait_ms == 1
    now[0] += 1
    assert [limits.spend(1).status for _ in range(3)] == [200, 200, 418]
