"""What the walks of a run have found out about one series, so that of many walks one searches and the others know."""

from __future__ import annotations

import asyncio

from chandlery.timerange import TimeRange


class Found:
    """The end of a series and its long holes, as of `now`. `searching` is held by the walk that looks for more of them."""

    def __init__(self, now: int) -> None:
        self.now = now
        self.searching = asyncio.Lock()
        #: Open time of the last candle of a market that no longer trades.
        self.end: int | None = None
        self._following: dict[int, int] = {}

    def nothing_between(self, candle: int, following: int) -> None:
        """Note the open times of two candles that have none between them."""
        self._following[candle] = following

    def following(self, candle: int) -> int | None:
        """Open time of the candle that was found to follow one after a hole."""
        return self._following.get(candle)

    def around(self, moment: int) -> TimeRange | None:
        """The hole that holds `moment`: from the candle before it, in it, to the one after it, not in it."""
        holes = (TimeRange(*ends) for ends in self._following.items())
        return next((hole for hole in holes if hole.since < moment < hole.until), None)

    def knows(self, candle: int) -> bool:
        """Whether it is known what follows a candle, or that nothing does."""
        return candle == self.end or candle in self._following
