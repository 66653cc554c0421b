"""What is special about KuCoin's two APIs, as a bare client and the real ccxt class see them."""

from __future__ import annotations

from typing import Any

import pytest

from chandlery.exchange import ExchangeSettings, LocalExchange
from chandlery.exchange.shapes import shape_of

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
MIDNIGHT = 1_717_200_000_000  # 2024-06-01


def _times(rows: list[Any]) -> list[int]:
    return [int(row[0]) for row in rows]


def _minutes(first: int, count: int) -> list[int]:
    return [first + n * MINUTE for n in range(count)]


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


def _swap(several: Any, **query: Any) -> Any:
    asked = {"symbol": "XBTUSDTM", "granularity": "1", **query}
    return several.get("kucoin", "/api/v1/kline/query", **asked)


def test_swap_windows(several: Any) -> None:
    """Rows ascend, `from` and `to` are included, in milliseconds; of a window wider than 500 rows the newest come."""
    start = MIDNIGHT - HOUR

    def rows(**query: Any) -> list[int]:
        return _times(_swap(several, **query).json["data"])

    assert rows(**{"from": start, "to": start + 3 * MINUTE}) == _minutes(start, 4)
    assert rows(**{"from": start + 1, "to": start + 3 * MINUTE - 1}) == _minutes(start + MINUTE, 2)
    assert rows(**{"from": start - DAY, "to": start}) == _minutes(start - 499 * MINUTE, 500)
    assert rows(to=start) == _minutes(start - 499 * MINUTE, 500)
    assert rows() == _minutes(MIDNIGHT - 499 * MINUTE, 500)


def test_swaps_in_ccxt(several: Any) -> None:
    """Both of ccxt's classes reach the swaps; volumes are whole contracts, of the multiplier each."""
    since = MIDNIGHT - HOUR

    async def ask(client: Any) -> Any:
        page = await client.fetch_ohlcv("BTC/USDT:USDT", "1m", since=since, limit=60)
        return client.markets["BTC/USDT:USDT"], page

    market, page = several.talk("kucoin", ask)
    other = several.talk("kucoin", ask, kind="kucoinfutures")

    assert (market["id"], market["contractSize"]) == ("XBTUSDTM", pytest.approx(0.0001))
    assert other[1] == page
    assert all(row[5] == int(row[5]) for row in page)
    truth = several.truth("kucoin", "BTC/USDT:USDT", "1m", since, MIDNIGHT)
    assert [[*row[:5], row[5] / 10_000] for row in page] == truth
    row = _swap(several, **{"from": since, "to": since}).json["data"][0]
    assert truth[0][3] <= row[6] / truth[0][5] <= truth[0][2]


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ({"symbol": "NOPEUSDTM"}, "Contract does not exist."),
        ({"symbol": "SRMUSDTM"}, "Contract does not exist."),
        ({"symbol": "BTC-USDT"}, "Contract does not exist."),
        ({"granularity": "1min"}, "granularity is invalid"),
        ({"granularity": "3"}, "granularity is invalid"),
        ({"from": "noon"}, "from is invalid"),
    ],
)
def test_swap_errors(several: Any, query: dict[str, Any], text: str) -> None:
    """What is not there is told with code 400100."""
    answer = _swap(several, **query)

    assert (answer.status, answer.json) == (400, {"code": "400100", "msg": text})
