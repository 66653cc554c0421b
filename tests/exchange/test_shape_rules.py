"""What is special about each exchange's API, as a bare client and the real ccxt class see it."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

import ccxt.async_support as ccxt
import pytest
from tests.exchange.conftest import moved

from chandlery.exchange import ExchangeSettings, LocalExchange
from chandlery.exchange.outages import outages
from chandlery.exchange.shapes import shape_of

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
MIDNIGHT = 1_717_200_000_000  # 2024-06-01


def _times(rows: list[Any]) -> list[int]:
    return [int(row[0]) for row in rows]


def _minutes(first: int, count: int) -> list[int]:
    return [first + n * MINUTE for n in range(count)]


@pytest.mark.parametrize(
    ("limit", "weight"), [(1, 1), (99, 1), (100, 2), (499, 2), (500, 5), (1000, 5), (1001, 10), (None, 5)]
)
def test_usdm_weight_by_rows(limit: int | None, weight: int, http: Any) -> None:
    """USD-M klines cost 1, 2, 5 or 10 by the limit asked for, told in the header of the used weight."""
    query = {"symbol": "BTCUSDT", "interval": "1m"} | ({} if limit is None else {"limit": limit})
    with LocalExchange(ExchangeSettings(exchange="binanceusdm", clock="2024-06-01T00:00Z,0")) as exchange:
        answer = http(exchange.url, "/fapi/v1/klines", query)

    assert answer.headers["x-mbx-used-weight-1m"] == str(weight)
    assert len(answer.json) == (limit or 500)


def test_usdm_pages(several: Any) -> None:
    """USD-M gives up to 1,500 rows, and its info names contract, limit of 2,400 and delisted swaps."""
    query = {"symbol": "BTCUSDT", "interval": "1m", "startTime": MIDNIGHT - 2 * DAY}
    assert len(several.get("binanceusdm", "/fapi/v1/klines", **query, limit=9999).json) == 1500
    swaps = several.get("binanceusdm", "/fapi/v1/exchangeInfo").json["symbols"]
    assert {swap["contractType"] for swap in swaps} == {"PERPETUAL"}
    assert [swap["symbol"] for swap in swaps if swap["status"] != "TRADING"] == ["SRMUSDT"]
    with LocalExchange(ExchangeSettings(exchange="binanceusdm")) as exchange:
        assert exchange._shapes["binanceusdm"].limits.limit == 2400


def _bybit(several: Any, **query: Any) -> Any:
    asked = {"category": "spot", "symbol": "BTCUSDT", "interval": "1", **query}
    return several.get("bybit", "/v5/market/kline", **asked).json


def test_bybit_windows(several: Any) -> None:
    """Rows descend, from the candle that contains `start` on; `end` is included, and with both the newest rows come."""
    start = MIDNIGHT - DAY

    def rows(**query: Any) -> list[int]:
        return _times(_bybit(several, **query)["result"]["list"])

    assert rows(start=start, limit=3) == _minutes(start, 3)[::-1]
    assert rows(start=start + 59_999, limit=3) == _minutes(start, 3)[::-1]
    assert rows(start=start, end=start + 9 * MINUTE, limit=3) == _minutes(start + 7 * MINUTE, 3)[::-1]
    assert rows(end=start, limit=2) == [start, start - MINUTE]
    assert len(rows(start=start)) == 200
    assert len(rows(start=start, limit=5000)) == 1000
    assert rows(limit=1) == [MIDNIGHT]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"symbol": "NOPE"}, "Not supported symbols"),
        ({"category": "linear", "symbol": "ETHBTC"}, "Not supported symbols"),
        ({"symbol": "BCCUSDT"}, "Not supported symbols"),
        ({"interval": "7"}, "Invalid period!"),
        ({"interval": "1m"}, "Invalid period!"),
        ({"category": "stocks"}, "params error: category only support linear, inverse, spot"),
        ({"limit": "many"}, "params error: limit invalid"),
    ],
)
def test_bybit_errors(several: Any, change: dict[str, Any], text: str) -> None:
    """Bad parameters are retCode 10001 with status 200, and no rows."""
    answer = _bybit(several, **change)

    assert (answer["retCode"], answer["retMsg"], answer["result"]) == (10001, text, {})


def test_bybit_spot_and_linear(several: Any) -> None:
    """The same name is two markets with prices of their own, told apart by the category."""
    spot, linear = (_bybit(several, category=c, limit=1)["result"]["list"][0] for c in ("spot", "linear"))

    assert spot[0] == linear[0]
    assert spot[1:5] != linear[1:5]


def test_bybit_ban(http: Any) -> None:
    """The 601st request in five seconds bans the address for ten minutes, with status 403 and a text that is not JSON."""
    with LocalExchange(ExchangeSettings(exchange="bybit", weight_limit=2)) as exchange:
        answers = [http(exchange.url, "/v5/market/time", {}) for _ in range(3)]

    assert [answer.status for answer in answers] == [200, 200, 403]
    assert answers[2].body == b"403, access too frequent"


def _okx(several: Any, path: str = "candles", **query: Any) -> Any:
    asked = {"instId": "BTC-USDT", "bar": "1m", **query}
    return several.get("okx", f"/api/v5/market/{path}", **asked)


@pytest.mark.parametrize("path", ["candles", "history-candles"])
def test_okx_bounds(several: Any, path: str) -> None:
    """`before` and `after` are both excluded, rows descend, and of a window wider than a page the newest rows come."""
    start = MIDNIGHT - 600 * MINUTE

    def rows(**query: Any) -> list[int]:
        return _times(_okx(several, path, **query).json["data"])

    assert rows(before=start - MINUTE, after=start + 3 * MINUTE) == _minutes(start, 3)[::-1]
    assert rows(before=start - 1, after=start + 3 * MINUTE + 1) == _minutes(start, 4)[::-1]
    assert rows(before=start, after=start + 60 * MINUTE, limit=2) == _minutes(start + 58 * MINUTE, 2)[::-1]
    assert rows(after=start, limit=2) == [start - MINUTE, start - 2 * MINUTE]
    assert len(rows(before=start)) == 100


def test_okx_depth_and_rows(several: Any) -> None:
    """candles: 300 rows of the last 1,440 bars with the one in progress; history-candles: 100 rows, closed ones only."""
    newest = MIDNIGHT
    oldest = newest - 1439 * MINUTE

    recent = _okx(several, limit=999).json["data"]
    assert len(recent) == 300
    assert (recent[0][0], recent[0][8], recent[1][8]) == (str(newest), "0", "1")
    edge = _okx(several, after=oldest + 2 * MINUTE).json["data"]
    assert _times(edge) == [oldest + MINUTE, oldest]
    assert _okx(several, after=oldest).json["data"] == []
    history = _okx(several, "history-candles", limit=300).json["data"]
    assert _times(history) == _minutes(newest - 100 * MINUTE, 100)[::-1]
    assert {row[8] for row in history} == {"1"}
    assert len(_okx(several, "history-candles", after=oldest).json["data"]) == 100


def test_okx_bars(several: Any) -> None:
    """From 6H on bars open by UTC+8, those whose name ends in utc by UTC; both are there, for each its own candles."""
    local, utc = (_okx(several, bar=bar, limit=3).json["data"] for bar in ("1D", "1Dutc"))

    assert {time % DAY for time in _times(local)} == {16 * HOUR}
    assert {time % DAY for time in _times(utc)} == {0}
    week = _times(_okx(several, bar="1W", limit=1).json["data"])[0]
    assert week == 1_716_739_200_000  # Sunday 2024-05-26T16:00Z
    assert _okx(several, bar="1h").json["code"] == "51000"


def test_okx_swap_volume(several: Any) -> None:
    """A swap's volume is told in contracts, in base and in quote currency; ccxt takes the base."""
    row = _okx(several, instId="BTC-USDT-SWAP", limit=1, after=MIDNIGHT).json["data"][0]
    info = several.get("okx", "/api/v5/public/instruments", instType="SWAP", instId="BTC-USDT-SWAP").json

    assert info["data"][0]["ctVal"] == "0.01"
    assert float(row[5]) * 0.01 == pytest.approx(float(row[6]))
    assert float(row[6]) == several.truth("okx", "BTC/USDT:USDT", "1m", MIDNIGHT - MINUTE, MIDNIGHT)[0][5]
    assert float(row[3]) <= float(row[7]) / float(row[6]) <= float(row[2])


def test_okx_wide_page_of_old_candles_loses_its_head(several: Any) -> None:
    """The real class asks history-candles for as many as it is told, but gets the newest 100: the first 200 of 300 are lost unseen."""
    since = MIDNIGHT - 3 * DAY

    rows = several.talk("okx", lambda c: c.fetch_ohlcv("BTC/USDT", "1m", since=since, limit=300))

    assert _times(rows) == _minutes(since + 200 * MINUTE, 100)


def test_okx_limits_are_by_endpoint(http: Any) -> None:
    """40 requests in 2 seconds for candles, 20 for the history, 429 with code 50011 beyond; one does not use up the other."""

    class Still:
        def now_ms(self) -> int:
            return MIDNIGHT

    query = {"instId": "BTC-USDT", "limit": 1}
    with LocalExchange(ExchangeSettings(exchange="okx"), clock=Still()) as exchange:
        codes = {}
        for path in ("history-candles", "candles"):
            answers = [http(exchange.url, f"/api/v5/market/{path}", query) for _ in range(41)]
            codes[path] = [answer.status for answer in answers]
        last = answers[-1].json

    assert codes == {"history-candles": [200] * 20 + [429] * 21, "candles": [200] * 40 + [429]}
    assert last == {"code": "50011", "msg": "Too Many Requests", "data": []}


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ({"instId": "NOPE-USDT"}, "51001"),
        ({"instId": "BCC-USDT"}, "51001"),
        ({"instId": ""}, "50014"),
        ({"bar": "7m"}, "51000"),
        ({"before": "x"}, "51000"),
    ],
)
def test_okx_errors(several: Any, query: dict[str, Any], code: str) -> None:
    """Errors have OKX's codes and an empty list."""
    answer = _okx(several, **query).json

    assert (answer["code"], answer["data"]) == (code, [])


def test_limits_reach_ccxt_as_its_own_errors() -> None:
    """The real classes raise: DDoSProtection for Binance, RateLimitExceeded for OKX and Bybit's 403."""

    async def ask(name: str, url: str) -> None:
        client = getattr(ccxt, name)({"enableRateLimit": False})
        client.urls["api"] = moved(client.urls["api"], url)
        try:
            for _ in range(3):
                await client.fetch_time()
        finally:
            await client.close()

    expected = {
        "binanceusdm": ccxt.DDoSProtection,
        "okx": ccxt.RateLimitExceeded,
        "bybit": ccxt.RateLimitExceeded,
    }
    with LocalExchange(ExchangeSettings(exchange=tuple(expected), weight_limit=2)) as exchange:
        for name, error in expected.items():
            with pytest.raises(error):
                asyncio.run(ask(name, exchange.url_of(name)))


def _kraken(several: Any, **query: Any) -> Any:
    return several.get("kraken", "/0/public/OHLC", **{"pair": "XBTUSDT", **query}).json


def test_kraken_gives_the_last_720(several: Any) -> None:
    """Whatever `since`, no more than the last 720 rows, the last one in progress; `since` itself is excluded."""
    minutes = [moment // 1000 for moment in _minutes(MIDNIGHT - 719 * MINUTE, 720)]
    for query in ({}, {"since": 0}, {"since": -60}, {"since": minutes[0] - 1}):
        result = _kraken(several, **query)["result"]
        assert _times(result["XBTUSDT"]) == minutes
        assert result["last"] == minutes[-2]
    for since, count in ((minutes[0], 719), (minutes[-2], 1), (minutes[-1], 0), (minutes[-1] + 999, 0)):
        rows = _kraken(several, since=since)["result"]["XBTUSDT"]
        assert _times(rows) == minutes[720 - count :]


def test_kraken_in_ccxt(several: Any) -> None:
    """The real class pages nowhere: an old `since` with a limit gives the oldest of the last 720; 15 days are not there."""

    async def ask(client: Any) -> Any:
        page = await client.fetch_ohlcv("BTC/USDT", "1h", since=MIDNIGHT - 400 * DAY, limit=100)
        return set(client.timeframes), page

    timeframes, page = several.talk("kraken", ask)

    assert timeframes - {"2w"} == set(shape_of("kraken").timeframes())
    assert [row[0] for row in page] == [MIDNIGHT - (719 - n) * HOUR for n in range(100)]
    assert page == several.truth("kraken", "BTC/USDT", "1h", page[0][0], page[-1][0] + HOUR)


def test_kraken_is_flat_where_nothing_was_traded(several: Any) -> None:
    """A minute without a trade has a row: the last price four times, no volume, no average, no trades."""
    rows = _kraken(several, pair="ZECBNB")["result"]["ZECBNB"]

    assert _times(rows) == [moment // 1000 for moment in _minutes(MIDNIGHT - 719 * MINUTE, 720)]
    quiet = [(last, row) for last, row in pairwise(rows) if row[7] == 0]
    assert len(quiet) > 300
    for last, row in quiet:
        assert row[1:5] == [last[4]] * 4
        assert (float(row[5]), float(row[6])) == (0, 0)


def test_kraken_names_and_errors(several: Any) -> None:
    """Early pairs go by two names and are answered by the long one; errors stand in `error`, with status 200."""
    assert list(_kraken(several, pair="ETHXBT", interval=240)["result"]) == ["XETHXXBT", "last"]
    assert _kraken(several, pair="XETHXXBT", interval=240) == _kraken(several, pair="ETHXBT", interval=240)
    opened = _times(_kraken(several, interval=10080)["result"]["XBTUSDT"])
    assert {second % (7 * 86_400) for second in opened} == {0}
    pairs = several.get("kraken", "/0/public/AssetPairs", pair="XDGUSDT").json["result"]
    assert (list(pairs), pairs["XDGUSDT"]["base"]) == (["XDGUSDT"], "XXDG")

    for query, error in (
        ({"pair": "NOPE"}, "EQuery:Unknown asset pair"),
        ({"pair": "BCCUSDT"}, "EQuery:Unknown asset pair"),
        ({"pair": ""}, "EGeneral:Invalid arguments"),
        ({"interval": 3}, "EGeneral:Invalid arguments"),
        ({"since": "noon"}, "EGeneral:Invalid arguments"),
    ):
        answer = several.get("kraken", "/0/public/OHLC", **{"pair": "XBTUSDT", **query})
        assert (answer.status, answer.json) == (200, {"error": [error]})
    answer = several.get("kraken", "/0/public/AssetPairs", pair="XBTUSDT,NOPE")
    assert answer.json == {"error": ["EQuery:Unknown asset pair"]}


def _coinbase(several: Any, **query: Any) -> Any:
    product = query.pop("product", "BTC-USDT")
    path = f"/api/v3/brokerage/market/products/{product}/candles"
    return several.get("coinbase", path, **{"granularity": "ONE_MINUTE", **query})


def test_coinbase_windows(several: Any) -> None:
    """Rows descend, `start` and `end` are included and both wanted, more than 300 intervals between them are refused."""
    end = MIDNIGHT // 1000 - 3600
    start = end - 300 * 60

    def rows(**query: Any) -> list[int]:
        return [int(row["start"]) for row in _coinbase(several, **query).json["candles"]]

    assert rows(start=start, end=end) == list(range(end, start - 1, -60))
    assert rows(start=start + 1, end=end - 1) == list(range(end - 60, start, -60))
    assert rows(start=start, end=end, limit=2) == [end, end - 60]
    for query, word in (
        ({"start": start - 1, "end": end}, "less than 300"),
        ({"start": start}, "start and end"),
        ({"end": end}, "start and end"),
        ({"start": end, "end": start}, "start and end"),
        ({"start": start, "end": end, "granularity": "FOUR_HOUR"}, "granularity"),
        ({"start": start, "end": end, "product": "BTC-NOPE"}, "ProductID"),
        ({"start": start, "end": end, "product": "BCC-USDT"}, "ProductID"),
    ):
        answer = _coinbase(several, **query)
        assert (answer.status, answer.json["error"]) == (400, "INVALID_ARGUMENT")
        assert word in answer.json["message"]


def test_coinbase_leaves_out_what_saw_no_trade(several: Any) -> None:
    """Minutes without a trade have no row, for the real class too, and a window without any is an empty list."""
    since = MIDNIGHT - 300 * MINUTE

    page = several.talk("coinbase", lambda c: c.fetch_ohlcv("ZEC/BNB", "1m", since=since, limit=299))

    truth = several.truth("coinbase", "ZEC/BNB", "1m", since, since + 300 * MINUTE)
    assert 60 < len(truth) < 150
    assert page == truth
    assert all(row[5] > 0 for row in page)
    outage = outages(MIDNIGHT - 100 * DAY, MIDNIGHT)[-1]
    window = {"start": outage.since // 1000, "end": outage.until // 1000 - 60}
    assert _coinbase(several, **window).json == {"candles": []}


def test_coinbase_products(several: Any) -> None:
    """One product or some of them by name, none that is delisted, no futures; the timeframes are those of ccxt's class."""
    products = "/api/v3/brokerage/market/products"
    one = several.get("coinbase", f"{products}/ETH-BTC").json
    some = several.get("coinbase", products, product_ids="ETH-BTC,BCC-USDT,NOPE").json
    gone = several.get("coinbase", f"{products}/BCC-USDT")
    futures = several.get("coinbase", products, product_type="FUTURE").json

    assert some == {"products": [one], "num_products": 1}
    assert (one["product_id"], one["price_increment"]) == ("ETH-BTC", "0.00001")
    assert (gone.status, gone.json["error"]) == (404, "NOT_FOUND")
    assert futures == {"products": [], "num_products": 0}
    assert set(ccxt.coinbase().timeframes) == set(shape_of("coinbase").timeframes())
    now = several.get("coinbase", "/api/v3/brokerage/time").json
    assert now["epochMillis"] == str(several.clock.now)


def _kucoin(several: Any, **query: Any) -> Any:
    return several.get("kucoin", "/api/v1/market/candles", **{"symbol": "BTC-USDT", "type": "1min", **query})


def test_kucoin_windows(several: Any) -> None:
    """Rows descend, `startAt` is included and `endAt` not, and of a window wider than 1,500 rows the oldest are lost."""
    end = MIDNIGHT // 1000 - 3600
    start = end - 10 * 60

    def rows(**query: Any) -> list[int]:
        return _times(_kucoin(several, **query).json["data"])

    assert rows(startAt=start, endAt=end) == list(range(end - 60, start - 1, -60))
    assert rows(startAt=start + 1, endAt=end + 1) == list(range(end, start, -60))
    assert rows(startAt=end, endAt=start) == []
    wide = rows(startAt=end - 2000 * 60, endAt=end)
    assert wide == list(range(end - 60, end - 1501 * 60, -60))
    assert (
        rows() == rows(startAt=0, endAt=0) == list(range(MIDNIGHT // 1000, MIDNIGHT // 1000 - 1500 * 60, -60))
    )
    row = _kucoin(several, startAt=end - 60, endAt=end).json["data"][0]
    truth = several.truth("kucoin", "BTC/USDT", "1m", (end - 60) * 1000, end * 1000)[0]
    assert [float(row[place]) for place in (1, 3, 4, 2, 5)] == truth[1:]


def test_kucoin_loses_the_head_of_a_wide_window_in_ccxt(several: Any) -> None:
    """The real class widens its window with `limit`: asked for 2,000 it gives the last 1,500 of them, without a sign."""
    since = MIDNIGHT - 3000 * MINUTE

    page = several.talk("kucoin", lambda c: c.fetch_ohlcv("BTC/USDT", "1m", since=since, limit=2000))

    assert [row[0] for row in page] == _minutes(since + 500 * MINUTE, 1500)


def test_kucoin_weeks_and_quiet_minutes(several: Any) -> None:
    """Weeks begin on Thursday; minutes without a trade have no row; the timeframes are those of ccxt's class."""

    async def ask(client: Any) -> Any:
        weeks = await client.fetch_ohlcv("ETH/BTC", "1w", since=MIDNIGHT - 100 * DAY, limit=10)
        quiet = await client.fetch_ohlcv("ZEC/BNB", "1m", since=MIDNIGHT - DAY, limit=1440)
        return set(client.timeframes), weeks, quiet

    timeframes, weeks, quiet = several.talk("kucoin", ask)

    assert timeframes == set(shape_of("kucoin").timeframes())
    assert len(weeks) >= 9
    assert {row[0] % (7 * DAY) for row in weeks} == {0}
    assert weeks == several.truth("kucoin", "ETH/BTC", "1w", weeks[0][0], weeks[-1][0] + 1)
    assert 300 < len(quiet) < 700
    assert quiet == several.truth("kucoin", "ZEC/BNB", "1m", MIDNIGHT - DAY, MIDNIGHT)


def test_kucoin_errors_and_pool(http: Any) -> None:
    """Errors have KuCoin's codes; every endpoint draws its weight from one pool, and headers say what is left of it."""
    with LocalExchange(
        ExchangeSettings(exchange="kucoin", clock="2024-06-01T00:00Z,0", weight_limit=30)
    ) as one:

        def ask(path: str, **query: Any) -> Any:
            return http(one.url, path, query)

        pair = {"symbol": "BTC-USDT", "type": "1min"}
        wrong: list[tuple[dict[str, Any], str]] = [
            ({"symbol": "BTCUSDT"}, "Unsupported trading pair."),
            ({"symbol": "BCC-USDT"}, "Unsupported trading pair."),
            ({"type": "1m"}, "This type of Candlestick is currently not provided."),
            ({"startAt": "noon"}, "startAt is invalid"),
        ]
        for query, text in wrong:
            answer = ask("/api/v1/market/candles", **{**pair, **query})
            assert (answer.status, answer.json) == (400, {"code": "400100", "msg": text})
        tickers = ask("/api/v1/market/allTickers")
        assert (tickers.headers["gw-ratelimit-limit"], tickers.headers["gw-ratelimit-remaining"]) == (
            "30",
            "3",
        )
        assert ask("/api/v1/market/candles", **pair).headers["gw-ratelimit-remaining"] == "0"
        refused = ask("/api/v1/timestamp")

    assert (refused.status, refused.json["code"]) == (429, "429000")
    assert 0 < int(refused.headers["gw-ratelimit-reset"]) <= 30_000
