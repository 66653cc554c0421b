"""How many candles one answer really holds, in which order, and whether its bounds count: recent and old candles apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from chandlery.sources.probe_asking import Ask, ProbeAsker, Seen
from chandlery.timeframe import Timeframe

#: Candles asked for where it is tried how many come. Some exchanges refuse more than they give.
LARGE: tuple[int, ...] = (5000, 1000, 500, 200, 100)
#: How many candles back a page of recent ones begins, and how many are asked for.
RECENT = 1000
#: Candles of the small asks.
FEW = 10


@dataclass(slots=True)
class Finding:
    """One habit: its value, None where it cannot be told, and what was asked and came."""

    value: Any = None
    evidence: list[str] = field(default_factory=list)

    def note(self, *said: object) -> None:
        """Add what was asked and came, each once."""
        self.evidence += [text for one in said if (text := str(one)) not in self.evidence]


@dataclass(slots=True)
class Page:
    """A page that was measured: `rows` candles at most, from `begin` on, as the answer `confirmed` shows.

    `whole` is False where slots without a candle leave it open how many there could have been, `capped` where all that
    there is up to now came.
    """

    rows: int
    begin: int
    confirmed: Seen
    evidence: list[str]
    whole: bool = True
    capped: bool = True


async def measure_page(
    asker: ProbeAsker, symbol: str, frame: Timeframe, begin: int, large: Sequence[int]
) -> Page | None:
    """How many candles come from `begin` on, however many are asked for; None where none of that time come.

    Each of `large` is asked for until one is answered. What came is asked for again under its own number: then it
    must begin where it is to begin, so that a window whose head is left out counts by what it gives.
    """
    evidence: list[str] = []
    for limit in large:
        end = frame.add(begin, limit + 1)
        for _ in range(2):  # an answer of another time than was asked for may be a broken one
            ask = Ask(symbol, frame, begin, limit)
            seen = await asker.ask(ask, refusals=1 if limit != large[-1] else 2)
            evidence.append(str(seen))
            if seen.refused or (seen.count > 1 and begin <= seen.first < end and not _latest(asker, seen)):
                break
        if seen.refused:
            continue
        if seen.count < 2 or not begin <= seen.first < end:
            return None
        capped = seen.count < frame.count(begin, asker.current(frame)) - 1
        if seen.first == begin and not seen.holes and (seen.count == limit or not capped):
            return Page(seen.count, begin, seen, evidence, capped=capped)
        return await _confirmed(asker, seen, evidence)
    return None


async def _confirmed(asker: ProbeAsker, seen: Seen, evidence: list[str]) -> Page | None:
    """Ask for exactly what came; where less comes, for that, and so on."""
    symbol, frame, rows = seen.ask.symbol, seen.ask.frame, seen.count
    # A window that is cut off at now does not show whether it loses its head.
    begin = min(seen.first, frame.add(asker.current(frame), -rows - 2))
    lost_head = doubted = False
    for _ in range(5):
        again = await asker.ask(Ask(symbol, frame, begin, rows))
        evidence.append(str(again))
        if again.count < 2 or not begin <= again.first <= frame.add(begin, 2 * rows):
            continue
        if _latest(asker, again) and not doubted:
            doubted = True
            continue
        late = again.first == frame.next(begin)
        if late and await _gives_its_beginning(asker, again, evidence):
            rows, lost_head = rows - 1, True  # a window of one candle more than was asked for
        elif again.first == begin and again.count > rows and not lost_head:
            rows = again.count
        # One less is an answer that leaves out the candle at its own beginning.
        elif (late or again.first == begin) and again.count >= rows - late:
            return Page(rows, begin, again, evidence, whole=not again.holes and not seen.holes)
        else:
            begin, rows = again.first, again.count
    return None


def _latest(asker: ProbeAsker, seen: Seen) -> bool:
    """Whether an answer that does not begin where it was to begin is the latest candles: `since` may have been ignored."""
    frame = seen.ask.frame
    return seen.first > frame.next(seen.ask.since or 0) and seen.last >= frame.add(asker.current(frame), -1)


async def _gives_its_beginning(asker: ProbeAsker, page: Seen, evidence: list[str]) -> bool:
    """Whether a small ask, within a page that came without the candle at `since`, holds that candle of its own."""
    frame = page.ask.frame
    seen = await asker.ask(Ask(page.ask.symbol, frame, frame.add(page.first, 3), FEW))
    evidence.append(str(seen))
    return _begins(seen) == "inclusive"


def tell_order(answers: Sequence[Seen]) -> Finding:
    """The order of the rows as they come, where all answers have the same one."""
    told = [one for one in answers if one.order and one.own_rows]
    orders = {one.order for one in told}
    found = Finding(orders.pop() if len(orders) == 1 and len(told) > 1 else None)
    found.note(*told[:3])
    return found


async def tell_begin(asker: ProbeAsker, pages: Sequence[Page]) -> Finding:
    """Whether the candle that opens at `since` is in the answer."""
    found = Finding()
    told: list[str] = []
    for page in pages:
        since = page.confirmed.ask.since or 0
        told.append("inclusive" if page.confirmed.has(since) else "exclusive")
        found.note(page.confirmed)
    if told and told.count("inclusive") < len(told):  # the rare case: asked for again with few candles
        for page in pages:
            frame = page.confirmed.ask.frame
            ask = Ask(page.confirmed.ask.symbol, frame, frame.add(page.begin, 3), FEW)
            answer, seen = await asker.vote(ask, _begins)
            if answer is not None:
                told.append(answer)
                found.note(seen)
    found.value = told[0] if told and len(set(told)) == 1 else None
    return found


def _begins(seen: Seen) -> str | None:
    """An answer's own word on its beginning: no word where neither candle is in it."""
    since, frame = seen.ask.since or 0, seen.ask.frame
    if seen.has(since):
        return "inclusive"
    return "exclusive" if seen.has(frame.next(since)) else None


async def tell_end(asker: ProbeAsker, pages: Sequence[Page]) -> Finding:
    """Whether the candle that opens at `until` is in the answer, where two answers agree. None where `until` is ignored.

    Some classes ignore it next to a limit: then it is asked for without one.
    """
    found = Finding()
    for limit in (20, None):
        told: list[str | None] = []
        for page in (*pages, *pages):
            frame = page.confirmed.ask.frame
            begin = frame.add(page.begin, 2 * len(told))
            seen = await asker.ask(
                Ask(page.confirmed.ask.symbol, frame, begin, limit, until=frame.add(begin, 6))
            )
            found.note(seen)
            told.append(_ends(seen))
            if told[-1] is not None and told.count(told[-1]) == 2:
                break
        else:
            return found
        if told[-1] != "ignored":
            found.value = told[-1]
            return found
    return found


def _ends(seen: Seen) -> str | None:
    """An answer's own word on its end, which it must reach."""
    until, frame = seen.ask.until or 0, seen.ask.frame
    if seen.has(frame.next(until)):
        return "ignored"
    if seen.has(until):
        return "inclusive"
    return "exclusive" if seen.has(frame.add(until, -1)) else None


def tell_heeds_limit(answers: Sequence[Seen], window: str | None) -> Finding:
    """Whether answers hold no more candles than were asked for.

    They do not where two held more. They do where they held just as many though more follow, which only an open window
    tells: a bounded one may end there by itself.
    """
    found = Finding()
    more = [one for one in answers if one.ask.limit and one.ask.until is None and one.count > one.ask.limit]
    just = [one for one in answers if one.ask.limit == one.count and one.ask.until is None and one.count > 1]
    if len(more) > 1:
        found.value = False
        found.note(*more[:2])
    elif not more and window == "open" and len(just) > 1:
        found.value = True
        found.note(*just[:2])
    return found
