"""The unit of a series' volumes, remembered by its store, so that candles of another unit never come beside them.

A store keeps it as a mark of the series (`Store.mark`), set before the first candle is written. What counts is by what
the exchange's own numbers were multiplied: a name learnt later for numbers taken as they came is no other unit.
"""

from __future__ import annotations

import asyncio
import shlex
import struct
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from chandlery.candle import CandlePage, SeriesId
from chandlery.errors import StoreUnreadable, VolumeUnitChanged
from chandlery.sources.base import Volumes
from chandlery.timerange import TimeRange

if TYPE_CHECKING:
    from collections.abc import Callable

    from chandlery.report import SeriesReport
    from chandlery.sources.base import Source, VolumeUnit
    from chandlery.stores.base import Store

#: How a store writes units of numbers that were taken as the exchange gives them; any other mark is the bits of the
#: positive double by which contracts were multiplied, which are far above these.
_CODES: dict[VolumeUnit, int] = {"base": 1, "quote": 2, "contracts": 3, "unknown": 4}
#: The smallest mark that is a double (the smallest one that is not subnormal).
_DOUBLES = 1 << 52
#: Stored candles that are held against what the exchange gives now, where nobody noted their unit.
LOOKED_AT = 20
#: How far apart, of their size, volumes may be that count as equal.
_EQUAL = 1e-9


def noted(store: Store, series: SeriesId) -> Volumes | None:
    """What a store remembers of a series' volumes; None if nothing. Raises StoreUnreadable for a mark that is none of ours."""
    mark = store.mark(_name(series))
    if not mark:
        return None
    if mark >= _DOUBLES:
        return Volumes("base", struct.unpack(">d", struct.pack(">q", mark))[0])
    for unit, code in _CODES.items():
        if code == mark:
            return Volumes(unit)
    raise StoreUnreadable(
        f"{store.url} notes a unit of the volumes of {series} that this chandlery does not know: {mark}",
        hint="a newer chandlery may have written it: update this one",
    )


def note(store: Store, series: SeriesId, volumes: Volumes | None) -> None:
    """Have a store remember what a series' volumes are in; None forgets it."""
    store.set_mark(_name(series), 0 if volumes is None else _mark(volumes))


def carry(source: Store, target: Store, series: SeriesId, *, exact: bool) -> None:
    """Bring what is noted of a series over, before its candles are.

    Where one of the two stores has candles and nothing noted, nothing is compared, and the source's word counts if the
    target is to be `exact`ly like it. Raises VolumeUnitChanged if the target has candles in another unit.
    """
    theirs, mine = noted(source, series), noted(target, series)
    if mine == theirs:
        return
    if not has_candles(target, series):
        told = theirs
    elif mine is None or theirs is None:
        told = theirs if exact and theirs is not None else mine
    elif mine.fits(theirs):
        told = mine.known_with(theirs)
    else:
        raise VolumeUnitChanged(
            f"{series} has volumes in {_words(mine, series)} in {target.url}, and in {_words(theirs, series)} in"
            f" {source.url}: nothing was copied",
            hint=f"copy it into another store, or take it out there first: {_removal(series, target)}",
        )
    if told != mine:
        note(target, series, told)


def has_candles(store: Store, series: SeriesId) -> bool:
    """Whether any candle of a series is stored that could be of another unit."""
    return store.knows(series) and not store.newest(series, 1).is_empty()


class Units:
    """Sees to it that what one source gives is in the unit of what one store keeps. For the writer of the series."""

    def __init__(self, source: Source, store: Store) -> None:
        self.source = source
        self.store = store

    async def clash(self, series: SeriesId, volumes: Volumes) -> VolumeUnitChanged | None:
        """The error with which a run would refuse the series, as far as that can be told without asking the exchange."""
        kept = await self._aside(noted, self.store, series)
        if kept is None or kept.fits(volumes) or not await self._has_candles(series):
            return None
        return _changed(series, kept, volumes, self.store)

    async def agree(
        self, report: SeriesReport, volumes: Volumes, *, known: bool, now: int, settle: int
    ) -> None:
        """Note the unit of a series that has none yet, and tell the report the unit of what is stored.

        `known` says whether the store keeps the series; `now` (the exchange's) and `settle` are in ms. Raises
        VolumeUnitChanged where stored candles are in another unit than `volumes`, and what asking the exchange raises.
        """
        series = report.series
        kept = await self._aside(noted, self.store, series) if known else None
        told = volumes
        if kept is not None:
            if kept.fits(volumes):
                told = kept.known_with(volumes)
            elif await self._has_candles(series):
                told = kept
        elif known and volumes.may_differ:
            told = await self._as_stored(series, volumes, now, settle)
        if told != kept:
            await asyncio.to_thread(note, self.store, series, told)  # it may wait for a commit
        report.volume_unit = told.unit
        if not told.fits(volumes):
            raise _changed(series, told, volumes, self.store)

    async def _as_stored(self, series: SeriesId, volumes: Volumes, now: int, settle: int) -> Volumes:
        """What stored candles are in of which nobody noted it, by what the exchange gives in their place now."""
        import polars as pl

        newest = await self._aside(self.store.newest, series, LOOKED_AT)
        stored = newest.filter(pl.col("volume") > 0).select("time", "volume")
        if stored.is_empty():
            return volumes
        opens = stored["time"].to_physical()
        span = TimeRange(opens[0], series.frame.next(opens[-1]))
        factors: list[pl.Series] = []
        async for said in self.source.pages(series, span, now=now, settle=settle):
            if isinstance(said, CandlePage):
                both = stored.join(said.candles.select("time", given="volume"), on="time")
                factors.append(both["given"] / both["volume"])
        compared = pl.concat(factors) if factors else stored["volume"].head(0)
        if compared.is_empty() and not volumes.documented:
            raise VolumeUnitChanged(
                f"{series} is stored with volumes of which nobody noted the unit, its newest candles cannot be had any more, and the"
                f" exchange gives {_words(volumes, series)} now: nothing was written",
                hint=f"fetch into another store with --store, or begin anew: {_removal(series, self.store)}",
            )
        same = compared.is_empty() or ((compared - 1).abs() < _EQUAL).any()
        return volumes if same else Volumes("unknown", size=volumes.size)

    async def _has_candles(self, series: SeriesId) -> bool:
        return bool(await self._aside(has_candles, self.store, series))

    async def _aside(self, call: Callable[..., Any], *given: Any) -> Any:
        return await asyncio.to_thread(call, *given) if self.store.remote else call(*given)


def _changed(series: SeriesId, kept: Volumes, now: Volumes, store: Store) -> VolumeUnitChanged:
    back = (
        f"if what is known of {series.exchange} was right before, put profiles/{series.exchange}.json of the state folder back as it"
        f" was, or take it away, or run `chandlery probe {series.exchange}`; else fetch"
    )
    return VolumeUnitChanged(
        f"{series} is stored with volumes in {_words(kept, series)}, and would now get them in {_words(now, series)}:"
        " nothing was written",
        hint=f"{back} into another store with --store, or begin anew: {_removal(series, store)}",
    )


def _words(volumes: Volumes, series: SeriesId) -> str:
    if volumes.times != 1:
        return f"base units, made of contracts of {volumes.times:.15g}"
    name = {"base": "base units", "quote": "the quote currency", "contracts": "contracts"}
    return f"{name.get(volumes.unit, 'an unknown unit')}, as {series.exchange} gives them"


def _removal(series: SeriesId, store: Store) -> str:
    what = f"{shlex.quote(series.symbol)} -e {series.exchange} -t {series.timeframe}"
    return f"chandlery remove {what} --store {shlex.quote(store.url)}"


def _mark(volumes: Volumes) -> int:
    if volumes.times == 1:
        return _CODES[volumes.unit]
    bits: int = struct.unpack(">q", struct.pack(">d", volumes.times))[0]
    return bits


def _name(series: SeriesId) -> str:
    parts = (series.exchange, series.symbol, series.timeframe, series.kind)
    return f"{'/'.join(quote(part, safe='') for part in parts)} volumes"
