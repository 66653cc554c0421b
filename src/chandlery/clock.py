"""Time as an argument: what waits and what reads the local clock takes a `Clock`, so that a test can own time.

The exchange's time is something else: it comes from the exchange (see `sources.base.Source.now`).
"""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """Local time and waiting."""

    def now_ms(self) -> int:
        """Epoch milliseconds of the local clock."""
        ...

    def monotonic(self) -> float:
        """Seconds that never run backwards, for measuring waits."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait, letting other tasks run."""
        ...


class SystemClock:
    """The machine's clock."""

    def now_ms(self) -> int:
        """Epoch milliseconds of the local clock."""
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        """Seconds that never run backwards."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait for real."""
        await asyncio.sleep(seconds)
