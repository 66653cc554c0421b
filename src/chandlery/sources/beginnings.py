"""Where the candles of a series begin, and whether older ones exist that the exchange does not give."""

from __future__ import annotations

import logging
from collections import Counter

from chandlery.errors import BadAnswer, ExchangeRefused
from chandlery.sources.base import Beginning
from chandlery.sources.edges import CHECKS, DAWN, REQUESTS, SPARE, Edges, Span
from chandlery.timeframe import DAY, Timeframe

log = logging.getLogger("chandlery.sources.beginnings")

#: Requests that finding the first candle may cost.
REQUESTS_BEGINNING = 19
#: Answers that must agree on the first candle where one of them could be "the latest candles, whatever `since`".
SUSPICIOUS = 6
#: Answers that must not give the candles of a longer one before they are said to be out of reach.
LOOKS_DEEPER = 4
#: Requests that stepping back from now leaves for what else there is to find out.
LEFT_OVER = 6
#: The same where it holds fewer than the latest ones would be, so that it must be all of them.
WHOLE = 2
#: Candles that are asked for from 1970 on.
FIRST = 5


class Beginnings(Edges):
    """Searches over one series of one exchange, the one for its first candle among them."""

    async def beginning(self) -> Beginning | None:
        """The first candle that the exchange gives; None if it gives none."""
        return await self._adapting(self._find, REQUESTS_BEGINNING)

    async def _find(self) -> Beginning | None:
        #: The first candles of the longest timeframe, once they were looked for.
        self._longest: list[Span] = []
        #: How many answers from 1970 on began with a candle, and those that may begin what is merely the latest.
        self._agreed: Counter[int] = Counter()
        self._doubted: set[int] = set()
        for _ in range(CHECKS):
            first = await self._first_given()
            if first is None:
                return None
            older = await self._longer_before(first)
            if older is None or not await self._gives(older, first):
                return Beginning(first, deeper=older is not None)
            self._doubt(first)
        raise BadAnswer(f"{self.series}: answers disagree on what the first candle is")

    def _doubt(self, first: int) -> None:
        self._doubted.add(first)
        self._agreed[first] = 0

    async def _longer_before(self, first: int) -> Span | None:
        """A longer candle that ends before the first of ours begins, None if there is none: there once were more of ours.

        The next longer timeframes tell it of the last hours and days, the longest one where they reach equally far back.
        """
        for frame in dict.fromkeys((*self.levels[1:3], *self.levels[-1:])):
            if frame == self.frame:
                continue
            begin = first - self._length(frame)
            known = self._longest if frame == self.levels[-1] else []
            spans = known or await self.look(frame, begin, within=(first, first + 1))
            slack = DAY if frame.fixed_ms is None else 0
            if older := [span for span in spans if span[1] + slack <= first]:
                return older[-1]
        return None

    async def _gives(self, span: Span, first: int) -> bool:
        """Whether any of several answers has a candle of the series in a longer one, which ends before `first`.

        Then `first` began what were the latest candles, whatever was asked for.
        """
        begin = max(span[0], self.frame.add(self.frame.floor(span[1]), -self.rooms.back(self.frame)))
        for _ in range(LOOKS_DEEPER):
            if any(begin <= a < min(span[1], first) for a, _ in await self._tolerant(self.frame, begin)):
                return True
        return False

    def _length(self, frame: Timeframe) -> int:
        """Milliseconds before a candle from which on an answer surely shows it."""
        return self.rooms.back(frame) * frame.nominal_ms

    async def _first_given(self) -> int | None:
        """Ask for the first candle straight out, else find it through longer ones; then ask just before it."""
        for _ in range(CHECKS):
            straight = await self._straight()
            first = straight[0][0] if straight else None
            if first is None:
                self._longest = spans = await self._coarse_from_dawn()
                if not spans:
                    return None
                first = spans[0][0] if self.levels[-1] == self.frame else await self._begin_in_reach(spans[0])
            if first is None:
                return None
            # An answer that begins before it must begin with it. Where it shows a candle behind those of the answer from
            # 1970 on, they were not the latest.
            shown = await self._shown_around(first, 0)
            if shown[0] != first:
                self._doubt(first)
            elif not straight or shown[-1] > straight[-1][0] or self._agreed[first] >= SUSPICIOUS:
                return first
            elif self.rooms.holds_all(self.frame, len(straight), FIRST):
                return first  # the latest ones would have been more
            self._doubted.add(first)
        raise BadAnswer(f"{self.series}: answers disagree on what the first candle is")

    async def _begin_in_reach(self, span: Span) -> int | None:
        """The first candle that is given, of a series that a longer candle says to begin in `span`.

        Where shorter candles are given of the last while only, there is none in `span`.
        """
        lo, hi = span
        while True:
            frame = self._level(hi - lo)
            spans: list[Span] = []
            for _ in range(2):
                begin = lo if frame == self.frame else lo - 2 * frame.nominal_ms
                found = await self._tolerant(frame, begin)
                spans = spans or [one for one in found if self._overlaps(frame, one, (lo, hi))]
                if spans:
                    break
            if not spans:
                return await self._begin_of_the_last(found if frame == self.frame else [])
            if frame == self.frame:
                return spans[0][0]
            narrowed = (max(lo, spans[0][0]), min(hi, spans[0][1]))
            if narrowed == (lo, hi):
                return await self._begin_of(span)
            lo, hi = narrowed

    async def _begin_of_the_last(self, known: list[Span]) -> int | None:
        """The first candle of those that are given without a break, where longer ones go further back.

        `known` are some that are given. Every longer candle is one that ours must be in, if they are given at all: so a hole is no end of what is given.
        """
        self._left = REQUESTS
        known = known or await self._tolerant(
            self.frame, self.frame.add(self.now, -self.rooms.back(self.frame))
        )
        guides = [f for f in self.levels[1:] if f.nominal_ms <= self._length(self.frame)]
        if not known and guides:
            # Nothing was traded for a while: what was last may be given all the same.
            latest = await self._tolerant(guides[-1], self.now - self._length(guides[-1]))
            last = await self._given_in(latest[-1]) if latest else None
            known = [] if last is None else [(last, last + 1)]
        if not known or not guides:
            return known[0][0] if known else None
        guide, best = guides[-1], known[0][0]
        while True:
            spans = await self.look(guide, best - self._length(guide), within=(best, best + 1))
            older = [(a, b) for a, b in spans if a < best]
            before = best
            lowest, highest = -1, len(older)  # not given, given
            while highest - lowest > 1:
                middle = (lowest + highest) // 2 if lowest >= 0 else 0
                given = await self._given_in(older[middle])
                if given is None:
                    lowest = middle
                else:
                    highest, best = middle, min(best, given)
                if middle == 0 and given is not None:
                    break
            if highest > 0 or best == before:
                return best

    async def _given_in(self, span: Span) -> int | None:
        """The first candle that is given inside a longer one, None if there is none."""
        for _ in range(2):
            found = [a for a, _ in await self._tolerant(self.frame, span[0]) if span[0] <= a < span[1]]
            if found:
                return found[0]
        return None

    async def _straight(self) -> list[Span]:
        """The first candles by `since` = 0, where the exchange answers that with its first ones."""
        if self.rooms.bounded:
            return []
        for _ in range(2 * SUSPICIOUS):
            try:
                spans = await self.look(self.frame, 0, limit=FIRST)
            except ExchangeRefused:
                return []  # some call a range from 1970 on a bad request
            if not spans:
                return []
            first = spans[0][0]
            self._agreed[first] += 1
            # The latest candles, whatever `since`, look like the first ones of a market that has just begun.
            young = spans[-1][1] >= self.now - 3 * self.frame.nominal_ms
            whole = self.rooms.holds_all(self.frame, len(spans), FIRST)
            enough = SUSPICIOUS if first in self._doubted or (young and not whole) else WHOLE if young else 1
            if self._agreed[first] >= enough:
                return spans
        return []

    async def _coarse_from_dawn(self) -> list[Span]:
        """The first candles at the longest timeframe: those of the last while, unless there are older ones.

        Older ones are asked for straight from the dawn, or else found by halving the time since then.
        """
        best: list[Span] = []
        for frame in reversed(
            [level for level in self.levels if level.nominal_ms >= DAY] or self.levels[-1:]
        ):
            # Some exchanges bound the time that one answer covers, whatever the timeframe: the next shorter one will do.
            best = await self._tolerant(frame, self.now - self._length(frame))
            if best:
                del self.levels[self.levels.index(frame) + 1 :]
                break
        frame = self.levels[-1]
        length = self._length(frame)
        if best:
            older = await self._older(frame, best, length)
            if not older:
                return best
            best = older
        # Windows that are bounded, and short against the time since the dawn, show nothing there.
        for since in (
            (DAWN, DAWN - length // 2) if length * 8 > self.now - DAWN or not self.rooms.bounded else ()
        ):
            spans = await self._tolerant(frame, since)
            if spans:
                return spans
        if not best:
            best = await self._stepping_back(frame, self.now - length)
            older = await self._older(frame, best, length) if best else []
            if not older:
                return best
            best = older
        lo, hi = DAWN, best[0][0]  # nothing begins in [DAWN, lo + length)
        while hi - lo > length:
            middle = (lo + hi) // 2
            spans = await self._tolerant(frame, middle)
            if spans and spans[0][0] < best[0][0]:
                best, hi = spans, min(middle, spans[0][0])
            else:
                lo = middle + length if not spans else middle
        return await self._older(frame, best, length) or best

    async def _stepping_back(self, frame: Timeframe, until: int) -> list[Span]:
        """The candles of the last answer before `until` that holds any: a market may have stopped after a short time.

        Answers as long as the exchange gives reach back for years in the requests that a search may cost.
        """
        candles = self.rooms.whole(frame)
        step = max(1, candles - SPARE) * frame.nominal_ms
        while until > DAWN and self._left > LEFT_OVER:
            until -= step
            if spans := await self._tolerant(frame, until, candles):
                return spans
        return []

    async def _older(self, frame: Timeframe, best: list[Span], length: int) -> list[Span]:
        """The candles from `length` before the first of `best` on, which must show it; none if it is the first."""
        first = best[0][0]
        spans = await self.look(frame, first - length, within=(first, first + 1))
        return spans if spans[0][0] < first else []

    async def _tolerant(self, frame: Timeframe, since: int, limit: int = 0) -> list[Span]:
        try:
            return await self.look(frame, since, limit=limit)
        except ExchangeRefused as error:
            log.debug("%s refuses %s from %d: %s", self.series, frame.text, since, error)
            return []
