"""What an exchange lets one caller ask: weight per minute as Binance counts it, or requests per rolling window.

There is one budget for all callers, as they share the local host's address.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from chandlery.timeframe import DAY, MINUTE

_PATIENCE = 5  # requests answered 429 in a minute before the ban
_FIRST_BAN, _LONGEST_BAN = 2 * MINUTE, 3 * DAY


@dataclass(frozen=True, slots=True)
class Verdict:
    """200, 429 or 418; when refused, after how many milliseconds asking is allowed again."""

    status: int
    used: int  # weight in this window, this request included
    wait_ms: int = 0
    group: str = ""

    @property
    def retry_after(self) -> int:
        """`wait_ms` in whole seconds, rounded up."""
        return -(-self.wait_ms // 1000)


@dataclass(slots=True)
class Usage:
    """What was asked of one limit: `limit` is the weight that `window_ms` hold, 0 none; `most_used` the largest that any did.

    `refused` requests (429) and those during a ban (418) are not part of `weight`.
    """

    group: str
    limit: int
    window_ms: int
    rolling: bool
    requests: int = 0
    weight: int = 0
    most_used: int = 0
    refused: int = 0
    banned: int = 0

    def count(self, verdict: Verdict, weight: int) -> Verdict:
        """Take one request's verdict to account."""
        self.requests += 1
        if verdict.status == 200:
            self.weight += weight
            self.most_used = max(self.most_used, verdict.used)
        elif verdict.status == 429:
            self.refused += 1
        else:
            self.banned += 1
        return verdict

    def clear(self) -> None:
        """Count from nothing."""
        self.requests = self.weight = self.most_used = self.refused = self.banned = 0


class Limits(Protocol):
    """Counts requests. `group` names the limit that an endpoint falls under, where an exchange has several."""

    def spend(self, weight: int, group: str = "") -> Verdict:
        """Charge one request."""
        ...

    def usage(self) -> list[Usage]:
        """What was asked of each limit since the start."""
        ...


class RequestLimits:
    """Counts weight per minute of `clock` (epoch milliseconds); a limit of 0 counts and refuses nothing.

    Past the limit 429, and 418 for who goes on asking: each ban is four times as long as the one before it.
    """

    def __init__(self, limit: int, clock: Callable[[], int], *, group: str = "") -> None:
        self.limit = limit
        self._clock = clock
        self._minute = 0
        self._used = 0
        self._refused = 0
        self._banned_until = 0
        self._ban = _FIRST_BAN
        self._usage = Usage(group, limit, MINUTE, rolling=False)

    def spend(self, weight: int, group: str = "") -> Verdict:
        """Charge one request."""
        return self._usage.count(self._judge(weight, group), weight)

    def usage(self) -> list[Usage]:
        """What was asked since the start."""
        return [self._usage]

    def _judge(self, weight: int, group: str) -> Verdict:
        now = self._clock()
        if now // MINUTE != self._minute:
            self._minute, self._used, self._refused = now // MINUTE, 0, 0
        if self.limit and now < self._banned_until:
            return Verdict(418, self._used, self._banned_until - now, group)
        self._used += weight
        if not self.limit or self._used <= self.limit:
            return Verdict(200, self._used, 0, group)
        self._refused += 1
        if self._refused > _PATIENCE:
            self._banned_until = now + self._ban
            wait, self._ban = self._ban, min(self._ban * 4, _LONGEST_BAN)
            return Verdict(418, self._used, wait, group)
        return Verdict(429, self._used, (self._minute + 1) * MINUTE - now, group)


class HostLimits:
    """Limits of their own for each of the exchange's hosts, by the group of the endpoint."""

    def __init__(self, hosts: Mapping[str, Limits]) -> None:
        self.hosts = hosts

    def spend(self, weight: int, group: str = "") -> Verdict:
        """Charge one request to its host."""
        return self.hosts[group].spend(weight, group)

    def usage(self) -> list[Usage]:
        """What was asked of each host."""
        return [usage for limits in self.hosts.values() for usage in limits.usage()]


@dataclass(frozen=True, slots=True)
class Window:
    """At most `weight` in any `ms` milliseconds; who asks for more is refused.

    Where `ban_ms` is not 0, who is refused more than `patience` times in a row of `ms` is banned for so long.
    """

    weight: int
    ms: int
    ban_ms: int = 0
    patience: int = 0


class WindowLimits:
    """Rolling windows by group; a group without a window is free. Refused requests are not counted.

    `most` takes the place of every window's weight; 0 refuses nothing.
    """

    def __init__(
        self, windows: Mapping[str, Window], clock: Callable[[], int], *, most: int | None = None
    ) -> None:
        self._clock = clock
        self._windows = {
            group: _Rolling(group, window, window.weight if most is None else most)
            for group, window in windows.items()
        }

    def most(self, group: str) -> int:
        """The weight that a group's window holds; 0 is no limit."""
        window = self._windows.get(group)
        return 0 if window is None else window.usage.limit

    def spend(self, weight: int, group: str = "") -> Verdict:
        """Charge one request: 200, 429, or 418 where the exchange bans."""
        window = self._windows.get(group)
        if window is None:
            return Verdict(200, 0, 0, group)
        return window.usage.count(window.judge(weight, self._clock()), weight)

    def usage(self) -> list[Usage]:
        """What was asked of each window since the start."""
        return [window.usage for window in self._windows.values()]


class _Rolling:
    """One window and what is in it."""

    def __init__(self, group: str, window: Window, most: int) -> None:
        self.usage = Usage(group, most, window.ms, rolling=True)
        self._window = window
        self._spent: deque[tuple[int, int]] = deque()
        self._used = 0
        self._refused: deque[int] = deque()
        self._banned_until = 0

    def judge(self, weight: int, now: int) -> Verdict:
        window, group = self._window, self.usage.group
        if self._spent and now < self._spent[-1][0]:  # the clock was set back
            self._spent.clear()
            self._used = self._banned_until = 0
        if now < self._banned_until:
            return Verdict(418, self._used, self._banned_until - now, group)
        while self._spent and self._spent[0][0] <= now - window.ms:
            self._used -= self._spent.popleft()[1]
        if not self.usage.limit or self._used + weight <= self.usage.limit:
            self._used += weight
            self._spent.append((now, weight))
            return Verdict(200, self._used, 0, group)
        if window.ban_ms and self._patience_ends(now):
            self._banned_until = now + window.ban_ms
            return Verdict(418, self._used, window.ban_ms, group)
        wait = self._spent[0][0] + window.ms - now if self._spent else window.ms
        return Verdict(429, self._used, wait, group)

    def _patience_ends(self, now: int) -> bool:
        while self._refused and self._refused[0] <= now - self._window.ms:
            self._refused.popleft()
        self._refused.append(now)
        return len(self._refused) > self._window.patience
