"""The read side's way into a store: which series are meant, and their candles. It never writes and asks no exchange."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Literal

from chandlery.errors import NoSuchSeries, UsageError
from chandlery.timeframe import parse_timeframe

if TYPE_CHECKING:
    import polars as pl

    from chandlery.candle import SeriesId
    from chandlery.stores.base import SeriesSummary, Store
    from chandlery.when import Moment


def read_candles(
    store: Store,
    series: SeriesId,
    since: Moment | None = None,
    until: Moment | None = None,
    *,
    last: int | None = None,
    fill: Literal["flat", "null"] | None = None,
) -> pl.DataFrame:
    """Candles that open in [since, until), ascending, as `Store.read` gives them; with `last` the newest so many.

    `last` counts stored candles, not filled rows: with `fill` the holes between them get rows too. Raises NoSuchSeries,
    StoreCorrupt, and UsageError for bounds that cannot be read, lie the wrong way round, or a `last` below 1.
    """
    if last is None:
        return store.read(series, since, until, fill=fill)
    if last < 1:
        raise UsageError(f"not a number of candles: {last}", hint="give 1 or more")
    span = store.span(series, since, until)
    candles = store.newest(series, last, span)
    if fill is None:
        return candles
    end = datetime.fromtimestamp(span.until / 1000, UTC)
    return store.read(series, end if candles.is_empty() else candles["time"][0], end, fill=fill)


def matching(
    store: Store,
    patterns: Sequence[str],
    *,
    exchange: str | None = None,
    timeframes: Sequence[str] = (),
) -> list[SeriesSummary]:
    """The series kept whose symbol is one of `patterns` or fits one (`*`, `?`, `[...]`; case counts), as the store sorts them.

    No pattern stands for every symbol. `exchange` and `timeframes` narrow it further. Each pattern must fit something
    in each timeframe: raises NoSuchSeries that names what does not and, as hint, what there is.
    """
    for text in timeframes:
        parse_timeframe(text)
    kept = store.series()
    if not kept:
        raise NoSuchSeries(
            f"the store keeps no series: {store.url}",
            hint="chandlery fetch SYMBOL stores some; --store names another store",
        )
    here = [s for s in kept if exchange is None or s.series.exchange == exchange]
    if not here and exchange is not None:
        here = [s for s in kept if s.series.exchange.lower() == exchange.lower()]
    if not here:
        raise NoSuchSeries(
            f"no series of {exchange!r} in {store.url}",
            hint=f"exchanges kept: {_listed(s.series.exchange for s in kept)}; choose one with --exchange",
        )
    wanted = [s for s in here if not timeframes or s.series.timeframe in timeframes]
    for pattern in patterns or ("*",):
        for timeframe in timeframes or (None,):
            if not any(
                _fits(s.series.symbol, pattern) and timeframe in (None, s.series.timeframe) for s in wanted
            ):
                raise _nothing_fits(pattern, timeframe, here, store.url)
    return [s for s in wanted if any(_fits(s.series.symbol, p) for p in patterns or ("*",))]


def _fits(symbol: str, pattern: str) -> bool:
    # Equal first: a symbol may hold the signs of a pattern itself.
    return symbol == pattern or fnmatchcase(symbol, pattern)


def _nothing_fits(
    pattern: str, timeframe: str | None, kept: Sequence[SeriesSummary], url: str
) -> NoSuchSeries:
    what = pattern if timeframe is None else f"{pattern} {timeframe}"
    if pattern == "*" and timeframe is not None:
        return NoSuchSeries(
            f"no series of timeframe {timeframe} is kept in {url}",
            hint=f"there are {_listed(s.series.timeframe for s in kept)}",
        )
    frames = [s.series.timeframe for s in kept if _fits(s.series.symbol, pattern)]
    if frames:
        hint = f"timeframes kept of {pattern}: {_listed(frames)}; choose one with --timeframe"
    else:
        symbols = list(dict.fromkeys(s.series.symbol for s in kept))
        folded = {symbol.upper(): symbol for symbol in symbols}
        near = [folded[n] for n in get_close_matches(pattern.upper(), folded, n=3, cutoff=0.6)]
        hint = f"did you mean {_listed(near)}?" if near else f"symbols kept: {_listed(symbols)}"
    return NoSuchSeries(f"no such series: {what} in {url}", hint=hint)


def _listed(names: Iterable[str], most: int = 8) -> str:
    """Different names in their order, and how many more there are."""
    unique = list(dict.fromkeys(names))
    more = f" and {len(unique) - most} more" if len(unique) > most else ""
    return ", ".join(unique[:most]) + more
