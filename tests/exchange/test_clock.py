"""The exchange's clock."""

from __future__ import annotations

import time

import pytest

from chandlery.errors import UsageError
from chandlery.exchange.clock import ExchangeClock, parse_clock

START = 1_717_200_000_000


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2024-06-01T00:00Z", (START, 1.0)),
        ("2024-06-01T00:00Z,0", (START, 0.0)),
        ("2024-06-01,60", (START, 60.0)),
        ("2024-06-01T02:00+02:00,0.5", (START, 0.5)),
        ("1717200000000,1", (START, 1.0)),
    ],
)
def test_reading(text: str, expected: tuple[int, float]) -> None:
    """TIME is ISO 8601 (UTC unless it says otherwise) or epoch milliseconds, SPEED is optional."""
    assert parse_clock(text) == expected


@pytest.mark.parametrize(
    "text", ["", "noon", "2024-06-01,", "2024-06-01,fast", "2024-06-01,-1", "2024-06-01,nan", "12,1"]
)
def test_what_is_not_a_clock(text: str) -> None:
    """Anything else is refused with the value and a hint."""
    with pytest.raises(UsageError, match=r"not a (time|speed)") as caught:
        parse_clock(text)

    assert "TIME[,SPEED]" in caught.value.hint


def test_speed() -> None:
    """Speed 0 stands still, 1,000 passes a second in a millisecond."""
    still, racing = ExchangeClock(START, 0), ExchangeClock(START, 1000)
    time.sleep(0.02)

    assert still.now_ms() == START
    assert still.paced_ms() >= START + 20
    assert START + 20_000 <= racing.now_ms() < START + 20_000_000
