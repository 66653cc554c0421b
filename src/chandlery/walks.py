"""How a long range is walked: cut in parts that are walked side by side, within what one host is asked at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from chandlery.timeframe import Timeframe
from chandlery.timerange import TimeRange

#: Walks under way at once over all series: as many as there may be requests in flight to one host.
WALKS = 48
#: Pages that a part of a range has at least: the last ones end together, and a part may cost a look at where it begins.
PAGES_A_WALK = 8


def parts_of(span: TimeRange, frame: Timeframe, pages: int, walks: Callable[[], int]) -> Iterator[TimeRange]:
    """A range in parts for `walks()` walks side by side: large ones first, so that the last ones end together.

    Each part is a whole number of pages less the candle that overlaps, so that splitting costs no request.
    """
    slots = frame.count(span.since, span.until)
    fresh = -(-slots // max(1, pages))
    begin, left = span.since, slots
    while left > 0:
        size = max(PAGES_A_WALK, left // fresh // (2 * walks())) * fresh - 1
        taken = left if left - size < fresh else size
        end = frame.add(begin, taken)
        yield TimeRange(begin, end)
        begin, left = end, left - taken
