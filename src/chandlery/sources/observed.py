"""What the answers of a run show of an exchange, compared with its profile: a difference is told, with the mend.

Only what is certain is told. An observation counts when several answers showed it and none the contrary, so that a fault of the
exchange, which comes once and goes, is none.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from chandlery.sources.profile import Habits, Order
from chandlery.validate import open_times
from chandlery.when import iso

if TYPE_CHECKING:
    import polars as pl
    from numpy.typing import NDArray

    from chandlery.timeframe import Timeframe

log = logging.getLogger("chandlery.sources.observed")

#: So many answers must show a thing, and none the contrary, before it is believed.
SEEN = 3
#: Answers to the same ask at which is looked, and of those that follow one in so many: habits show in a few.
LOOKS, ONE_IN = 30, 16
#: So many holes, without one candle of a time without a trade, say that such candles are left out: an outage makes a few.
HOLES = 20
#: Candles at the end of an answer that are too recent to say anything: they may not be there yet.
FRESH = 3


@dataclass(frozen=True, slots=True)
class Difference:
    """One habit that is not as the profile says."""

    exchange: str
    market: str
    habit: str
    profile: str
    seen: str

    def __str__(self) -> str:
        return (
            f"{self.exchange} ({self.market}): its profile says {self.habit} = {self.profile}, its answers show {self.seen};"
            f" run `chandlery probe {self.exchange}` to learn it anew"
        )


@dataclass(slots=True)
class _Seen:
    """What the answers about one kind of market showed."""

    orders: Counter[Order] = field(default_factory=Counter)
    #: By the page that was to be had: how often an unbroken answer ended with so many candles, though more follow.
    short: dict[int, Counter[int]] = field(default_factory=dict)
    #: By the page that was to be had: the most candles of one answer.
    most: dict[int, int] = field(default_factory=dict)
    more: Counter[int] = field(default_factory=Counter)
    at_since: int = 0  # answers that began with the candle at `since`
    behind: int = 0  # with the one after it, though the one at `since` is there
    holes: int = 0
    holed: int = 0
    flat: int = 0
    deeper: set[int] = field(default_factory=set)
    oldest: int = 0
    sought: bool = False  # older candles were asked for, and came
    begins: int | None = None


class Observed:
    """Collects over a run of one exchange; `differences` compares with what its profile says."""

    def __init__(self, exchange: str) -> None:
        self.exchange = exchange
        self._seen: dict[str, _Seen] = {}
        self._habits: dict[str, Habits] = {}
        self._answers: Counter[tuple[str, str]] = Counter()
        #: By symbol and timeframe, candles that answers began or ended with.
        self._given: defaultdict[tuple[str, str], set[int]] = defaultdict(set)

    def wants(self, symbol: str, timeframe: str, rows: int, limit: int) -> bool:
        """Whether to look at this answer of so many rows, asked for with `limit`: not at all of a long walk.

        At one that is no full page always.
        """
        self._answers[symbol, timeframe] += 1
        count = self._answers[symbol, timeframe]
        return rows != limit or count <= LOOKS or count % ONE_IN == 0

    def saw(
        self,
        market: str,
        habits: Habits,
        frame: Timeframe,
        rows: pl.DataFrame,
        *,
        since: int | None,
        limit: int,
        now: int,
        symbol: str = "",
    ) -> None:
        """Take one answer: its rows in the order they came, asked for with `since` and `limit` at the exchange's `now`.

        Answers with anything else than candles of the timeframe in them say nothing.
        """
        if since is None or rows.height < 2 or frame.fixed_ms is None:
            return
        times = open_times(rows)
        steps = np.diff(times)
        order = _order(steps)
        if order is None or (times % frame.fixed_ms != times[0] % frame.fixed_ms).any():
            return
        self._habits[market] = habits
        seen = self._seen.setdefault(market, _Seen())
        seen.orders[order] += 1
        first, last = (
            (int(times[0]), int(times[-1])) if order == "ascending" else (int(times[-1]), int(times[0]))
        )
        depth = habits.reach(frame)
        oldest = 0 if depth is None else frame.add(frame.floor(now), FRESH - depth)
        if since == frame.floor(since) and since >= oldest:
            seen.at_since += first == since
            # Only a candle that was given once can be left out.
            seen.behind += first == frame.next(since) and since in self._given[symbol, frame.text]
        self._given[symbol, frame.text] |= {first, last}
        holes = int((np.abs(steps) != frame.fixed_ms).sum())
        seen.holes += holes
        seen.holed += holes > 0
        seen.flat += bool((rows["volume"].to_numpy() == 0).any())
        self._size(
            seen, habits, frame, len(times), first, last, since=since, limit=limit, now=now, holes=holes
        )
        if depth is not None and habits.depth_is_time and first < frame.add(frame.floor(now), -depth - 2):
            seen.deeper.add(first)
            seen.oldest = min(seen.oldest or first, first)

    def begins(self, market: str, habits: Habits, frame: Timeframe, first: int, now: int) -> None:
        """Take that the oldest candle given at `now` opens at `first`, though longer candles show older ones."""
        depth = habits.reach(frame)
        if depth is None or (habits.depth_is_time and first > frame.add(frame.floor(now), 3 - depth)):
            self._habits[market] = habits
            self._seen.setdefault(market, _Seen()).begins = first

    def goes_deeper(self, market: str) -> bool:
        """Whether answers certainly held candles from beyond the depth of such markets."""
        seen = self._seen.get(market)
        return seen is not None and len(seen.deeper) >= (1 if seen.sought else SEEN)

    def found_deeper(self, market: str) -> None:
        """Take that candles from beyond the depth were asked for, and came: that needs no more answers to be sure."""
        self._seen.setdefault(market, _Seen()).sought = True

    @staticmethod
    def _size(
        seen: _Seen,
        habits: Habits,
        frame: Timeframe,
        rows: int,
        first: int,
        last: int,
        *,
        since: int,
        limit: int,
        now: int,
        holes: int,
    ) -> None:
        age = frame.count(since, max(since, now))
        page = habits.page_at(frame, age)
        if habits.page_at(frame, age + FRESH) != page:
            return  # at the edge of what is recent
        seen.most[page] = max(seen.most.get(page, 0), rows)
        ends_early = rows < min(limit, page) and last < frame.add(frame.floor(now), -FRESH)
        if ends_early and not holes and first <= frame.ceil(since):
            seen.short.setdefault(page, Counter())[rows] += 1
        if rows > max(limit, page) + 1:
            seen.more[rows] += 1

    def differences(self) -> list[Difference]:
        """What is certainly not as the profile says."""
        found: list[Difference] = []
        for market, seen in self._seen.items():
            habits = self._habits.get(market)
            if habits is None:
                continue

            def told(habit: str, says: object, shows: str, market: str = market) -> None:
                found.append(Difference(self.exchange, market, habit, str(says), shows))

            if (order := _only(seen.orders)) and habits.order not in ("unknown", order):
                told("order", habits.order, f"{order} rows in {seen.orders[order]} answers")
            begins = "inclusive" if seen.at_since >= SEEN else "exclusive"
            if (
                seen.at_since >= SEEN or (not seen.at_since and seen.behind >= SEEN)
            ) and habits.begin not in (
                "unknown",
                begins,
            ):
                times = seen.at_since or seen.behind
                told(
                    "begin",
                    habits.begin,
                    f"the candle at the beginning {'' if seen.at_since else 'not '}given, {times} times",
                )
            for page, lengths in seen.short.items():
                rows, times = lengths.most_common(1)[0]
                if times >= SEEN and rows >= seen.most[page]:
                    told("page", page, f"{rows} candles at most, {times} times")
            if (rows := max(seen.more, default=0)) and seen.more.total() >= SEEN:
                told("page", habits.page, f"up to {rows} candles at once, {seen.more.total()} times")
            if habits.empty == "omitted" and seen.flat >= SEEN and not seen.holed:
                told("empty", habits.empty, f"candles of volume 0 and no hole, in {seen.flat} answers")
            if habits.empty == "flat" and seen.holes >= HOLES and seen.holed >= SEEN and not seen.flat:
                told("empty", habits.empty, f"{seen.holes} holes and not one candle of volume 0")
            if seen.begins is not None:
                told(
                    "depth",
                    dict(habits.depth) or "all",
                    f"nothing older than {iso(seen.begins)}, though there was",
                )
            if self.goes_deeper(market):
                told("depth", dict(habits.depth), f"candles as old as {iso(seen.oldest)}")
        return found

    def tell(self) -> None:
        """One warning for each difference; the second time none."""
        for difference in self.differences():
            log.warning("%s", difference)
        self._seen.clear()
        self._given.clear()


def _order(steps: NDArray[np.int64]) -> Order | None:
    if (steps > 0).all():
        return "ascending"
    return "descending" if (steps < 0).all() else None


def _only(orders: Counter[Order]) -> Order | None:
    """The order that all answers had, if they are enough."""
    return next(iter(orders)) if len(orders) == 1 and orders.total() >= SEEN else None
