"""What an entry means, the same for every store: which ledger it leads to, and how the journal names it. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from chandlery.candle import COLUMNS, SCHEMA, CandlePage, SeriesId
from chandlery.errors import NoSuchSeries
from chandlery.ledger import Answered, Fact, Ledger, State, aligned, regions, settled_until
from chandlery.timerange import RangeSet, TimeRange

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from chandlery.stores.base import Ask, JournalKind, Page

_EPOCH, _MS = datetime(1970, 1, 1, tzinfo=UTC), timedelta(milliseconds=1)


def after_ask(ledger: Ledger, ask: Ask) -> Ledger | None:
    """The ledger after an ask; None if it enlarges nothing and makes no slot of its range pending or missing.

    The later clock counts, and of two asks at one clock the smaller settling time, so that the order in which
    processes write does not matter.
    """
    asked = ledger.asked | RangeSet([ask.range])
    later = (ask.clock, -ask.settle) > (ledger.clock, -ledger.settle)
    moved = replace(ledger, clock=ask.clock, settle=ask.settle) if later else ledger
    if asked != ledger.asked:
        return replace(moved, asked=asked)
    return moved if later and _settling_moved(ledger, moved, ask.range) else None


def _settling_moved(old: Ledger, new: Ledger, wanted: TimeRange) -> bool:
    """Whether a slot of `wanted` without an answer lies between the two ends of what was settled."""
    frame = old.timeframe
    ends = sorted(settled_until(frame, ledger.clock, ledger.settle) for ledger in (old, new))
    between = RangeSet.of(*ends) & RangeSet([wanted])
    if not between:
        return False
    open_to_say = between - old.answered_ranges - RangeSet(fact.range for fact in old.facts)
    return any(frame.count(part.since, part.until) for part in open_to_say)


def after_fact(ledger: Ledger, fact: Fact) -> Ledger | None:
    """The ledger after a fact; None if every moment of it already has that state.

    A fact speaks for what no fact of its state has spoken for yet; neighbours of one state and reason are joined.
    """
    fresh = RangeSet([fact.range]) - ledger.fact_ranges(fact.state)
    if not fresh:
        return None
    facts = [*ledger.facts, *(Fact(part, fact.state, fact.reason) for part in fresh)]
    joined: list[Fact] = []
    for current in sorted(facts, key=lambda f: (f.state.value, f.range)):
        last = joined[-1] if joined else None
        if last and (last.state, last.reason, last.range.until) == (
            current.state,
            current.reason,
            current.range.since,
        ):
            joined[-1] = Fact(TimeRange(last.range.since, current.range.until), last.state, last.reason)
        else:
            joined.append(current)
    return replace(ledger, facts=tuple(sorted(joined, key=lambda f: (f.range, f.state.value))))


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
    if frame.height == 1:
        times, values = _one_row(page)
    else:
        columns = frame.get_columns()
        if any(column.null_count() for column in columns):
            raise ValueError(f"{page.series}: a page must have no empty field")
        times = columns[0].to_numpy()
        values = np.array([column.to_numpy() for column in columns[1:]])
        if times.dtype != "<M8[ms]" or values.dtype != "<f8":
            raise ValueError(f"{page.series}: a page must have the types of {SCHEMA}, not of {frame.schema}")
        times = times.view(np.int64)
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
    if not isinstance(opened, datetime) or not all(isinstance(value, float) for value in values):
        raise ValueError(f"{page.series}: a page must have the types of {SCHEMA}: {(opened, *values)}")
    return np.array([(opened - _EPOCH) // _MS]), np.array(values).reshape(5, 1)


def within(times: NDArray[np.int64], ranges: Iterable[TimeRange]) -> int:
    """How many of the ascending `times` lie in the ranges, which must not overlap."""
    import numpy as np

    return sum(
        int(np.searchsorted(times, part.until) - np.searchsorted(times, part.since)) for part in ranges
    )


def no_such_series(series: SeriesId, url: str) -> NoSuchSeries:
    """The error for a series that is not kept."""
    return NoSuchSeries(
        f"no such series: {series} is not kept in {url}",
        hint="`chandlery list` shows what is kept; `chandlery fetch` brings what is not",
    )
