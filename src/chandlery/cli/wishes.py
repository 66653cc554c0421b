"""What the user asked for as typed: symbols, patterns, timeframes and times, and the series and ranges that they stand for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from chandlery.cli import options as opt
from chandlery.errors import UsageError

if TYPE_CHECKING:
    from chandlery.backfill import Want
    from chandlery.candle import SeriesId
    from chandlery.config import Settings
    from chandlery.sources.base import Source
    from chandlery.stores.base import Store
    from chandlery.timerange import TimeRange


@dataclass(frozen=True, slots=True)
class Wish:
    """What the user asked for, as typed; `only` is the exchange that -e named."""

    symbols: tuple[str, ...]
    timeframes: tuple[str, ...]
    since: str | None = None
    until: str | None = None
    only: str | None = None


def typed_timeframes(given: Sequence[str] | None) -> tuple[str, ...]:
    """The timeframes typed, each checked; empty where none was."""
    from chandlery.timeframe import parse_timeframe

    return tuple(dict.fromkeys(parse_timeframe(text).text for text in given or ()))


async def wants_of(source: Source, wish: Wish) -> tuple[list[Want], int]:
    """What the symbols, patterns, timeframes and times stand for, and the exchange's time, epoch ms.

    Raises UsageError if nothing of it can be started.
    """
    from chandlery.backfill import Want
    from chandlery.candle import SeriesId

    symbols = await _expanded(source, wish.symbols)
    wants = [
        Want(SeriesId(source.exchange, symbol, timeframe))
        for symbol in symbols
        for timeframe in wish.timeframes or (opt.DEFAULT_TIMEFRAME,)
    ]
    refused: list[UsageError] = []
    for want in wants:
        try:
            await source.known(want.series)
        except UsageError as error:
            refused.append(error)
    if len(refused) == len(wants):
        raise refused[0]
    return await timed_wants(source, wants, wish)


async def timed_wants(source: Source, wants: Sequence[Want], wish: Wish) -> tuple[list[Want], int]:
    """The wants with the times that were typed, read by the exchange's clock, and what that says, epoch ms."""
    from chandlery.backfill import Want

    now = await source.now()
    since, until = bounds(wish.since, wish.until, now=now)
    return [Want(want.series, since, until) for want in wants], now


def bounds(
    since: str | None, until: str | None, *, now: int
) -> tuple[int | Literal["listing"] | None, int | None]:
    """--since and --until in epoch ms by the exchange's clock. Raises UsageError where the range is empty."""
    from chandlery.when import LISTING, iso, parse_when

    end = None if until is None else parse_when(until, now=now)
    if since is None:
        return None, end
    if since.strip() == LISTING:
        return "listing", end
    begin = parse_when(since, now=now)
    if end is not None and begin >= end:
        raise UsageError(
            f"--since {iso(begin)} is not before --until {iso(end)}",
            hint="ranges are half-open: [since, until)",
        )
    if begin >= now:
        raise UsageError(
            f"--since {iso(begin)} is not before now", hint=f"the exchange's clock says {iso(now)}"
        )
    return begin, end


def is_pattern(symbol: str) -> bool:
    """Whether it stands for several symbols."""
    return any(sign in symbol for sign in "*?[")


async def _expanded(source: Source, symbols: Sequence[str]) -> list[str]:
    """Patterns as the active markets that they fit. A pattern that fits none stays and is told of as unknown."""
    from fnmatch import fnmatchcase

    found: dict[str, None] = {}
    for symbol in symbols:
        fitting: list[str] = []
        if is_pattern(symbol):
            markets = await source.markets()
            if symbol not in markets:
                fitting = sorted(
                    m.symbol for m in markets.values() if m.active and fnmatchcase(m.symbol, symbol)
                )
        found.update(dict.fromkeys(fitting or [symbol]))
    return list(found)


def kept_wants(store: Store, wish: Wish) -> dict[str, list[Want]]:
    """Every series kept, by exchange."""
    from chandlery.backfill import Want
    from chandlery.query import matching

    wants: dict[str, list[Want]] = {}
    for kept in matching(store, (), exchange=wish.only, timeframes=wish.timeframes):
        wants.setdefault(kept.series.exchange, []).append(Want(kept.series))
    return wants


def span_as_typed(wish: Wish) -> TimeRange | None:
    """The range asked for by the computer's own clock, where the exchange did not even say what time it is."""
    from chandlery.clock import SystemClock
    from chandlery.timerange import TimeRange
    from chandlery.when import LISTING, parse_when

    if wish.since is None or wish.since.strip() == LISTING:
        return None
    now = SystemClock().now_ms()
    since = parse_when(wish.since, now=now)
    until = now if wish.until is None else min(now, parse_when(wish.until, now=now))
    return TimeRange(since, max(since, until))


def series_as_typed(settings: Settings, wish: Wish) -> list[SeriesId]:
    """The series asked for, where the exchange did not even say what it lists."""
    from chandlery.candle import SeriesId

    timeframes = wish.timeframes or (opt.DEFAULT_TIMEFRAME,)
    return [
        SeriesId(settings.exchange, symbol, timeframe) for symbol in wish.symbols for timeframe in timeframes
    ]
