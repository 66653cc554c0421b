"""A host's budget: what the exchange itself declares, spent up to a share, and never a request during a ban.

Binance declares weights per fixed window (`rateLimits` of exchangeInfo) and reports what was used in each answer; a
limit of 0, or none, means no pacing. Other exchanges are paced by ccxt's `rateLimit` and cost as a token bucket.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chandlery.errors import RateLimited
from chandlery.sources.bans import BanBook
from chandlery.when import iso

if TYPE_CHECKING:
    from chandlery.clock import Clock

log = logging.getLogger("chandlery.sources.pacing")

IN_FLIGHT = 8
_UNITS = {"SECOND": 1_000, "MINUTE": 60_000, "HOUR": 3_600_000, "DAY": 86_400_000}


@dataclass(slots=True)
class Window:
    """Weight per fixed window, counted by the exchange, and here between its reports."""

    limit: float
    length_ms: int
    number: int = -1
    used: float = 0.0

    def wait_ms(self, now: int, cost: float) -> int:
        """Milliseconds until `cost` may be spent."""
        self._turn(now)
        # One request must always be possible, however small the share.
        if self.used == 0 or self.used + cost <= self.limit:
            return 0
        return (self.number + 1) * self.length_ms - now

    def spend(self, now: int, cost: float) -> None:
        """Count a request that is about to be sent."""
        self._turn(now)
        self.used += cost

    def report(self, now: int, used: float) -> None:
        """Take what the exchange says was used. It counts all that this address sends; trust the higher number."""
        self._turn(now)
        self.used = max(self.used, used)

    def _turn(self, now: int) -> None:
        number = now // self.length_ms
        if number != self.number:
            self.number, self.used = number, 0.0


@dataclass(slots=True)
class Bucket:
    """A token bucket in milliseconds of ccxt's `rateLimit`: one cost unit is `unit_ms`, `burst` may be saved up."""

    unit_ms: float
    burst_ms: float = 0.0
    free_at: float = 0.0

    def wait_ms(self, now: float) -> float:
        """Milliseconds until the next request may go."""
        return max(0.0, self.free_at - now)

    def spend(self, now: float, cost: float) -> None:
        """Count a request that is about to be sent."""
        self.free_at = max(self.free_at, now - self.burst_ms) + cost * self.unit_ms


class Host:
    """One API host: its ban, its budget, and how many requests are under way to it."""

    def __init__(
        self,
        name: str,
        *,
        clock: Clock,
        bans: BanBook,
        max_wait_seconds: float,
        share: float,
        bucket: Bucket | None = None,
        in_flight: int = IN_FLIGHT,
    ) -> None:
        self.name = name
        self.clock = clock
        self.bans = bans
        self.max_wait_seconds = max_wait_seconds
        self.share = share
        self.bucket = bucket
        self.windows: dict[str, Window] = {}
        self._room = asyncio.Semaphore(in_flight)
        self._first = asyncio.Lock()
        self._cautious = False  # a ban has just ended: one request goes ahead alone

    @asynccontextmanager
    async def turn(self, cost: float, weight: float) -> AsyncIterator[None]:
        """Wait until a request of that cost may be sent; it is under way while the block runs.

        Raises RateLimited (with `until`) where the wait would be longer than `max_wait_seconds`.
        """
        async with self._room:
            while True:
                await self._wait(weight)
                if not self._goes_alone():
                    self._spend(cost, weight)
                    yield
                    return
                async with self._first:
                    if self._goes_alone() and self._wait_ms(weight) <= 0:
                        self._spend(cost, weight)
                        yield
                        self._cautious = self.bans.until() > self.clock.now_ms()
                        return

    def _goes_alone(self) -> bool:
        return self._cautious

    def told(self, until: int, reason: str) -> None:
        """The exchange named a time before which it wants no request: everyone waits, after a restart too."""
        now = self.clock.now_ms()
        log.warning("%s wants no request until %s: %s", self.name, iso(until), reason)
        self._cautious = True
        self.bans.note(until, reason, now)

    def declare(self, limits: object) -> None:
        """Take the exchange's own limits: `rateLimits` of Binance's exchangeInfo."""
        windows: dict[str, Window] = {}
        for item in limits if isinstance(limits, list) else ():
            found = _declared(item, self.share)
            if found is not None:
                name, window = found
                windows[name] = self.windows.get(name, window)
                windows[name].limit = window.limit
        self.windows = windows

    def report(self, headers: Mapping[str, str]) -> None:
        """Take what was used so far from an answer's headers (lower case), such as x-mbx-used-weight-1m."""
        now = self.clock.now_ms()
        for name, window in self.windows.items():
            text = headers.get(f"x-mbx-used-weight-{name}", "")
            if text.isdecimal():
                window.report(now, float(text))

    def seconds(self, requests: int, weight: float) -> float:
        """The least time that so many requests of that weight take within the budget."""
        paces = [weight * window.length_ms / window.limit for window in self.windows.values()]
        paces += [self.bucket.unit_ms] if self.bucket is not None else []
        return requests * max(paces, default=0.0) / 1000

    async def _wait(self, weight: float) -> None:
        while (wait := self._wait_ms(weight)) > 0:
            if wait > self.max_wait_seconds * 1000:
                until = self.clock.now_ms() + round(wait)
                raise RateLimited(
                    f"{self.name} wants no request until {iso(until)}",
                    hint=f"run again after {iso(until)}, or allow a longer wait with --max-wait",
                    until=until,
                    ban=self.bans.until() >= until,
                )
            await self.clock.sleep(wait / 1000)

    def _wait_ms(self, weight: float) -> float:
        now = self.clock.now_ms()
        waits: list[float] = [self.bans.until() - now, 0]
        waits += [window.wait_ms(now, weight) for window in self.windows.values()]
        if self.bucket is not None:
            waits.append(self.bucket.wait_ms(self.clock.monotonic() * 1000))
        return max(waits)

    def _spend(self, cost: float, weight: float) -> None:
        for window in self.windows.values():
            window.spend(self.clock.now_ms(), weight)
        if self.bucket is not None:
            self.bucket.spend(self.clock.monotonic() * 1000, cost)


def _declared(item: Any, share: float) -> tuple[str, Window] | None:
    """One entry of `rateLimits` as the suffix of its header and its window; None where it sets no limit on weight."""
    if not isinstance(item, dict) or item.get("rateLimitType") != "REQUEST_WEIGHT":
        return None
    unit, count, limit = item.get("interval"), item.get("intervalNum", 1), item.get("limit")
    if unit not in _UNITS or not isinstance(count, int) or not isinstance(limit, int | float):
        return None
    if limit <= 0 or count <= 0:
        return None
    return f"{count}{unit[0].lower()}", Window(limit * share, _UNITS[unit] * count)


class Pacer:
    """The hosts of one exchange client."""

    def __init__(
        self,
        *,
        clock: Clock,
        state_dir: Path,
        max_wait_seconds: float,
        share: float,
        unit_ms: float | None,
        in_flight: int = IN_FLIGHT,
    ) -> None:
        self.clock = clock
        self.state_dir = state_dir
        self.max_wait_seconds = max_wait_seconds
        self.share = share
        self.unit_ms = unit_ms  # None: the exchange declares its limits itself
        self.in_flight = in_flight
        self._hosts: dict[str, Host] = {}

    def host(self, name: str) -> Host:
        """The budget of one host ("api.binance.com", "127.0.0.1:8080")."""
        found = self._hosts.get(name)
        if found is None:
            unit = self.unit_ms / self.share if self.unit_ms else 0.0
            found = self._hosts[name] = Host(
                name,
                clock=self.clock,
                bans=BanBook(self.state_dir, name),
                max_wait_seconds=self.max_wait_seconds,
                share=self.share,
                bucket=Bucket(unit) if unit else None,
                in_flight=self.in_flight,
            )
        return found
