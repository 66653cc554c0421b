"""What may be stored as a candle: a page of rows in, good candles and refused rows out.

Pure and vectorised: no clock, no network. A row is refused for what cannot be true of any candle; what is merely
unlikely, such as a spike of the price, is kept, because it may have happened.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from chandlery.candle import VALUES, Rejected
from chandlery.errors import BadAnswer

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    from numpy.typing import NDArray

    from chandlery.timeframe import Timeframe

#: Open times below this are seconds taken for milliseconds (it is 1971-04-09), those from LATEST on are microseconds.
EARLIEST = 40_000_000_000
LATEST = 100_000_000_000_000

#: What stands in a frame's `time` for a row whose open time cannot be read, and why.
NO_TIME, NO_ROW, FRACTION = -1, -2, -3
UNREADABLE = {
    NO_TIME: "no open time",
    NO_ROW: "not a row of a candle",
    FRACTION: "open time is not a whole number of milliseconds",
}
OUT_OF_RANGE = "open time cannot be one of this answer"
MISPLACED = "open time does not fit the row's place in the answer"

OFF_GRID = "open time is not on the timeframe's grid"
#: Reasons by the order in which they are looked for: a row is refused for the first that holds.
REASONS = (
    OFF_GRID,
    "a price is not a finite number",
    "volume is not a finite number",
    "a price is not above zero",
    "volume is below zero",
    "low is above open or close",
    "high is below open or close",
    "two rows of this open time differ",
    OUT_OF_RANGE,
    MISPLACED,
)
_DIFFER, _OUTSIDE, _MISPLACED = 8, 9, 10
_KEPT = "_chandlery_arrays"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The candles of a page that may be stored, ascending and unique, and the rows that may not.

    `tail` holds refused rows without a readable open time that come after all others. `strays` counts rows that may
    belong to any slot: where there are some, a slot without a row is not known to be empty.
    """

    good: pl.DataFrame
    rejected: tuple[Rejected, ...] = ()
    tail: tuple[Rejected, ...] = ()
    strays: int = 0


def check_rows(
    rows: pl.DataFrame,
    timeframe: Timeframe | None,
    raw: Sequence[object] | None = None,
    *,
    latest: int = LATEST,
) -> Verdict:
    """Sort `rows` (candle.SCHEMA, in the order of the answer) into good candles and refused rows.

    `raw` holds what the source sent for each row, for the record; without it the row itself is kept. With `timeframe`
    None the grid is not looked at. Equal duplicates become one row. A row whose open time cannot be read, or cannot be
    true (before 1971, or from `latest` on), gets the one that is free between its neighbours. Raises BadAnswer where
    all of an answer must be wrong: two or more rows, all with open times in seconds or microseconds.
    """
    import numpy as np

    if not len(rows):
        return Verdict(rows)
    times = open_times(rows)
    outside = (times < EARLIEST) | (times >= latest)
    fault = _faults(rows, times, timeframe)
    steps = times[1:] - times[:-1]
    if not fault.any() and not outside.any():
        if bool((steps > 0).all()):
            return Verdict(rows)
        if bool((steps < 0).all()):  # newest first, as many exchanges have it
            return Verdict(rows.reverse())
    if len(times) > 1 and bool((outside & (times >= 0)).all()):
        raise BadAnswer(
            f"open times are not in milliseconds: {int(times[0])}",
            hint="the exchange answered in seconds or microseconds; nothing of this answer is kept",
        )
    fault[outside] = _OUTSIDE
    opens, tail, lost, moved = _place(times, fault, timeframe)
    for i in np.flatnonzero(moved).tolist():
        twins = np.flatnonzero((times == times[i]) & ~moved)
        if any(rows.row(int(j)) == rows.row(i) for j in twins):
            moved[i], opens[i] = False, times[i]  # the same row once more, beside a slot that has none
        else:
            fault[twins] = np.where(
                fault[twins] == 0, _DIFFER, fault[twins]
            )  # which of them is where it says?
    fault[moved] = _MISPLACED
    order = np.argsort(np.where(outside | moved, opens, times), kind="stable")
    fault = _mark_duplicates(rows, times, fault, order)
    where: list[int | None] = [None if t < 0 else t for t in opens.tolist()]

    def own(i: int) -> list[float]:
        return [int(times[i]), *rows.select(VALUES).row(i)]

    def refused(i: int) -> Rejected:
        reason = UNREADABLE.get(int(times[i])) or REASONS[fault[i] - 1]
        return Rejected(where[i], raw_text(raw[i] if raw is not None else own(i)), reason)

    bad = [int(i) for i in order[fault[order] > 0]]
    good = rows[order[fault[order] == 0]]
    strays = lost + _crowded(open_times(good), [where[i] for i in bad], timeframe)
    return Verdict(
        good,
        tuple(refused(i) for i in bad if not tail[i]),
        tuple(refused(i) for i in bad if tail[i]),
        strays,
    )


def _place(
    times: NDArray[np.int64], fault: NDArray[np.int8], timeframe: Timeframe | None
) -> tuple[NDArray[np.int64], NDArray[np.bool_], int, NDArray[np.bool_]]:
    """Open times by the place in the answer: those times (-1: unknown), which rows trail, lost rows, misplaced rows.

    Rows between two neighbours whose slots leave room for just so many get those slots. A single row whose own open
    time contradicts such a place is misplaced.
    """
    import numpy as np

    outside = fault == _OUTSIDE
    opens = np.where(outside, -1, times)
    tail = np.zeros(len(times), dtype=np.bool_)
    moved = np.zeros(len(times), dtype=np.bool_)
    inside = np.flatnonzero(~outside)
    if not len(inside) or timeframe is None:
        return opens, tail, int(outside.sum()), moved
    steps = np.diff(times[inside])
    backwards = int((steps < 0).sum()) > int((steps > 0).sum())
    path = np.arange(len(times))[::-1] if backwards else np.arange(len(times))
    inside = path[~outside[path]]
    slots = timeframe.slots(times[inside])
    # A row that lies between two neighbours of one free slot, and says that it belongs elsewhere.
    if len(inside) > 2:
        free = (slots[2:] - slots[:-2] == 2) & ~np.isin(slots[:-2] + 1, slots)
        next_to = np.diff(np.flatnonzero(~outside[path])) == 1
        single = next_to[:-1] & next_to[1:]
        for n in np.flatnonzero(free & single).tolist():
            moved[inside[n + 1]] = True
            opens[inside[n + 1]] = timeframe.open_of(int(slots[n]) + 1)
    taken = set(slots[~moved[inside]].tolist())
    known = outside | moved  # rows that do not tell where they are
    lost = 0
    run: list[int] = []
    before: int | None = None
    for i in path.tolist() if outside.any() else ():
        if outside[i]:
            run.append(i)
            continue
        if known[i]:
            continue
        here = timeframe.slot(int(times[i]))
        if run:
            first = here - len(run)
            if before == first - 1 and not any(s in taken for s in range(first, here)):
                for n, j in enumerate(run):
                    opens[j] = timeframe.open_of(first + n)
            else:
                lost += len(run)
            run = []
        before = here
    tail[run] = True
    # A few rows out of order are rows with a wrong open time; many are an answer that is in no order.
    settled = inside[~moved[inside]]
    falls = int((np.diff(times[settled]) < 0).sum())
    return opens, tail, lost + (falls if falls <= max(2, len(times) // 50) else 0), moved


def _crowded(good: NDArray[np.int64], refused: Sequence[int | None], timeframe: Timeframe | None) -> int:
    """Refused rows that share their slot with another row: one of the two belongs elsewhere."""
    import numpy as np

    if timeframe is None or not refused:
        return 0
    slots = [timeframe.slot(moment) for moment in refused if moment is not None]
    taken = int(np.isin(np.unique(slots), timeframe.slots(good)).sum())
    return len(slots) - len(set(slots)) + taken


def open_times(frame: pl.DataFrame) -> NDArray[np.int64]:
    """The open times of a frame, epoch ms, which must not be written to. A view: `to_physical` makes a query plan."""
    kept: Arrays | None = getattr(frame, _KEPT, None)
    return frame["time"].to_numpy().view("int64") if kept is None else kept.times


class Arrays(NamedTuple):
    """A frame of candles as arrays: open times (n) in epoch ms, and values (5, n)."""

    times: NDArray[np.int64]
    values: NDArray[np.float64]


def arrays_of(frame: pl.DataFrame) -> Arrays:
    """The columns of a frame (candle.SCHEMA, without nulls) as arrays, which must not be written to.

    They are kept with the frame, which nobody changes: each of a dozen looks at a page would cost as much as a check.
    """
    import numpy as np

    kept: Arrays | None = getattr(frame, _KEPT, None)
    if kept is None:
        values = np.array([frame[name].to_numpy() for name in VALUES])
        kept = keep_arrays(frame, open_times(frame), values)
    return kept


def rows_between(frame: pl.DataFrame, first: int, end: int) -> pl.DataFrame:
    """Rows number `first` up to but not including `end`, with their arrays."""
    part = frame.slice(first, end - first)
    kept = arrays_of(frame)
    keep_arrays(part, kept.times[first:end], kept.values[:, first:end])
    return part


def keep_arrays(frame: pl.DataFrame, times: NDArray[np.int64], values: NDArray[np.float64]) -> Arrays:
    """Let `arrays_of` give these, of which the frame was made."""
    kept = Arrays(times, values)
    setattr(frame, _KEPT, kept)
    return kept


def _faults(rows: pl.DataFrame, times: NDArray[np.int64], timeframe: Timeframe | None) -> NDArray[np.int8]:
    """For each row the number of the first reason (from 1) to refuse it, 0 for none."""
    import numpy as np

    opened, high, low, close, volume = arrays_of(rows).values
    # min and max carry NaN along, so one comparison of each pair tells whether any row needs a closer look.
    bottom, top = np.minimum(opened, close), np.maximum(opened, close)
    sound = (low > 0) & (low <= bottom) & (top <= high) & (high < np.inf) & (volume >= 0) & (volume < np.inf)
    on_grid = timeframe.aligned(times) if timeframe is not None else np.ones(len(times), dtype=np.bool_)
    fault = np.zeros(len(times), dtype=np.int8)
    if bool((sound & on_grid).all()):
        return fault
    prices = np.isfinite(opened) & np.isfinite(high) & np.isfinite(low) & np.isfinite(close)
    finite = np.isfinite(volume)
    with np.errstate(invalid="ignore"):
        checks = (
            ~on_grid,
            ~prices,
            ~finite,
            ~(np.minimum(np.minimum(low, high), bottom) > 0),
            ~(volume >= 0),
            ~(low <= bottom),
            ~(high >= top),
        )
    for number, failed in enumerate(checks, start=1):
        fault[failed & (fault == 0)] = number
    return fault


def _mark_duplicates(
    rows: pl.DataFrame, times: NDArray[np.int64], fault: NDArray[np.int8], order: NDArray[np.intp]
) -> NDArray[np.int8]:
    """Mark duplicates: -1 for one that may be dropped, the last reason for all of an open time whose rows differ."""
    import numpy as np

    fault = fault.copy()
    kept = order[fault[order] == 0]
    same = np.flatnonzero(times[kept][1:] == times[kept][:-1])
    if not len(same):
        return fault
    values = arrays_of(rows).values.T
    differing = [
        int(times[kept[i]]) for i in same if not np.array_equal(values[kept[i]], values[kept[i + 1]])
    ]
    fault[kept[same + 1]] = -1
    if differing:
        fault[np.isin(times, np.array(differing)) & (fault <= 0)] = _DIFFER
    return fault


def raw_text(row: object) -> str:
    """A row as compact JSON, for the quarantine."""
    text = json.dumps(row, separators=(",", ":"), default=str, ensure_ascii=False)
    # Half of a surrogate pair is no character: no file and no database takes it.
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()
