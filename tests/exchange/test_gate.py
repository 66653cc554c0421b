"""What is special about Gate's API, as a bare client and the real ccxt class see it."""

from __future__ import annotations

from typing import Any

import ccxt.async_support as ccxt
import pytest

from chandlery.exchange import ExchangeSettings, LocalExchange
from chandlery.exchange.shapes import shape_of

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
MIDNIGHT = 1_717_200_000_000  # 2024-06-01
SECOND_OF = MIDNIGHT // 1000


def _ask(several: Any, kind: str = "spot", **query: Any) -> Any:
    path, name = ("spot", "currency_pair") if kind == "spot" else ("futures/usdt", "contract")
    return several.get(
        "gate", f"/api/v4/{path}/candlesticks", **{name: "BTC_USDT", "interval": "1m", **query}
    )


def _seconds(answer: Any) -> list[int]:
    return [int(row[0] if isinstance(row, list) else row["t"]) for row in answer.json]


def _minutes(first: int, count: int) -> list[int]:
    return list(range(first, first + count * 60, 60))


@pytest.mark.parametrize("kind", ["spot", "swap"])
def test_windows(several: Any, kind: str) -> None:
    """`from` and `to` are included, in seconds; without a `from` the last 100 or `limit` rows come, the one in progress too."""
    start = SECOND_OF - 6 * 3600

    def seconds(**query: Any) -> list[int]:
        return _seconds(_ask(several, kind, **query))

    assert seconds(**{"from": start, "to": start + 180}) == _minutes(start, 4)
    assert seconds(**{"from": start + 59, "to": start + 179}) == _minutes(start, 3)
    assert seconds(to=start) == _minutes(start - 99 * 60, 100)
    assert seconds() == _minutes(SECOND_OF - 99 * 60, 100)
    assert seconds(limit=7) == _minutes(SECOND_OF - 6 * 60, 7)
    assert seconds(**{"from": start}) == _minutes(start, 361)
    assert seconds(**{"from": start, "to": start - 60}) == []


@pytest.mark.parametrize(("kind", "most"), [("spot", 1000), ("swap", 2000)])
def test_points(several: Any, kind: str, most: int) -> None:
    """A request spans 1,000 points, 2,000 of a swap, counted from the candle that holds `from`; limits may not stand beside."""
    start = SECOND_OF - 5000 * 60
    whole = {"from": start, "to": start + (most - 1) * 60}
    assert len(_seconds(_ask(several, kind, **whole))) == most
    assert len(_seconds(_ask(several, kind, limit=most))) == most
    for query, text in (
        ({**whole, "to": whole["to"] + 60}, f"Candlestick range too broad. Maximum {most} data points are"),
        ({**whole, "from": start - 1}, f"Candlestick range too broad. Maximum {most} data points are"),
        ({**whole, "limit": 5}, "Invalid request parameter `limit` value: 5"),
        ({"limit": most + 1}, f"Invalid request parameter `limit` value: {most + 1}"),
        ({"limit": 0}, "Invalid request parameter `limit` value: 0"),
        ({"from": "noon"}, "invalid argument: from"),
        ({"interval": "3m"}, "invalid argument: interval"),
    ):
        answer = _ask(several, kind, **query)
        assert (answer.status, answer.json["label"]) == (400, "INVALID_PARAM_VALUE")
        assert answer.json["message"].startswith(text)


@pytest.mark.parametrize(("kind", "word"), [("spot", "ago"), ("swap", "recently")])
def test_depth(several: Any, kind: str, word: str) -> None:
    """Nothing older than 10,000 points is given, of any timeframe; who asks for it is told so."""
    for interval, step in (("1m", 60), ("1h", 3600)):
        oldest = SECOND_OF - 10_000 * step
        query = {"interval": interval, "from": oldest, "to": oldest + step}
        assert _seconds(_ask(several, kind, **query)) == [oldest, oldest + step]
        answer = _ask(several, kind, **{**query, "from": oldest - 1})
        assert answer.status == 400
        assert answer.json == {
            "label": "INVALID_PARAM_VALUE",
            "message": f"Candlestick too long ago. Maximum 10000 points {word} are allowed",
        }


def test_depth_in_ccxt(several: Any) -> None:
    """The real class raises BadRequest for what is too old, it does not give an empty page."""

    async def ask(client: Any) -> None:
        await client.fetch_ohlcv("BTC/USDT", "1m", since=MIDNIGHT - 8 * DAY, limit=1000)

    with pytest.raises(ccxt.BadRequest, match="too long ago"):
        several.talk("gate", ask)


def test_rows(several: Any) -> None:
    """A row of spot says whether its window is closed; a swap's volume is in contracts of quanto_multiplier each."""
    rows = _ask(several, limit=2).json
    assert [row[7] for row in rows] == ["true", "false"]
    truth = several.truth("gate", "BTC/USDT", "1m", MIDNIGHT - MINUTE, MIDNIGHT)[0]
    assert [float(rows[0][place]) for place in (5, 3, 4, 2, 6)] == truth[1:]
    swap = _ask(several, "swap", limit=2).json[0]
    contracts = several.get("gate", "/api/v4/futures/usdt/contracts").json
    size = next(one["quanto_multiplier"] for one in contracts if one["name"] == "BTC_USDT")
    truth = several.truth("gate", "BTC/USDT:USDT", "1m", MIDNIGHT - MINUTE, MIDNIGHT)[0]
    assert (size, isinstance(swap["v"], int)) == ("0.0001", True)
    assert [*(float(swap[name]) for name in "ohlc"), swap["v"] / 10_000] == truth[1:]
    assert truth[3] <= float(swap["sum"]) / truth[5] <= truth[2]


def test_weeks(several: Any) -> None:
    """7d counts from 1970, a Thursday, and is what ccxt asks for as 1w; Gate's own 1w begins on Monday."""
    week = 7 * 86_400
    assert {second % week for second in _seconds(_ask(several, interval="7d", limit=3))} == {0}
    assert {second % week for second in _seconds(_ask(several, interval="1w", limit=3))} == {4 * 86_400}
    rows = several.talk("gate", lambda c: c.fetch_ohlcv("BTC/USDT", "1w", limit=3))
    assert {row[0] % (7 * DAY) for row in rows} == {0}
    assert shape_of("gate").timeframes()["1w"].anchor == 0


@pytest.mark.parametrize(
    ("kind", "name", "label"),
    [
        ("spot", "NOPE_USDT", "INVALID_CURRENCY_PAIR"),
        ("spot", "BCC_USDT", "INVALID_CURRENCY_PAIR"),
        ("swap", "NOPE_USDT", "CONTRACT_NOT_FOUND"),
        ("swap", "SRM_USDT", "CONTRACT_NOT_FOUND"),
        ("swap", "ETH_BTC", "CONTRACT_NOT_FOUND"),
    ],
)
def test_unknown_names(several: Any, kind: str, name: str, label: str) -> None:
    """A pair that is not traded, or not of this kind, has the label that says so."""
    answer = _ask(several, kind, **{"currency_pair" if kind == "spot" else "contract": name})

    assert (answer.status, answer.json["label"]) == (400, label)


def test_limits_are_by_endpoint(http: Any) -> None:
    """200 requests in 10 seconds for each endpoint; headers tell what is left, and a refusal when there is room again."""

    class Still:
        def now_ms(self) -> int:
            return MIDNIGHT

    spot = {"currency_pair": "BTC_USDT", "limit": 1}
    with LocalExchange(ExchangeSettings(exchange="gate"), clock=Still()) as exchange:
        answers = [http(exchange.url, "/api/v4/spot/candlesticks", spot) for _ in range(201)]
        other = http(exchange.url, "/api/v4/futures/usdt/candlesticks", {"contract": "BTC_USDT", "limit": 1})

    assert [answer.status for answer in answers] == [200] * 200 + [429]
    assert answers[200].json["label"] == "TOO_MANY_REQUESTS"
    told = [
        [answer.headers[f"x-gate-ratelimit-{name}"] for name in ("limit", "requests-remain")]
        for answer in (answers[0], answers[199], answers[200], other)
    ]
    assert told == [["200", "199"], ["200", "0"], ["200", "0"], ["200", "199"]]
    assert answers[200].headers["x-gate-ratelimit-reset-timestamp"] == str(SECOND_OF + 10)
