"""Exchanges of any habits: what lies between an exchange's API and its candles, set by a test.

A `HabitBook` stands before the book of a shape. The shape reads the query and writes the rows as its exchange does; the
habits decide which candles of the window asked for are given, and in which order.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, replace
from typing import Literal

from chandlery.exchange.candles import Candles
from chandlery.exchange.klines import FOR_EVER, KlineBook
from chandlery.exchange.layout import RowLayout
from chandlery.exchange.symbols import Listing
from chandlery.timeframe import Timeframe


@dataclass(frozen=True, slots=True)
class TrueHabits:
    """How an exchange really cuts its pages, whatever is said of it.

    `page` rows at most. `begin_excluded`: not the candle that opens at the first moment asked for. `end`: the candle at the last
    moment is "kept" as the API has it, "included" or "excluded" whatever the API does. `keeps`: of a window with both ends that
    is wider than a page, the newest or the oldest rows. `bounded`: where only a beginning is asked for, nothing is given that opens
    more than the wanted number of candles behind it. `depth`: only so many of the latest candles, the one in progress included, 0
    for all. `finality`: for so many seconds after its end a candle has other values than later ("changes") or is not
    there ("late"); `shows_open` says whether the candle in progress is shown meanwhile. `week` is where weeks begin, ms.
    """

    page: int = 1000
    begin_excluded: bool = False
    end: Literal["kept", "included", "excluded"] = "kept"
    reversed: bool = False
    keeps: Literal["newest", "oldest"] = "oldest"
    bounded: bool = False
    depth: int = 0
    finality: float = 0.0
    fresh: Literal["changes", "late"] = "changes"
    shows_open: bool = True
    week: int | None = None


class HabitBook(KlineBook):
    """A book of candles that gives what the habits let through of another one."""

    def __init__(self, inner: KlineBook, habits: TrueHabits) -> None:
        self._inner = inner
        self._habits = habits
        self._turned: dict[int, tuple[RowLayout, RowLayout]] = {}

    def rows(
        self,
        listing: Listing,
        timeframe: Timeframe,
        layout: RowLayout,
        *,
        since: int = 0,
        until: int = FOR_EVER,
        limit: int,
        now: int,
        newest: bool = False,
    ) -> bytes:
        """The rows of the window that the habits give; see KlineBook."""
        habits, frame = self._habits, self._anchored(timeframe)
        if since and habits.begin_excluded:
            since += 1
        if until < FOR_EVER and since:
            until += {"kept": 0, "included": 1, "excluded": -1}[habits.end]
            newest = habits.keeps == "newest"
        elif since and habits.bounded and not newest:
            until = frame.add(frame.ceil(since), min(limit, habits.page))
        if habits.depth:
            since = max(since, frame.add(frame.floor(now), 1 - habits.depth))
        limit = min(limit, habits.page)
        layout = self._turn(layout) if habits.reversed else layout
        return self._fresh(listing, frame, layout, since, until, limit, now, newest)

    def _fresh(
        self,
        listing: Listing,
        frame: Timeframe,
        layout: RowLayout,
        since: int,
        until: int,
        limit: int,
        now: int,
        newest: bool,
    ) -> bytes:
        """The rows as they stand while the latest closed candle is not final yet."""
        seen = now - round(self._habits.finality * 1000)
        current, unfinal = frame.floor(now), frame.floor(seen)
        if unfinal == current or until <= unfinal:
            return self._inner.rows(
                listing, frame, layout, since=since, until=until, limit=limit, now=now, newest=newest
            )
        end = unfinal if self._habits.fresh == "late" else frame.next(unfinal)
        late = self._inner.rows(
            listing, frame, layout, since=max(since, current), until=until, limit=1, now=now
        )  # fmt: skip
        late = late if self._habits.shows_open and since <= current else b""
        early_limit = limit - bool(late) if newest else limit
        early = b""
        if early_limit > 0:
            early = self._inner.rows(
                listing, frame, layout, since=since, until=min(until, end), limit=early_limit, now=seen, newest=newest,
            )  # fmt: skip
        if not newest and len(json.loads(b"[" + early + b"]")) >= limit:
            late = b""
        parts = [late, early] if layout.descending else [early, late]
        return b",".join(part for part in parts if part)

    def closed(self, listing: Listing, timeframe: Timeframe, since: int, until: int, now: int) -> Candles:
        """What is final in the end; see KlineBook."""
        return self._inner.closed(listing, self._anchored(timeframe), since, until, now)

    def under_way(self, listing: Listing, timeframe: Timeframe, now: int) -> Candles | None:
        """See KlineBook."""
        return self._inner.under_way(listing, self._anchored(timeframe), now)

    def _anchored(self, timeframe: Timeframe) -> Timeframe:
        week = self._habits.week
        return replace(timeframe, anchor=week) if week is not None and timeframe.unit == "w" else timeframe

    def _turn(self, layout: RowLayout) -> RowLayout:
        """The same rows the other way round; made once per layout, because blocks are kept by it."""
        kept = self._turned.get(id(layout))
        if kept is None:
            other = copy.copy(layout)
            other.descending = not layout.descending
            kept = self._turned[id(layout)] = (layout, other)
        return kept[1]
