"""Asking an exchange about its habits: each answer as it came, what is plainly broken asked for again, all of it counted."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from chandlery.errors import BadAnswer, ExchangeError, ExchangeUnavailable, RateLimited
from chandlery.sources.ccxt_rows import rows_to_frame
from chandlery.timeframe import Timeframe
from chandlery.validate import open_times
from chandlery.when import iso

if TYPE_CHECKING:
    import polars as pl
    from numpy.typing import NDArray

    from chandlery.clock import Clock
    from chandlery.sources.ccxt_client import Client

log = logging.getLogger("chandlery.sources.probe")

#: Requests that a probe may send, whatever for. HTTP clients send one again by themselves where a kept connection breaks, so
#: that a few less than the 59 are counted here.
MOST_REQUESTS = 56
#: A ban for longer than this ends a probe, in ms.
LONGEST_BAN = 60_000
#: Tries of one ask that comes back broken, of one that is refused, and the pause between two, in seconds.
TRIES, TRIES_REFUSED, PAUSE = 4, 2, 1.0
#: Answers to one ask, of which two must agree.
VOTES = 4

Outcome = TypeVar("Outcome", bound=Hashable)


class NoRequestsLeft(Exception):
    """The probe has sent all the requests that it may."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One ask for candles, as it is put to ccxt. Times are epoch ms."""

    symbol: str
    frame: Timeframe
    since: int | None = None
    limit: int | None = None
    until: int | None = None

    def __str__(self) -> str:
        parts = [f"{self.symbol} {self.frame.text}"]
        parts += [] if self.since is None else [f"since {iso(self.since)}"]
        parts += [] if self.until is None else [f"until {iso(self.until)}"]
        parts += [] if self.limit is None else [f"limit {self.limit}"]
        return " ".join(parts)


@dataclass(slots=True)
class Seen:
    """One answer: its rows in the order in which they came, or why there are none.

    `candles` has the columns of candle.SCHEMA; `raw` are the exchange's own rows, `refused` the exchange's words where
    it did not answer with rows. `url` is where it was asked.
    """

    ask: Ask
    candles: pl.DataFrame
    raw: list[object] = field(default_factory=list)
    refused: str = ""
    url: str = ""
    #: Whether `raw` are rows of the exchange's own, in its own order.
    own_rows: bool = True

    @property
    def times(self) -> NDArray[np.int64]:
        """Open times in the order of the answer."""
        return open_times(self.candles)

    @property
    def count(self) -> int:
        """Rows."""
        return len(self.candles)

    @property
    def first(self) -> int:
        """The earliest open time, 0 without rows."""
        return int(self.times.min()) if self.count else 0

    @property
    def last(self) -> int:
        """The latest open time, 0 without rows."""
        return int(self.times.max()) if self.count else 0

    @property
    def holes(self) -> int:
        """Slots between the first and the last row that have none."""
        return self.ask.frame.count(self.first, self.last + 1) - self.count if self.count else 0

    @property
    def order(self) -> str:
        """Ascending or descending, nothing for fewer than two rows."""
        return "" if self.count < 2 else "ascending" if self.times[1] > self.times[0] else "descending"

    def has(self, moment: int) -> bool:
        """Whether a candle opens then."""
        return bool((self.times == moment).any())

    def within(self, since: int, until: int) -> bool:
        """Whether there are rows, and all of them open in [since, until)."""
        return self.count > 0 and since <= self.first and self.last < until

    def __str__(self) -> str:
        if self.refused:
            return f"{self.ask} -> refused: {self.refused}"
        if not self.count:
            return f"{self.ask} -> no rows"
        rows = "1 row" if self.count == 1 else f"{self.count} rows"
        return f"{self.ask} -> {rows}, {iso(self.first)} to {iso(self.last)}" + (
            f", {self.order}" if self.order else ""
        )


class ProbeAsker:
    """Asks one exchange for candles, `most` requests in all; `offset` is its time less the local clock's, in ms."""

    def __init__(self, client: Client, clock: Clock, *, offset: int = 0, most: int = MOST_REQUESTS) -> None:
        self.client = client
        self.clock = clock
        self.offset = offset
        self.most = most
        #: Every answer, in the order in which they were asked for.
        self.seen: list[Seen] = []
        self._refusals: set[str] = set()

    @property
    def requests(self) -> int:
        """Requests sent so far, for candles or anything else."""
        return self.client.traffic.requests

    @property
    def left(self) -> int:
        """Requests that may still be sent."""
        return self.most - self.requests

    def now(self) -> int:
        """The exchange's time, epoch ms."""
        return self.clock.now_ms() + self.offset

    def current(self, frame: Timeframe) -> int:
        """Open time of the candle in progress."""
        return frame.floor(self.now())

    async def ask(self, ask: Ask, *, refusals: int = TRIES_REFUSED) -> Seen:
        """The answer to one ask; what is plainly broken is asked for again, and what is refused `refusals` times in all.

        Raises NoRequestsLeft, ExchangeError where the exchange is down or sends this host away.
        """
        failure: ExchangeError | None = None
        refused = 0
        for attempt in range(TRIES):
            if attempt:
                await self.clock.sleep(PAUSE * attempt)
            if self.left < 1:
                raise NoRequestsLeft
            try:
                seen = await self._once(ask)
            except RateLimited as error:
                if error.ban and (error.until or 0) - self.clock.now_ms() > LONGEST_BAN:
                    raise
                failure = error  # the host's budget does the waiting
                continue
            except ExchangeError as error:
                failure = error
                log.debug("%s -> %s", ask, error)
                # A node or a firewall may err once, so what is refused for the first time is asked for once more.
                refused += not error.retryable
                words = re.sub(r"\d+", "", error.message)
                if refused == refusals or (refused and words in self._refusals):
                    self._refusals.add(words)
                    break
                continue
            self.seen.append(seen)
            log.debug("%s", seen)
            return seen
        assert failure is not None
        if isinstance(failure, RateLimited) or (
            isinstance(failure, ExchangeUnavailable) and failure.status in (0, 502, 503, 504)
        ):
            raise failure
        seen = Seen(ask, _none(), refused=failure.message)
        self.seen.append(seen)
        return seen

    async def vote(
        self, ask: Ask, outcome: Callable[[Seen], Outcome | None]
    ) -> tuple[Outcome | None, Seen | None]:
        """What two answers to the same ask agree on, and one of them; None where none do. None is no outcome either."""
        votes: dict[Outcome, int] = {}
        for _ in range(VOTES):
            seen = await self.ask(ask)
            told = outcome(seen)
            if told is None:
                continue
            votes[told] = votes.get(told, 0) + 1
            if votes[told] == 2:
                return told, seen
        return None, None

    async def other(self, name: str, *args: Any) -> Any:
        """Call another ccxt method once, where requests are left for it; None where it does not work."""
        if self.left < 10:
            return None
        try:
            value, _ = await self.client.call(name, *args)
        except ExchangeError as error:
            log.debug("%s: %s", name, error)
            return None
        return value

    async def _once(self, ask: Ask) -> Seen:
        params = {} if ask.until is None else {"until": ask.until}
        self.client.traffic.candle_requests += 1
        result, call = await self.client.call(
            "fetch_ohlcv", ask.symbol, ask.frame.text, ask.since, ask.limit, params
        )
        raw = call.rows if call.rows is not None else result
        if not isinstance(raw, list):
            raise BadAnswer(f"{ask}: the answer is no list of candles")
        parse, market = self.client.ccxt.parse_ohlcv, call.market
        own = call.rows is not None and not call.parsed
        candles = rows_to_frame(raw, (lambda row: parse(row, market)) if own else (lambda row: row))  # type: ignore[arg-type, return-value]
        _check(candles, ask)
        return Seen(ask, candles, list(raw), url=call.reply.url, own_rows=own)


def _none() -> pl.DataFrame:
    from chandlery.candle import no_candles

    return no_candles()


def _check(candles: pl.DataFrame, ask: Ask) -> None:
    """Raise BadAnswer for rows that no habit explains: unreadable, there twice, in no order, off any one grid."""
    if not len(candles):
        return
    times = open_times(candles)
    if int(times.min()) < 0:
        raise BadAnswer(f"{ask}: an open time that cannot be read")
    if (
        candles.select("open", "high", "low", "close", "volume").fill_nan(None).null_count().row(0)
        != (0,) * 5
    ):
        raise BadAnswer(f"{ask}: a number that is none")
    steps = np.diff(times)
    if len(steps) and not ((steps > 0).all() or (steps < 0).all()):
        raise BadAnswer(f"{ask}: rows there twice or in no order")
    length = ask.frame.fixed_ms
    if length is not None and len(np.unique(times % length)) > 1:
        raise BadAnswer(f"{ask}: rows that do not lie on one grid")


def raw_numbers(row: object) -> Mapping[Hashable, float]:
    """The numbers of an exchange's own row, by their place or name."""
    items = row.items() if isinstance(row, dict) else enumerate(row) if isinstance(row, list | tuple) else ()
    found: dict[Hashable, float] = {}
    for name, value in items:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            continue
        try:
            found[name] = float(value)
        except ValueError:
            continue
    return found
