"""The exchange's own time: any moment, at any speed."""

from __future__ import annotations

import math
import time
from datetime import UTC, datetime
from typing import Protocol

from chandlery.errors import UsageError

_HINT = "write TIME[,SPEED], such as 2024-06-01T00:00Z or 2024-06-01T00:00Z,60; speed 0 stands still, 1 is real time"


class TimeSource(Protocol):
    """Anything that tells the time, such as a test's virtual clock."""

    def now_ms(self) -> int:
        """Epoch milliseconds."""
        ...


class ExchangeClock:
    """Starts at `start` (epoch milliseconds; None is the real now) and runs `speed` times as fast as real time."""

    def __init__(self, start: int | None = None, speed: float = 1.0) -> None:
        self.set(start, speed)

    def set(self, start: int | None, speed: float) -> None:
        """Go to another moment, another speed."""
        self._start = time.time_ns() // 1_000_000 if start is None else start
        self._begun = time.monotonic()
        self.speed = speed

    def now_ms(self) -> int:
        """Epoch milliseconds on the exchange."""
        return self._start + int(self._elapsed() * self.speed)

    def paced_ms(self) -> int:
        """The same at real speed: rate limits count real minutes, however fast the market's time runs."""
        return self._start + int(self._elapsed())

    def _elapsed(self) -> float:
        return (time.monotonic() - self._begun) * 1000


def parse_clock(text: str) -> tuple[int, float]:
    """Read "TIME[,SPEED]" into epoch milliseconds and speed; raises `UsageError`."""
    moment, comma, pace = text.partition(",")
    return parse_moment(moment), parse_speed(pace) if comma else 1.0


def parse_moment(text: str) -> int:
    """Read an ISO 8601 time (UTC unless it says otherwise) or epoch milliseconds; raises `UsageError`."""
    text = text.strip()
    if text.isascii() and text.isdigit() and len(text) > 8:
        return int(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"not a time for the exchange's clock: {text!r}", hint=_HINT) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return int(moment.timestamp() * 1000)


def parse_speed(text: str) -> float:
    """Read a speed, 0 or more; raises `UsageError`."""
    try:
        speed = float(text)
    except ValueError:
        speed = math.nan
    if not 0 <= speed < 1e9:
        raise UsageError(f"not a speed for the exchange's clock: {text!r}", hint=_HINT)
    return speed
