"""What a run came to, told to people and scripts: the tables of fetch and plan, and their exit codes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from chandlery.cli.narrow import Cell, Mark
from chandlery.cli.output import Exit, Output
from chandlery.errors import DatabaseError, DataPipelineError, ExchangeError, SeriesLocked, UsageError
from chandlery.redact import visible

if TYPE_CHECKING:
    from chandlery.candle import SeriesId
    from chandlery.report import PlanReport, RunReport, SeriesReport
    from chandlery.timerange import TimeRange

_ORDINARY = ("stored",)


def exit_code(report: RunReport) -> Exit:
    """The first that holds of 4, 5, 3, 1, 0."""
    errors = [s.error for s in report.series if s.error is not None]
    return exit_code_of_run(errors, len(report.series), complete=report.ok)


def exit_code_of_run(errors: Sequence[DataPipelineError], series: int, *, complete: bool) -> Exit:
    """The exit code of a run over so many series, of which some ended with an error.

    An unknown symbol among good ones counts as incomplete. 3 says that the exchange let none of the known ones go on.
    """
    if any(isinstance(e, DatabaseError) and not isinstance(e, SeriesLocked | UsageError) for e in errors):
        return Exit.STORE
    if any(isinstance(e, SeriesLocked) for e in errors):
        return Exit.LOCKED
    stopped = sum(isinstance(e, ExchangeError) and not isinstance(e, UsageError) for e in errors)
    unknown = sum(isinstance(e, UsageError) for e in errors)
    if stopped and stopped == series - unknown:
        return Exit.EXCHANGE
    return Exit.OK if complete and not errors else Exit.INCOMPLETE


def worse(one: Exit, other: Exit) -> Exit:
    """The exit code that goes before the other: 4, 5, 3, 1, 0."""
    order = (Exit.STORE, Exit.LOCKED, Exit.EXCHANGE, Exit.USAGE, Exit.INCOMPLETE, Exit.OK)
    return min(one, other, key=order.index)


def minute(moment: int | None) -> str | None:
    """Epoch ms as `2024-01-01 00:00` (UTC), with seconds only where there are any."""
    from chandlery.when import iso

    if moment is None:
        return None
    text = iso(moment).replace("T", " ").removesuffix("Z")
    return text.removesuffix(":00") if len(text) == len("2024-01-01 00:00:00") else text


def nothing_begun(
    series: Sequence[SeriesId], error: DataPipelineError, span: TimeRange | None = None
) -> RunReport:
    """The report of a run that the exchange did not let begin: the error for each of its series, all of `span` missing."""
    from chandlery.clock import SystemClock
    from chandlery.ledger import State, aligned
    from chandlery.report import RunReport, SeriesReport
    from chandlery.timerange import TimeRange

    now = SystemClock().now_ms()  # nobody knows the exchange's
    reports = [
        SeriesReport(one, aligned(one.frame, span or TimeRange(now, now)), error=error) for one in series
    ]
    for report in reports:
        report.counts[State.MISSING] = report.series.frame.count(report.span.since, report.span.until)
    return RunReport(seconds=0.0, requests=0, retries=0, weight=0.0, series=reports)


def nothing_planned(series: Sequence[SeriesId], error: DataPipelineError) -> PlanReport:
    """The plan of a run that the exchange did not let begin: the error for each of its series."""
    from chandlery.report import PlanReport, SeriesPlan

    return PlanReport([SeriesPlan(s.series, s.span, [], error) for s in nothing_begun(series, error).series])


def together(reports: Sequence[RunReport]) -> RunReport:
    """The reports of several exchanges as one."""
    from chandlery.report import RunReport

    return RunReport(
        seconds=sum(r.seconds for r in reports),
        requests=sum(r.requests for r in reports),
        retries=sum(r.retries for r in reports),
        weight=sum(r.weight for r in reports),
        series=[s for r in reports for s in r.series],
    )


def series_names(series: Sequence[SeriesId]) -> tuple[str, list[str]]:
    """A column that names series, timeframes under each other: its head and its cells.

    Where all are of one exchange that is the head, which keeps tables narrow.
    """
    exchanges = {s.exchange for s in series}
    names = [s.symbol if len(exchanges) == 1 else f"{s.exchange} {s.symbol}" for s in series]
    shown = [visible(name) for name in names]
    width = max(map(len, shown), default=0)
    kinds = ["" if s.kind == "trade" else f" {s.kind}" for s in series]
    cells = [f"{n:<{width}} {s.timeframe:>3}{kind}" for n, s, kind in zip(shown, series, kinds, strict=True)]
    return exchanges.pop() if len(exchanges) == 1 else "series", cells


def tell_errors(out: Output, errors: Sequence[tuple[str, DataPipelineError]]) -> None:
    """The errors of series; one that many share is told once."""
    shared: dict[str, list[tuple[str, DataPipelineError]]] = {}
    for about, error in errors:
        shared.setdefault(error.message, []).append((about, error))
    for told in shared.values():
        about, error = told[0]
        out.error(error, about=about if len(told) == 1 else f"{about} and {len(told) - 1:,} more series")


def tell_run(out: Output, report: RunReport, *, as_json: bool) -> None:
    """What fetch did: the table or the document on stdout, errors and the sum on stderr."""
    tell_errors(out, [(str(s.series), s.error) for s in report.series if s.error is not None])
    if as_json:
        out.json(report.as_json())
        return
    shown = [s for s in report.series if s.span or s.error]
    if any(s.span for s in shown):
        out.table(*_run_table(shown))
    fetched, new = sum(s.fetched for s in report.series), sum(s.written for s in report.series)
    words = f"fetched {fetched:,} candles, {new:,} new, in {report.requests:,} request{'' if report.requests == 1 else 's'}"
    if report.seconds >= 10:
        words += f" and {duration(report.seconds)}"
    if report.retries:
        words += f", {report.retries:,} retries"
    out.say(words)


def _run_table(series: Sequence[SeriesReport]) -> tuple[list[str], list[list[Cell]]]:
    from chandlery.ledger import SLOTS

    # absent, missing and pending always; the rarer states where there are any.
    states = [
        state
        for state in SLOTS
        if state.value in ("absent", "missing") or any(s.counts[state] for s in series)
    ]
    head, names = series_names([s.series for s in series])
    columns = [head, "from", "to", "new"]
    columns += [state.value.replace("_", " ") for state in states] + [""]
    rows: list[list[Cell]] = []
    for name, s in zip(names, series, strict=True):
        if not s.span:  # it failed before it was known what of it was wanted
            rows.append([name, *(None for _ in columns[2:]), _said(s)])
            continue
        start: list[Cell] = [name, minute(s.span.since), minute(s.span.until), s.written]
        rows.append([*start, *(s.counts[state] for state in states), _said(s)])
    return columns, rows


def _said(series: SeriesReport) -> Mark:
    """What the last column says of a series."""
    if series.ok:
        return Mark("complete", "green")
    short = "out of reach" if series.only_out_of_reach else "incomplete"
    return Mark("failed" if series.error else short, "red")


def tell_plan(out: Output, report: PlanReport, *, as_json: bool) -> None:
    """What fetch would do."""
    tell_errors(out, [(str(s.series), s.error) for s in report.series if s.error is not None])
    if as_json:
        out.json(report.as_json())
        return
    ranges = [(s.series, r) for s in report.series for r in s.ranges]
    head, names = series_names([series for series, _ in ranges])
    sizes = [series.frame.count(r.range.since, r.range.until) for series, r in ranges]
    rows: list[list[Cell]] = [
        [name, minute(r.range.since), minute(r.range.until), size, r.requests, r.via]
        for name, size, (_, r) in zip(names, sizes, ranges, strict=True)
    ]
    gone = [(s.series, r) for s in report.series for r in s.out_of_reach]
    if rows:
        out.table([head, "from", "to", "candles", "requests", "via"], rows)
    if gone:
        out.say("older than the exchange gives, out of reach:")
        head, names = series_names([series for series, _ in gone])
        lost: list[list[Cell]] = [
            [name, minute(r.since), minute(r.until), series.frame.count(r.since, r.until)]
            for name, (series, r) in zip(names, gone, strict=True)
        ]
        out.table([head, "from", "to", "candles"], lost)
    if pending := sum(s.pending for s in report.series):
        out.say(f"{pending:,} not closed yet, left out here; fetch counts that as pending")
    candles = sum(sizes)
    if not rows:
        if all(s.error is None for s in report.series):
            what = "everything that can be had is there" if gone else "everything is there"
            out.say(f"{what}: fetch would ask for no candles")
        return
    size = size_of(candles)
    out.say(
        f"at least {report.requests:,} request{'' if report.requests == 1 else 's'}, weight {report.weight:,.0f}, {duration(report.seconds)}; "
        f"at most {candles:,} candles, about {size} on disk"
    )


#: Bytes that a sealed candle takes on disk, about.
BYTES_A_CANDLE = 30


def size_of(candles: int) -> str:
    """About what so many candles take on disk."""
    size = float(candles * BYTES_A_CANDLE)
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:,.1f} GB"


def duration(seconds: float) -> str:
    """A length of time for people."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
