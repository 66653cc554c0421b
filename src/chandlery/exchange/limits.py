"""Request weights per minute, as Binance counts them: 429 when they are spent, 418 for who goes on asking."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from chandlery.timeframe import DAY, MINUTE

_PATIENCE = 5  # requests answered 429 in a minute before the ban
_FIRST_BAN, _LONGEST_BAN = 2 * MINUTE, 3 * DAY


@dataclass(frozen=True, slots=True)
class Verdict:
    """200, 429 or 418; when refused, after how many milliseconds asking is allowed again."""

    status: int
    used: int  # weight in this minute, this request included
    wait_ms: int = 0

    @property
    def retry_after(self) -> int:
        """`wait_ms` in whole seconds, rounded up."""
        return -(-self.wait_ms // 1000)


class RequestLimits:
    """Counts weight per minute of `clock` (epoch milliseconds); a limit of 0 counts and refuses nothing.

    There is one budget for all callers, as they share the local host's address.
    """

    def __init__(self, limit: int, clock: Callable[[], int]) -> None:
        self.limit = limit
        self._clock = clock
        self._minute = 0
        self._used = 0
        self._refused = 0
        self._banned_until = 0
        self._ban = _FIRST_BAN

    def spend(self, weight: int) -> Verdict:
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
