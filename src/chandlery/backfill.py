"""Back-fill: what is asked for, minus what the ledger answers, fetched page by page and kept page by page.

Many series run side by side within the one budget of their exchange. Everything that arrived is in the store before
the next page counts, so a run may be ended at any moment and goes on where it stopped.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial

from chandlery.candle import CandlePage, SeriesId
from chandlery.errors import DataPipelineError, ExchangeError, SeriesLocked
from chandlery.ingest import Door
from chandlery.ledger import Fact, Ledger, State, settled_until, silent_end
from chandlery.report import (
    PlannedRange,
    PlanReport,
    Progress,
    RunReport,
    SeriesPlan,
    SeriesReport,
    Silent,
)
from chandlery.sources.base import Beginning, Source, beyond
from chandlery.stores.base import Ask, NoFact, Page, SeriesFact, Store, Written, pieces
from chandlery.timeframe import DAY
from chandlery.timerange import RangeSet, TimeRange
from chandlery.units import Units
from chandlery.validate import check_rows
from chandlery.walks import WALKS, parts_of
from chandlery.wanted import Job, Want, Wanted, aside, by_reach, early, in_reach, is_early, out_of_reach
from chandlery.when import iso

log = logging.getLogger("chandlery.backfill")

#: Slots from which on it is worth asking where a market begins.
SLOTS_WORTH_LISTING = 20_000
#: How often a run that waits for another writer of a series looks whether it may go on.
LOCK_TRY_SECONDS = 0.2
#: So many candles of a run must have changed since they were stored before that is told as a habit of the exchange.
REVISED = 3
#: Doubted slots so close together are asked for in one range: one answer of any exchange holds so many candles.
NEAR = 100


class Backfill:
    """Brings a store up to what is wanted of one source.

    `settle` is in seconds (None: what the source says), `recheck` in milliseconds. `repair` asks again for what is
    missing, quarantined or damaged even where it was answered before, or was before the listing, after the end or out
    of reach, and journals what comes as repair; `doubt_absent` asks for absent slots too.
    """

    def __init__(
        self,
        source: Source,
        store: Store,
        *,
        settle: float | None = None,
        recheck: int = DAY,
        wait_lock: bool = False,
        repair: bool = False,
        doubt_absent: bool = False,
        progress: Progress | None = None,
    ) -> None:
        self.source = source
        self.store = store
        self.settle = round((source.settle_seconds if settle is None else settle) * 1000)
        self.recheck = recheck
        self.wait_lock = wait_lock
        self.repair = repair
        self.doubt_absent = doubt_absent
        self.progress: Progress = progress or Silent()
        self._walks = asyncio.Semaphore(WALKS)
        self._filling = 1  # series under way
        self._units = Units(source, store)
        self._wanted = Wanted(
            source, store, self.progress, settle=self.settle, recheck=recheck, repair=repair
        )

    async def run(self, wants: Sequence[Want], *, now: int | None = None) -> RunReport:
        """Fetch and store what is missing of every want; a failure of one series is told in its report.

        `now` is the exchange's time in epoch ms, for callers that have just asked for it; None: it is asked for here.

        Raises the first UsageError if not one of them can be started, and ExchangeError if not even the exchange's
        time could be had: then nothing was written.
        """
        began = time.monotonic()
        before = dataclasses.replace(self.source.traffic)
        now = await self.source.now() if now is None else now
        jobs = await self._wanted.jobs(wants, now)
        door = Door(self.store)
        sound = [job for job in jobs if job.report.error is None]
        self._filling = max(1, len(sound))
        try:
            async with asyncio.TaskGroup() as group:
                for job in sound:
                    group.create_task(self._fill(job, now, door))
        finally:
            await asyncio.shield(door.close())
        self._tell_revised(sound)
        try:
            await asyncio.to_thread(self.store.still_there)
        except DataPipelineError as error:
            for job in jobs:
                job.report.error = job.report.error or error
        traffic = self.source.traffic
        return RunReport(
            seconds=time.monotonic() - began,
            requests=traffic.requests - before.requests,
            retries=traffic.retries - before.retries,
            weight=traffic.weight - before.weight,
            series=[job.report for job in jobs],
        )

    def _tell_revised(self, jobs: Sequence[Job]) -> None:
        """Say where several candles were stored before they were final: that is seen at the recheck only."""
        revised = sum(job.report.revised for job in jobs)
        if revised >= REVISED:
            exchange = self.source.exchange
            self.progress.note(
                None,
                f"{revised:,} candles have changed since they were stored (the old values are kept): {exchange} changes them later than"
                f" {self.settle / 1000:g} s after their end; wait longer with --settle, or learn how long with `chandlery probe {exchange}`",
            )

    async def plan(self, wants: Sequence[Want], *, now: int | None = None) -> PlanReport:
        """What `run` would ask for, without asking for a single candle or writing anything."""
        now = await self.source.now() if now is None else now
        plans: list[SeriesPlan] = []
        for job in await self._wanted.jobs(wants, now):
            ranges: list[PlannedRange] = []
            job.report.error = job.report.error or await self._units.clash(job.series, job.volumes)
            gone, pending = RangeSet(), 0
            if job.report.error is None:
                ledger = await self._wanted.ledger(job.series)
                gone = out_of_reach(job, ledger)
                closed = max(job.span.since, settled_until(job.series.frame, now, self.settle))
                pending = job.series.frame.count(min(closed, job.span.until), job.span.until)
                for part in in_reach(job, self._wanted.left(job, now, ledger)):
                    estimate = await self.source.estimate(job.series, part)
                    ranges.append(
                        PlannedRange(part, estimate.via, estimate.requests, estimate.weight, estimate.seconds)
                    )
            plans.append(SeriesPlan(job.series, job.span, ranges, job.report.error, list(gone), pending))
        return PlanReport(plans)

    # -- one series --------------------------------------------------------------------------------------------------

    async def _fill(self, job: Job, now: int, door: Door) -> None:
        """Do one job; whatever goes wrong with it stays with it."""
        for step in (partial(self._fetch, job, now, door), partial(self._account, job)):
            try:
                await step()
            except DataPipelineError as error:
                job.report.error = job.report.error or error
            except Exception as error:  # one broken series must not end the others
                log.exception("%s failed", job.series)
                job.report.error = job.report.error or DataPipelineError(
                    f"{job.series} failed: {type(error).__name__}: {error}",
                    hint="please report this with its traceback",
                )
        self._filling = max(1, self._filling - 1)
        self.progress.finished(job.report)

    async def _fetch(self, job: Job, now: int, door: Door) -> None:
        """Ask for what is left of the job's span, as the one writer of its series."""
        with ExitStack() as held:
            await self._lock(job.series, held)
            if self.wait_lock:
                now = await self.source.now()  # who wrote it meanwhile had a later clock
            known = await aside(self.store, self.store.knows, job.series)
            await self._units.agree(job.report, job.volumes, known=known, now=now, settle=self.settle)
            if self.repair:
                await asyncio.to_thread(self._forget_damage, job)
            await door.put(Ask(job.series, job.span, now, self.settle))
            ledger = await self._wanted.ledger(job.series)
            job.facts = RangeSet(f.range for f in ledger.facts)
            job.early = RangeSet(f.range for f in ledger.facts if is_early(f))
            if job.listed:
                await self._withdraw(job, job.early & RangeSet([job.span]), door)
            job.left = self._wanted.left(job, now, ledger)
            if self.doubt_absent:
                job.left |= await asyncio.to_thread(self._absent, job)
            await self._leave_out(job, ledger, now, door)
            frame = job.series.frame
            self.progress.started(job.series, sum(frame.count(r.since, r.until) for r in job.left))
            try:
                await self._walk_all(job, now, door)
                await self._heal(job, now, door)
                await self._remember_listing(job, ledger, now, door)
            except ExchangeError as error:
                if not known and not error.retryable:
                    await self._take_back(job.series)
                raise

    async def _take_back(self, series: SeriesId) -> None:
        """Unmake a series of which the exchange would give nothing at all, so that nobody is owed its candles."""
        ledger = await self._wanted.ledger(series)
        if not (ledger.answered or ledger.facts or ledger.quarantined):
            await asyncio.to_thread(self.store.remove, series)

    def _absent(self, job: Job) -> RangeSet:
        """The absent slots of the job's span, with what lies between those that one answer may hold."""
        frame = job.series.frame
        near: list[TimeRange] = []
        for gap in self.store.account(job.series, RangeSet([job.span])).gaps:
            if gap.state is not State.ABSENT:
                continue
            if near and frame.count(near[-1].until, gap.since) <= NEAR:
                near[-1] = TimeRange(near[-1].since, gap.until)
            else:
                near.append(TimeRange(gap.since, gap.until))
        return RangeSet(near)

    async def _leave_out(self, job: Job, ledger: Ledger, now: int, door: Door) -> None:
        """Ask for nothing that is older than the exchange gives, and note what of it was never answered, at no cost."""
        job.reach = await self.source.reach(job.series, now)
        if gone := out_of_reach(job, ledger):
            again = not self.repair and not gone - job.facts
            job.reach = await self.source.reach(job.series, now, check=True, again=again)
        # What was out of reach and no longer is, as a deeper reach or none at all says, is asked for again.
        job.left = in_reach(job, job.left | by_reach(job, ledger))
        for part in out_of_reach(job, ledger) - job.facts:
            reason = beyond(job.series, job.reach or 0)
            await door.put(SeriesFact(job.series, Fact(part, State.OUT_OF_REACH, reason, now)))

    async def _heal(self, job: Job, now: int, door: Door) -> None:
        """Ask again for what was called out of reach, where answers of this run showed that it is not."""
        if job.reach is None or await self.source.reach(job.series, now) is not None:
            return
        ledger = await self._wanted.ledger(job.series)
        job.reach, job.left = None, by_reach(job, ledger)
        job.facts = RangeSet(f.range for f in ledger.facts)
        await self._walk_all(job, now, door)

    @staticmethod
    async def _withdraw(job: Job, gone: RangeSet, door: Door) -> None:
        """Let go of facts that turned out not to hold (any longer)."""
        for part in gone & job.facts:
            await door.put(NoFact(job.series, part))

    async def _account(self, job: Job) -> None:
        """Count every slot of the job's span from what is stored now."""
        if await aside(self.store, self.store.knows, job.series):
            wanted = RangeSet([job.span])
            job.report.counts = (
                await asyncio.to_thread(self.store.account, job.series, wanted, gaps=False)
            ).counts
            if job.report.counts[State.MISSING] and job.report.error is None:
                await self._tell_silence(job)

    async def _tell_silence(self, job: Job) -> None:
        """Say where the candles of a market that trades have come to an end before now."""
        ledger = await self._wanted.ledger(job.series)
        gaps = (await asyncio.to_thread(self.store.account, job.series, RangeSet([job.span]))).gaps
        end = silent_end(ledger, gaps)
        if end is not None:
            last = iso(job.series.frame.add(end.since, -1))
            self.progress.note(
                job.series, f"no candle after {last}; the market is quiet or the exchange is late"
            )

    async def _lock(self, series: SeriesId, held: ExitStack) -> None:
        # Not in a thread: one that waits could not be ended, and the process with it.
        while True:
            try:
                held.enter_context(self.store.lock(series))
                return
            except SeriesLocked:
                if not self.wait_lock:
                    raise
            await asyncio.sleep(LOCK_TRY_SECONDS)

    def _forget_damage(self, job: Job) -> None:
        """Let go of what cannot be read any more or cannot be a candle, so that it is asked for again."""
        if not self.store.knows(job.series):
            return
        for problem in self.store.check(job.series):
            if problem.range is not None:
                self.store.forget(job.series, problem.range)
        frame = job.series.frame
        for piece in pieces(frame, job.span):
            candles = self.store.candles(job.series, piece)
            if candles.height:
                good = check_rows(candles, frame).good
                bad = candles.join(good, on="time", how="anti")["time"].to_physical()
                for part in RangeSet(
                    TimeRange(one, frame.next(one)) for one in bad if frame.floor(one) == one
                ):
                    self.store.forget(job.series, part)

    async def _walk_all(self, job: Job, now: int, door: Door) -> None:
        """Walk everything that is left, the long ranges in several walks side by side."""
        failed: list[DataPipelineError] = []

        async def walk(part: TimeRange) -> None:
            try:
                await self._walk(job, part, now, door)
            except DataPipelineError as error:
                failed.append(error)
            finally:
                self._walks.release()

        ranges = [
            (left, (await self.source.estimate(job.series, left)).requests)
            for left in await self._from_listing(job, now, door)
        ]
        async with asyncio.TaskGroup() as group:
            for left, pages in ranges:
                for part in parts_of(left, job.series.frame, pages, lambda: -(-WALKS // self._filling)):
                    await self._walks.acquire()  # series take turns
                    group.create_task(walk(part))
        if failed:
            raise failed[0]

    async def _from_listing(self, job: Job, now: int, door: Door) -> RangeSet:
        """What is left, without what lies before the listing: worth asking before years are walked."""
        left, frame = job.left, job.series.frame
        if not left or frame.count(left.since, left.until) < SLOTS_WORTH_LISTING:
            return left
        answered = (await self._wanted.ledger(job.series)).answered_ranges
        if answered and answered.since < left.since:
            return left  # there was something before
        if await self.source.has_candle(job.series, left.since):
            return left
        begin = await self.source.beginning(job.series)
        if begin is None or begin.open <= left.since:
            return left
        listed = begin.open
        await self._withdraw(job, job.early & RangeSet.of(listed, max(listed, job.span.until)), door)
        for part in left & RangeSet.of(left.since, listed):
            await door.put(SeriesFact(job.series, early(job.series, part, begin, now)))
            self.progress.advanced(job.series, frame.count(part.since, part.until))
        return left & RangeSet.of(listed, max(listed, left.until))

    @staticmethod
    async def _remember_listing(job: Job, ledger: Ledger, now: int, door: Door) -> None:
        """Note where the history begins, if that was asked for, so that verify knows it without the exchange."""
        begin, frame = job.span.since, job.series.frame
        before = TimeRange(frame.floor(begin - 1), begin)
        fact = early(job.series, before, Beginning(begin, job.deeper), now)
        if job.listed and RangeSet([before]) - ledger.fact_ranges(fact.state) - ledger.answered_ranges:
            await door.put(SeriesFact(job.series, fact))

    async def _walk(self, job: Job, part: TimeRange, now: int, door: Door) -> None:
        """One walk: the next page is on its way while the last one is being committed.

        Facts of earlier runs about its range hold on only where it says them again; if it breaks off, all of them do.
        """
        doubted = RangeSet([part])
        frame = job.series.frame
        committing: asyncio.Task[Written] | None = None
        pages = self.source.pages(job.series, part, now=now, settle=self.settle)
        try:
            async for found in pages:
                if committing is not None:
                    self._count(job.report, await committing)
                entry: SeriesFact | Page
                if isinstance(found, Fact):
                    entry = SeriesFact(job.series, dataclasses.replace(found, at=now))
                    doubted -= RangeSet([found.range])
                    if is_early(found):  # it says where the candles begin: they do not begin later
                        await self._withdraw(job, doubted & job.early, door)
                else:
                    entry = Page(found, repair=self.repair)
                committing = asyncio.create_task(door.put(entry))
                if isinstance(found, CandlePage):
                    job.report.fetched += found.candles.height
                    self.progress.advanced(
                        job.series, frame.count(found.answered.since, found.answered.until)
                    )
                else:
                    self.progress.advanced(job.series, frame.count(found.range.since, found.range.until))
        finally:
            if committing is not None:
                self._count(job.report, await committing)
        await self._withdraw(job, doubted, door)

    @staticmethod
    def _count(report: SeriesReport, written: Written) -> None:
        report.written += written.new + written.revised
        report.revised += written.revised


__all__ = ["Backfill", "PlanReport", "Progress", "RunReport", "SeriesReport", "State", "Want"]
