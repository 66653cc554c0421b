"""Which partition a candle lies in, and where its file and its series' lock are called. Pure.

Paths must neither escape the store nor collide, on file systems that fold case too. So of a symbol only capital
letters, digits, `-` and `_` stand as they are, of the other parts only small letters; every other byte is `%XX`.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING

from chandlery.candle import SeriesId
from chandlery.errors import UsageError
from chandlery.timeframe import DAY, HOUR, MINUTE, Timeframe, parse_timeframe
from chandlery.timerange import TimeRange

if TYPE_CHECKING:
    from chandlery.stores.embedded_blob import Block

_DIGITS = "0123456789-_"
_CAPITALS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ" + _DIGITS)
_SMALL = frozenset("abcdefghijklmnopqrstuvwxyz" + _DIGITS)
_LONGEST = 180  # of a name, which most file systems end at 255
_KEPT_OF_LONG = 120

_MONTH = parse_timeframe("1M")
_QUARTER = Timeframe(3, "M")
_YEAR = parse_timeframe("1y")


class Partitioning:
    """How the candles of one timeframe are divided into files: by month, quarter, year, or not at all (`grid` None)."""

    __slots__ = ("_last", "grid")

    def __init__(self, grid: Timeframe | None) -> None:
        self.grid = grid
        self._last = (0, 0)  # the partition asked for last: live candles ask for the same one for weeks

    @classmethod
    def of(cls, timeframe: Timeframe) -> Partitioning:
        """The division for a timeframe: a file should hold thousands of candles, and be rewritten in milliseconds."""
        length = timeframe.nominal_ms
        if length < 5 * MINUTE:
            return cls(_MONTH)
        if length < HOUR:
            return cls(_QUARTER)
        return cls(_YEAR if length < DAY else None)

    def start(self, moment: int) -> int:
        """The beginning of the partition of `moment`, which is the partition's number; 0 if there is only one."""
        if self.grid is None:
            return 0
        start, until = self._last
        if not start <= moment < until:
            start = self.grid.floor(moment)
            self._last = (start, self.grid.next(start))
        return start

    def range(self, start: int) -> TimeRange | None:
        """The time that a partition covers, None if it is all of it."""
        if self.grid is None:
            return None
        last = self._last
        return TimeRange(start, last[1] if last[0] == start else self.grid.next(start))

    def file_name(self, start: int) -> str:
        """The name of the partition's file: 2024-03.parquet, 2024-Q1.parquet, 2024.parquet or all.parquet."""
        if self.grid is None:
            return "all.parquet"
        day = datetime.fromtimestamp(start // 1000, UTC)
        if self.grid is _MONTH:
            return f"{day.year:04}-{day.month:02}.parquet"
        return (
            f"{day.year:04}-Q{(day.month + 2) // 3}.parquet"
            if self.grid is _QUARTER
            else f"{day.year:04}.parquet"
        )

    def split(self, block: Block) -> list[tuple[int, Block]]:
        """A block cut at the partition borders, each part with its partition's number."""
        rows = len(block.times)
        if not rows:
            return []
        start = self.start(int(block.times[0]))
        if rows == 1:
            return [(start, block)]
        parts: list[tuple[int, Block]] = []
        low = 0
        while True:
            span = self.range(start)
            high = rows if span is None else int(block.times.searchsorted(span.until))
            parts.append((start, block.part(low, high) if high - low < rows else block))
            if high == rows:
                return parts
            low, start = high, self.start(int(block.times[high]))


def folder_of(series: SeriesId) -> str:
    """The series' folder below the store, with `/` between its parts."""
    timeframe = series.frame  # raises UnknownTimeframe before anything is made of the text
    unit = "mo" if timeframe.unit == "M" else timeframe.unit  # 1M beside 1m where case is folded
    return "/".join(
        (
            f"exchange={_encoded(series.exchange, _SMALL, series)}",
            f"kind={_encoded(series.kind, _SMALL, series)}",
            f"symbol={_encoded(series.symbol, _CAPITALS, series)}",
            f"timeframe={timeframe.size}{unit}",
        )
    )


@lru_cache(maxsize=1 << 14)
def lock_name(series: SeriesId) -> str:
    """The name of the series' lock file: a digest, because the true name may be of any length."""
    return _digest(folder_of(series)) + ".lock"


def file_metadata(series: SeriesId) -> dict[str, str]:
    """The series' true name, as it stands in the key-value metadata of its files."""
    return {
        "chandlery.exchange": series.exchange,
        "chandlery.symbol": series.symbol,
        "chandlery.timeframe": series.timeframe,
        "chandlery.kind": series.kind,
    }


def _encoded(text: str, plain: frozenset[str], series: SeriesId) -> str:
    try:
        raw = text.encode()
    except UnicodeEncodeError:
        raise UsageError(
            f"not a name: {text!r} of {series!r} holds half a character",
            hint="write the name as the exchange does",
        ) from None
    if not raw:
        raise UsageError(f"not a series: {series!r} has an empty part", hint="name exchange, symbol and kind")
    pieces = [chr(byte) if chr(byte) in plain else f"%{byte:02X}" for byte in raw]
    whole = "".join(pieces)
    if len(whole) <= _LONGEST:
        return whole
    short = ""
    for piece in pieces:
        if len(short) + len(piece) > _KEPT_OF_LONG:
            break
        short += piece
    return f"{short}~{_digest(text)}"  # a ~ is in no name that was not cut


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]
