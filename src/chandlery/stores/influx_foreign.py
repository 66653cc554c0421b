"""What another program left among the candles of a series, told as problems. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from chandlery.candle import SeriesId
from chandlery.stores.base import Problem
from chandlery.timeframe import Timeframe
from chandlery.timerange import RangeSet, TimeRange
from chandlery.when import iso

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True, slots=True)
class Faulty:
    """Points that are no candles, by their times in epoch ms, ascending.

    `partial`: on the grid, with less than the five fields. `between`: not on the grid of the timeframe.
    """

    partial: Sequence[int]
    between: Sequence[int]


def faulty_points(read: Iterable[tuple[pl.DataFrame, Sequence[int]]], timeframe: Timeframe) -> Faulty:
    """Sort what was read: whole points (candle.SCHEMA), and the times of those that are less."""
    partial: set[int] = set()
    between: set[int] = set()
    for whole, less in read:
        times = whole["time"].to_physical().to_numpy()
        between.update(times[~timeframe.aligned(times)].tolist())
        between.update(one for one in less if timeframe.floor(one) != one)
        if less:
            # Where the same millisecond has a whole point, the other one is some nanoseconds later.
            between.update(set(less).intersection(times.tolist()))
            partial.update(set(less) - between)
    return Faulty(sorted(partial), sorted(between))


def foreign_rows(series: SeriesId, asked: RangeSet, faulty: Faulty) -> list[Problem]:
    """The problems that such points are. Where nothing was asked for they are nobody's concern.

    A slot that was asked for can be fetched anew; points between slots only their owner can take away. Neighbours make
    one problem.
    """
    frame = series.frame
    problems: list[Problem] = []
    for part in RangeSet(TimeRange(one, frame.next(one)) for one in faulty.partial if one in asked):
        number = frame.count(part.since, part.until)
        problems.append(
            Problem(
                "lost",
                part,
                number,
                f"{number:,} {'row has' if number == 1 else 'rows have'} not all five fields in {series}, from "
                f"{iso(part.since)} on: another program wrote there",
                "chandlery verify --repair fetches them anew",
            )
        )
    between = [one for one in faulty.between if one in asked]
    if between:
        problems.append(
            Problem(
                "lost",
                None,
                len(between),
                f"{len(between):,} {'row lies' if len(between) == 1 else 'rows lie'} between the candles of {series}, the first "
                f"at {iso(between[0])}: another program wrote there",
                "delete them with `influx delete`; chandlery takes nothing away that it did not write",
            )
        )
    return problems
