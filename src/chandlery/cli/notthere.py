"""What a reader should know of a range: how many of its candles fetch could still bring."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from chandlery.cli.output import Output

if TYPE_CHECKING:
    from chandlery.stores.base import SeriesSummary, Store
    from chandlery.timerange import RangeSet, TimeRange


def say_not_there(
    out: Output, store: Store, kept: Sequence[SeriesSummary], since: str | None, until: str | None
) -> bool:
    """Note how many candles of the range were never asked for, not answered or refused; whether there are any.

    A bound that is None is that of what was asked for. Only the ledger is read, no candle.
    """
    from chandlery.when import iso

    found = [(one.series, *_left(store, one, since, until)) for one in kept]
    expected = sum(s.frame.count(span.since, span.until) for s, span, _ in found)
    missing = [(s, left, sum(s.frame.count(r.since, r.until) for r in left)) for s, _, left in found if left]
    if not missing:
        return False
    count = sum(number for _, _, number in missing)
    if len(kept) > 1:
        out.note(
            f"{count:,} of {expected:,} candles of {len(kept):,} series in this range are not there; "
            "chandlery fetch brings them"
        )
        return True
    series, left, _ = missing[0]
    words = ["chandlery", "fetch", series.symbol, "-t", series.timeframe]
    words += ["-e", series.exchange] if series.exchange != "binance" else []
    words += ["--since", iso(left.since), "--until", iso(left.until)]
    out.note(
        f"{count:,} of {expected:,} candles of {series} in this range are not there: {shlex.join(words)}"
    )
    return True


def _left(
    store: Store, kept: SeriesSummary, since: str | None, until: str | None
) -> tuple[TimeRange, RangeSet]:
    """The range that is meant, on the grid, and what of it no answer, fact or waiting explains."""
    from chandlery.ledger import FACTS, aligned, settled_until
    from chandlery.timerange import RangeSet, TimeRange
    from chandlery.when import LISTING

    ledger, frame = store.ledger(kept.series), kept.series.frame
    span = store.span(kept.series, since, until)
    begin = span.since
    if (since is None or since == LISTING) and ledger.asked:
        begin = min(ledger.asked.since, span.until)
    end = span.until
    if until is None and ledger.asked:
        end = max(begin, min(ledger.asked.until, settled_until(frame, ledger.clock, ledger.settle)))
    whole = aligned(frame, TimeRange(begin, end)) if end > begin else TimeRange(begin, begin)
    if not whole:
        return whole, RangeSet()
    left = RangeSet([whole]) - ledger.answered_ranges
    for state in FACTS:
        left = left - ledger.fact_ranges(state)
    refused = RangeSet(TimeRange(frame.floor(q), frame.next(frame.floor(q))) for q in ledger.quarantined)
    return whole, left | (refused & RangeSet([whole]))
