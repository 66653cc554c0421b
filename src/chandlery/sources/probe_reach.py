"""How far back candles can be had, how far back pages are larger, and what an ask for a time without candles gives."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from chandlery.sources.probe_asking import Ask, ProbeAsker, Seen
from chandlery.sources.probe_page import FEW, RECENT, Finding
from chandlery.timeframe import DAY, Timeframe

#: No exchange has candles from before 2010.
DAWN = 1_262_304_000_000
#: Numbers of candles that exchanges are known to draw their lines at.
LINES = (
    300,
    500,
    720,
    1000,
    1440,
    2000,
    3000,
    5000,
    10_000,
    20_000,
    41_760,
    43_200,
    86_400,
    129_600,
    262_800,
)
#: Asks for the first candle.
LISTING_ASKS = 6
#: How long after the first long candle old ones are asked for.
MARGIN = 40 * DAY
#: Requests that the search for a line which nobody is known to draw leaves over.
KEPT = 10
#: Requests that must be left to ask whether a second timeframe has the same line.
SPARE = 5


@dataclass(slots=True)
class Life:
    """What the longest timeframe says of a market: a moment from which on it is known to have traded.

    `first` is the open time of its first candle of `frame`, None where that was not found.
    """

    frame: Timeframe
    traded_from: int
    first: int | None = None


async def find_life(
    asker: ProbeAsker, symbol: str, frame: Timeframe, rows: int
) -> tuple[Life | None, list[Seen]]:
    """Where a market begins, by halving the time since DAWN with asks for `rows` candles of a long timeframe."""
    asked: list[Seen] = []

    async def look(since: int, limit: int) -> Seen:
        asked.append(await asker.ask(Ask(symbol, frame, since, limit)))
        return asked[-1]

    low, now = frame.ceil(DAWN), asker.current(frame)
    earliest, since, sure = now, max(low, frame.add(now, 1 - rows)), False
    while len(asked) < LISTING_ASKS and low < earliest and not sure:
        seen = await look(since, rows)
        if seen.refused:
            break
        if not seen.count:  # nothing lies there, or it cannot be had
            low = min(earliest, frame.add(since, rows))
        else:
            earliest = min(earliest, seen.first)
            if seen.first > frame.add(
                since, 1
            ):  # either nothing lies before it, or the head of the answer is missing
                before = await look(frame.add(seen.first, -FEW // 2), FEW)
                sure = not before.count or before.first >= seen.first
                if not sure:
                    rows, earliest = max(FEW, seen.count), min(earliest, before.first)
        since = max(low, frame.add(earliest, 1 - rows))
        if frame.count(low, since) > rows:
            since = frame.floor((low + earliest) // 2)
    if earliest == now:
        return None, asked
    return Life(frame, frame.next(earliest), earliest if sure or low >= earliest else None), asked


async def tell_window(
    asker: ProbeAsker, symbol: str, life: Life, day: Timeframe | None, rows: int
) -> Finding:
    """What comes for a stretch that ends before the first candle: the candles after it, or nothing.

    The stretch begins more than a page before the first candle: some windows are a page long, whatever is asked for.
    """
    found = Finding()
    if life.first is None:
        return found
    frame, first = life.frame, life.first
    if day is not None and day.nominal_ms < frame.nominal_ms:
        seen = await asker.ask(Ask(symbol, day, day.ceil(first), min(rows, 62)))
        found.note(seen)
        if first <= seen.first < frame.next(first):
            frame, first = day, seen.first
    ask = Ask(symbol, frame, frame.add(first, -rows - rows // 8 - 4 * FEW), FEW)
    if (ask.since or 0) <= 0:
        return found

    def outcome(seen: Seen) -> str | None:
        if seen.refused:
            return None
        return "bounded" if not seen.count else "open" if seen.first == first else None

    found.value, told = await asker.vote(ask, outcome)
    found.note(*([told] if told else []))
    return found


@dataclass(slots=True)
class Border:
    """A number of candles back from now: so many are inside; `exact` where the next one is known to be outside."""

    value: int
    exact: bool


async def find_border(
    inside: Callable[[int], Awaitable[bool]], asker: ProbeAsker, low: int, high: int, hint: int = 0
) -> Border | None:
    """The number of ages at which `inside(age)` holds: it does at `low`, and not at `high`.

    `hint` and the lines that exchanges are known to draw are tried first.
    """
    if low < hint - 1 and hint < high and await inside(hint - 1):
        if not await inside(hint):
            return Border(hint, exact=True)
        low = hint
    lines = [line for line in LINES if low + 2 < line < high]
    while lines:
        middle = lines[len(lines) // 2]
        if await inside(middle - 2):
            low, lines = middle - 2, [line for line in lines if line > middle]
        else:
            high, lines = middle - 2, [line for line in lines if line < middle]
    for _ in range(3):  # the line is here, or one candle on
        if high - low <= 1:
            break
        if not await inside(low + 1):
            high = low + 1
            break
        low += 1
    while high - low > max(1, low // 20) and asker.left > KEPT:
        middle = (low + high) // 2
        low, high = (middle, high) if await inside(middle) else (low, middle)
    return None if await inside(high) else Border(low + 1, exact=high - low == 1)


async def tell_recent(
    asker: ProbeAsker, symbol: str, frames: Sequence[Timeframe], rows: int, low: int, high: int, hint: int = 0
) -> Finding:
    """How many candles back pages of `rows` go, by timeframe: they do at age `low` of the first frame, not at `high`."""
    found = Finding()

    async def holds(frame: Timeframe, age: int) -> bool:
        begin = frame.add(asker.current(frame), -age)
        seen = await asker.ask(Ask(symbol, frame, begin, rows))
        found.note(seen)
        return seen.count >= rows - 1 and seen.first <= frame.next(begin)

    border = await find_border(lambda age: holds(frames[0], age), asker, low, high, hint)
    if border is None:
        return found
    found.value = {frames[0].text: border.value}
    if (
        border.exact
        and asker.left > SPARE
        and len(frames) > 1
        and await holds(frames[1], border.value - 1)
        and not await holds(frames[1], border.value)
    ):
        found.value = {"*": border.value}
    return found


# -- how far back ----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Past:
    """What is known before the depth is asked for: `frames` from the shortest on, `looks` at the longest one, how many
    candles one answer holds, whether one came that begins RECENT candles back, and whether the last row is the candle in
    progress.
    """

    symbol: str
    frames: Sequence[Timeframe]
    life: Life
    looks: Sequence[Seen]
    rows: int
    recent: bool = False
    in_progress: bool = False


async def tell_depth(asker: ProbeAsker, past: Past, hint: int = 0) -> tuple[Finding, Finding]:
    """How many candles back any can be had, by timeframe, and whether time is counted: {} for all of them, None where it
    cannot be told.

    Only times at which longer candles show trades say anything: before them a market was not listed, or quiet.
    """
    found, by = Finding(), Finding()
    frame = past.frames[0]
    target = frame.ceil(past.life.traded_from + MARGIN)
    if hint:  # a little older than what another kind of market gives
        target = max(target, frame.add(asker.current(frame), -hint - 200))
    if not hint and frame.count(target, asker.current(frame)) < 2 * past.rows:
        return found, by
    seen = await asker.ask(Ask(past.symbol, frame, target, min(past.rows, 100 if hint else 500)))
    found.note(seen)
    answer: str | None = _given(seen)
    again = seen
    if answer != "given" and not seen.refused:  # what is refused was asked for twice
        again = await asker.ask(seen.ask)
        found.note(again)
        if _given(again) != answer:
            answer, _ = await asker.vote(seen.ask, _given)
    if answer == "given":
        found.value = {}
    elif answer == "later":
        await _by_first(asker, past, again if _given(again) == answer else seen, found)
    elif answer == "none" and (seen.refused or await _traded_then(asker, past, seen, found)):
        await _by_border(asker, past, target, found, hint)
        by = Finding("time" if found.value else None, list(found.evidence))
    return found, by


def _given(seen: Seen) -> str | None:
    """Whether an ask was answered from about its beginning on, with later candles, or with none (a refusal is none)."""
    if seen.refused or not seen.count:
        return "none"
    since, limit = seen.ask.since or 0, seen.ask.limit or 0
    return "given" if seen.first <= seen.ask.frame.add(since, limit) else "later"


async def _by_first(asker: ProbeAsker, past: Past, seen: Seen, found: Finding) -> None:
    """The depth where an ask for old candles is answered with the oldest that can be had, the same for any old time."""
    frame = seen.ask.frame
    if not _traded_between(past.looks, seen.ask.since or 0, seen.first):
        return
    age = await _age_of_first(asker, seen.first, frame, past, found)
    if age is None:
        return
    found.value = {frame.text: age}
    for longer in past.frames[1:2]:
        begin = longer.add(asker.current(longer), -age - 100)
        if begin < past.life.traded_from:
            continue
        other = await asker.ask(Ask(past.symbol, longer, begin, FEW))
        found.note(other)
        if other.count and abs(longer.count(other.first, asker.current(longer)) + 1 - age) <= 1:
            found.value = {"*": age}


async def _age_of_first(
    asker: ProbeAsker, first: int, frame: Timeframe, past: Past, found: Finding
) -> int | None:
    """How many candles back, the one in progress counted, the first one is that two asks for older ones agree on."""
    ages = []
    for earlier in (500, 5000):
        seen = await asker.ask(Ask(past.symbol, frame, frame.add(first, -earlier), FEW))
        found.note(seen)
        now = asker.current(frame)
        if past.in_progress and seen.last >= frame.add(now, -1):
            now = seen.last  # a minute may have ended since the answer
        ages.append(frame.count(seen.first, now) + 1 if seen.count else 0)
    # Time goes on between two asks.
    return min(ages) if min(ages) > 1 and abs(ages[0] - ages[1]) <= 1 else None


def _traded_between(looks: Sequence[Seen], since: int, until: int) -> bool:
    """Whether a long candle with volume lies in [since, until)."""
    for look in looks:
        traded = look.candles.filter(look.candles["volume"] > 0)["time"].dt.epoch("ms").to_list()
        if any(since <= opened and look.ask.frame.next(opened) <= until for opened in traded):
            return True
    return False


async def _traded_then(asker: ProbeAsker, past: Past, seen: Seen, found: Finding) -> bool:
    """Whether the stretch for which nothing was given holds a longer candle with volume: then it should have been.

    Where a longer timeframe gives nothing either, its own stretch is proved by a still longer one.
    """
    begin, frame = seen.ask.since or 0, seen.ask.frame
    until = frame.add(begin, seen.ask.limit or 0)
    for longer in past.frames[1:]:
        start = longer.ceil(begin)
        look = await asker.ask(Ask(past.symbol, longer, start, past.rows))
        found.note(look)
        if _given(look) == "given":
            return _traded_between([look], begin, until)
        until = longer.add(start, past.rows)
    return _traded_between(past.looks, begin, until)


async def _by_border(asker: ProbeAsker, past: Past, target: int, found: Finding, hint: int) -> None:
    """The depth where an ask for candles that are too old is refused, or answered with none."""
    rows = min(past.rows, 100)

    async def holds(frame: Timeframe, age: int) -> bool:
        seen = await asker.ask(Ask(past.symbol, frame, frame.add(asker.current(frame), -age), rows))
        found.note(seen)
        return _given(seen) == "given"

    frame, low = past.frames[0], RECENT if past.recent else LINES[0] - 2
    if not past.recent and not await holds(frame, low):
        return
    high = frame.count(target, asker.current(frame))
    border = await find_border(lambda age: holds(frame, age), asker, low, high, hint)
    if border is None:
        return
    # Where time is counted, whether the oldest one can still be had changes from moment to moment.
    depth = border.value - (border.value - 1 in LINES)
    found.value = {frame.text: depth}
    for longer in past.frames[1:2] if border.exact and asker.left > SPARE else ():
        if await holds(longer, depth - 1) and not await holds(longer, depth + 2):
            found.value = {"*": depth}
