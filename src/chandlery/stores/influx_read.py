"""Candles, counts and texts read from one InfluxDB bucket. All in epoch ms, ranges half-open.

A candle is a point with all five fields, as floats, on a whole millisecond, in a series with exactly our three tags.
Points that are less are never handed out as candles; `partial` names them. A read is complete or an error: the answers'
own ends are checked, and a question that a restart of the server cut is asked again (InfluxHttp).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from chandlery.anchors import frame_of
from chandlery.candle import VALUES, no_candles
from chandlery.stores import influx_query as iql
from chandlery.stores.influx_foreign import Faulty, faulty_points
from chandlery.stores.influx_frames import MS, Read, of_rows, of_whole
from chandlery.stores.influx_http import InfluxHttp
from chandlery.stores.influx_lines import MEASUREMENTS, SeriesTags, named
from chandlery.stores.influx_ql import InfluxQl
from chandlery.stores.influx_rows import OddRows, Rows
from chandlery.timeframe import parse_timeframe
from chandlery.timerange import RangeSet, TimeRange

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger("chandlery.stores")

#: Candles in one answer at most: 55 MB of MessagePack.
PIECE = 1_000_000
#: A piece is cut in so many, side by side, where it holds at least SMALL candles for each.
SIDE_BY_SIDE, SMALL = 3, 20_000
#: A range that would be more pieces than MANY is cut where candles are, as counted in so many windows.
MANY, WINDOWS = 10, 1000
#: Statements in one question at most.
STATEMENTS = 200
#: Every open time that a point can have.
EVER = TimeRange(iql.EARLIEST, iql.LATEST)
_TAGS = ("exchange", "symbol", "timeframe")


@dataclass(frozen=True, slots=True)
class Found:
    """A series in the bucket: how many whole candles it has, and the open times of its first and last."""

    tags: SeriesTags
    rows: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Text:
    """A text of a measurement of our own: its tags, its time in epoch ns, and the text."""

    tags: Mapping[str, str]
    stamp_ns: int
    text: str


class Reader:
    """Reads the bucket of `http.place`; the token needs the right to read that bucket, and no other."""

    def __init__(self, http: InfluxHttp) -> None:
        self._http = http
        self._ql = InfluxQl(http)

    # -- candles -----------------------------------------------------------------------------------------------------

    async def candles(self, tags: SeriesTags, spans: Sequence[TimeRange]) -> pl.DataFrame:
        """The whole candles in the ranges: SCHEMA, ascending, unique."""
        read = await self._read(tags, await self._pieces(tags, spans), VALUES)
        return pl.concat([part.frame for part in read], rechunk=True) if read else no_candles()

    def doubt(self) -> bool:
        """Have the way to the bucket proven anew before the next question: an answer was not what it should be.

        Returns whether it will be; it is not where it was proven just now.
        """
        return self._ql.doubt()

    async def opens(self, tags: SeriesTags, spans: Sequence[TimeRange]) -> NDArray[np.int64]:
        """The open times of the whole candles in the ranges, ascending."""
        read = await self._read(tags, await self._pieces(tags, spans), ())
        times = [part.frame["time"].to_physical().to_numpy() for part in read]
        return np.concatenate(times) if times else np.array([], np.int64)

    async def partial(self, tags: SeriesTags, spans: Sequence[TimeRange]) -> list[int]:
        """The open times, ascending, of points in the ranges that are no whole candle."""
        read = await self._read(tags, await self._pieces(tags, spans, by=VALUES), VALUES)
        return sorted({opened for part in read for opened in part.partial})

    async def faulty(self, tags: SeriesTags, spans: Sequence[TimeRange]) -> Faulty:
        """The points in the ranges that are no candles of the series."""
        read = await self._read(tags, await self._pieces(tags, spans, by=VALUES), VALUES)
        return faulty_points(
            [(part.frame, part.partial) for part in read], frame_of(tags.exchange, tags.timeframe)
        )

    async def _read(self, tags: SeriesTags, pieces: Sequence[TimeRange], names: Sequence[str]) -> list[Read]:
        """Each piece in its order, a few of them side by side; without `names` only times."""
        gate = asyncio.Semaphore(SIDE_BY_SIDE)

        async def one(span: TimeRange) -> Read:
            async with gate:
                return await self._piece(tags, span, names)

        asked = [asyncio.ensure_future(one(span)) for span in pieces]
        try:
            return await asyncio.gather(*asked)
        finally:
            for task in asked:
                task.cancel()

    async def _piece(self, tags: SeriesTags, span: TimeRange, names: Sequence[str]) -> Read:
        ours, columns = named(tags), names or ("whole",)
        wanted = iql.select_mixed(iql.FIELDS if names else iql.WHOLE, tags.measurement, ours, span)
        # Who has whole candles there: cheaper than to keep apart what hardly ever is mixed.
        whose = iql.select('first("close"::float)', tags.measurement, ours, span)
        try:
            blocks, owners = await self._ql.blocks([wanted, whose])
        except OddRows:
            return await self._odd_piece(tags, span, names)
        if any(owner.tags != ours for owner in owners):
            return await self._odd_piece(tags, span, names)
        if not blocks:
            return Read(no_candles().select("time", *names), [])
        times = np.concatenate([block.times for block in blocks])
        doubles = {
            name: np.concatenate([block.doubles[number] for block in blocks])
            for number, name in enumerate(columns)
        }
        return of_whole(times, doubles)

    async def _odd_piece(self, tags: SeriesTags, span: TimeRange, names: Sequence[str]) -> Read:
        # All five fields, whatever is wanted: JSON has no infinite sums.
        statement = iql.select(iql.FIELDS, tags.measurement, named(tags), span)
        (series,) = await self._ql.rows([statement], signed=True)
        read = of_rows([rows for rows in series if rows.tags == named(tags)])
        return Read(read.frame.select("time", *names), read.partial)

    async def _pieces(
        self, tags: SeriesTags, spans: Sequence[TimeRange], by: Sequence[str] = ("close",)
    ) -> list[TimeRange]:
        """The ranges, merged and cut so that no answer is too big; a range longer than one piece is narrowed to its points."""
        length = parse_timeframe(tags.timeframe).nominal_ms
        merged = RangeSet(iql.clamped(span) for span in spans).ranges
        long = [span for span in merged if span.until - span.since > PIECE * length]
        if long:
            ends = iter(await self._ends(tags, long, by))
            merged = tuple(
                kept for span in merged for kept in [next(ends) if span in long else span] if kept is not None
            )
        pieces: list[TimeRange] = []
        for span in merged:
            if span.until - span.since > MANY * PIECE * length:
                pieces += await self._by_weight(tags, span, length)
            else:
                pieces += _cut(span, length)
        return pieces

    async def _by_weight(self, tags: SeriesTags, span: TimeRange, length: int) -> list[TimeRange]:
        """A range of decades, cut where candles are: a lone one far away does not cost a thousand questions."""
        window = -(-(span.until - span.since) // WINDOWS)
        counted = iql.select('count("close"::float)', tags.measurement, named(tags), span)
        (series,) = await self._ql.rows([f"{counted}, time({window}ms) fill(none)"])
        counts = [row for rows in series if rows.tags == named(tags) for row in rows.values]
        pieces: list[TimeRange] = []
        since, held = span.since, 0
        for start, count in [*counts, (span.until * MS, PIECE)]:
            begins = max(start // MS, span.since)
            if held + count > PIECE and begins > since:
                part = TimeRange(since, begins)
                pieces += _cut(part, length) if held > PIECE else [part]
                since, held = begins, 0
            held += count
        return [*pieces, *([TimeRange(since, span.until)] if since < span.until else [])]

    async def _ends(
        self, tags: SeriesTags, spans: Sequence[TimeRange], by: Sequence[str]
    ) -> list[TimeRange | None]:
        """The smallest range around the points that a range holds, None where it holds none."""
        asked = [
            iql.select(f'{which}("{name}"::float)', tags.measurement, named(tags), span)
            for span in spans
            for name in by
            for which in ("first", "last")
        ]
        found = await self._many(asked)
        each = 2 * len(by)
        kept: list[TimeRange | None] = []
        for number in range(len(spans)):
            series = [rows for part in found[number * each : (number + 1) * each] for rows in part]
            times = [row[0] // MS for rows in series if rows.tags == named(tags) for row in rows.values]
            kept.append(TimeRange(min(times), max(times) + 1) if times else None)
        return kept

    # -- numbers -----------------------------------------------------------------------------------------------------

    async def counts(self, asks: Sequence[tuple[SeriesTags, TimeRange]], *, whole: bool = True) -> list[int]:
        """How many whole candles each series has in its range, in as few questions as may be.

        Without `whole` it is how many closes, which is eight times as fast.
        """
        asked = [
            iql.select_of_whole("count(x)", tags.measurement, named(tags), span)
            if whole
            else iql.select('count("close"::float)', tags.measurement, named(tags), span)
            for tags, span in asks
        ]
        answers = await self._many(asked)
        return [
            sum(row[1] for rows in series if rows.tags == named(tags) for row in rows.values)
            for (tags, _), series in zip(asks, answers, strict=True)
        ]

    async def noted(self, asks: Sequence[tuple[str, Mapping[str, str], TimeRange, int]]) -> list[int]:
        """How many points of our own there are: of a measurement, with these tags, in a range, numbered above."""
        asked = [
            iql.select_above('count("n")', measurement, tags, "n", above, span)
            for measurement, tags, span, above in asks
        ]
        return [sum(row[1] for rows in series for row in rows.values) for series in await self._many(asked)]

    async def edges(self, tags: SeriesTags) -> Found | None:
        """What `found` says of one series; None if it has no whole candle."""
        rows = (await self.counts([(tags, EVER)]))[0]
        (ends,) = await self._ends(tags, [EVER], VALUES) if rows else [None]
        if ends is None:
            return None
        opens = [
            await self.opens(tags, [TimeRange(ends.since, ends.since + 1)]),
            await self.opens(tags, [TimeRange(ends.until - 1, ends.until)]),
        ]
        if not all(len(part) for part in opens):  # a point at an end is less than a candle
            opens = [await self.opens(tags, [ends])]
        return Found(tags, rows, int(opens[0][0]), int(opens[-1][-1]))

    async def largest(self, measurement: str, field: str) -> int | None:
        """The largest whole number of a field in a measurement of our own, None if there is none."""
        (series,) = await self._ql.rows([iql.select(f"max({iql.influxql_name(field)})", measurement)])
        return max((int(row[1]) for rows in series for row in rows.values), default=None)

    async def newest(self, measurement: str, where: Mapping[str, str], field: str) -> tuple[int, int] | None:
        """Time (epoch ns) and value of the newest whole number of a field in a measurement of our own."""
        (series,) = await self._ql.rows([iql.select(f"last({iql.influxql_name(field)})", measurement, where)])
        return max(((row[0], int(row[1])) for rows in series for row in rows.values), default=None)

    async def found(self, noted: Mapping[SeriesTags, int] | None = None) -> list[Found]:
        """Every series of candles in the bucket that has at least one, in order.

        Counting closes is eight times as fast as counting whole candles. So where there are as many as `noted` says were
        written, whole as all that is written here, they are not counted again.
        """
        found: list[Found] = []
        for measurement in MEASUREMENTS.values():
            found += await self._found(measurement, noted or {})
        return sorted(found, key=lambda one: one.tags)

    async def _found(self, measurement: str, noted: Mapping[SeriesTags, int]) -> list[Found]:
        asked = [iql.select(f'{which}("close"::float)', measurement) for which in ("count", "first", "last")]
        closes, firsts, lasts = await self._ql.rows(asked)
        if {tuple(rows.tags) for rows in closes} - {tuple(sorted(_TAGS))}:
            log.warning(
                "%s holds series with other tags than %s, which are not read",
                measurement,
                ", ".join(sorted(_TAGS)),
            )
        closed, first, last = (
            _by_tags(rows, measurement, column) for rows, column in ((closes, 1), (firsts, 0), (lasts, 0))
        )
        doubted = [tags for tags, count in closed.items() if noted.get(tags) != count]
        counted = dict(zip(doubted, await self._whole(measurement, doubted), strict=True))
        found = []
        for tags, count in closed.items():
            rows = counted.get(tags, count)
            if rows == count:  # each close belongs to a whole candle, so the first one to the first candle
                found.append(Found(tags, rows, first[tags] // MS, last[tags] // MS))
            elif rows:
                opens = await self.opens(tags, [EVER])
                found += [Found(tags, len(opens), int(opens[0]), int(opens[-1]))] if len(opens) else []
        return found

    async def _whole(self, measurement: str, tags: Sequence[SeriesTags]) -> list[int]:
        """Whole candles of some series of one measurement."""
        if len(tags) <= STATEMENTS:
            return await self.counts([(one, EVER) for one in tags])
        (wholes,) = await self._ql.rows([iql.select_of_whole("count(x)", measurement)])
        counted = _by_tags(wholes, measurement, column=1)
        return [counted.get(one, 0) for one in tags]

    # -- texts -------------------------------------------------------------------------------------------------------

    async def texts(
        self,
        measurement: str,
        where: Mapping[str, str],
        field: str = "entry",
        *,
        above: tuple[str, int] | None = None,
    ) -> list[Text]:
        """The texts of a measurement of our own whose tags equal `where`, in order of time.

        `above` is a field and a whole number that it must be above; points without it are left out.
        """
        what = iql.influxql_name(field)
        if above is None:
            statement = iql.select(what, measurement, where)
        else:
            statement = iql.select_above(what, measurement, where, *above)
        (series,) = await self._ql.rows([statement])
        found = [Text(rows.tags, row[0], row[1]) for rows in series for row in rows.values]
        return sorted(found, key=lambda text: text.stamp_ns)

    async def _many(self, statements: Sequence[str]) -> list[list[Rows]]:
        found: list[list[Rows]] = []
        for start in range(0, len(statements), STATEMENTS):
            found += await self._ql.rows(statements[start : start + STATEMENTS])
        return found


def _cut(span: TimeRange, length: int) -> Iterable[TimeRange]:
    """A range in pieces of at most PIECE candles, a long one in at least SIDE_BY_SIDE."""
    candles = -(-(span.until - span.since) // length)
    parts = max(-(-candles // PIECE), min(SIDE_BY_SIDE, candles // SMALL), 1)
    step = -(-candles // parts) * length
    start = span.since
    while start < span.until:
        yield TimeRange(start, min(start + step, span.until))
        start += step


def _by_tags(series: Iterable[Rows], measurement: str, column: int) -> dict[SeriesTags, int]:
    """One number for each series that has exactly our tags."""
    return {
        SeriesTags(measurement, *(rows.tags[name] for name in _TAGS)): rows.values[0][column]
        for rows in series
        if set(rows.tags) == set(_TAGS)
    }
