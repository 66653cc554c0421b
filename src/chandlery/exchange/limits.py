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

    @property
    def retry_after(self) -> int:
        """`wait_ms` in whole seconds, rounded up."""
        return -(-self.wait_ms // 1000)


class Limits(Protocol):
    """Counts requests. `group` names the limit that an endpoint falls under, where an exchange has several."""

    def spend(self, weight: int, group: str = "") -> Verdict:
        """Charge one request."""
        ...


class RequestLimits:
    """Counts weight per minute of `clock` (epoch milliseconds); a limit of 0 counts and refuses nothing.

    Past the limit 429, and 418 for who goes on asking: each ban is four times as long as the one before it.
    """

    def __init__(self, limit: int, clock: Callable[[], int]) -> None:
        self.limit = limit
        self._clock = clock
        self._minute = 0
        self._used = 0
        self._refused = 0
        self._banned_until = 0
        self._ban = _FIRST_BAN

    def spend(self, weight: int, group: str = "") -> Verdict:
        """Charge one request."""
        now = self._clock()
        if now // MINUTE != self._minute:
            self._minute, self._used, self._refused = now // MINUTE, 0, 0
        if self.limit and now < self._banned_until:
            return Verdict(418, self._used, self._banned_until - now)
        self._used += weight
        if not self.limit or self._used <= self.limit:
            return Verdict(200, self._used)
        self._refused += 1
        if self._refused > _PATIENCE:
            self._banned_until = now + self._ban
            wait, self._ban = self._ban, min(self._ban * 4, _LONGEST_BAN)
            return Verdict(418, self._used, wait)
        return Verdict(429, self._used, (self._minute + 1) * MINUTE - now)


@dataclass(frozen=True, slots=True)
class Window:
    """At most `weight` in any `ms` milliseconds; who asks for more is refused, and banned for `ban_ms` if that is not 0."""

    weight: int
    ms: int
    ban_ms: int = 0


class WindowLimits:
    """Rolling windows by group; a group without a window is free. Refused requests are not counted.

    `most` takes the place of every window's weight; 0 refuses nothing.
    """

    def __init__(
        self, windows: Mapping[str, Window], clock: Callable[[], int], *, most: int | None = None
    ) -> None:
        self._windows = windows
        self._clock = clock
        self._most = most
        self._spent: dict[str, deque[tuple[int, int]]] = {group: deque() for group in windows}
        self._used = dict.fromkeys(windows, 0)
        self._banned_until = dict.fromkeys(windows, 0)

    def most(self, group: str) -> int:
        """The weight that a group's window holds; 0 is no limit."""
        window = self._windows.get(group)
        return 0 if window is None else window.weight if self._most is None else self._most

    def spend(self, weight: int, group: str = "") -> Verdict:
        """Charge one request: 200, 429, or 418 where the exchange bans."""
        window = self._windows.get(group)
        if window is None or self._most == 0:
            return Verdict(200, 0)
        now, spent = self._clock(), self._spent[group]
        if now < self._banned_until[group]:
            return Verdict(418, self._used[group], self._banned_until[group] - now)
        while spent and spent[0][0] <= now - window.ms:
            self._used[group] -= spent.popleft()[1]
        if self._used[group] + weight <= (self._most or window.weight):
            self._used[group] += weight
            spent.append((now, weight))
            return Verdict(200, self._used[group])
        if window.ban_ms:
            self._banned_until[group] = now + window.ban_ms
            return Verdict(418, self._used[group], window.ban_ms)
        return Verdict(429, self._used[group], spent[0][0] + window.ms - now if spent else window.ms)
