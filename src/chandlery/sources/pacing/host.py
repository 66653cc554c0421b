"""One API host: when the next request to it may go."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

from chandlery.errors import ExchangeRefused, RateLimited
from chandlery.sources.bans import BanBook
from chandlery.sources.limits import RequestLimit
from chandlery.sources.pacing.book import BudgetBook
from chandlery.sources.pacing.budget import Budget, Spacing, Spent
from chandlery.sources.pacing.declared import UNTIL_DECLARED, USED_WEIGHT, declared_weights
from chandlery.sources.pacing.tally import CAP, DECLARED
from chandlery.sources.retry import NEWS_SECONDS
from chandlery.when import iso

log = logging.getLogger("chandlery.sources.pacing")

#: Requests under way to one host at most: 100 a second at half a second each.
IN_FLIGHT = 48
#: How soon to try again where another process does not let go of the budget's file.
_LOCKED_MS = 50.0
#: A wait after a refusal without a time is doubled with each further one, up to this.
_LONGEST_GUESS_MS = 300_000
_CLOCKS_AGREE_MS = 2_000
#: Requests under way while it is seen whether what is left of a limit will do; Binance bans at the sixth refusal.
_FEW, _FEW_MS = 4, 10.0
#: How often a request that was alone in its window may be refused before it is held to weigh more than the limit.
_TOO_HEAVY = 2


@dataclass(slots=True)
class Ticket:
    """One request that may be sent: when it was let go, and how each limit counts it."""

    sent: float
    spent: Sequence[tuple[Budget, Spent]] = ()
    answered: bool = False
    counted: bool = False  # among those under way


@dataclass(slots=True, frozen=True)
class Ask:
    """What a request to one URL costs, of which budgets."""

    costs: tuple[tuple[Budget, float], ...]
    spacing: float = 0.0  # units of ccxt's rateLimit, for what falls under no limit
    names: tuple[float, ...] = field(
        default=()
    )  # keys of the budgets: those who wait for the same stand in one line


class Host:
    """One API host: its ban, its budgets, and how many requests are under way to it."""

    def __init__(
        self,
        name: str,
        *,
        bans: BanBook,
        book: BudgetBook,
        max_wait_seconds: float,
        share: float,
        limits: Sequence[RequestLimit] = (),
        unit_ms: float | None = None,
        in_flight: int = IN_FLIGHT,
    ) -> None:
        self.name = name
        self.clock = book.clock
        self.bans = bans
        self.book = book
        self.max_wait_seconds = max_wait_seconds
        self.share = share
        self.budgets = [Budget(limit, share) for limit in limits]
        self.spacing = Spacing(unit_ms, share) if unit_ms else None
        self._room = asyncio.Semaphore(in_flight)
        self._lines: dict[tuple[float, ...], asyncio.Lock] = {}
        self._first = asyncio.Lock()
        self._cautious = False  # a ban has just ended: one request goes ahead alone
        self._refusals = 0  # waits in a row that were no use
        self._refused_at = -math.inf
        self._under_way = 0
        self._few_until = -math.inf  # only few requests go at once, because some have just been refused
        self._too_heavy = 0  # refusals of a request that was alone, in a row
        self._declared_by = ""  # the URL whose answer declared the limits
        self._renew = False  # limits are to be read anew
        self._trip_ms = 0.0  # from sending to answer, of the request that was answered last

    # -- before a request ------------------------------------------------------------------------------------------

    def ask(self, url: str, cost: float) -> Ask:
        """What a request to `url` costs; `cost` is ccxt's, for what nothing better is known of."""
        costs = [(budget, weight) for budget in self.budgets if (weight := _weight(budget, url, cost)) > 0]
        if costs or self.spacing is None:
            kept = tuple(one for one in costs if not one[0].off)
            return Ask(kept, names=tuple(budget.key for budget, _ in kept))
        return Ask((), cost, (Spacing.key,))

    def weight(self, url: str, cost: float) -> float:
        """What a request to `url` weighs of the first limit that it falls under, else `cost`."""
        weights = (_weight(budget, url, cost) for budget in self.budgets)
        return next((weight for weight in weights if weight > 0), cost)

    @asynccontextmanager
    async def turn(self, url: str, cost: float) -> AsyncIterator[Ticket]:
        """Wait until a request to `url` may be sent; it is under way while the block runs, or until `report`.

        Raises RateLimited (with `until`) where the wait would be longer than `max_wait_seconds`.
        """
        ask = self.ask(url, cost)
        async with self._room:
            while True:
                ticket = None if self._cautious else await self._admitted(ask, alone=False)
                if ticket is not None:
                    break
                async with self._first:
                    if not self._cautious:
                        continue
                    ticket = await self._admitted(ask, alone=True)
                    if ticket is None:
                        continue
                    try:
                        yield ticket
                    finally:
                        self._answered(ticket)
                    self._cautious = self.bans.until() > self.clock.now_ms()
                    return
            try:
                yield ticket
            finally:
                self._answered(ticket)

    async def _admitted(self, ask: Ask, *, alone: bool) -> Ticket | None:
        """A ticket once the budgets allow it; None where a ban has come, and the request goes not `alone`."""
        line = self._lines.setdefault(ask.names, asyncio.Lock())
        async with line:
            while True:
                if self._cautious and not alone:
                    return None
                wait, ticket = self._try(ask)
                if ticket is not None:
                    return ticket
                await self._wait(wait)

    def _try(self, ask: Ask, *, only_look: bool = False) -> tuple[float, Ticket | None]:
        """Spend what a request costs if it may go now, else milliseconds until it may."""
        wait: float = self.bans.until() - self.clock.now_ms()
        if wait > 0 and not only_look:
            self._cautious = True  # another process may have been told
            return wait, None
        if not ask.names:  # nothing is counted
            return (wait, None) if only_look else (0.0, Ticket(self.book.now()))
        with self.book.held() as held:
            if not held:
                return _LOCKED_MS, None
            now = self.book.now()
            tallies = [self.book.tally(key, now) for key in ask.names]
            few = now < self._few_until
            for tally, (budget, weight) in zip(tallies, ask.costs, strict=False):
                wait = max(wait, budget.wait_ms(tally, now, weight))
                few = few or budget.lowered(tally, now)
            if few and self._under_way >= _FEW and not only_look:
                wait = max(wait, _FEW_MS)
            if ask.spacing and self.spacing is not None:
                wait = max(wait, self.spacing.wait_ms(tallies[0], now))
            if wait > 0 or only_look:
                return wait, None
            if ask.spacing and self.spacing is not None:
                self.spacing.spend(tallies[0], now, ask.spacing)
            spent = [
                (budget, budget.spend(tally, now, weight))
                for tally, (budget, weight) in zip(tallies, ask.costs, strict=False)
            ]
            for tally in tallies:
                self.book.keep(tally, now)
            self._under_way += 1
            return 0.0, Ticket(now, spent, counted=True)

    def wait_ms(self, url: str, cost: float = 1.0) -> float:
        """Milliseconds until a request to `url` may be sent."""
        return max(0.0, self._try(self.ask(url, cost), only_look=True)[0])

    async def _wait(self, wait: float) -> None:
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

    # -- after it --------------------------------------------------------------------------------------------------

    def report(self, headers: Mapping[str, str], ticket: Ticket) -> None:
        """The answer to a request has come, with these headers (names in lower case)."""
        self._answered(ticket, headers)

    def _answered(self, ticket: Ticket, headers: Mapping[str, str] | None = None) -> None:
        if ticket.answered:
            return
        ticket.answered = True
        self._trip_ms = self.book.now() - ticket.sent
        if not ticket.counted:
            return
        self._under_way -= 1
        if not ticket.spent:
            return
        with self.book.held() as held:
            now = self.book.now()
            # Where the file cannot be had, the request goes on counting as one under way.
            for budget, spent in ticket.spent if held else ():
                tally = self.book.tally(budget.key, now)
                budget.answered(tally, now, spent)
                if headers:
                    budget.report(tally, now, headers, spent)
                self.book.keep(tally, now)

    def went_well(self) -> None:
        """An answer has come that is no refusal."""
        self._refusals = self._too_heavy = 0

    def refused(self, ticket: Ticket, url: str, wait: int | None, reason: str) -> int:
        """A request to `url` was one too many: everyone waits, after a restart too. Returns the time until (epoch ms).

        `wait` is how long the exchange wants no request, in ms. None where it does not say: then for the shortest window
        that the request fell under, and for twice as long each time that a request after such a wait is refused too.
        Raises ExchangeRefused for one that no wait will help.
        """
        now = self.clock.now_ms()
        if ticket.sent > self._refused_at:  # not of the same burst
            self._learn(ticket)
        if wait is None:
            if ticket.sent > self._refused_at:  # not of the same burst
                self._refusals = min(self._refusals + 1, 16)
            windows = [budget.limit.window_ms for budget, _ in self.ask(url, 1.0).costs]
            wait = max(min(windows, default=5_000), 1_000) * 2 ** (self._refusals - 1)
            wait = min(wait, _LONGEST_GUESS_MS)
        self._refused_at = self.book.now()
        window = min((budget.window for budget, _ in ticket.spent), default=0.0)
        self._few_until = self._refused_at + wait + window
        self._cautious = True
        until = now + wait
        if until > self.bans.until():
            log.warning("%s wants no request until %s: %s", self.name, iso(until), reason)
            self.bans.note(until, reason, now)
        return until

    def _learn(self, ticket: Ticket) -> None:
        """What a refusal says of limits that we believed to keep."""
        with self.book.held() as held:
            now = self.book.now()
            for budget, spent in ticket.spent if held else ():
                tally = self.book.tally(budget.key, now)
                lowered = tally.cells[CAP]
                budget.refused(tally, now, spent)
                self.book.keep(tally, now)
                self._renew = self._renew or tally.cells[DECLARED] > 0
                if tally.cells[CAP] != lowered:
                    most, seconds = budget.cap(tally, now), budget.window / 1000
                    said = "%s allows less than we believed: for now no more than %g are spent in %g s"
                    log.warning(said, self.name, most, seconds)
                if budget.too_heavy(tally, spent):
                    self._too_heavy += 1
                    if self._too_heavy >= _TOO_HEAVY:
                        raise ExchangeRefused(
                            f"{self.name} refuses a request of weight {spent.weight:g} that was alone in its window of "
                            f"{budget.window / 1000:g} s: the limit there is lower than that",
                            hint="no wait helps; check what the exchange allows this host",
                        )

    def renewal(self) -> str | None:
        """The URL to read the limits from anew before anything else is sent, told once after each refusal."""
        renew, self._renew = self._renew and bool(self._declared_by), False
        return self._declared_by if renew else None

    def exchange_says(self, time: object) -> None:
        """Take the exchange's time (epoch ms) from an answer that has just come, to know when its windows turn."""
        if isinstance(time, bool) or not isinstance(time, int):
            return
        # Clocks further apart than this tell nothing sure, such as an exchange whose time runs faster.
        sure = abs(time - self.clock.now_ms()) <= _CLOCKS_AGREE_MS
        with self.book.held() as held:
            now = self.book.now()
            for budget in self.budgets if held else ():
                if budget.limit.fixed:
                    tally = self.book.tally(budget.key, now)
                    budget.set_clock(tally, now, time - now if sure else None, self._trip_ms)
                    self.book.keep(tally, now)

    def declare(self, rate_limits: object, url: str) -> None:
        """Take the exchange's own limits, `rateLimits` of the answer to `url`: they take the place of those known for
        the same paths; what it declares none for is not paced.
        """
        self._declared_by, self._renew = url, False
        declared = declared_weights(rate_limits)
        here = [b for b in self.budgets if b.limit.header.startswith(USED_WEIGHT) and _covers(b.limit, url)]
        known = {budget.limit.window_ms for budget in here}
        for window, (name, weight) in declared.items():
            if window not in known:
                pattern = here[0].limit if here else UNTIL_DECLARED[0]
                limit = replace(
                    pattern,
                    name=f"{pattern.name}-{name}",
                    weight=weight,
                    window_ms=window,
                    header=USED_WEIGHT + name,
                )
                here.append(Budget(limit, self.share))
                self.budgets.append(here[-1])
        with self.book.held() as held:
            now = self.book.now()
            for budget in here if held else ():
                tally = self.book.tally(budget.key, now)
                weight = declared.get(budget.limit.window_ms, ("", 0.0))[1]
                if weight != tally.cells[DECLARED]:
                    tally.cells[DECLARED], tally.cells[CAP] = weight, 0.0
                self.book.keep(tally, now)
                budget.off = tally.cells[DECLARED] == 0

    # -- for plans -------------------------------------------------------------------------------------------------

    def seconds(self, requests: int, url: str, cost: float = 1.0) -> float:
        """The least time in which so many requests to `url` can be sent, with what is left of the budgets now."""
        ask = self.ask(url, cost)
        with self.book.held() as held:
            if not held or requests <= 0:
                return 0.0
            now = self.book.now()
            least = [0.0]
            for budget, weight in ask.costs:
                least.append(budget.least_ms(self.book.tally(budget.key, now), now, requests, weight))
            if ask.spacing and self.spacing is not None:
                wait = self.spacing.wait_ms(self.book.tally(Spacing.key, now), now)
                least.append(wait + (requests - 1) * ask.spacing * self.spacing.unit_ms)
        return max(*least, self.bans.until() - self.clock.now_ms()) / 1000

    def close(self) -> None:
        """Close the budget's file."""
        self.book.close()


def _covers(limit: RequestLimit, url: str) -> bool:
    return not limit.paths or any(path in urlsplit(url).path for path in limit.paths)


def _weight(budget: Budget, url: str, cost: float) -> float:
    """What a request weighs; of a limit that says nothing of weights, as ccxt counts them."""
    weight = budget.limit.cost(url)
    return (
        cost if weight and budget.limit.header.startswith(USED_WEIGHT) and not budget.limit.costs else weight
    )
