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

from chandlery.candle import SCHEMA, VALUES, no_candles
from chandlery.errors import DatabaseError
from chandlery.stores import influx_query as iql
from chandlery.stores.influx_http import InfluxHttp, failed
from chandlery.stores.influx_lines import MEASUREMENTS, SeriesTags
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
#: Statements in one question at most.
STATEMENTS = 200
#: Nanoseconds in a millisecond.
MS = 1_000_000
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


@dataclass(frozen=True, slots=True)
class _Read:
    """Whole candles, and the open times of points that are less."""

    frame: pl.DataFrame
    partial: list[int]


class Reader:
    """Reads the bucket of `http.place`; the token needs the right to read that bucket, and no other."""

    def __init__(self, http: InfluxHttp) -> None:
        self._http = http
        self._ql = InfluxQl(http)

    # -- candles -----------------------------------------------------------------------------------------------------

    async def candles(self, tags: SeriesTags, spans: Sequence[TimeRange]) -> pl.DataFrame:
        """The whole candles in the ranges: SCHEMA, ascending, unique."""
        read = await self._read(tags, await self._pieces(tags, spans), VALUES)
        return pl.concat([part.frame for part in read]) if read else no_candles()

    async def opens(self, tags: SeriesTags, spans: Sequence[TimeRange]) -> NDArray[np.int64]:
        """The open times of the whole candles in the ranges, ascending."""
        read = await self._read(tags, await self._pieces(tags, spans), ())
        times = [part.frame["time"].to_physical().to_numpy() for part in read]
        return np.concatenate(times) if times else np.array([], np.int64)

    async def partial(self, tags: SeriesTags, spans: Sequence[TimeRange]) -> list[int]:
        """The open times, ascending, of points in the ranges that are no whole candle."""
        read = await self._read(tags, await self._pieces(tags, spans, by=VALUES), VALUES)
        return sorted({opened for part in read for opened in part.partial})

    async def _read(self, tags: SeriesTags, pieces: Sequence[TimeRange], names: Sequence[str]) -> list[_Read]:
        """Each piece in its order, a few of them side by side; without `names` only times."""
        gate = asyncio.Semaphore(SIDE_BY_SIDE)

        async def one(span: TimeRange) -> _Read:
            async with gate:
                return await self._piece(tags, span, names)

        asked = [asyncio.ensure_future(one(span)) for span in pieces]
        try:
            return await asyncio.gather(*asked)
        finally:
            for task in asked:
                task.cancel()

    async def _piece(self, tags: SeriesTags, span: TimeRange, names: Sequence[str]) -> _Read:
        wanted = iql.fields(names) if names else iql.WHOLE
        statement = iql.select(wanted, tags.measurement, named(tags), span)
        columns = names or ("whole",)
        try:
            blocks = await self._ql.blocks(statement, len(columns))
        except OddRows:
            (series,) = await self._ql.rows([statement])
            return _from_rows([rows for rows in series if rows.tags == named(tags)], columns)
        ours = [block for block in blocks if block.tags == named(tags)]
        if not ours:
            return _Read(no_candles().select("time", *names), [])
        times = np.concatenate([block.times for block in ours])
        doubles = {
            name: np.concatenate([block.doubles[number] for block in ours])
            for number, name in enumerate(columns)
        }
        return _on_whole_ms(pl.DataFrame({"time": times, **doubles}), columns)

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
        return [piece for span in merged for piece in _cut(span, length)]

    async def _ends(
        self, tags: SeriesTags, spans: Sequence[TimeRange], by: Sequence[str]
    ) -> list[TimeRange | None]:
        """The smallest range around the points that a range holds, None where it holds none."""
        asked = [
            iql.select(f"{which}({iql.influxql_name(name)})", tags.measurement, named(tags), span)
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

    async def counts(self, asks: Sequence[tuple[SeriesTags, TimeRange]]) -> list[int]:
        """How many whole candles each series has in its range, in as few questions as may be."""
        asked = [iql.select_of_whole("count(x)", tags.measurement, named(tags), span) for tags, span in asks]
        answers = await self._many(asked)
        return [
            sum(row[1] for rows in series if rows.tags == named(tags) for row in rows.values)
            for (tags, _), series in zip(asks, answers, strict=True)
        ]

    async def found(self) -> list[Found]:
        """Every series of candles in the bucket that has at least one, in order."""
        found: list[Found] = []
        for measurement in MEASUREMENTS.values():
            found += await self._found(measurement)
        return sorted(found, key=lambda one: one.tags)

    async def _found(self, measurement: str) -> list[Found]:
        wholes, closes, firsts, lasts = await self._ql.rows(
            [
                iql.select_of_whole("count(x)", measurement),
                *(iql.select(f'{which}("close")', measurement) for which in ("count", "first", "last")),
            ]
        )
        counted = _by_tags(wholes, measurement, column=1)
        closed = _by_tags(closes, measurement, column=1)
        first, last = (_by_tags(rows, measurement, column=0) for rows in (firsts, lasts))
        others = {tuple(rows.tags) for rows in wholes} - {tuple(sorted(_TAGS))}
        if others:
            log.warning(
                "%s holds series with other tags than %s, which are not read",
                measurement,
                ", ".join(sorted(_TAGS)),
            )
        # Where each close belongs to a whole candle, the first close is that of the first candle.
        found = [
            Found(tags, rows, first[tags] // MS, last[tags] // MS)
            for tags, rows in counted.items()
            if rows and closed.get(tags) == rows
        ]
        for tags, rows in counted.items():
            if rows and closed.get(tags) != rows:
                opens = await self.opens(tags, [TimeRange(iql.EARLIEST, iql.LATEST)])
                if len(opens):
                    found.append(Found(tags, len(opens), int(opens[0]), int(opens[-1])))
        return found

    # -- texts -------------------------------------------------------------------------------------------------------

    async def texts(self, measurement: str, where: Mapping[str, str], field: str = "entry") -> list[Text]:
        """The texts of a measurement of our own whose tags equal `where`, in order of time."""
        (series,) = await self._ql.rows([iql.select(iql.influxql_name(field), measurement, where)])
        found = [Text(rows.tags, row[0], row[1]) for rows in series for row in rows.values]
        return sorted(found, key=lambda text: text.stamp_ns)

    # -- taking away -------------------------------------------------------------------------------------------------

    async def delete_rows(self, measurement: str, where: Mapping[str, str], span: TimeRange) -> None:
        """Delete the points of a measurement whose tags equal `where`, in a range; the token must be able to write.

        Raises UsageError where a part is empty or cannot stand in a predicate: nothing is deleted then.
        """
        predicate = iql.delete_predicate(measurement, where)
        kept = iql.clamped(span)
        if not kept:
            return
        place = self._http.place
        # Both ends belong to what is deleted.
        body = {"start": iql.rfc3339(kept.since), "stop": iql.rfc3339(kept.until - 1), "predicate": predicate}
        answer = await self._http.ask(
            "POST",
            "/api/v2/delete",
            params={"org": place.org, "bucket": place.bucket},
            body=_json(body),
            headers={"Content-Type": "application/json"},
        )
        if answer.status != 204:
            raise failed(place, answer)

    async def _many(self, statements: Sequence[str]) -> list[list[Rows]]:
        found: list[list[Rows]] = []
        for start in range(0, len(statements), STATEMENTS):
            found += await self._ql.rows(statements[start : start + STATEMENTS])
        return found


def named(tags: SeriesTags) -> dict[str, str]:
    """The three tags of a series by their names."""
    return {name: getattr(tags, name) for name in _TAGS}


def _json(document: object) -> bytes:
    import orjson

    return orjson.dumps(document)


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


def _from_rows(series: Sequence[Rows], columns: Sequence[str]) -> _Read:
    """Rows of which some are not whole: what is no number counts as not there."""
    rows = [row for part in series for row in part.values]
    frame = pl.DataFrame(
        {
            "time": pl.Series([row[0] for row in rows], dtype=pl.Int64),
            **{
                name: pl.Series([_number(row[place]) for row in rows], dtype=pl.Float64)
                for place, name in enumerate(columns, 1)
            },
        }
    )
    return _on_whole_ms(frame, columns)


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _on_whole_ms(frame: pl.DataFrame, columns: Sequence[str]) -> _Read:
    """Whole candles with their open times as SCHEMA has them, and the open times of the rest."""
    if not frame["time"].is_sorted():
        raise DatabaseError("InfluxDB answered candles out of order", hint="its log says more")
    whole = (pl.col("time") % MS == 0) & pl.all_horizontal(pl.col(columns).is_not_null())
    opened = (pl.col("time") // MS).cast(SCHEMA["time"])
    kept = frame.filter(whole).with_columns(opened)
    partial: list[int] = []
    if len(kept) < len(frame):
        partial = frame.filter(~whole).select(pl.col("time") // MS)["time"].to_list()
    names = [name for name in columns if name != "whole"]
    return _Read(kept.select("time", *names), partial)
