"""Timeframes: "5m" as a length of time, and the open times it lays on the calendar.

Fixed timeframes are multiples of their length counted from an anchor (weeks: Monday 1970-01-05 unless the exchange's
profile says otherwise). Months and years go by the calendar in UTC. All times are epoch milliseconds.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING

from chandlery.errors import UnknownTimeframe

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SECOND = 1_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR
WEEK = 7 * DAY
MONDAY = 4 * DAY  # 1970-01-05: the epoch itself was a Thursday

_FIXED = {"s": SECOND, "m": MINUTE, "h": HOUR, "d": DAY, "w": WEEK}
_MONTHS = {"M": 1, "y": 12}
_TEXT = re.compile(r"([1-9][0-9]{0,3})([smhdwMy])")


@dataclass(frozen=True, slots=True)
class Timeframe:
    """A candle's length: `size` times `unit` (s m h d w M y), laid on the calendar from `anchor`."""

    size: int
    unit: str
    anchor: int = 0
    #: Length in milliseconds, None for months and years.
    fixed_ms: int | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        unit = _FIXED.get(self.unit)
        object.__setattr__(self, "fixed_ms", None if unit is None else unit * self.size)

    @property
    def text(self) -> str:
        """The usual short form, such as 5m, 1h, 1M."""
        return f"{self.size}{self.unit}"

    @property
    def nominal_ms(self) -> int:
        """Length in milliseconds with a month of 30 days: for estimates only."""
        return self.fixed_ms or _MONTHS[self.unit] * self.size * 30 * DAY

    def slot(self, moment: int) -> int:
        """Number of the candle that `moment` lies in, counted from the anchor."""
        length = self.fixed_ms
        if length is not None:
            return (moment - self.anchor) // length
        return _month_of(moment) // (_MONTHS[self.unit] * self.size)

    def open_of(self, slot: int) -> int:
        """Open time of the candle of that number."""
        length = self.fixed_ms
        if length is not None:
            return self.anchor + slot * length
        return _month_start(slot * _MONTHS[self.unit] * self.size)

    def floor(self, moment: int) -> int:
        """Open time of the candle that `moment` lies in."""
        return self.open_of(self.slot(moment))

    def ceil(self, moment: int) -> int:
        """The first open time that is not before `moment`."""
        opened = self.floor(moment)
        return opened if opened == moment else self.next(opened)

    def add(self, opened: int, candles: int) -> int:
        """Open time of the candle that many candles after (or, negative, before) the one open at `opened`."""
        return self.open_of(self.slot(opened) + candles)

    def next(self, opened: int) -> int:
        """Open time of the next candle, which is the close of this one."""
        return self.add(opened, 1)

    def count(self, since: int, until: int) -> int:
        """How many candles open in [since, until)."""
        if until <= since:
            return 0
        return self.slot(until - 1) - self.slot(since - 1)

    def opens(self, since: int, until: int) -> NDArray[np.int64]:
        """All open times in [since, until), ascending."""
        import numpy as np

        first = self.ceil(since)
        length = self.fixed_ms
        if length is not None:
            return np.arange(first, max(first, until), length, dtype=np.int64)
        wanted = [self.add(first, n) for n in range(self.count(since, until))]
        return np.array(wanted, dtype=np.int64)

    def slots(self, opens: NDArray[np.int64]) -> NDArray[np.int64]:
        """`slot` for an array of moments."""
        import numpy as np

        length = self.fixed_ms
        if length is not None:
            return (opens - self.anchor) // length
        months = opens.astype("datetime64[ms]").astype("datetime64[M]").astype(np.int64)
        return months // (_MONTHS[self.unit] * self.size)

    def aligned(self, opens: NDArray[np.int64]) -> NDArray[np.bool_]:
        """For each moment, whether a candle opens exactly then."""
        import numpy as np

        length = self.fixed_ms
        if length is not None:
            return np.asarray((opens - self.anchor) % length == 0, dtype=np.bool_)
        moments = opens.astype("datetime64[ms]")
        months = moments.astype("datetime64[M]")
        at_start = months.astype("datetime64[ms]") == moments
        on_grid = months.astype(np.int64) % (_MONTHS[self.unit] * self.size) == 0
        return np.asarray(at_start & on_grid, dtype=np.bool_)


@lru_cache(maxsize=256)
def parse_timeframe(text: str, anchor: int | None = None) -> Timeframe:
    """Read "5m", "1h", "1w", "1M"; raises `UnknownTimeframe` for anything else.

    `anchor` moves the grid of fixed timeframes; None stands for the usual one (Monday for weeks, the epoch otherwise).
    """
    match = _TEXT.fullmatch(text)
    if match is None:
        raise UnknownTimeframe(
            f"not a timeframe: {text!r}",
            hint="write a number and a unit of s m h d w M, such as 1m, 5m, 1h, 4h, 1d, 1w, 1M (M is months, m minutes)",
        )
    unit = match[2]
    if anchor is None:
        anchor = MONDAY if unit == "w" else 0
    return Timeframe(int(match[1]), unit, anchor)


def _month_of(moment: int) -> int:
    """Months since 1970-01."""
    day = datetime.fromtimestamp(moment // 1000, UTC)
    return (day.year - 1970) * 12 + day.month - 1


def _month_start(month: int) -> int:
    """Epoch milliseconds at which a month (counted from 1970-01) begins."""
    year, index = divmod(month, 12)
    return int(datetime(1970 + year, index + 1, 1, tzinfo=UTC).timestamp()) * 1000
