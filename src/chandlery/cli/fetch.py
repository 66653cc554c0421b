"""fetch and plan: bring the store up to what is wanted, or say what that would take."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import typer

from chandlery.cli import mirrors
from chandlery.cli import options as opt
from chandlery.cli.interrupt import run_until_interrupted
from chandlery.cli.memory import importing, keep_small
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
from chandlery.cli.wishes import (
    Wish,
    kept_wants,
    series_as_typed,
    span_as_typed,
    timed_wants,
    typed_timeframes,
    wants_of,
)
from chandlery.errors import ExchangeError, NoSuchStore, UsageError

if TYPE_CHECKING:
    from chandlery.backfill import Backfill
    from chandlery.config import Settings
    from chandlery.report import PlanReport, RunReport
    from chandlery.sources.base import Source
    from chandlery.stores.base import Store


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
    wish = Wish(tuple(symbols or ()), typed_timeframes(timeframe), since, until, only=exchange)
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
    wish = Wish(tuple(symbols), typed_timeframes(timeframe), since, until, only=exchange)
    report = run_until_interrupted(out, lambda: _plan(out, settings, wish, signed=signed))
    tell_plan(out, report, as_json=as_json)
    errors = [s.error for s in report.series if s.error is not None]
    out.exit(exit_code_of_run(errors, len(report.series), complete=True))


def source_of(settings: Settings, *, exchange: str | None = None, signed: bool = False) -> Source:
    """The source that the settings name, or the same way to another exchange."""
    exchange = exchange or settings.exchange
    if signed and not settings.api_key.get_secret_value():
        raise UsageError(
            "--signed sends a key, and EXCHANGE_API_KEY is not set",
            hint=f"set it and EXCHANGE_SECRET in the environment or in secrets/.env.{exchange}",
        )
    with importing():
        from chandlery.sources import open_source

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
            for exchange, wants in kept_wants(kept, wish).items():
                try:
                    source = await stack.enter_async_context(
                        source_of(settings, exchange=exchange, signed=signed)
                    )
                    timed, now = await timed_wants(source, wants, wish)
                    run = backfill(settings, source, kept, progress, wait_lock=wait_lock)
                    reports.append(await run.run(timed, now=now))
                except ExchangeError as error:
                    reports.append(nothing_begun([want.series for want in wants], error))
            report = together(reports)
            report.mirrors = await followers.finish()
            return report
        source = await stack.enter_async_context(source_of(settings, signed=signed))
        try:
            wants, now = await wants_of(source, wish)
        except ExchangeError as error:
            if isinstance(error, UsageError):
                raise
            report = nothing_begun(series_as_typed(settings, wish), error, span_as_typed(wish))
            report.mirrors = await mirrors.catch_up(settings)
            return report
        progress.order = [want.series for want in wants]
        # Only now is it known that there is something to store, so only now may a store be made.
        store = stack.enter_context(open_store(settings.store, settings=settings))
        say_store(out, store)
        followers = await stack.enter_async_context(mirrors.followed(store, settings))
        try:
            run = backfill(settings, source, store, progress, wait_lock=wait_lock)
            report = await run.run(wants, now=now)
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
            wants, now = await wants_of(source, wish)
        except ExchangeError as error:
            if isinstance(error, UsageError):
                raise
            return nothing_planned(series_as_typed(settings, wish), error)
        try:
            store = stack.enter_context(opt.open_kept(settings, out))
        except NoSuchStore:
            if is_influx_url(settings.store):
                raise  # a bucket is not made by fetching into it
            out.note(f"there is no store at {settings.store} yet")
            store = stack.enter_context(open_store("memory:"))
        progress = RunProgress(out)
        try:
            return await backfill(settings, source, store, progress).plan(wants, now=now)
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
