"""One limit of a host as this process may spend it: its share, when the next request may go, and what answers say of it.

The exchange counts a request at some moment between its sending and its answer, so each is counted here from its sending
until its answer is older than the window: no window of the exchange can then hold more, however late requests arrive.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from chandlery.sources.limits import RequestLimit
from chandlery.sources.pacing.book import number_of
from chandlery.sources.pacing.tally import (
    CAP,
    CAP_AT,
    DECLARED,
    FREE_AT,
    OFFSET,
    OFFSET_AT,
    REPORTED,
    REPORTED_AT,
    REPORTED_SENT,
    SLACK,
    SPENT,
    Tally,
)

#: Clocks drift apart by no more than this part; what was seen of the exchange's clock is good for some hours.
_DRIFT = 1e-4
_CLOCK_KNOWN_MS = 6 * 3_600_000
_NOTHING = 1e-6
#: A limit that turned out lower is kept for so many windows, and for no less than that; then it is doubled in as many.
_CAP_WINDOWS, _CAP_LEAST_MS = 10, 60_000.0
#: Refusals at weights this near to one another are of one cause. What is spent then is this part of the lowest, and
#: never less than this part of what was believed, since refusals may come for reasons that have nothing to do with it.
_ALIKE, _BELOW, _LEAST = 0.75, 0.9, 0.1


@dataclass(slots=True)
class Spent:
    """One request as one limit counts it: what is needed to make sense of its answer."""

    weight: float
    sent: float
    record: int
    bound: float  # the most that the exchange can have counted by then, if nobody else asks, this request included
    total: float  # all that was ever spent, this request included


class Budget:
    """A share of one limit. Times are those of `book.BudgetBook.now`, in ms; `tally` is the limit's, held by the caller."""

    def __init__(self, limit: RequestLimit, share: float) -> None:
        self.limit = limit
        self.share = share
        self.off = False  # the exchange has just declared that there is no such limit
        self.window = float(limit.window_ms)
        self.hold = max(_CAP_WINDOWS * self.window, _CAP_LEAST_MS)
        self._refused = (-math.inf, 0.0)  # when the last refusal came within the budget, and at what weight
        paths = ",".join(limit.paths)
        self.key = number_of(f"{limit.name} {limit.window_ms} {limit.fixed} {paths}")

    def allowed(self, tally: Tally, now: float) -> float:
        """Weight per window that may be spent; infinity where the exchange declares no limit."""
        return min(self._believed(tally), self.cap(tally, now))

    def _believed(self, tally: Tally) -> float:
        """Our share of what the exchange declares, or is known for."""
        declared = tally.cells[DECLARED]
        if declared == 0:
            return math.inf
        return (declared if declared > 0 else self.limit.weight) * self.share

    def cap(self, tally: Tally, now: float) -> float:
        """Weight per window that the exchange was seen to allow, more with time; infinity where it never was."""
        age = (now - tally.cells[CAP_AT]) / self.hold
        return tally.cells[CAP] * 2.0 ** max(0.0, age - 1) if tally.cells[CAP] > 0 and age < 10 else math.inf

    def lowered(self, tally: Tally, now: float) -> bool:
        """Whether less is spent than we believed to be allowed."""
        cap = self.cap(tally, now)
        return not math.isinf(cap) and cap <= self.allowed(tally, now)

    def refused(self, tally: Tally, now: float, spent: Spent) -> None:
        """A request that we believed to be within the limit was refused: the second time at about the same weight, the
        limit is taken for that, and a little less.
        """
        allowed = self.allowed(tally, now)
        used = spent.bound - spent.weight
        before, at = self._refused
        self._refused = now, used
        if math.isinf(allowed) or used > allowed + _NOTHING or now - before > self.hold:
            return
        if min(used, at) >= _ALIKE * max(used, at):
            tally.cells[CAP] = max(_BELOW * min(used, at), _LEAST * self._believed(tally))
            tally.cells[CAP_AT] = now

    def too_heavy(self, tally: Tally, spent: Spent) -> bool:
        """Whether a request was refused of which the exchange says that it was the only one in its window."""
        cells = tally.cells
        alone = spent.bound <= spent.weight + _NOTHING and cells[REPORTED_SENT] == spent.sent
        return alone and 0 < cells[REPORTED] <= spent.weight

    def begin(self, tally: Tally, now: float) -> float | None:
        """When the window of now began, surely not too early; None where windows roll or the exchange's clock is not
        known.
        """
        cells = tally.cells
        age = now - cells[OFFSET_AT]
        if not self.limit.fixed or cells[OFFSET_AT] < 0 or age > _CLOCK_KNOWN_MS:
            return None
        offset = cells[OFFSET] - age * _DRIFT
        return math.floor((now + offset) / self.window) * self.window - offset

    def look(self, tally: Tally, now: float) -> float:
        """Forget what counts no more; returns the weight used."""
        begin, cells = self.begin(tally, now), tally.cells
        if begin is None:
            tally.expire(now - self.window)
        else:
            # It may have begun that much earlier, and have counted what was answered since.
            tally.expire(begin - cells[SLACK] - 2 * _DRIFT * (now - cells[OFFSET_AT]))
        return tally.used()

    def wait_ms(self, tally: Tally, now: float, weight: float) -> float:
        """Milliseconds until so much may be spent."""
        allowed = self.allowed(tally, now)
        used = self.look(tally, now)
        if used + weight <= allowed + _NOTHING:
            return 0.0
        begin = self.begin(tally, now)
        if begin is not None:
            # One request must always be possible, however small the share.
            return begin + self.window - now if used > _NOTHING else 0.0
        if weight > allowed:
            # It goes alone, and the next one so much later that the share is kept.
            pause = self.window * weight / allowed
            return self.window if tally.flying() > _NOTHING else max(0.0, tally.last() + pause - now)
        free = tally.free_at(used + weight - allowed)
        # What is under way counts for a whole window after its answer, which is still to come.
        return self.window if free is None else max(0.0, free + self.window - now)

    def spend(self, tally: Tally, now: float, weight: float) -> Spent:
        """Count a request that is about to be sent."""
        record = tally.send(now, weight, self.window)
        return Spent(weight, now, record, tally.used(), tally.cells[SPENT])

    def answered(self, tally: Tally, now: float, spent: Spent) -> None:
        """The answer has come, or will not."""
        begin = self.begin(tally, now)
        tally.answered(spent.record, now, spent.weight, self.window, begin or 0.0)

    def report(self, tally: Tally, now: float, headers: Mapping[str, str], spent: Spent) -> None:
        """Take what the answer to a request says of the limit (`headers`, names in lower case)."""
        said = read_header(self.limit.header, headers)
        if said is None:
            return
        used, most = said
        if most is not None:
            tally.cells[DECLARED] = most
        self.look(tally, now)
        if self.limit.fixed and used is not None:
            self._turned(tally, now, used, spent)
        if used is None:
            return
        # What others have spent is what was counted above all that can be ours, by the time of the answer.
        ours = spent.bound + tally.cells[SPENT] - spent.total
        if used > ours + _NOTHING:
            tally.add(now, used - ours, self.window, self.begin(tally, now) or 0.0)
            tally.cells[SPENT] += used - ours

    def _turned(self, tally: Tally, now: float, used: float, spent: Spent) -> None:
        """See by a lower count that the exchange has begun a new window, where its clock is not known.

        Requests overtake one another. So a count is compared with one whose answer had come before its request was sent,
        and then only what had been answered before that other request was sent is surely of the window before.
        """
        cells = tally.cells
        if spent.sent < cells[REPORTED_AT]:
            return
        if used < cells[REPORTED] and self.begin(tally, now) is None:
            tally.expire(cells[REPORTED_SENT])
        cells[REPORTED], cells[REPORTED_SENT], cells[REPORTED_AT] = used, spent.sent, now

    def set_clock(self, tally: Tally, now: float, offset: float | None, slack: float) -> None:
        """The exchange's clock is so much ahead of `now`, or `slack` less than it; None: nothing sure is known of it."""
        cells = tally.cells
        if offset is None:
            cells[OFFSET_AT] = -1.0
            return
        age = now - cells[OFFSET_AT]
        # An answer takes its time, so the greatest difference is the nearest to the truth.
        if cells[OFFSET_AT] < 0 or age > _CLOCK_KNOWN_MS or offset >= cells[OFFSET] - age * _DRIFT:
            cells[OFFSET], cells[OFFSET_AT], cells[SLACK] = (
                offset,
                now,
                slack + 1.0,
            )  # both clocks tell whole ms

    def least_ms(self, tally: Tally, now: float, requests: int, weight: float) -> float:
        """The least time that so many requests of that weight take."""
        allowed = self.allowed(tally, now)
        if requests <= 0 or weight <= 0 or math.isinf(allowed):
            return 0.0
        left = max(0, math.floor((allowed - self.look(tally, now) + _NOTHING) / weight))
        if requests <= left:
            return 0.0
        if weight > allowed:
            pause = self.window if self.limit.fixed else self.window * weight / allowed
            return self.wait_ms(tally, now, weight) + (requests - 1) * pause
        windows, rest = divmod(requests - left - 1, math.floor(allowed / weight + _NOTHING))
        begin = self.begin(tally, now)
        if begin is not None:
            return begin + self.window - now + windows * self.window
        free = tally.free_at((rest + 1) * weight)
        return windows * self.window + (self.window if free is None else max(0.0, free + self.window - now))


class Spacing:
    """Requests at even distances, for exchanges of which nothing but ccxt's `rateLimit` is known: one cost unit takes
    `unit_ms` of the whole, and nothing is saved up.
    """

    key = number_of("spacing")

    def __init__(self, unit_ms: float, share: float) -> None:
        self.unit_ms = unit_ms / share

    def wait_ms(self, tally: Tally, now: float) -> float:
        """Milliseconds until the next request may go."""
        return max(0.0, tally.cells[FREE_AT] - now)

    def spend(self, tally: Tally, now: float, cost: float) -> None:
        """Count a request that is about to be sent."""
        tally.cells[FREE_AT] = max(tally.cells[FREE_AT], now) + cost * self.unit_ms


def read_header(name: str, headers: Mapping[str, str]) -> tuple[float | None, float | None] | None:
    """What a header says: the weight used and the limit, each None where it is not told; None for no header.

    One that ends in "remaining" or "status" says what is left, of the limit that a neighbour names: `gw-ratelimit-limit`
    beside `gw-ratelimit-remaining`, `x-bapi-limit` beside `x-bapi-limit-status`. Any other says what is used.
    """
    value = _number(headers.get(name, "")) if name else None
    if value is None:
        return None
    if name.endswith("-remaining"):
        most = _number(headers.get(name.removesuffix("remaining") + "limit", ""))
    elif name.endswith("-status"):
        most = _number(headers.get(name.removesuffix("-status"), ""))
    else:
        return value, None
    if not most:
        return None
    return max(0.0, most - value), most


def _number(text: str) -> float | None:
    return float(text) if text.isascii() and text.isdecimal() and len(text) < 16 else None
