"""verify: account for every slot of what is kept, and with --repair bring what is missing."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

import typer

from chandlery.cli import mirrors
from chandlery.cli import options as opt
from chandlery.cli.fetch import backfill, say_store, source_of
from chandlery.cli.interrupt import run_until_interrupted
from chandlery.cli.narrow import Cell
from chandlery.cli.output import Exit, Output
from chandlery.cli.progress import RunProgress
from chandlery.cli.runreport import exit_code_of_run, minute, series_names, tell_errors, worse
from chandlery.errors import DataPipelineError, UsageError
from chandlery.when import LISTING

if TYPE_CHECKING:
    from chandlery.backfill import Want
    from chandlery.candle import SeriesId
    from chandlery.config import Settings
    from chandlery.ledger import Gap
    from chandlery.stores.base import SeriesSummary, Store
    from chandlery.verify import SeriesVerdict

#: Faulty gaps that the table of people shows of a series where --gaps does not say.
GAPS_SHOWN = 10

Gaps = Annotated[
    int | None,
    typer.Option(
        "--gaps",
        metavar="N",
        min=0,
        help="List at most N gaps of each series (default: with --json 1,000, else the first that are not explained).",
        show_default=False,
    ),
]
Repair = Annotated[
    bool,
    typer.Option("--repair", help="Ask again for what is missing, refused or damaged, then verify again."),
]
Absent = Annotated[
    bool,
    typer.Option("--absent", help="With --repair: ask again for absent slots too."),
]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command(
        epilog=opt.example("chandlery verify BTC/USDT -t 1h --since 2024-01-01", "chandlery verify --repair")
    )(verify)


def verify(
    symbols: opt.Symbols = None,
    *,
    timeframe: opt.KeptTimeframes = None,
    since: opt.Since = None,
    until: opt.Until = None,
    repair: Repair = False,
    absent: Absent = False,
    gaps: Gaps = None,
    exchange: opt.KeptExchange = None,
    exchange_url: opt.ExchangeUrl = None,
    signed: opt.Signed = False,
    store: opt.StoreUrl = None,
    mirror: opt.Mirrors = None,
    max_wait: opt.MaxWait = None,
    budget: opt.Budget = None,
    wait_lock: opt.WaitLock = False,
    as_json: opt.Json = False,
    verbose: opt.Verbose = 0,
    quiet: opt.Quiet = False,
) -> None:
    """Account for every slot of what is kept.

    Each is stored, absent on the exchange, missing, or not there for another known reason. Looks at the store only. Without --since and --until it looks at all that was ever asked for.
    Exits with 0 only if nothing is missing, refused, invalid, there twice or unexplained.
    """
    out = Output(quiet=quiet, verbose=verbose)
    if absent and not repair:
        raise UsageError("--absent asks the exchange again", hint="give --repair too")
    if mirror and not repair:
        raise UsageError(
            "--mirror is fed by what --repair brings", hint="chandlery diff STORE MIRROR compares two stores"
        )
    settings = opt.settle(
        out,
        reads_only=not repair,
        exchange=exchange,
        exchange_url=exchange_url,
        store=store,
        mirror=mirror or None,
        max_wait=max_wait,
        budget=budget,
    )
    if repair:
        mirrors.check(settings)
    with opt.open_kept(settings, out, named=repair) as kept:
        tasks = _tasks(kept, symbols or (), exchange, timeframe or (), since, until)
        if not repair and all(task.unlisted for task in tasks):
            raise _no_listing(tasks[0].kept.series)
        verdicts = [_verdict(kept, task) for task in tasks]
        code = Exit.OK
        looked = list(zip(tasks, verdicts, strict=True))
        wants = [want for one in looked if (want := _want(kept, *one, absent=absent))] if repair else []
        if wants or (repair and settings.mirror):
            code = _repair(out, settings, kept, wants, absent=absent, signed=signed, wait_lock=wait_lock)
            tasks = _tasks(kept, symbols or (), exchange, timeframe or (), since, until)
            verdicts = [_verdict(kept, task) for task in tasks]
    _tell(out, verdicts, gaps, as_json=as_json)
    if code not in (Exit.OK, Exit.INCOMPLETE):
        out.exit(code)
    errors = [v.error for v in verdicts if v.error is not None]
    out.exit(exit_code_of_run(errors, len(verdicts), complete=all(v.ok for v in verdicts)))


@dataclass(frozen=True, slots=True)
class _Task:
    """One series and the bounds to look at, None where all that was asked for counts.

    `unlisted`: to be looked at from its listing on, and nobody knows when that was.
    """

    kept: SeriesSummary
    since: int | None
    until: int | None
    unlisted: bool = False


def _tasks(
    store: Store,
    symbols: Sequence[str],
    exchange: str | None,
    timeframes: Sequence[str],
    since: str | None,
    until: str | None,
) -> list[_Task]:
    from chandlery.query import matching

    return [
        _task(store, kept, since, until)
        for kept in matching(store, symbols, exchange=exchange, timeframes=timeframes)
    ]


def _task(store: Store, kept: SeriesSummary, since: str | None, until: str | None) -> _Task:
    """The bounds in epoch ms; ages count from the exchange's time at the latest ask."""
    from chandlery.ledger import State
    from chandlery.when import iso, parse_when

    end = None if until is None else parse_when(until, now=kept.clock)
    if since is None:
        return _Task(kept, None, end)
    if since.strip() == LISTING:
        before = store.ledger(kept.series).fact_ranges(State.BEFORE_LISTING)
        return _Task(kept, before.until, end) if before else _Task(kept, None, end, unlisted=True)
    begin = parse_when(since, now=kept.clock)
    if end is not None and begin >= end:
        raise UsageError(
            f"--since {iso(begin)} is not before --until {iso(end)}",
            hint="ranges are half-open: [since, until)",
        )
    return _Task(kept, begin, end)


def _no_listing(series: SeriesId) -> UsageError:
    """The earliest ask is no listing: what was there before it would be taken for nothing."""
    words = ["chandlery", "fetch", series.symbol, "-t", series.timeframe, "-e", series.exchange]
    return UsageError(
        f"when {series} was listed is not known: its history was never fetched from there",
        hint=f"{shlex.join([*words, '--since', LISTING])} fetches it, --repair does so for all",
    )


def _verdict(store: Store, task: _Task) -> SeriesVerdict:
    """The verdict on one series; an error over it stays with it, so that it hides no other."""
    from chandlery.verify import cannot_verify, verify_series

    if task.unlisted:
        return cannot_verify(task.kept.series, _no_listing(task.kept.series))
    try:
        return verify_series(store, task.kept.series, since=task.since, until=task.until)
    except DataPipelineError as error:
        return cannot_verify(task.kept.series, error)


# -- repair ----------------------------------------------------------------------------------------------------------


def _repair(
    out: Output,
    settings: Settings,
    store: Store,
    asked: Sequence[Want],
    *,
    absent: bool,
    signed: bool,
    wait_lock: bool,
) -> Exit:
    """Ask again for what is wrong; returns the exit code of that run."""
    say_store(out, store)
    wants: dict[str, list[Want]] = {}
    for want in asked:
        wants.setdefault(want.series.exchange, []).append(want)

    async def run() -> Exit:
        errors: list[DataPipelineError] = []
        brought = series = 0
        async with AsyncExitStack() as stack:
            followers = await stack.enter_async_context(mirrors.followed(store, settings))
            for exchange, some in wants.items():
                series += len(some)
                try:
                    source = await stack.enter_async_context(
                        source_of(settings, exchange=exchange, signed=signed)
                    )
                    run = backfill(
                        settings,
                        source,
                        store,
                        progress,
                        wait_lock=wait_lock,
                        repair=True,
                        doubt_absent=absent,
                    )
                    report = await run.run(some)
                except DataPipelineError as error:
                    out.error(error, about=exchange)
                    errors += [error] * len(some)
                    continue
                brought += sum(s.written for s in report.series)
                failed = [(str(one.series), one.error) for one in report.series if one.error is not None]
                tell_errors(out, failed)
                errors += [error for _, error in failed]
            out.say(f"repair brought {brought:,} candles")
            code = mirrors.tell_mirrors(out, await followers.finish())
        return worse(exit_code_of_run(errors, series, complete=True), code)

    with RunProgress(out) as progress:
        return run_until_interrupted(out, run)


def _want(store: Store, task: _Task, verdict: SeriesVerdict, *, absent: bool) -> Want | None:
    """The shortest range that holds everything that is wrong with a series or in doubt; None if nothing is."""
    from chandlery.backfill import Want
    from chandlery.ledger import FACTS, State

    if task.unlisted:
        return Want(task.kept.series, "listing", task.until)
    doubted = (State.MISSING, State.QUARANTINED, *FACTS, *([State.ABSENT] if absent else []))
    bad = [(g.since, g.until) for g in verdict.account.gaps if g.state in doubted]
    if verdict.error is not None or (verdict.ok and not bad):
        return None
    bad += [(p.range.since, p.range.until) for p in verdict.problems if p.range is not None]
    if verdict.invalid or verdict.unexplained or not bad:
        asked = store.ledger(task.kept.series).asked
        bad += [(r.since, r.until) for r in asked]
    if not bad:
        return None
    return Want(task.kept.series, min(since for since, _ in bad), max(until for _, until in bad))


# -- telling ---------------------------------------------------------------------------------------------------------


def _tell(out: Output, verdicts: Sequence[SeriesVerdict], gaps: int | None, *, as_json: bool) -> None:
    from chandlery.verify import GAPS_LISTED

    tell_errors(out, [(str(v.series), v.error) for v in verdicts if v.error is not None])
    for verdict in verdicts:
        for problem in verdict.problems:
            named = problem.message.startswith(str(verdict.series))
            out.warn(problem.message if named else f"{verdict.series}: {problem.message}", hint=problem.hint)
    if as_json:
        listed = GAPS_LISTED if gaps is None else gaps
        out.json({"ok": all(v.ok for v in verdicts), "series": [v.as_json(listed) for v in verdicts]})
        return
    out.table(*_table(verdicts))
    told = [_gap_rows(verdict, gaps) for verdict in verdicts]
    rows = [row for some, _ in told for row in some]
    if rows:
        out.text()
        head, names = series_names([row[0] for row in rows])
        head = "gaps of" if head == "series" else f"gaps of {head}"
        table = [[name, *row[1]] for name, row in zip(names, rows, strict=True)]
        out.table([head, "from", "to", "candles", "state", "reason"], table)
    if (more := sum(number for _, number in told)) and gaps != 0:
        out.say(f"... and {more:,} more gap{'' if more == 1 else 's'}; --gaps lists so many of each series")
    bad = sum(not v.ok for v in verdicts)
    out.say(
        f"{len(verdicts) - bad:,} of {len(verdicts):,} series complete"
        + ("; --repair asks again" if any(_repairable(v) for v in verdicts) else "")
    )


def _repairable(verdict: SeriesVerdict) -> bool:
    """Whether anything is wrong besides what the exchange no longer gives."""
    return not replace(verdict, reach_asked=False).ok


def _table(verdicts: Sequence[SeriesVerdict]) -> tuple[list[str], list[list[Cell]]]:
    from chandlery.ledger import SLOTS

    states = [
        s for s in SLOTS if s.value in ("absent", "missing") or any(v.account.counts[s] for v in verdicts)
    ]
    faults = [f for f in ("duplicates", "invalid", "unexplained") if any(getattr(v, f) for v in verdicts)]
    head, names = series_names([v.series for v in verdicts])
    columns = ["", head, "first", "last", "expected", "stored"]
    columns += [s.value.replace("_", " ") for s in states] + faults
    rows = []
    for name, v in zip(names, verdicts, strict=True):
        row: list[Cell] = ["✅" if v.ok else "❌", name, minute(v.first), minute(v.last)]
        if v.error is not None:
            rows.append([*row, *(None for _ in columns[4:])])
            continue
        row += [v.account.expected, stored_of(v)]
        rows.append([*row, *(v.account.counts[s] for s in states), *(int(getattr(v, f)) for f in faults)])
    return columns, rows


def stored_of(verdict: SeriesVerdict) -> int:
    """How many slots hold a candle."""
    from chandlery.ledger import State

    return verdict.account.counts[State.STORED]


def _gap_rows(verdict: SeriesVerdict, gaps: int | None) -> tuple[list[tuple[SeriesId, list[Cell]]], int]:
    """The gaps to list, those that make the series fail first, and how many more there are.

    Where nothing is said how many, only those count that are no part of the market's life.
    """
    from chandlery.ledger import State

    explained = (State.ABSENT, State.PENDING, State.BEFORE_LISTING, State.AFTER_END)
    found: Sequence[Gap] = verdict.first_gaps(len(verdict.account.gaps))
    if gaps is None:
        found = [g for g in found if g.state not in explained]
    listed = found[: GAPS_SHOWN if gaps is None else gaps]
    rows: list[tuple[SeriesId, list[Cell]]] = [
        (
            verdict.series,
            [minute(g.since), minute(g.until), g.candles, g.state.value.replace("_", " "), g.reason],
        )
        for g in listed
    ]
    return rows, len(found) - len(listed)
