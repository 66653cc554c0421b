"""What is special about Bitget's API, as a bare client and the real ccxt class see it."""

from __future__ import annotations

from typing import Any

import pytest

from chandlery.exchange import ExchangeSettings, LocalExchange
from chandlery.exchange.shapes.bitget import Bitget

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
MIDNIGHT = 1_717_200_000_000  # 2024-06-01
NOW = MIDNIGHT + 30_000


def _minutes(first: int, count: int) -> list[int]:
    return [first + n * MINUTE for n in range(count)]


def _ask(several: Any, kind: str = "spot", path: str = "candles", **query: Any) -> Any:
    own = {"granularity": "1min"} if kind == "spot" else {"granularity": "1m", "productType": "usdt-futures"}
    return several.get("bitget", f"/api/v2/{kind}/market/{path}", **{"symbol": "BTCUSDT", **own, **query})


def _times(answer: Any) -> list[int]:
    return [int(row[0]) for row in answer.json["data"]]


@pytest.mark.parametrize("kind", ["spot", "mix"])
def test_recent_candles(several: Any, kind: str) -> None:
    """`startTime` is included, `endTime` is not; of a wide window the last rows come: 100, or 1,000 at most."""
    start = MIDNIGHT - DAY

    def times(**query: Any) -> list[int]:
        return _times(_ask(several, kind, **query))

    assert times(startTime=start, endTime=start + 3 * MINUTE) == _minutes(start, 3)
    assert times(startTime=start + 1, endTime=start + 3 * MINUTE + 1) == _minutes(start + MINUTE, 3)
    assert times(startTime=start, endTime=start + HOUR, limit=2) == _minutes(start + 58 * MINUTE, 2)
    assert times(endTime=start, limit=2) == _minutes(start - 2 * MINUTE, 2)
    assert times() == times(startTime=start) == _minutes(MIDNIGHT - 99 * MINUTE, 100)
    assert times(limit=5000) == _minutes(MIDNIGHT - 999 * MINUTE, 1000)


@pytest.mark.parametrize(
    ("granularity", "days"), [("1m", 30), ("30m", 30), ("1H", 60), ("2H", 120), ("4H", 240), ("1Dutc", 1440)]
)
def test_recent_depth(several: Any, granularity: str, days: int) -> None:
    """The endpoint of recent candles reaches back some days, by the timeframe; older ones are in the history only."""
    frame = Bitget.swap_intervals[granularity]
    edge = NOW - days * DAY
    around = {"granularity": granularity, "endTime": frame.add(frame.ceil(edge), 3), "limit": 50}

    recent = _times(_ask(several, "mix", **around))
    history = _times(_ask(several, "mix", "history-candles", **around))

    assert recent == [frame.add(frame.ceil(edge), n) for n in range(3)]
    assert (len(history), history[-3:]) == (50, recent)
    assert _times(_ask(several, "mix", granularity=granularity, endTime=edge)) == []


def test_history(several: Any) -> None:
    """200 closed rows before endTime at most; that of spot wants an endTime and has no startTime, a swap's spans 90 days."""
    end = MIDNIGHT - 100 * DAY

    def times(kind: str, **query: Any) -> list[int]:
        return _times(_ask(several, kind, "history-candles", **query))

    last = _minutes(end - 200 * MINUTE, 200)
    for kind in ("spot", "mix"):
        assert times(kind, endTime=end, limit=1000) == last
        assert times(kind, endTime=end) == last[100:]
        assert times(kind, endTime=NOW + DAY, limit=1) == [MIDNIGHT - MINUTE]
    assert times("spot", endTime=end, startTime=end - MINUTE, limit=200) == last
    assert times("mix", endTime=end, startTime=end - MINUTE, limit=200) == last[-1:]
    empty = _ask(several, "spot", "history-candles")
    assert (empty.status, empty.json["code"]) == (400, "40019")
    wide = _ask(several, "mix", "history-candles", startTime=end - 91 * DAY, endTime=end)
    assert (wide.status, wide.json["code"]) == (400, "40705")


def test_rows(several: Any) -> None:
    """A row of spot has eight texts, one of a swap seven; the volume is in the base currency."""
    for kind, symbol, width in (("spot", "BTC/USDT", 8), ("mix", "BTC/USDT:USDT", 7)):
        row = _ask(several, kind, startTime=MIDNIGHT - MINUTE, endTime=MIDNIGHT).json["data"][0]
        truth = several.truth("bitget", symbol, "1m", MIDNIGHT - MINUTE, MIDNIGHT)[0]
        assert len(row) == width
        assert [float(value) for value in row[:6]] == truth
        assert row[-1] == row[6]


def test_granularities(several: Any) -> None:
    """From 6h on candles open by UTC+8 unless the name ends in utc; long timeframes have shorter pages."""

    def opened(granularity: str, kind: str = "mix") -> set[int]:
        return {time % DAY for time in _times(_ask(several, kind, granularity=granularity, limit=3))}

    assert (opened("1D"), opened("1Dutc"), opened("1day", "spot")) == ({16 * HOUR}, {0}, {16 * HOUR})
    rows = {
        (kind, name): len(_times(_ask(several, kind, granularity=name, limit=1000)))
        for kind, name in (("mix", "4H"), ("mix", "1Dutc"), ("mix", "1Wutc"), ("spot", "1Dutc"))
    }
    assert rows == {("mix", "4H"): 540, ("mix", "1Dutc"): 90, ("mix", "1Wutc"): 13, ("spot", "1Dutc"): 300}
    for kind, name in (("spot", "1m"), ("spot", "1H"), ("spot", "2h"), ("mix", "1min"), ("mix", "1h")):
        assert _ask(several, kind, granularity=name).json["code"] == "40020"


def test_wide_page_of_old_candles_loses_its_head_in_ccxt(several: Any) -> None:
    """The real class asks for 1,000 from 31 days back on and gets the last 200 of them, without a sign; at 28 days all come."""

    async def ask(client: Any) -> Any:
        return [
            await client.fetch_ohlcv("BTC/USDT:USDT", "1m", since=MIDNIGHT - days * DAY, limit=1000)
            for days in (31, 28)
        ]

    old, recent = several.talk("bitget", ask)

    assert [row[0] for row in old] == _minutes(MIDNIGHT - 31 * DAY + 800 * MINUTE, 200)
    assert [row[0] for row in recent] == _minutes(MIDNIGHT - 28 * DAY, 1000)


@pytest.mark.parametrize(
    ("kind", "query", "code"),
    [
        ("spot", {"symbol": "NOPEUSDT"}, "40034"),
        ("spot", {"symbol": "BCCUSDT"}, "40034"),
        ("mix", {"symbol": "SRMUSDT"}, "40034"),
        ("mix", {"symbol": "LTCBNB"}, "40034"),
        ("spot", {"symbol": ""}, "40019"),
        ("spot", {"startTime": "noon"}, "40020"),
        ("mix", {"productType": "stocks"}, "40020"),
    ],
)
def test_errors(several: Any, kind: str, query: dict[str, Any], code: str) -> None:
    """Errors have status 400, a code, a text and no data."""
    answer = _ask(several, kind, **query)

    assert (answer.status, answer.json["code"], answer.json["data"]) == (400, code, None)


def test_limits_are_by_endpoint(http: Any) -> None:
    """20 requests a second for each endpoint, status 429 beyond; one does not use up the other."""

    class Still:
        def now_ms(self) -> int:
            return MIDNIGHT

    query = {"symbol": "BTCUSDT", "granularity": "1min", "endTime": MIDNIGHT, "limit": 1}
    with LocalExchange(ExchangeSettings(exchange="bitget"), clock=Still()) as exchange:
        statuses = {
            path: [
                http(exchange.url, f"/api/v2/spot/market/{path}", query).status
                for _ in range(21)
            ]
            for path in ("candles", "history-candles")
        }  # fmt: skip
        coins = [http(exchange.url, "/api/v2/spot/public/coins", {}) for _ in range(4)]

    assert statuses == dict.fromkeys(("candles", "history-candles"), [200] * 20 + [429])
    assert [answer.status for answer in coins] == [200, 200, 200, 429]
    assert coins[3].json["code"] == "429"
