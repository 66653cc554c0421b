"""What is special about Kraken's API, as a bare client and the real ccxt class see it."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from chandlery.exchange.shapes import shape_of

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
MIDNIGHT = 1_717_200_000_000  # 2024-06-01


def _times(rows: list[Any]) -> list[int]:
    return [int(row[0]) for row in rows]


def _minutes(first: int, count: int) -> list[int]:
    return [first + n * MINUTE for n in range(count)]


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
