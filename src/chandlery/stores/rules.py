"""What an entry means, the same for every store: which ledger it leads to, and how the journal names it. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from chandlery.candle import COLUMNS, SCHEMA, VALUES, CandlePage, Rejected, SeriesId
from chandlery.errors import NoSuchSeries
from chandlery.ledger import (
    CONFIRMED_AFTER,
    Answered,
    Fact,
    Ledger,
    State,
    aligned,
    first_unconfirmed,
    regions,
    settled_until,
)
from chandlery.stores.base import Ask, NoFact, Quarantined
from chandlery.timerange import RangeSet, TimeRange
from chandlery.validate import arrays_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from chandlery.stores.base import JournalKind, Page, SeriesFact

#: A moment after every candle.
_NEVER = 1 << 62
_TYPES = SCHEMA.dtypes()
_EPOCH, _MS = datetime(1970, 1, 1, tzinfo=UTC), timedelta(milliseconds=1)


def after_ask(ledger: Ledger, ask: Ask) -> Ledger | None:
    """The ledger after an ask; None if it enlarges nothing and makes no slot of its range pending or missing.

    Of two asks at one clock the smaller settling time counts. A clock that goes back was ahead before: what was
    answered or found for slots that are not settled by the new one could not be known, and is let go of.
    """
    asked = ledger.asked | RangeSet([ask.range])
    moved = replace(ledger, clock=ask.clock, settle=ask.settle)
    if ask.clock < ledger.clock:
        late = RangeSet.of(settled_until(ledger.timeframe, ask.clock, ask.settle), _NEVER)
        back = _without_facts(without_answers(moved, late), late)
        taken = back.answered is not moved.answered or back.facts is not moved.facts
        if taken or asked != ledger.asked or _settling_moved(ledger, moved, ledger.asked):
            return replace(back, asked=asked, answered=_doubted_at_end(back))
        return None
    later = (ask.clock, -ask.settle) > (ledger.clock, -ledger.settle)
    if asked != ledger.asked:
        return replace(moved if later else ledger, asked=asked)
    return moved if later and _settling_moved(ledger, moved, RangeSet([ask.range])) else None


def _doubted_at_end(ledger: Ledger) -> tuple[Answered, ...]:
    """The answers of a ledger whose clock was ahead, the newest of them with no time at which they were given.

    What that clock took for confirmed may have been half a candle: the last one that there was.
    """
    answered = ledger.answered_ranges
    if not answered:
        return ledger.answered
    since = ledger.timeframe.floor(max(0, answered.until - CONFIRMED_AFTER))
    tail = RangeSet.of(since, max(since, answered.until))
    certain = without_answers(ledger, tail).answered
    return (*certain, *(Answered(part, 0) for part in answered & tail))


def _settling_moved(old: Ledger, new: Ledger, wanted: RangeSet) -> bool:
    """Whether a slot of `wanted` without an answer lies between the two ends of what was settled."""
    frame = old.timeframe
    ends = sorted(settled_until(frame, ledger.clock, ledger.settle) for ledger in (old, new))
    between = RangeSet.of(*ends) & wanted
    if not between:
        return False
    open_to_say = between - old.answered_ranges - RangeSet(fact.range for fact in old.facts)
    return any(frame.count(part.since, part.until) for part in open_to_say)


def after(ledger: Ledger, entry: Ask | SeriesFact | NoFact) -> tuple[Ledger | None, bool]:
    """The ledger after an entry that brings no candles, None if it is the same, and whether the journal has news."""
    if isinstance(entry, Ask):
        return after_ask(ledger, entry), True
    if isinstance(entry, NoFact):
        return without_facts(ledger, entry.range), True
    changed = after_fact(ledger, entry.fact)
    return changed, changed is not None and facts_said(changed) != facts_said(ledger)


def after_fact(ledger: Ledger, fact: Fact) -> Ledger | None:
    """The ledger after a fact; None if nothing changes, not even the time at which it was found.

    A fact speaks for its range from then on, whatever was said of it before; neighbours of one state and reason are
    joined, with the earlier of their times. `facts_said` tells whether it is news.
    """
    if not fact.range:
        return None
    edge = fact.range.until
    if fact.at is not None:
        edge = first_unconfirmed(ledger.timeframe, fact.at, CONFIRMED_AFTER)
        edge = min(max(edge, fact.range.since), fact.range.until)
    new = [
        replace(fact, range=TimeRange(fact.range.since, edge), at=None),
        replace(fact, range=TimeRange(edge, fact.range.until)),
    ]
    facts = _joined([*_without_facts(ledger, RangeSet([fact.range])).facts, *(f for f in new if f.range)])
    return None if facts == ledger.facts else replace(ledger, facts=facts)


def without_facts(ledger: Ledger, span: TimeRange) -> Ledger | None:
    """The ledger once no fact speaks for `span` any more; None if none does."""
    left = _without_facts(ledger, RangeSet([span]))
    return None if left is ledger else left


def _without_facts(ledger: Ledger, gone: RangeSet) -> Ledger:
    left = tuple(replace(f, range=part) for f in ledger.facts for part in RangeSet([f.range]) - gone)
    return ledger if left == ledger.facts else replace(ledger, facts=left)


def facts_said(ledger: Ledger) -> tuple[Fact, ...]:
    """The facts without the times at which they were found: where these differ there is news."""
    return _joined([replace(fact, at=None) for fact in ledger.facts])


def _joined(facts: Iterable[Fact]) -> tuple[Fact, ...]:
    joined: list[Fact] = []
    for fact in sorted(facts, key=lambda f: f.range):
        last = joined[-1] if joined else None
        if last and _one_fact(last, fact):
            at = None if last.at is None or fact.at is None else min(last.at, fact.at)
            joined[-1] = replace(last, range=TimeRange(last.range.since, fact.range.until), at=at)
        else:
            joined.append(fact)
    return tuple(joined)


def _one_fact(last: Fact, fact: Fact) -> bool:
    """Whether two neighbours may be kept as one."""
    return (last.state, last.reason, last.range.until, last.at is None) == (
        fact.state,
        fact.reason,
        fact.range.since,
        fact.at is None,
    )


def journal_kind(page: Page, *, new: int, revised: int) -> JournalKind:
    """What the journal calls a page that changed something."""
    if page.repair:
        return "repair"
    if revised:
        return "revision"
    return "rows" if new else "absence"


def without_answers(ledger: Ledger, gone: RangeSet) -> Ledger:
    """The ledger once the answers of `gone` are let go of."""
    left = [Answered(part, a.at) for a in ledger.answered for part in RangeSet([a.range]) - gone]
    return ledger if tuple(left) == ledger.answered else replace(ledger, answered=tuple(left))


def absent_and_missing(
    ledger: Ledger, stored: int, loose: NDArray[np.int64] | None = None
) -> tuple[int, int]:
    """Absent and missing slots of all that was asked, where `stored` rows lie on slots that were asked for.

    `loose` are the open times of those rows among them that no answer covers any more, because it was let go of.
    """
    frame = ledger.timeframe
    refused = {frame.floor(opened) for opened in ledger.quarantined}
    outside = 0 if loose is None else len(loose)
    found = {State.ABSENT: outside - stored, State.MISSING: 0}
    for state, region in regions(ledger, RangeSet(aligned(frame, part) for part in ledger.asked)):
        if state in found:
            for part in region:
                found[state] += frame.count(part.since, part.until) - sum(slot in part for slot in refused)
            if state is State.MISSING and loose is not None:
                found[state] -= within(loose, region)
    return found[State.ABSENT], found[State.MISSING]


def hull(ledger: Ledger) -> TimeRange:
    """The smallest range that holds everything that was asked for or answered."""
    known = ledger.asked | ledger.answered_ranges
    return TimeRange(known.since, known.until) if known else TimeRange(0, 0)


def columns_of(page: CandlePage) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """A page's open times (n) and its values (5, n); ValueError if the page breaks the contract of `CandlePage`.

    A wrong page is a fault of the program, not of the exchange: validation comes before the store.
    """
    import numpy as np

    frame = page.candles
    if tuple(frame.columns) != COLUMNS:
        raise ValueError(f"{page.series}: a page must have the columns {COLUMNS}, not {frame.columns}")
    if frame.dtypes != _TYPES:
        raise ValueError(f"{page.series}: a page must have the types of {SCHEMA}, not of {frame.schema}")
    if frame.height == 1:
        times, values = _one_row(page)
    else:
        times, values = arrays_of(frame)
        # An empty number is NaN there, which is seen quicker than by asking five columns.
        empty = bool(np.isnan(values).any()) and any(frame[name].null_count() for name in VALUES)
        if empty or frame["time"].null_count():
            raise ValueError(f"{page.series}: a page must have no empty field")
    if len(times):
        if times[0] < page.answered.since or times[-1] >= page.answered.until:
            raise ValueError(f"{page.series}: a page must lie inside the range that it answers")
        if len(times) > 1 and not (times[1:] > times[:-1]).all():
            raise ValueError(f"{page.series}: a page's open times must ascend")
    return times, values


def _one_row(page: CandlePage) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """A page of one candle as arrays: the live case, where a frame's columns cost ten times its row."""
    import numpy as np

    opened, *values = page.candles.row(0)
    if not isinstance(opened, datetime) or None in values:
        raise ValueError(f"{page.series}: a page must have no empty field")
    return np.array([(opened - _EPOCH) // _MS]), np.array(values).reshape(5, 1)


def within(times: NDArray[np.int64], ranges: Iterable[TimeRange]) -> int:
    """How many of the ascending `times` lie in the ranges, which must not overlap."""
    import numpy as np

    return sum(
        int(np.searchsorted(times, part.until) - np.searchsorted(times, part.since)) for part in ranges
    )


def quarantined(
    series: SeriesId, ledger: Ledger, refused: Iterable[tuple[Rejected, int, str]]
) -> list[Quarantined]:
    """Refused rows, each with when and by which source; one whose slot the ledger no longer marks is resolved."""
    waiting = set(ledger.quarantined)
    return [
        Quarantined(series, row, at, source, resolved=row.open is not None and row.open not in waiting)
        for row, at, source in refused
    ]


def listing_order(series: SeriesId) -> tuple[str, str, int, str, str]:
    """What `Store.series` sorts by: exchange, symbol, length of timeframe, timeframe, kind."""
    return series.exchange, series.symbol, series.frame.nominal_ms, series.timeframe, series.kind


def no_such_series(series: SeriesId, url: str) -> NoSuchSeries:
    """The error for a series that is not kept."""
    return NoSuchSeries(
        f"no such series: {series} is not kept in {url}",
        hint="`chandlery list` shows what is kept; `chandlery fetch` brings what is not",
    )
