"""The walk over a range: from the last candle that arrived, never by the exchange's promises.

Each answer must begin with the candle that the one before ended with; so the two are known to touch, a hole between
two candles of one answer is a hole of the exchange, and `since` was not ignored. The last candle of an answer is held
back until another answer confirms it, and so are holes that are unusual (see `holes`). Where an answer brings nothing
new, a candle further on is looked for: only where there is one are the slots before it absent.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence

from chandlery.candle import CandlePage, no_candles
from chandlery.errors import BadAnswer
from chandlery.ledger import Fact, State
from chandlery.sources.asking import AGREE_AT_END, Anchor, Rows, has_candle
from chandlery.sources.steps import Steps, with_tail
from chandlery.timeframe import DAY
from chandlery.timerange import TimeRange
from chandlery.validate import open_times
from chandlery.when import iso

log = logging.getLogger("chandlery.sources.walk")

#: Further answers that must show nothing behind a candle before the slots there are called absent.
LOOKS_ACROSS = 3
#: Rounds of looks, each of two or three different ones, before a market that no longer trades is said to have ended.
ROUNDS_AT_END = 2
#: How often an end may prove to be none before the answers are called contradictory.
FALSE_ENDS = 6
#: Answers with nothing new that count as an end even if none of them begins where it should.
ENDS_ANYHOW = 8
#: Times that the first candle is looked for before the exchange is believed to have none.
BEGINNINGS = 3


class Walk(Steps):
    """One walk over a range of one series, from what precedes it to its end, or to the last candle that there is."""

    async def run(self) -> AsyncIterator[CandlePage | Fact]:
        """Everything that may be said of the span, upwards."""
        try:
            async for said in self._run():
                yield said
        finally:
            self._let_search()

    async def _run(self) -> AsyncIterator[CandlePage | Fact]:
        if not self.span:
            return
        said, first, anchor = await self._opening()
        for one in said:
            yield one
        if self.done >= self.span.until:
            return
        begin = self.frame.add(self.span.since, -1) if anchor is None else anchor.open
        rows = first or await self._ask(begin, anchor)
        while True:
            rows = await self._confirmed(rows)
            for page in self._pages(rows):
                yield page
            if self.done >= self.span.until or self._doubtful:
                return
            last = rows.last
            if last is not None and (anchor is None or last > anchor.open):
                anchor = self._anchor_of(rows, last)
                self._let_search()
            elif self._bad_until(rows) > self.done:
                # Nothing but refused rows: they are handed on, and the next answer must begin with the last of them.
                worst = self._last_bad(rows)
                yield self._said(min(self._bad_until(rows), self.span.until), rows, "rows refused")
                if self.done >= self.span.until:
                    return
                rows = await self._ask_from_bad(worst)
                continue
            elif anchor is None:
                raise BadAnswer(
                    f"{self.series}: nothing follows the refused row of {iso(self._last_bad(rows))}"
                )
            elif anchor.open >= self.frame.add(self.span.until, -1) and anchor.seen >= AGREE_AT_END:
                # Nothing can follow inside the span; answers agree on its last candle.
                yield self._said(self.span.until, rows, "the last candle of the range, confirmed")
                return
            elif self._ended_with(anchor):
                going, said = await self._across(anchor, rows)
                for one in said:
                    yield one
                if self.done >= self.span.until or self._doubtful:
                    return
                if going is None:
                    self._check_end(anchor)
                    return
                anchor = going
            elif anchor.alone:
                if not self.market.active:
                    await self._search_alone()  # another walk may know already
                    if self.found.knows(anchor.open):
                        continue
                if anchor.alone > 1:
                    await self._pause(anchor.alone)
            # Where nothing came behind the last candle, a whole page shows what lies behind the end of the range.
            room = self.page(anchor.open) if anchor.alone else 0
            rows = await self._ask(anchor.open, anchor, room=room)

    def _ended_with(self, anchor: Anchor) -> bool:
        """Whether so many answers ended with the anchor that what follows must be looked for elsewhere."""
        reaching = self._reaches_back and anchor.back >= AGREE_AT_END
        enough = anchor.alone >= AGREE_AT_END or anchor.seen >= ENDS_ANYHOW or reaching
        return enough or self.found.knows(anchor.open)

    async def _opening(self) -> tuple[Sequence[CandlePage | Fact], Rows | None, Anchor | None]:
        """What may be said before the first candle, and the candle to go on from, with the answer that begins with it if there is one."""
        if not self.market.active:
            await self._search_alone()  # most of the walks may lie behind the end
        said = self._known_at_once()
        if said:
            return said, None, self._behind_hole()
        rows = await self._ask(self.frame.add(self.span.since, -1), None)
        anchor = self._first_anchor(rows)
        if anchor is not None or self._begins_bad(rows):
            return [], rows, anchor
        await self._search_alone()
        said = self._known_at_once()
        if said:
            return said, None, self._behind_hole()
        facts, anchor = await self._beginning()
        return facts, None, anchor

    # -- what other walks have found -------------------------------------------------------------------------------

    async def _search_alone(self) -> None:
        """Let no other walk of the series search until this one has found a candle, or ends."""
        if not self._searching:
            await self.found.searching.acquire()
            self._searching = True

    def _let_search(self) -> None:
        if self._searching:
            self._searching = False
            self.found.searching.release()

    def _known_at_once(self) -> list[CandlePage | Fact]:
        """What may be said of the beginning of the span without an ask, because another walk has found it."""
        end, hole = self.found.end, self.found.around(self.span.since)
        if end is not None and self.span.since > end:
            return [self._after(end)]
        if hole is not None and self.done < hole.until:
            nothing = Rows(no_candles(), (), self.span.since, 0)
            evidence = f"no candle between {iso(hole.since)} and {iso(hole.until)}, seen by several looks"
            return [self._said(min(hole.until, self.span.until), nothing, evidence)]
        return []

    def _behind_hole(self) -> Anchor | None:
        hole = self.found.around(self.span.since)
        return None if hole is None else Anchor(hole.until)

    def _after(self, end: int) -> Fact:
        reason = f"no longer traded; the last candle is {iso(end)}"
        fact = Fact(TimeRange(self.done, self.span.until), State.AFTER_END, reason)
        self.done = self.span.until
        return fact

    # -- the beginning ---------------------------------------------------------------------------------------------

    def _first_anchor(self, rows: Rows) -> Anchor | None:
        """The candle before the span, or the span's first one; None where the first answer holds neither."""
        before = self.frame.add(self.span.since, -1)
        for moment in (before, self.span.since):
            if has_candle(rows.good, moment):
                return self._anchor_of(rows, moment)
        return None

    def _begins_bad(self, rows: Rows) -> bool:
        """Whether the row before the span, or its first one, came and was refused."""
        first = (self.frame.add(self.span.since, -1), self.span.since)
        return any(row.open is not None and self.frame.floor(row.open) in first for row in rows.rejected)

    async def _beginning(self) -> tuple[Sequence[Fact], Anchor]:
        """Why the span does not begin with a candle: it lies before the listing, out of reach, or in a hole."""
        first = await self.beginning()
        for turn in range(1, BEGINNINGS):
            if first is None:
                await self._pause(turn)
                first = await self.beginning()
        if first is None:
            raise BadAnswer(
                f"{self.series}: the exchange gives no candle at all, though it lists the market",
                hint="run again later; until then every slot is missing",
            )
        facts: list[Fact] = []
        if first.open > self.span.since:
            until = min(first.open, self.span.until)
            state = State.OUT_OF_REACH if first.deeper else State.BEFORE_LISTING
            what = "the oldest candle that the exchange gives" if first.deeper else "the first candle"
            facts.append(Fact(TimeRange(self.span.since, until), state, f"{what} is {iso(first.open)}"))
            self.done = until
            return facts, Anchor(first.open)
        known = first.open
        if known < self.span.since:
            known = await self.edges.last_before(self.span.since, known, ended=not self.market.active)
        return facts, Anchor(known)

    # -- going on --------------------------------------------------------------------------------------------------

    async def _across(self, anchor: Anchor, rows: Rows) -> tuple[Anchor | None, list[CandlePage | Fact]]:
        """After a candle with nothing behind it: the anchor to go on from, None at the end, and what may be said."""
        said: list[CandlePage | Fact] = []
        await self._search_alone()
        following = self.found.following(anchor.open)
        told = self.found.knows(anchor.open)
        if not told:
            following = await self.edges.next_after(anchor.open)
        behind = self.frame.next(anchor.open)
        certain = not (rows.strays or rows.tail)
        if following is not None:
            if following < behind:
                raise BadAnswer(f"{self.series}: the walk does not get past {iso(anchor.open)}")
            nothing = following != behind and (
                not certain or told or await self._nothing_after(anchor, following=following)
            )
            if nothing is False:
                return self._false_end(anchor), said
            certain = certain and nothing is True
            evidence = f"no candle between {iso(anchor.open)} and {iso(following)}, seen by several looks"
            if not certain and self.done < behind:
                until = min(behind, self.span.until)
                said.append(self._said(until, with_tail(rows), "rows without a place follow"))
            if not certain:
                self.done = max(self.done, min(following, self.span.until))
                return Anchor(following), said
            if following > behind:
                self.found.nothing_between(anchor.open, following)
            proven = min(self._proven(anchor.open, following), self.span.until)
            if proven > self.done:
                said.append(self._said(proven, rows, evidence))
            return None if self._doubtful else Anchor(following), said
        ended = certain and not self.market.active and self.now - behind > DAY and self.done < self.span.until
        ended = ended and (told or anchor.alone >= AGREE_AT_END)
        if ended and not told and await self._goes_on(anchor):
            return self._false_end(anchor), said
        if not ended and certain and await self._nothing_after(anchor, 1) is False:
            return self._false_end(anchor), said
        if ended:
            self.found.end = anchor.open
        if self.done < behind:
            said.append(
                self._said(min(behind, self.span.until), with_tail(rows), "the last candle, confirmed")
            )
        if ended and self.done < self.span.until:
            said.append(self._after(anchor.open))
        return None, said

    def _false_end(self, anchor: Anchor) -> Anchor:
        """The same candle as a new anchor, because something follows it after all."""
        self._false_ends += 1
        if self._false_ends > FALSE_ENDS:
            raise BadAnswer(f"{self.series}: answers disagree on what follows {iso(anchor.open)}")
        return Anchor(anchor.open)

    async def _nothing_after(
        self, anchor: Anchor, looks: int = LOOKS_ACROSS, following: int | None = None
    ) -> bool | None:
        """Whether further answers from the anchor on show nothing after it; None if too few begin where they should.

        An answer that goes back from `following` and shows the anchor right before it will do as well.
        """
        enough = anchor.alone + looks
        across = 0
        for turn in range(1, ENDS_ANYHOW):
            await self._pause(turn)
            if following is not None and self._reaches_back:
                rows = await self._ask(self.frame.add(following, -1), Anchor(following))
                between = open_times(rows.good)
                between = between[(between > anchor.open) & (between < following)]
                if len(between) or rows.rejected or rows.tail:
                    return False
                across += has_candle(rows.good, anchor.open)
            else:
                rows = await self._ask(anchor.open, anchor, room=self.page(anchor.open))
                if (rows.last or 0) > anchor.open or rows.rejected or rows.tail:
                    return False
            if anchor.alone >= enough or across >= looks:
                return True
        return None

    def _check_end(self, anchor: Anchor) -> None:
        """Raise BadAnswer where the end is not silence but answers that begin anywhere but where they should."""
        if anchor.alone < AGREE_AT_END and self.now - anchor.open > DAY and not self._reaches_back:
            raise BadAnswer(
                f"{self.series}: asked from {iso(anchor.open)}, answers begin earlier and end there",
                hint="the exchange ignores where an answer is to begin; run again later",
            )

    async def _goes_on(self, anchor: Anchor) -> bool:
        """Whether any of several different looks shows a candle after the anchor of a market that no longer trades."""
        behind = self.frame.next(anchor.open)
        for turn in range(1, ROUNDS_AT_END + 1):
            await self._pause(2 * turn)
            rows = await self._ask(behind, None, room=self.page(behind))
            if (rows.last or 0) > anchor.open or rows.rejected or rows.tail:
                return True
            await self._pause(2 * turn + 1)
            rows = await self._ask(anchor.open, anchor, room=self.page(anchor.open))
            if (rows.last or 0) > anchor.open or rows.rejected or rows.tail:
                return True
            if await self.edges.longer_after(anchor.open):
                return True
        return False
