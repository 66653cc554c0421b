"""A host's budget: what the exchange itself declares, spent up to a share, and never a request during a ban.

Binance declares weights per fixed window (`rateLimits` of exchangeInfo) and reports what was used in each answer; a
limit of 0, or none, means no pacing. What is used is remembered beside the bans, so that the next process spends what
is left. Other exchanges are paced by ccxt's `rateLimit` and cost as a token bucket.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chandlery.errors import RateLimited
from chandlery.sources.bans import BanBook
from chandlery.sources.retry import NEWS_SECONDS
from chandlery.when import iso

if TYPE_CHECKING:
    from chandlery.clock import Clock

log = logging.getLogger("chandlery.sources.pacing")

IN_FLIGHT = 8
#: How often what is used of a budget is written down for other processes.
_KEEP_SECONDS = 0.25
_CLOCKS_AGREE_MS = 2_000
_UNITS = {"SECOND": 1_000, "MINUTE": 60_000, "HOUR": 3_600_000, "DAY": 86_400_000}


@dataclass(slots=True)
class Window:
    """Weight per fixed window, as the exchange counts it, and here between its reports.

    `until` is a moment of the local clock at which the exchange's window is surely over: its end, where the exchange's
    clock is known (`offset`), else one length after the first report in it. Times are epoch ms of the local clock;
    `sent` and `tick` number what happened in its order, so that an answer that was overtaken on its way is known.
    """

    limit: float
    length_ms: int
    used: float = 0.0
    until: int = 0
    offset: int | None = None  # ms from the local clock to the exchange's, a little less rather than more
    reported: float = 0.0
    _seen: int = 0  # the tick of the latest report
    _sent: int = 0  # the latest request
    _after: int = 0  # reports on requests up to this one may be about the window before

    def wait_ms(self, now: int, cost: float) -> int:
        """Milliseconds until `cost` may be spent."""
        self._turn(now)
        # One request must always be possible, however small the share.
        if self.used == 0 or self.used + cost <= self.limit:
            return 0
        return self.until - now

    def spend(self, now: int, cost: float, sent: int) -> None:
        """Count a request that is about to be sent."""
        self._turn(now)
        self.until = self.until or self._end(now)
        self.used += cost
        self._sent = sent

    def report(self, now: int, used: float, sent: int, tick: int) -> None:
        """Take what the exchange says was used. It counts all that this address sends; trust the higher number."""
        self._turn(now)
        if sent <= self._after:
            return
        if used < self.reported and sent > self._seen:
            # A later request, and a lower count: the exchange's window has turned.
            self.used = self.reported = 0.0
            self._after = sent - 1
        if not self.reported:
            self.until = self._end(now)
        self.used, self.reported = max(self.used, used), max(self.reported, used)
        self._seen = tick

    def set_offset(self, now: int, offset: int) -> None:
        """The exchange's clock is known better now."""
        self.offset = offset
        if self.until > now:
            self.until = min(self.until, self._end(now))

    def _end(self, now: int) -> int:
        if self.offset is None:
            return now + self.length_ms
        return ((now + self.offset) // self.length_ms + 1) * self.length_ms - self.offset

    def _turn(self, now: int) -> None:
        if self.until and now >= self.until:
            self.used = self.reported = 0.0
            self.until, self._after = 0, self._sent


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
        self._tick = 0
        self._said: tuple[Mapping[str, str], int] = {}, 0
        self._offset: int | None = None
        self._kept_at = -math.inf
        self._recall()

    @asynccontextmanager
    async def turn(self, cost: float, weight: float) -> AsyncIterator[int]:
        """Wait until a request of that cost may be sent; it is under way while the block runs. Gives its number.

        Raises RateLimited (with `until`) where the wait would be longer than `max_wait_seconds`.
        """
        async with self._room:
            while True:
                await self._wait(weight)
                if not self._goes_alone():
                    yield self._spend(cost, weight)
                    return
                async with self._first:
                    if self._goes_alone() and self.wait_ms(weight) <= 0:
                        yield self._spend(cost, weight)
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
                old = self.windows.get(name)
                windows[name] = old if old is not None and old.length_ms == window.length_ms else window
                windows[name].limit, windows[name].offset = window.limit, self._offset
        self.windows = windows
        # The answer that declares the limits has counted already.
        self._take_report()

    def report(self, headers: Mapping[str, str], sent: int) -> None:
        """Take what was used so far from an answer's headers (lower case), such as x-mbx-used-weight-1m; `sent` is
        the number of the request.
        """
        self._said = headers, sent
        self._take_report()

    def exchange_says(self, time: object) -> None:
        """Take the exchange's time (epoch ms) from an answer that has just come, to know when its windows turn."""
        if isinstance(time, bool) or not isinstance(time, int):
            return
        now = self.clock.now_ms()
        # An answer takes its time, so the greatest difference is the nearest to the truth.
        offset = time - now if self._offset is None else max(self._offset, time - now)
        # Clocks further apart than this tell nothing sure, such as an exchange whose time runs faster.
        if abs(offset) <= _CLOCKS_AGREE_MS:
            self._offset = offset
            for window in self.windows.values():
                window.set_offset(now, offset)

    def keep(self) -> None:
        """Remember for the next process what is used of the budget."""
        now = self.clock.now_ms()
        self._kept_at = self.clock.monotonic()
        self.bans.keep_budget(
            {
                name: {
                    "limit": round(window.limit / self.share, 3),
                    "interval_ms": window.length_ms,
                    "used": window.used,
                    "at": now,
                    "until": window.until,
                }
                for name, window in self.windows.items()
            },
            now,
        )

    def _recall(self) -> None:
        """Take what an earlier process has left, as far as its windows are not over."""
        now = self.clock.now_ms()
        for name, kept in self.bans.budget().items():
            limit, length = _number(kept, "limit"), _number(kept, "interval_ms")
            used, at, until = (_number(kept, key) for key in ("used", "at", "until"))
            if limit <= 0 or length < 1:
                continue
            window = self.windows[name] = Window(limit * self.share, int(length))
            if used > 0 and at <= now < until <= at + length:
                window.used, window.reported, window.until = used, used, int(until)

    def _take_report(self) -> None:
        headers, sent = self._said
        now = self.clock.now_ms()
        self._tick += 1
        for name, window in self.windows.items():
            text = headers.get(f"x-mbx-used-weight-{name}", "")
            if text.isdecimal():
                window.report(now, float(text), sent, self._tick)
        if self.windows and self.clock.monotonic() - self._kept_at >= _KEEP_SECONDS:
            self.keep()

    def seconds(self, requests: int, weight: float) -> float:
        """The least time that so many requests of that weight take within the budget."""
        paces = [weight * window.length_ms / window.limit for window in self.windows.values()]
        paces += [self.bucket.unit_ms] if self.bucket is not None else []
        return requests * max(paces, default=0.0) / 1000

    async def _wait(self, weight: float) -> None:
        while (wait := self.wait_ms(weight)) > 0:
            if wait > self.max_wait_seconds * 1000:
                until = self.clock.now_ms() + round(wait)
                raise RateLimited(
                    f"{self.name} wants no request until {iso(until)}",
                    hint=f"run again after {iso(until)}, or allow a longer wait with --max-wait",
                    until=until,
                    ban=self.bans.until() >= until,
                )
            if wait > NEWS_SECONDS * 1000:
                told = self.bans.until() > self.clock.now_ms()
                why = f"as {self.name} told us to" if told else f"for the request budget of {self.name}"
                log.info("waiting %.0f s %s", wait / 1000, why)
            await self.clock.sleep(wait / 1000)

    def wait_ms(self, weight: float) -> float:
        """Milliseconds until a request of that weight may be sent."""
        now = self.clock.now_ms()
        waits: list[float] = [self.bans.until() - now, 0]
        waits += [window.wait_ms(now, weight) for window in self.windows.values()]
        if self.bucket is not None:
            waits.append(self.bucket.wait_ms(self.clock.monotonic() * 1000))
        return max(waits)

    def _spend(self, cost: float, weight: float) -> int:
        """Count a request that is about to be sent; returns its number."""
        self._tick += 1
        for window in self.windows.values():
            window.spend(self.clock.now_ms(), weight, self._tick)
        if self.bucket is not None:
            self.bucket.spend(self.clock.monotonic() * 1000, cost)
        return self._tick


def _number(kept: object, key: str) -> float:
    """A number of a remembered window, -1 where there is none."""
    value = kept.get(key) if isinstance(kept, dict) else None
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else -1.0


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

    def close(self) -> None:
        """Remember what is used of every host's budget."""
        for host in self._hosts.values():
            if host.windows:
                host.keep()
