"""copy and diff: two stores side by side."""

from __future__ import annotations

import asyncio
import shlex
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer

from chandlery.cli import options as opt
from chandlery.cli.interrupt import run_until_interrupted
from chandlery.cli.memory import keep_small
from chandlery.cli.narrow import Cell, Mark
from chandlery.cli.output import Exit, Output
from chandlery.cli.progress import RunProgress
from chandlery.cli.runreport import exit_code_of_run, minute, series_names, tell_errors
from chandlery.errors import DataPipelineError, NoSuchSeries, UsageError
from chandlery.redact import visible
from chandlery.when import LISTING

if TYPE_CHECKING:
    from chandlery.candle import SeriesId
    from chandlery.compare import SeriesDifference
    from chandlery.config import Settings
    from chandlery.ingest import Door
    from chandlery.stores.base import Store
    from chandlery.timerange import RangeSet, TimeRange
    from chandlery.transfer import Transferred

#: Days and ranges of each series that the table for people shows.
SHOWN = 10

_URL_HELP = "A store's folder, or influxdb://HOST:PORT/ORG/BUCKET."

FirstStore = Annotated[str, typer.Argument(metavar="A", help=_URL_HELP, show_default=False)]
SecondStore = Annotated[str, typer.Argument(metavar="B", help="Another.", show_default=False)]
FromStore = Annotated[str, typer.Argument(metavar="FROM", help=_URL_HELP, show_default=False)]
ToStore = Annotated[
    str, typer.Argument(metavar="TO", help="Another; made if it is not there.", show_default=False)
]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command(epilog=opt.example("chandlery diff ./candles influxdb -t 1h --since 30d"))(diff)
    app.command(epilog=opt.example("chandlery copy ./candles /mnt/backup/candles"))(copy)


def diff(
    a: FirstStore,
    b: SecondStore,
    symbols: opt.Symbols = None,
    *,
    timeframe: opt.KeptTimeframes = None,
    since: opt.Since = None,
    until: opt.Until = None,
    exchange: opt.KeptExchange = None,
    as_json: opt.Json = False,
    verbose: opt.Verbose = 0,
    quiet: opt.Quiet = False,
) -> None:
    """Show where two stores differ.

    Compares, bit for bit, candles of each series and day, and what is known of the slots without a candle. Exits with 0 if they are equal, with 1 if they differ.
    """
    from chandlery.compare import compare_series, whole_spans
    from chandlery.timerange import TimeRange

    out = Output(quiet=quiet, verbose=verbose)
    settings = opt.settle(out, reads_only=True, names_stores=True)
    keep_small()
    with ExitStack() as stack:
        first, second = (stack.enter_context(_open(settings, url)) for url in (a, b))
        chosen = _chosen([first, second], symbols or (), exchange, timeframe or ())
        spans = {series: span for series, span in whole_spans(first, second).items() if series in chosen}
        found = []
        for series, rows in spans.items():
            within = _bounds([first, second], series, since, until)
            span = rows if within is None else rows.intersect(within) or TimeRange(0, 0)
            found.append(compare_series(first, second, series, [span], within=within))
        urls = first.url, second.url
    tell_errors(out, [(str(one.series), one.error) for one in found if one.error is not None])
    if as_json:
        out.json(_document(urls, found))
    else:
        _tell(out, urls, found)
    out.exit(_code(found))


def copy(
    source: FromStore,
    target: ToStore,
    symbols: opt.Symbols = None,
    *,
    timeframe: opt.KeptTimeframes = None,
    exchange: opt.KeptExchange = None,
    wait_lock: opt.WaitLock = False,
    as_json: opt.Json = False,
    verbose: opt.Verbose = 0,
    quiet: opt.Quiet = False,
) -> None:
    """Bring all that one store keeps into another, and compare them.

    Equal candles are left, others become revisions in TO; candles that only TO has stay and are told. It can be run again at any time and goes on where it stopped.
    """
    from chandlery.followers import where_is

    out = Output(quiet=quiet, verbose=verbose)
    settings = opt.settle(out, names_stores=True)
    if where_is(source, settings) == where_is(target, settings):
        raise UsageError(f"{source} and {target} are one store", hint="name another store to copy to")
    keep_small()
    with ExitStack() as stack:
        first = stack.enter_context(_open(settings, source))
        chosen = _chosen([first], symbols or (), exchange, timeframe or ())
        second = stack.enter_context(_open(settings, target, create=True))
        out.say(f"from: {first.url}\nto: {second.url}")
        progress = stack.enter_context(RunProgress(out))
        job = _Copy(first, second, progress, wait_lock=wait_lock)
        try:
            run_until_interrupted(out, lambda: job.run(chosen))
        except KeyboardInterrupt:
            progress.stop()
            out.error(f"interrupted: {len(job.changes):,} series copied; run it again to go on from there")
            out.exit(Exit.INTERRUPTED)
        urls = first.url, second.url
    found = [job.found[series] for series in chosen]
    tell_errors(out, [(str(one.series), one.error) for one in found if one.error is not None])
    _tell_left(out, urls[1], found)
    if as_json:
        document = _document(urls, found)
        for one in document["series"]:
            one.update(job.changes_json(one))
        out.json(document)
    else:
        _tell_copied(out, job, found)
    out.exit(_code(found))


# -- copying -------------------------------------------------------------------------------------------------------


class _Stopped(Exception):
    """The command was interrupted."""


@dataclass
class _Copy:
    """One run of copy: what it did to each series, and what differs then."""

    source: Store
    target: Store
    progress: RunProgress
    wait_lock: bool
    found: dict[SeriesId, SeriesDifference] = field(default_factory=dict)
    changes: dict[SeriesId, Transferred] = field(default_factory=dict)
    stop: threading.Event = field(default_factory=threading.Event)

    async def run(self, chosen: Sequence[SeriesId]) -> None:
        """Copy and compare one series after the other, in a thread; cancelled, it ends with the page in hand."""
        work = asyncio.ensure_future(asyncio.to_thread(self._all, chosen))
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            self.stop.set()
            with suppress(_Stopped, DataPipelineError):
                await work
            raise

    def changes_json(self, named: dict[str, Any]) -> dict[str, int]:
        """What was written of the series that those keys name."""
        names = ("exchange", "symbol", "timeframe", "kind")
        done = next(
            (c for s, c in self.changes.items() if all(getattr(s, n) == named[n] for n in names)), None
        )
        return {n: getattr(done, n, 0) for n in ("new", "same", "revised", "quarantined")}

    def _all(self, chosen: Sequence[SeriesId]) -> None:
        from chandlery.compare import SeriesDifference, compare_series, hull, whole_spans
        from chandlery.ingest import Door

        spans = whole_spans(self.source)
        door = Door(self.target)
        try:
            for series in chosen:
                try:
                    self._bring(series, spans[series], door)
                except DataPipelineError as error:
                    self.found[series] = SeriesDifference(series, error=error)
        finally:
            door.close_now()
        there = whole_spans(self.target)
        for series in self.changes:
            if self.stop.is_set():
                raise _Stopped
            span = hull([spans[series], there.get(series, spans[series])])
            self.found[series] = compare_series(self.source, self.target, series, [span])

    def _bring(self, series: SeriesId, rows: TimeRange, door: Door) -> None:
        from chandlery.compare import compare_series
        from chandlery.report import SeriesReport
        from chandlery.transfer import everything, transfer

        ranges = everything(self.source, series, rows)
        if self.target.knows(series):  # what is there already is compared, which is less work than writing it
            ranges = compare_series(self.source, self.target, series, [rows]).ranges
        self._begin(series, ranges)
        self.changes[series] = transfer(
            self.source,
            self.target,
            series,
            ranges,
            door=door,
            wait_lock=self.wait_lock,
            advanced=self._advancing(series),
        )
        self.progress.finished(SeriesReport(series, rows, written=self.changes[series].new))

    def _begin(self, series: SeriesId, ranges: RangeSet) -> None:
        if self.stop.is_set():
            raise _Stopped
        self.progress.started(series, sum(series.frame.count(r.since, r.until) for r in ranges))

    def _advancing(self, series: SeriesId) -> Callable[[int], None]:
        def advanced(slots: int) -> None:
            self.progress.advanced(series, slots)
            if self.stop.is_set():
                raise _Stopped

        return advanced


# -- which series, which range -------------------------------------------------------------------------------------


def _open(settings: Settings, url: str, *, create: bool = False) -> Store:
    from chandlery.stores import open_store

    return open_store(url, create=create, settings=settings)


def _chosen(
    stores: Sequence[Store], patterns: Sequence[str], exchange: str | None, timeframes: Sequence[str]
) -> list[SeriesId]:
    """The series meant, of any of the stores. Raises NoSuchSeries where something fits nothing in either."""
    from chandlery.query import matching

    found: dict[SeriesId, None] = {}
    for pattern in patterns or ("*",):
        for frame in timeframes or (None,):
            refused: list[NoSuchSeries] = []
            for store in stores:
                try:
                    kept = matching(
                        store, (pattern,), exchange=exchange, timeframes=() if frame is None else (frame,)
                    )
                except NoSuchSeries as error:
                    refused.append(error)
                else:
                    found.update(dict.fromkeys(one.series for one in kept))
            if len(refused) == len(stores):
                raise refused[0]
    return list(found)


def _bounds(
    stores: Sequence[Store], series: SeriesId, since: str | None, until: str | None
) -> TimeRange | None:
    """--since and --until in epoch ms; ages count back from the later of the stores' clocks. None without bounds."""
    from chandlery.ledger import settled_until
    from chandlery.timerange import TimeRange
    from chandlery.when import parse_when

    if (since is None or since.strip() == LISTING) and until is None:
        return None
    ledgers = [store.ledger(series) for store in stores if store.knows(series)]
    now = max(settled_until(series.frame, ledger.clock, ledger.settle) for ledger in ledgers)
    first = 0 if since is None or since.strip() == LISTING else parse_when(since, now=now)
    end = max(first, 1 << 52) if until is None else parse_when(until, now=now)
    if first >= end:
        raise UsageError(
            f"the range ends before it begins: since {since}, until {until}",
            hint="swap --since and --until",
        )
    return TimeRange(first, end)


# -- telling -------------------------------------------------------------------------------------------------------


def _code(found: Sequence[SeriesDifference]) -> Exit:
    errors = [one.error for one in found if one.error is not None]
    return exit_code_of_run(errors, len(found), complete=all(one.equal for one in found))


def _document(urls: tuple[str, str], found: Sequence[SeriesDifference]) -> dict[str, Any]:
    return {
        "ok": all(one.equal for one in found),
        "a": urls[0],
        "b": urls[1],
        "series": [one.as_json() for one in found],
    }


def _tell(out: Output, urls: tuple[str, str], found: Sequence[SeriesDifference]) -> None:
    """The series that differ, then their first days and ranges."""
    out.say(f"A: {urls[0]}\nB: {urls[1]}")
    different = [one for one in found if not one.equal]
    equal = f"{len(found) - len(different):,} of {len(found):,} series equal"
    if not different:
        out.say(equal)
        return
    out.table(*_table(different))
    for title, rows in (("days of", _day_rows(different)), ("without a candle", _answer_rows(different))):
        if rows:
            head, names = series_names([series for series, _ in rows])
            columns = ["day", "in A", "in B", "only A", "only B", "other values"]
            if title != "days of":
                columns = ["from", "to", "slots", "A says", "B says"]
            out.text()
            table = [[name, *cells] for name, (_, cells) in zip(names, rows, strict=True)]
            out.table([title if head == "series" else f"{title}: {head}", *columns], table)
    out.say(equal)


def _table(found: Sequence[SeriesDifference]) -> tuple[list[str], list[list[Cell]]]:
    head, names = series_names([one.series for one in found])
    rows: list[list[Cell]] = []
    for name, one in zip(names, found, strict=True):
        known = sum(answer.candles for answer in one.answers)
        verdict = "failed" if one.error else "differs"
        if one.in_a != one.in_b:
            verdict = "only in A" if one.in_a else "only in B"
        counts: list[Cell] = [len(one.days), one.only_a, one.only_b, one.changed, known]
        rows.append([name, *counts, Mark(verdict, "red")])
    return [head, "days", "only A", "only B", "other values", "known otherwise", ""], rows


def _day_rows(found: Sequence[SeriesDifference]) -> list[tuple[SeriesId, list[Cell]]]:
    return [
        (one.series, [(minute(day.day) or "")[:10], day.a, day.b, day.only_a, day.only_b, day.changed])
        for one in found
        for day in one.days[:SHOWN]
    ]


def _answer_rows(found: Sequence[SeriesDifference]) -> list[tuple[SeriesId, list[Cell]]]:
    return [
        (
            one.series,
            [
                minute(answer.range.since),
                minute(answer.range.until),
                answer.candles,
                answer.a.replace("_", " "),
                answer.b.replace("_", " "),
            ],
        )
        for one in found
        for answer in one.answers[:SHOWN]
    ]


def _tell_left(out: Output, url: str, found: Sequence[SeriesDifference]) -> None:
    """What only the target has, which a copy never deletes, and how to make both equal all the same."""
    for one in found:
        if one.only_b:
            words = ["chandlery", "remove", one.series.symbol, "-t", one.series.timeframe]
            words += ["-e", one.series.exchange, "--store", url]
            out.warn(
                f"{one.series}: {url} holds {one.only_b:,} candles that are not in the source",
                hint=f"{shlex.join(words)} and copying it again makes them equal",
            )


def _tell_copied(out: Output, job: _Copy, found: Sequence[SeriesDifference]) -> None:
    head, names = series_names([one.series for one in found])
    rows: list[list[Cell]] = []
    for name, one in zip(names, found, strict=True):
        done = job.changes.get(one.series)
        counts: list[Cell] = [None, None] if done is None else [done.new, done.revised]
        verdict = Mark("equal", "green") if one.equal else Mark("failed" if one.error else "differs", "red")
        rows.append([visible(name), *counts, len(one.days), verdict])
    out.table([head, "new", "revised", "days that differ", ""], rows)
    equal = sum(one.equal for one in found)
    candles = sum(change.new for change in job.changes.values())
    out.say(f"copied {candles:,} candles; {equal:,} of {len(found):,} series equal")
