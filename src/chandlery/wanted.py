"""What is wanted, made out: ranges resolved, series checked, and what of them is still to be asked for."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from chandlery.candle import SeriesId, no_candles
from chandlery.errors import ExchangeError, NoSuchSeries, UsageError
from chandlery.ledger import Fact, Ledger, State, account, aligned, to_ask
from chandlery.report import Progress, SeriesReport
from chandlery.sources.base import Beginning, Source, Volumes, is_beyond
from chandlery.stores.base import Store
from chandlery.timeframe import DAY
from chandlery.timerange import RangeSet, TimeRange
from chandlery.when import iso

T = TypeVar("T")

#: What a new series takes when nobody says since when.
DEFAULT_HISTORY = 30 * DAY


@dataclass(frozen=True, slots=True)
class Want:
    """A series and the range wanted of it, in epoch ms, half-open.

    `since` None goes on from the series' earliest ask (30 days before now if it is new); "listing" begins where the
    exchange's history does. `until` None is now.
    """

    series: SeriesId
    since: int | Literal["listing"] | None = None
    until: int | None = None


@dataclass(slots=True)
class Job:
    """One want under way."""

    series: SeriesId
    span: TimeRange
    report: SeriesReport
    active: bool = False  # whether the market trades
    listed: bool = False  # whether the span begins with the first candle that the exchange gives
    deeper: bool = False  # whether older candles exist that it does not give
    reach: int | None = None  # open time of the oldest candle that can be had, None where all can
    volumes: Volumes = field(default_factory=lambda: Volumes("base"))
    left: RangeSet = field(default_factory=RangeSet)
    facts: RangeSet = field(default_factory=RangeSet)  # what an earlier run had said a fact of
    early: RangeSet = field(default_factory=RangeSet)  # those of them that say the candles begin later


class Wanted:
    """Turns wants into jobs of one source and one store; `settle` and `recheck` are in milliseconds."""

    def __init__(
        self, source: Source, store: Store, progress: Progress, *, settle: int, recheck: int, repair: bool
    ) -> None:
        self.source = source
        self.store = store
        self.progress = progress
        self.settle = settle
        self.recheck = recheck
        self.repair = repair
        self._units_told: set[tuple[str, str]] = set()

    async def jobs(self, wants: Sequence[Want], now: int) -> list[Job]:
        """Every want with its range resolved; raises if there is none that can be started."""
        jobs = [await self._job(want, now) for want in wants]
        if not jobs:
            raise UsageError("nothing to fetch", hint="name a symbol, such as BTC/USDT")
        errors = [job.report.error for job in jobs]
        first = errors[0]
        if first is not None and all(isinstance(error, UsageError) for error in errors):
            raise first
        await self._tell_reach(jobs)
        return jobs

    async def _job(self, want: Want, now: int) -> Job:
        series, listed = want.series, want.since == "listing"
        begin: Beginning | None = None
        try:
            market = await self.source.known(series)
            if listed:
                begin = await self._beginning(series)
            span = await self._span(want, now, None if begin is None else begin.open)
            reach = await self.source.reach(series, now)
            volumes = await self.source.volumes(series)
        except (ExchangeError, UsageError) as error:
            return await self._refused(want, now, error)
        deeper = begin is not None and begin.deeper
        job = Job(series, span, SeriesReport(series, span), market.active, listed, deeper, reach)
        job.volumes, job.report.volume_unit = volumes, volumes.unit
        job.report.reach_asked = isinstance(want.since, int)
        self._tell_unit(series, volumes.unit)
        return job

    async def _beginning(self, series: SeriesId) -> Beginning:
        begin = await self.source.beginning(series)
        if begin is None:
            raise ExchangeError(
                f"{series} has no candle on {series.exchange} from which to begin",
                hint="give --since a date",
            )
        if begin.deeper:
            self.progress.note(
                series,
                f"older candles exist, but {series.exchange} gives none from before {iso(begin.open)}: beginning there",
            )
        return begin

    async def _tell_reach(self, jobs: Sequence[Job]) -> None:
        """Say what cannot be had, before anything is asked for: once for all series of which it is the same."""
        told: dict[tuple[str, str, int], list[tuple[SeriesId, int]]] = {}
        for job in jobs:
            if job.report.error is not None or job.reach is None:
                continue
            series, ledger = job.series, await self.ledger(job.series)
            gone = out_of_reach(job, ledger) - ledger.fact_ranges(State.OUT_OF_REACH)
            if gone:
                lost = sum(series.frame.count(part.since, part.until) for part in gone)
                told.setdefault((series.exchange, series.timeframe, job.reach), []).append((series, lost))
        for (exchange, timeframe, reach), found in told.items():
            many = f" candles of {len(found):,} series" if len(found) > 1 else ""
            self.progress.note(
                None if many else found[0][0],
                f"{exchange} gives no {timeframe} candle from before {iso(reach)}: {sum(lost for _, lost in found):,}{many} are"
                " out of reach",
            )

    def _tell_unit(self, series: SeriesId, unit: str) -> None:
        """Say once where volumes are not in the base currency, and cannot be put into it."""
        if unit != "base" and (series.exchange, unit) not in self._units_told:
            self._units_told.add((series.exchange, unit))
            what = "of unknown unit" if unit == "unknown" else f"in {unit}, not in the base currency"
            self.progress.note(series, f"volumes are {what}, as {series.exchange} gives them")

    async def _refused(self, want: Want, now: int, error: ExchangeError | UsageError) -> Job:
        """A job that cannot begin; where the exchange would not say anything, what was wanted is accounted for."""
        series, span = want.series, TimeRange(now, now)
        report = SeriesReport(series, span, error=error)
        if not isinstance(error, UsageError) and isinstance(want.since, int):
            until = now if want.until is None else min(want.until, now)
            report.span = aligned(series.frame, TimeRange(want.since, max(want.since, until)))
            ledger = dataclasses.replace(await self.ledger(series), clock=now, settle=self.settle)
            stored = (
                await aside(self.store, self.store.opens, series, report.span)
                if await aside(self.store, self.store.knows, series)
                else no_candles()["time"].to_physical().to_numpy()
            )
            report.counts = account(ledger, stored, RangeSet([report.span]), gaps=False).counts
        return Job(series, report.span, report)

    async def _span(self, want: Want, now: int, listed: int | None) -> TimeRange:
        """The range wanted, aligned; `listed` is where the candles begin, if that is wanted."""
        series = want.series
        until = now if want.until is None else min(want.until, now)
        since = want.since
        if since is None:
            asked = (await self.ledger(series)).asked
            if asked:
                since = min(asked.since, until)
            else:
                since = until - DEFAULT_HISTORY
                if not aligned(series.frame, TimeRange(since, until)):
                    since = series.frame.floor(since)  # a month or a year that began before
                self.progress.note(series, f"new here and no --since: taking 30 days, from {iso(since)}")
        elif since == "listing":
            since = until if listed is None else listed
        if since >= until:
            what = "in the future" if since >= now else "not before until"
            raise UsageError(
                f"since {iso(since)} is {what} {iso(now if since >= now else until)}",
                hint="ranges are half-open, [since, until), and until is at most the exchange's now",
            )
        span = aligned(series.frame, TimeRange(since, until))
        if not span:
            raise UsageError(
                f"no {series.timeframe} candle opens in [{iso(since)}, {iso(until)})",
                hint=f"candles of {series.timeframe} open at {iso(series.frame.floor(since))} and at"
                f" {iso(series.frame.next(series.frame.floor(since)))}",
            )
        return span

    async def ledger(self, series: SeriesId) -> Ledger:
        """What is known of a series; of a new one, nothing."""
        try:
            return await aside(self.store, self.store.ledger, series)
        except NoSuchSeries:
            return Ledger(series.frame)

    def left(self, job: Job, now: int, ledger: Ledger) -> RangeSet:
        """What of the job's span must be asked for."""
        if job.listed:
            ledger = dataclasses.replace(
                ledger,
                facts=tuple(f for f in ledger.facts if not is_early(f) or f.range.until <= job.span.since),
            )
        left = to_ask(
            ledger,
            job.span,
            now=now,
            settle=self.settle,
            recheck=self.recheck,
            active=job.active,
            repair=self.repair,
        )
        if not self.repair:
            return left
        frame = ledger.timeframe
        refused = RangeSet(TimeRange(frame.floor(q), frame.next(frame.floor(q))) for q in ledger.quarantined)
        return left | (refused & RangeSet([job.span]))


async def aside(store: Store, call: Callable[..., T], *given: Any) -> T:
    """A call to the store: in a thread if it may wait for a network, so that the event loop goes on, else at once."""
    return await asyncio.to_thread(call, *given) if store.remote else call(*given)


def out_of_reach(job: Job, ledger: Ledger) -> RangeSet:
    """What of the job's span is older than its exchange gives, and was never answered."""
    if job.reach is None or job.reach <= job.span.since:
        return RangeSet()
    return RangeSet.of(job.span.since, min(job.reach, job.span.until)) - ledger.answered_ranges


def by_reach(job: Job, ledger: Ledger) -> RangeSet:
    """What of the job's span is out of reach by nothing but the depth that the exchange's profile knew, and was never answered."""
    said = RangeSet(fact.range for fact in ledger.facts if is_beyond(job.series, fact))
    return (said & RangeSet([job.span])) - ledger.answered_ranges


def in_reach(job: Job, left: RangeSet) -> RangeSet:
    """What is left without what the exchange no longer gives."""
    if job.reach is None or not left:
        return left
    return left & RangeSet.of(job.reach, max(job.reach, left.until))


def is_early(fact: Fact) -> bool:
    """Whether a fact says that the candles begin after it."""
    return fact.state in (State.BEFORE_LISTING, State.OUT_OF_REACH)


def early(series: SeriesId, part: TimeRange, begin: Beginning, now: int) -> Fact:
    """That the candles begin after `part`: there were none, or the exchange does not give them."""
    if begin.deeper:
        reason = (
            f"the oldest candle of {series.symbol} that {series.exchange} gives opens at {iso(begin.open)}"
        )
        return Fact(part, State.OUT_OF_REACH, reason, now)
    return Fact(
        part, State.BEFORE_LISTING, f"the first candle of {series.symbol} opens at {iso(begin.open)}", now
    )
