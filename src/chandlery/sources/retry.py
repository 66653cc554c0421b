"""Trying again: how long to wait before it, and for how often.

Own rather than a library's, because every wait here goes through the injected clock.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from chandlery.errors import DataPipelineError, ExchangeUnavailable, RateLimited

if TYPE_CHECKING:
    from chandlery.clock import Clock

log = logging.getLogger("chandlery.sources.retry")

T = TypeVar("T")

_DICE = random.Random()  # one for all: to seed another for each request takes as long as to send it

#: Failures of one ask before it is given up, whatever their kinds.
TRIES = 14
#: Times in a row that the exchange may be down or unreachable before it is given up.
TRIES_DOWN = 7
#: A wait longer than this is worth telling a person who waits too.
NEWS_SECONDS = 2.0
#: Waits as told for one ask.
TRIES_TOLD = 20


@dataclass(slots=True)
class Patience:
    """The failures of one ask. `failed` waits before the next try, or raises the failure if it was one too many."""

    clock: Clock
    max_wait_seconds: float
    on_retry: Callable[[], None] = lambda: None
    failures: int = 0
    down: int = 0
    told: int = 0
    _dice: random.Random = _DICE

    async def failed(self, error: DataPipelineError) -> None:
        """Wait as long as `error` asks for; raise it where waiting will not help."""
        if not error.retryable:
            raise error
        if isinstance(error, RateLimited) and error.until is not None:
            # The host's budget does the waiting, so that all other tasks wait too.
            self.told += 1
            wait = error.until - self.clock.now_ms()
            if self.told > TRIES_TOLD or wait > self.max_wait_seconds * 1000:
                raise error
            self.on_retry()
            log.debug("waiting as told: %s", error)  # the host says for how long
            return
        self.failures += 1
        self.down = self.down + 1 if isinstance(error, ExchangeUnavailable) else 0
        if self.failures >= TRIES or self.down >= TRIES_DOWN:
            raise error
        self.on_retry()
        delay = backoff(self.failures, self._dice)
        # Short waits are no news.
        level = logging.INFO if delay > NEWS_SECONDS else logging.DEBUG
        log.log(level, "asked again in %.0f s (%s time): %s", delay, ordinal(self.failures), error)
        await self.clock.sleep(delay)


def backoff(failures: int, dice: random.Random) -> float:
    """Seconds to wait after that many failures: 0.25, 0.5, 1 ... at most 15, each less up to a half of it by chance."""
    return min(15.0, 0.25 * 2.0 ** (failures - 1)) * dice.uniform(0.5, 1.0)


def ordinal(number: int) -> str:
    """1st, 2nd, 3rd, 4th ..."""
    ending = {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th") if number % 100 not in (11, 12, 13) else "th"
    return f"{number}{ending}"


async def persist(call: Callable[[], Awaitable[T]], patience: Patience) -> T:
    """Await `call()` until it succeeds or `patience` ends."""
    while True:
        try:
            return await call()
        except DataPipelineError as error:
            await patience.failed(error)
