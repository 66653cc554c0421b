"""fetch and plan: bring the store up to what is wanted, or say what that would take."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import typer

from chandlery.cli import mirrors
from chandlery.cli import options as opt
from chandlery.cli.interrupt import run_until_interrupted
from chandlery.cli.memory import keep_small
from chandlery.cli.output import Exit, Output
from chandlery.cli.progress import RunProgress
from chandlery.cli.runreport import (
    exit_code,
    exit_code_of_run,
    nothing_begun,
    nothing_planned,
    tell_plan,
    tell_run,
    together,
    worse,
)
from chandlery.errors import ExchangeError, NoSuchStore, UsageError

if TYPE_CHECKING:
    from chandlery.backfill import Backfill, Want
    from chandlery.candle import SeriesId
    from chandlery.config import Settings
    from chandlery.report import PlanReport, RunReport
    from chandlery.sources.base import Source
    from chandlery.stores.base import Store
    from chandlery.timerange import TimeRange


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command(
        epilog=opt.example(
            "chandlery fetch BTC/USDT ETH/USDT -t 1h -t 1d --since 2024-01-01",
            "chandlery fetch   (tops up what is kept)",
        )
    )(fetch)
    app.command(epilog=opt.example("chandlery plan '*/USDT' -t 1m --since listing"))(plan)


def fetch(
    symbols: opt.Symbols = None,
    *,
    timeframe: opt.Timeframes = None,
    since: opt.Since = None,
    until: opt.Until = None,
    exchange: opt.ExchangeId = None,
    exchange_url: opt.ExchangeUrl = None,
    signed: opt.Signed = False,
    store: opt.StoreUrl = None,
    mirror: opt.Mirrors = None,
    settle: opt.Settle = None,
    recheck: opt.Recheck = None,
    max_wait: opt.MaxWait = None,
    budget: opt.Budget = None,
    wait_lock: opt.WaitLock = False,
    as_json: opt.Json = False,
    verbose: opt.Verbose = 0,
    quiet: opt.Quiet = False,
) -> None:
    """Fetch what is missing of the history and store it.

    Asks only for what the store does not hold yet, so it can be run again at any time. Without SYMBOL every series kept
    is topped up. Without --since a known series goes on from where it was first asked for; a new one takes 30 days.
    """
    keep_small()
    out = Output(quiet=quiet, verbose=verbose)
    settings = opt.settle(
        out,
        exchange=exchange,
        exchange_url=exchange_url,
        store=store,
        mirror=mirror or None,
        settle=settle,
        recheck=recheck,
        max_wait=max_wait,
        budget=budget,
    )
    mirrors.check(settings)
    wish = Wish(tuple(symbols or ()), _timeframes(timeframe), since, until, only=exchange)
    with RunProgress(out) as progress:
        try:
            report = run_until_interrupted(
                out, lambda: _fetch(out, settings, wish, progress, signed=signed, wait_lock=wait_lock)
            )
        except KeyboardInterrupt:
            progress.__exit__()
            out.error(
                f"interrupted: {progress.slots_done:,} slots were answered and stored, "
                f"{progress.finished_series} series finished; run it again to go on from there"
            )
            out.exit(Exit.INTERRUPTED)
    tell_run(out, report, as_json=as_json)
    out.exit(worse(exit_code(report), mirrors.tell_mirrors(out, report.mirrors)))


def plan(
    symbols: opt.SomeSymbols,
    *,
    timeframe: opt.Timeframes = None,
    since: opt.Since = None,
    until: opt.Until = None,
    exchange: opt.ExchangeId = None,
    exchange_url: opt.ExchangeUrl = None,
    signed: opt.Signed = False,
    store: opt.StoreUrl = None,
    settle: opt.Settle = None,
    recheck: opt.Recheck = None,
    budget: opt.Budget = None,
    as_json: opt.Json = False,
    verbose: opt.Verbose = 0,
    quiet: opt.Quiet = False,
) -> None:
    """Say what fetch would ask for and what that would cost.

    Asks for no candle and stores nothing.
    """
    out = Output(quiet=quiet, verbose=verbose)
    settings = opt.settle(
        out,
        exchange=exchange,
        exchange_url=exchange_url,
        store=store,
        settle=settle,
        recheck=recheck,
        budget=budget,
    )
    wish = Wish(tuple(symbols), _timeframes(timeframe), since, until, only=exchange)
    report = run_until_interrupted(out, lambda: _plan(out, settings, wish, signed=signed))
    tell_plan(out, report, as_json=as_json)
    errors = [s.error for s in report.series if s.error is not None]
    out.exit(exit_code_of_run(errors, len(report.series), complete=True))


@dataclass(frozen=True, slots=True)
class Wish:
    """What the user asked for, as typed; `only` is the exchange that -e named."""

    symbols: tuple[str, ...]
    timeframes: tuple[str, ...]
    since: str | None = None
    until: str | None = None
    only: str | None = None


def _timeframes(given: Sequence[str] | None) -> tuple[str, ...]:
    """The timeframes typed, each checked; empty where none was."""
    from chandlery.timeframe import parse_timeframe

    return tuple(dict.fromkeys(parse_timeframe(text).text for text in given or ()))


def source_of(settings: Settings, *, exchange: str | None = None, signed: bool = False) -> Source:
    """The source that the settings name, or the same way to another exchange."""
    from chandlery.sources import open_source

    exchange = exchange or settings.exchange
    if signed and not settings.api_key.get_secret_value():
        raise UsageError(
            "--signed sends a key, and EXCHANGE_API_KEY is not set",
            hint=f"set it and EXCHANGE_SECRET in the environment or in secrets/.env.{exchange}",
        )
    return open_source(
        exchange,
        url=settings.exchange_url,
        api_key=settings.api_key.get_secret_value(),
        secret=settings.secret.get_secret_value(),
        signed=signed,
        state_dir=settings.state,
        max_wait_seconds=settings.max_wait,
        budget=settings.budget,
    )


# -- the run ---------------------------------------------------------------------------------------------------------


async def _fetch(
    out: Output, settings: Settings, wish: Wish, progress: RunProgress, *, signed: bool, wait_lock: bool
) -> RunReport:
    from chandlery.stores import open_store

    async with AsyncExitStack() as stack:
        if not wish.symbols:
            kept = stack.enter_context(opt.open_kept(settings, out, named=True))
            say_store(out, kept)
            followers = await stack.enter_async_context(mirrors.followed(kept, settings))
            reports = []
            for exchange, wants in _kept_wants(kept, wish).items():
                try:
                    source = await stack.enter_async_context(
                        source_of(settings, exchange=exchange, signed=signed)
                    )
                    timed = await _timed(source, wants, wish)
                    run = backfill(settings, source, kept, progress, wait_lock=wait_lock)
                    reports.append(await run.run(timed))
                except ExchangeError as error:
                    reports.append(nothing_begun([want.series for want in wants], error))
            report = together(reports)
            report.mirrors = await followers.finish()
            return report
        source = await stack.enter_async_context(source_of(settings, signed=signed))
        try:
            wants = await _wants(source, wish)
        except ExchangeError as error:
            if isinstance(error, UsageError):
                raise
            report = nothing_begun(_as_typed(settings, wish), error, _span_as_typed(wish))
            report.mirrors = await mirrors.catch_up(settings)
            return report
        progress.order = [want.series for want in wants]
        # Only now is it known that there is something to store, so only now may a store be made.
        store = stack.enter_context(open_store(settings.store, settings=settings))
        say_store(out, store)
        followers = await stack.enter_async_context(mirrors.followed(store, settings))
        try:
            report = await backfill(settings, source, store, progress, wait_lock=wait_lock).run(wants)
        except ExchangeError as error:
            if isinstance(error, UsageError):
                raise
            report = nothing_begun([want.series for want in wants], error)
        report.mirrors = await followers.finish()
        return report


async def _plan(out: Output, settings: Settings, wish: Wish, *, signed: bool) -> PlanReport:
    from chandlery.stores import open_store
    from chandlery.stores.influx_place import is_influx_url

    async with AsyncExitStack() as stack:
        source = await stack.enter_async_context(source_of(settings, signed=signed))
        try:
            wants = await _wants(source, wish)
        except ExchangeError as error:
            if isinstance(error, UsageError):
                raise
            return nothing_planned(_as_typed(settings, wish), error)
        try:
            store = stack.enter_context(opt.open_kept(settings, out))
        except NoSuchStore:
            if is_influx_url(settings.store):
                raise  # a bucket is not made by fetching into it
            out.note(f"there is no store at {settings.store} yet")
            store = stack.enter_context(open_store("memory:"))
        progress = RunProgress(out)
        try:
            return await backfill(settings, source, store, progress).plan(wants)
        except ExchangeError as error:
            if isinstance(error, UsageError):
                raise
            return nothing_planned([want.series for want in wants], error)


def backfill(
    settings: Settings,
    source: Source,
    store: Store,
    progress: RunProgress,
    *,
    wait_lock: bool = False,
    repair: bool = False,
    doubt_absent: bool = False,
) -> Backfill:
    """A back-fill as the settings want it."""
    from chandlery.backfill import Backfill

    keep_small()
    return Backfill(
        source,
        store,
        settle=settings.settle,
        recheck=round(settings.recheck * 1000),
        wait_lock=wait_lock,
        repair=repair,
        doubt_absent=doubt_absent,
        progress=progress,
    )


def say_store(out: Output, store: Store) -> None:
    """Name the store that is about to be written."""
    out.say(f"store: {store.url}")


async def _wants(source: Source, wish: Wish) -> list[Want]:
    """What the symbols, patterns, timeframes and times stand for. Raises UsageError if nothing of it can be started."""
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
    return await _timed(source, wants, wish)


async def _timed(source: Source, wants: Sequence[Want], wish: Wish) -> list[Want]:
    """The wants with the times that were typed, read by the exchange's clock."""
    from chandlery.backfill import Want

    since, until = await bounds(source, wish.since, wish.until)
    return [Want(want.series, since, until) for want in wants]


async def bounds(
    source: Source, since: str | None, until: str | None
) -> tuple[int | Literal["listing"] | None, int | None]:
    """--since and --until in epoch ms by the exchange's clock. Raises UsageError where the range is empty."""
    from chandlery.when import LISTING, iso, parse_when

    now = await source.now()
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


def _kept_wants(store: Store, wish: Wish) -> dict[str, list[Want]]:
    """Every series kept, by exchange."""
    from chandlery.backfill import Want
    from chandlery.query import matching

    wants: dict[str, list[Want]] = {}
    for kept in matching(store, (), exchange=wish.only, timeframes=wish.timeframes):
        wants.setdefault(kept.series.exchange, []).append(Want(kept.series))
    return wants


def _span_as_typed(wish: Wish) -> TimeRange | None:
    """The range asked for by this machine's clock, where the exchange did not even say what time it is."""
    from chandlery.clock import SystemClock
    from chandlery.timerange import TimeRange
    from chandlery.when import LISTING, parse_when

    if wish.since is None or wish.since.strip() == LISTING:
        return None
    now = SystemClock().now_ms()
    since = parse_when(wish.since, now=now)
    until = now if wish.until is None else min(now, parse_when(wish.until, now=now))
    return TimeRange(since, max(since, until))


def _as_typed(settings: Settings, wish: Wish) -> list[SeriesId]:
    """The series asked for, where the exchange did not even say what it lists."""
    from chandlery.candle import SeriesId

    timeframes = wish.timeframes or (opt.DEFAULT_TIMEFRAME,)
    return [
        SeriesId(settings.exchange, symbol, timeframe) for symbol in wish.symbols for timeframe in timeframes
    ]
