"""What is special about Bybit's API, as a bare client and the real ccxt class see it."""

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
