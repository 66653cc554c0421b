"""What is special about OKX's API, as a bare client and the real ccxt class see it."""

from __future__ import annotations

from typing import Any

import pytest

from chandlery.exchange import ExchangeSettings, LocalExchange

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
MIDNIGHT = 1_717_200_000_000  # 2024-06-01


def _times(rows: list[Any]) -> list[int]:
    return [int(row[0]) for row in rows]


def _minutes(first: int, count: int) -> list[int]:
    return [first + n * MINUTE for n in range(count)]


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
