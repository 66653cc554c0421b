"""The klines endpoint answers as Binance's does, down to its errors."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from chandlery.exchange import LocalExchange
from chandlery.exchange.market import TIMEFRAMES
from chandlery.exchange.outages import outages

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
NOW = 1_717_200_030_000  # 2024-06-01T00:00:30Z
MIDNIGHT = 1_717_200_000_000
BTC_LISTED = 1_502_942_400_000  # 2017-08-17T04:00Z

Ask = Callable[..., Any]


def test_row_shape(ask: Ask) -> None:
    """A row has twelve fields: two times, a count of trades, and nine decimal strings of eight decimals."""
    (row,) = ask(startTime=MIDNIGHT - HOUR, limit=1).json

    assert len(row) == 12
    assert row[0] == MIDNIGHT - HOUR
    assert row[6] == MIDNIGHT - HOUR + MINUTE - 1
    assert isinstance(row[8], int)
    for field in (1, 2, 3, 4, 5, 7, 9, 10):
        whole, decimals = row[field].split(".")
        assert len(decimals) == 8
        assert whole == str(int(whole))
    assert row[11] == "0"


@pytest.mark.parametrize("interval", list(TIMEFRAMES))
def test_every_interval_is_on_its_grid(ask: Ask, interval: str) -> None:
    """Rows open on the interval's calendar, close one millisecond before the next, and end with the open candle."""
    frame = TIMEFRAMES[interval]

    rows = ask("DOTUSDT", interval, limit=14).json

    assert [row[0] for row in rows] == sorted(row[0] for row in rows)
    assert all(row[0] == frame.floor(row[0]) and row[6] == frame.next(row[0]) - 1 for row in rows)
    assert rows[-1][0] == frame.floor(NOW)


def test_start_time(ask: Ask) -> None:
    """A startTime is inclusive on open times, rounds up inside a candle, and reaches over blocks without a seam."""
    start = MIDNIGHT - 30 * DAY

    assert [row[0] for row in ask(startTime=start, limit=3).json] == [
        start,
        start + MINUTE,
        start + 2 * MINUTE,
    ]
    assert ask(startTime=start + 1, limit=1).json[0][0] == start + MINUTE
    rows = [row for n in range(5) for row in ask(startTime=start + n * 1000 * MINUTE, limit=1000).json]
    assert [row[0] for row in rows] == [start + n * MINUTE for n in range(5000)]


def test_end_time(ask: Ask) -> None:
    """An endTime is inclusive on open times; without startTime it gives the last rows up to it."""
    end = MIDNIGHT - DAY

    assert [r[0] for r in ask(startTime=end - MINUTE, endTime=end).json] == [end - MINUTE, end]
    assert [r[0] for r in ask(startTime=end - MINUTE, endTime=end - 1).json] == [end - MINUTE]
    assert [r[0] for r in ask(endTime=end, limit=2).json] == [end - MINUTE, end]
    assert ask(startTime=end, endTime=end - 1).json == []
    assert ask(endTime=1).json == []


def test_limits(ask: Ask) -> None:
    """Without a limit there are 500 rows; more than 1,000 are cut to 1,000 without a word."""
    assert len(ask().json) == 500
    assert len(ask(limit=5000).json) == 1000
    assert len(ask(startTime=BTC_LISTED, limit=1001).json) == 1000


def test_start_of_history(ask: Ask) -> None:
    """startTime=0 gives the first candles there are, from the listing on, in every interval."""
    assert ask(startTime=0, limit=1).json[0][0] == BTC_LISTED
    assert ask(interval="1d", startTime=0, limit=1).json[0][0] == BTC_LISTED - 4 * HOUR
    assert ask(interval="1M", startTime=0, limit=1).json[0][0] == 1_501_545_600_000


def test_future_and_far_future(ask: Ask) -> None:
    """Nothing is there after the candle in progress, however far one asks."""
    for start in (MIDNIGHT + MINUTE, 10**14, 10**19):
        assert ask(startTime=start).json == []
        assert ask(interval="1M", startTime=start + 40 * DAY).json == []


def test_pages_go_over_holes(ask: Ask) -> None:
    """In an outage there is no row, and a page that begins in one goes on after it with its full count."""
    outage = outages(MIDNIGHT - 200 * DAY, MIDNIGHT)[-1]

    rows = ask(startTime=outage.since, limit=10).json

    assert [row[0] for row in rows] == [outage.until + n * MINUTE for n in range(10)]
    before, after = ask(endTime=outage.until, limit=2).json
    assert (before[0], after[0]) == (outage.since - MINUTE, outage.until)


def test_candle_in_progress_grows_into_the_closed_one(exchange: LocalExchange, clock: Any, ask: Ask) -> None:
    """The open candle's open stays, its range and volume only grow, and after its end it is the closed candle."""
    seen = []
    for second in range(1, 61):
        clock.now = MIDNIGHT + second * 1000
        row = next(r for r in ask(interval="1m", limit=2).json if r[0] == MIDNIGHT)
        hour = ask(interval="1h", limit=1).json[0]
        assert hour[1:6] == row[1:6] or second == 60
        seen.append([float(v) for v in row[1:6]])
    final = exchange.truth("BTC/USDT", "1m", MIDNIGHT, MIDNIGHT + MINUTE).row(0)[1:]

    assert list(final) == seen[-1]
    assert len({row[0] for row in seen}) == 1
    for earlier, later in pairwise(seen):
        assert later[1] >= earlier[1]
        assert later[2] <= earlier[2]
        assert later[4] >= earlier[4]
    assert all(row[2] <= min(row[0], row[3]) <= max(row[0], row[3]) <= row[1] for row in seen)
    assert seen[5][4] < seen[-1][4]


def test_open_longer_candle_is_what_the_minutes_say(clock: Any, ask: Ask) -> None:
    """The open week is the sum of its closed minutes and of the open one."""
    clock.now = MIDNIGHT + 2 * HOUR + 30_000
    week = ask(interval="1w", limit=1).json[0]
    rows = []
    while not rows or rows[-1][0] < MIDNIGHT + 2 * HOUR:
        rows += ask(startTime=rows[-1][0] + 1 if rows else week[0], limit=1000).json

    assert week[0] == 1_716_768_000_000
    assert week[1] == rows[0][1]
    assert week[4] == rows[-1][4]
    assert float(week[2]) == max(float(r[2]) for r in rows)
    assert float(week[3]) == min(float(r[3]) for r in rows)
    assert round(float(week[5]) * 10**5) == sum(round(float(r[5]) * 10**5) for r in rows)
    assert week[8] == sum(r[8] for r in rows)


def test_nothing_before_the_first_instant_of_a_candle(clock: Any, ask: Ask) -> None:
    """At the very millisecond a candle opens there is no row of it yet."""
    clock.now = MIDNIGHT

    assert ask(limit=1).json[0][0] == MIDNIGHT - MINUTE


def test_delisted_and_not_yet_listed(clock: Any, http: Ask, exchange: LocalExchange, ask: Ask) -> None:
    """A delisted pair keeps its history and stands as BREAK; one not yet listed is unknown."""
    rows = ask("BCCUSDT", "1d", limit=2).json
    info = http(exchange.url, "/api/v3/exchangeInfo", {"symbol": "BCCUSDT"}).json

    assert rows[-1][0] == 1_542_240_000_000
    assert info["symbols"][0]["status"] == "BREAK"
    clock.now = 1_542_240_000_000
    assert (
        http(exchange.url, "/api/v3/exchangeInfo", {"symbol": "BCCUSDT"}).json["symbols"][0]["status"]
        == "TRADING"
    )
    assert ask("SOLUSDT").json == {"code": -1121, "msg": "Invalid symbol."}
    names = [s["symbol"] for s in http(exchange.url, "/api/v3/exchangeInfo", {}).json["symbols"]]
    assert "BTCUSDT" in names
    assert "SOLUSDT" not in names


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ({"symbol": "NOPE"}, -1121),
        ({"symbol": "BTC/USDT"}, -1100),
        ({"symbol": ""}, -1105),
        ({"interval": "7m"}, -1120),
        ({"interval": "1s"}, -1120),
        ({"startTime": "-1"}, -1100),
        ({"startTime": "yesterday"}, -1100),
        ({"endTime": "1.5"}, -1100),
        ({"limit": "many"}, -1100),
        ({"limit": 0}, -1130),
        ({"limit": ""}, -1105),
    ],
)
def test_parameter_errors(ask: Ask, query: dict[str, Any], code: int) -> None:
    """Bad parameters give status 400 with Binance's code."""
    answer = ask(**query)

    assert (answer.status, answer.json["code"]) == (400, code)


@pytest.mark.parametrize("missing", ["symbol", "interval"])
def test_missing_parameters(http: Ask, exchange: LocalExchange, missing: str) -> None:
    """A mandatory parameter that is not sent is -1102, with its name."""
    query = {"symbol": "BTCUSDT", "interval": "1m"}
    del query[missing]

    answer = http(exchange.url, "/api/v3/klines", query)

    assert answer.status == 400
    assert answer.json == {
        "code": -1102,
        "msg": f"Mandatory parameter '{missing}' was not sent, was empty/null, or malformed.",
    }


def test_other_endpoints(http: Ask, exchange: LocalExchange, ask: Ask) -> None:
    """ping, time, exchangeInfo of several symbols and ticker/price answer; unknown paths are 404, other methods 405."""
    url = exchange.url
    two = http(url, "/api/v3/exchangeInfo", {"symbols": '["BTCUSDT","ETHBTC"]'}).json["symbols"]

    assert http(url, "/api/v3/ping", {}).json == {}
    assert http(url, "/api/v3/time", {}).json == {"serverTime": NOW}
    assert [s["symbol"] for s in two] == ["BTCUSDT", "ETHBTC"]
    assert http(url, "/api/v3/exchangeInfo", {"symbols": "x"}).json["code"] == -1100
    price = http(url, "/api/v3/ticker/price", {"symbol": "BTCUSDT"}).json
    assert price == {"symbol": "BTCUSDT", "price": ask(limit=1).json[0][4]}
    assert len(http(url, "/api/v3/ticker/price", {}).json) == 25
    assert http(url, "/dapi/v1/exchangeInfo", {}).json["symbols"] == []
    assert http(url, "/api/v3/account", {}).status == 404
    assert http(url, "/api/v3/ping", {}, method="POST").status == 405


def test_memory_is_bounded(ask: Ask) -> None:
    """The cache forgets the blocks used longest ago, and what it forgot is rendered the same again."""
    from chandlery.exchange.generated import GeneratedMarket
    from chandlery.exchange.klines import KlineBook
    from chandlery.exchange.shapes.binance import KLINES
    from chandlery.exchange.symbols import GENERATED

    market = GeneratedMarket(GENERATED, seed=1)
    small, large = KlineBook(market, memory=1_000_000), KlineBook(market)
    listing, frame = market.listings["BTCUSDT"], TIMEFRAMES["1m"]
    starts = [MIDNIGHT - n * 1000 * MINUTE for n in (1, 9, 3, 12, 30, 1, 3, 20, 9)]
    for start in starts:
        pages = [b.rows(listing, frame, KLINES, since=start, limit=1000, now=NOW) for b in (small, large)]
        assert pages[0] == pages[1]
        assert small._used <= 1_000_000
    assert len(large._blocks) > len(small._blocks) > 0
