"""A clock that a test owns: waiting takes no time, and moves it."""

from __future__ import annotations

import asyncio


class VirtualClock:
    """Implements `chandlery.clock.Clock`; `sleep` lets other tasks run and moves time on at once.

    Give the same object to a `LocalExchange`, and both sides live in the same hour.
    """

    def __init__(self, now_ms: int) -> None:
        self._start = now_ms
        self._passed = 0.0
        self.slept: list[float] = []  # every wait, in seconds, in order

    def now_ms(self) -> int:
        """Epoch milliseconds of virtual time."""
        return self._start + round(self._passed * 1000)

    def monotonic(self) -> float:
        """Virtual seconds since the clock was made."""
        return self._passed

    def move(self, seconds: float) -> None:
        """Let virtual time pass."""
        self._passed += seconds

    async def sleep(self, seconds: float) -> None:
        """Pass the time at once, and let other tasks run."""
        self.slept.append(seconds)
        self._passed += max(0.0, seconds)
        await asyncio.sleep(0)
