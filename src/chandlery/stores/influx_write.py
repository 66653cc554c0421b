"""One commit into an InfluxDB store: what is there is read, rows go out and are counted back, then the events that answer.

A crash before the events costs a re-fetch of what was written, never a hole: the ledger claims only what was counted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from chandlery.candle import VALUES, Rejected, SeriesId
from chandlery.errors import DatabaseError
from chandlery.failpoints import failpoint
from chandlery.ledger import with_answer
from chandlery.stores.base import Ask, Entry, JournalKind, Page, SeriesFact, Written
from chandlery.stores.influx_events import (
    MARGIN,
    QUARANTINE,
    RAW_LIMIT,
    REVISIONS,
    Books,
    Refusal,
    answer_event,
    ask_event,
    fact_event,
    reach,
    refusal_text,
    reset_event,
    revision_text,
)
from chandlery.stores.influx_lines import Lines, SeriesTags, encode, key_of
from chandlery.stores.influx_notes import Notebook, Sink
from chandlery.stores.influx_tally import Tally, after_answer, put
from chandlery.stores.influx_weigh import Change, Rows, take_out, weighed
from chandlery.stores.rules import after, columns_of, journal_kind
from chandlery.timerange import RangeSet, TimeRange
from chandlery.when import iso

if TYPE_CHECKING:
    from numpy.typing import NDArray


#: Lines of one request.
BATCH = 5_000
#: Slots up to which answers that adjoin share one tally.
_TALLY_SLOTS = 1_000


class Commit:
    """One call of `InfluxStore.write`. `books` are those of its series, which only it changes meanwhile.

    Rows that are there are taken for stored only where the ledger vouches for them, and not where an earlier write of
    the `doubted` series failed: a server whose disk is full gives back what it refused, until it is started anew.
    """

    def __init__(
        self, sink: Sink, books: Mapping[SeriesId, Books], doubted: Collection[SeriesId] = ()
    ) -> None:
        self.sink = sink
        self._now = time.time_ns() // 1_000_000
        self._notes = Notebook(sink, books, self._now)
        self.books = self._notes.books
        self._doubted = frozenset(doubted)
        self._lost: dict[SeriesId, NDArray[np.int64]] = {}  # open times of rows that the server refused
        self._tags = self._notes.tags
        self._before: dict[SeriesId, Rows] = {}

    async def run(self, entries: Sequence[Entry]) -> list[Written]:
        """Do it; returns what each entry changed. `books` are then the new ones. Raises what went wrong first."""
        for entry in entries:
            self._check_kept(entry)
        pages = [entry for entry in entries if isinstance(entry, Page)]
        await self._read_before(pages)
        if pages:
            failpoint("influx.read")
        changes = self._weigh(pages)
        await self._write_rows(pages, changes)
        if pages:
            failpoint("influx.counted")
        async with self.sink.numbers() as take:
            ahead = iter(changes)
            written = [
                self._page(entry, next(ahead), take) if isinstance(entry, Page) else self._said(entry, take)
                for entry in entries
            ]
            await self._notes.send()
        failpoint("influx.noted")
        return written

    def _check_kept(self, entry: Entry) -> None:
        """Refuse what the bucket would forget at once."""
        horizon = self.sink.retention.horizon(self._now)
        if isinstance(entry, Ask):
            old = RangeSet([entry.range]) & RangeSet.of(min(entry.range.since, horizon), horizon)
            if not old - self.books[entry.series].ledger.asked:
                return
            first, series = entry.range.since, entry.series
        elif isinstance(entry, Page) and entry.page.candles.height:
            first, series = int(columns_of(entry.page)[0][0]), entry.page.series
        else:
            return
        if first < horizon:
            kept = series.frame.next(series.frame.floor(horizon + MARGIN))
            raise DatabaseError(
                f"{series}: the bucket keeps only what is younger than {iso(horizon)}; candles from {iso(first)} "
                "would vanish",
                hint=f"fetch with --since {iso(kept)} or later, or give the bucket a longer retention",
            )

    # -- rows --------------------------------------------------------------------------------------------------------

    async def _read_before(self, pages: Sequence[Page]) -> None:
        """The rows that are there already where the pages answer, whoever wrote them."""
        wanted: dict[SeriesId, list[TimeRange]] = {}
        for entry in pages:
            page, frame = entry.page, entry.page.series.frame
            spans = wanted.setdefault(page.series, [])
            spans.append(page.answered)
            spans += [
                _slot(frame.floor(row.open), frame.next) for row in page.rejected if row.open is not None
            ]
        for series, spans in wanted.items():
            merged = [span for span in RangeSet(spans) if span]
            found = await self.sink.reader.candles(self._tags[series], merged)
            answered = self.books[series].ledger.answered_ranges & RangeSet(merged)
            if not found.height and answered and self.sink.reader.doubt():
                # Nothing where an answer is: has somebody led the questions to another bucket since they were proven?
                found = await self.sink.reader.candles(self._tags[series], merged)
            self._before[series] = Rows.of(found)

    def _weigh(self, pages: Sequence[Page]) -> list[Change]:
        """Each page against what is there and what the pages before it bring."""
        changes: list[Change] = []
        brought: dict[SeriesId, list[tuple[TimeRange, Rows]]] = {}
        for entry in pages:
            page = entry.page
            times, values = columns_of(page)
            rows = Rows(times, values)
            earlier = brought.setdefault(page.series, [])
            known = self._before[page.series].within(page.answered)
            over = [
                r
                for span, r in earlier
                if span.since < page.answered.until and page.answered.since < span.until
            ]
            if over:
                known = Rows.latest([known, *over])
            change = weighed(entry, rows, known)
            change.again &= self._unsaid(page.series, rows.times)
            changes.append(change)
            earlier.append((page.answered, rows))
        return changes

    def _unsaid(self, series: SeriesId, times: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of the open times the ledger does not vouch for."""
        unsaid = np.ones(len(times), dtype=bool)
        if series not in self._doubted and len(times):
            span = RangeSet.of(int(times[0]), int(times[-1]) + 1)
            for part in self.books[series].ledger.answered_ranges & span:
                unsaid &= (times < part.since) | (times >= part.until)
        return unsaid

    async def _write_rows(self, pages: Sequence[Page], changes: Sequence[Change]) -> None:
        """Revisions first, so that no old value is lost, then what is new or changed; then count it back."""
        for change in changes:
            for revision in change.revisions:
                self._notes.note(REVISIONS, revision.series, revision.open, partial(revision_text, revision))
        await self._notes.send()
        failpoint("influx.revised")
        sent: dict[SeriesId, Rows] = {}
        for series in dict.fromkeys(entry.page.series for entry in pages):
            parts = [
                Rows(c.rows.times[c.sent], c.rows.values[:, c.sent])
                for entry, c in zip(pages, changes, strict=True)
                if entry.page.series == series
            ]
            rows = Rows.latest(parts)
            if len(rows.times):
                sent[series] = rows
        if not sent:
            return
        refused = await self.sink.sender.send(self._row_lines(sent))
        failpoint("influx.rows")
        names = {key_of(self._tags[series]).encode(): series for series in sent}
        lost: dict[SeriesId, dict[int, Rejected]] = {}
        for one in refused:
            if one.kind == "retention":
                raise DatabaseError(
                    f"InfluxDB dropped a candle for its age: {one.reason}",
                    hint="the bucket's retention is shorter than what is asked for: fetch with a later --since",
                )
            key, _, rest = (
                one.line.partition(b" open=") if b" open=" in one.line else one.line.partition(b" ")
            )
            opened = int(rest.rsplit(b" ", 1)[1])
            raw = one.line.decode("utf-8", "replace")
            lost.setdefault(names[key], {})[opened] = Rejected(opened, raw, f"InfluxDB: {one.reason}"[:1000])
        for entry, change in zip(pages, changes, strict=True):
            take_out(change, lost.get(entry.page.series, {}))
        self._lost = {series: np.array(sorted(opens), dtype=np.int64) for series, opens in lost.items()}
        await self._count_back(sent, lost)
        await self._read_back(changes, sent)

    def _row_lines(self, sent: Mapping[SeriesId, Rows]) -> Iterator[Lines]:
        for series, rows in sorted(sent.items(), key=lambda one: key_of(self._tags[one[0]])):
            frame = pl.DataFrame(
                {"time": rows.times, **dict(zip(VALUES, rows.values, strict=True))}
            ).with_columns(pl.col("time").cast(pl.Datetime("ms", "UTC")))
            for part in frame.iter_slices(BATCH):
                yield encode(self._tags[series], part)

    async def _count_back(
        self, sent: Mapping[SeriesId, Rows], lost: Mapping[SeriesId, Mapping[int, Rejected]]
    ) -> None:
        """Ask the server how many rows it has where we wrote: what is acknowledged and not there is sent once more."""
        for attempt in (1, 2):
            asks, wanted = [], []
            for series, rows in sent.items():
                span = TimeRange(int(rows.times[0]), int(rows.times[-1]) + 1)
                gone = np.array(sorted(lost.get(series, ())), dtype=np.int64)
                there = np.union1d(self._before[series].within(span).times, rows.times)
                asks += [(self._tags[series], span)]
                wanted += [len(np.setdiff1d(there, gone))]
            counted = await self._counted(asks, wanted)
            short = [n for n, (have, want) in enumerate(zip(counted, wanted, strict=True)) if have < want]
            if not short:
                return
            if attempt == 1:
                again = {series: sent[series] for n, series in enumerate(sent) if n in short}
                await self.sink.sender.send(self._row_lines(again))
        tags, span = asks[short[0]]
        raise DatabaseError(
            f"InfluxDB acknowledged {wanted[short[0]]:,} candles of {tags.exchange} {tags.symbol} {tags.timeframe} from "
            f"{iso(span.since)} on and gives back {counted[short[0]]:,}",
            hint="its log says more; run again: nothing is counted as stored that is not there",
        )

    async def _read_back(self, changes: Sequence[Change], sent: Mapping[SeriesId, Rows]) -> None:
        """Read changed candles back: their number says nothing, for the old ones are as many."""
        changed: dict[SeriesId, list[NDArray[np.int64]]] = {}
        for change in changes:
            if change.revised.any():
                changed.setdefault(change.series, []).append(change.rows.times[change.revised])
        for series, parts in changed.items():
            times = np.unique(np.concatenate(parts))
            wanted = sent[series].at(times)
            span = TimeRange(int(times[0]), int(times[-1]) + 1)
            for attempt in (1, 2):
                found = Rows.of(await self.sink.reader.candles(self._tags[series], [span]))
                if found.at(times).equals(wanted):
                    break
                if attempt == 2:
                    raise DatabaseError(
                        f"InfluxDB acknowledged changed candles of {series} from {iso(span.since)} on and gives others back",
                        hint="its log says more; run again: nothing is counted as stored that is not there",
                    )
                await self.sink.sender.send(self._row_lines({series: wanted}))

    async def _counted(
        self, asks: Sequence[tuple[SeriesTags, TimeRange]], wanted: Sequence[int]
    ) -> list[int]:
        """How many whole candles there are. Closes are counted, and whole candles where there are more or fewer of them
        than there should be: another program may have written a close alone.
        """
        counted = await self.sink.reader.counts(asks, whole=False)
        other = [n for n, (have, want) in enumerate(zip(counted, wanted, strict=True)) if have != want]
        exact = await self.sink.reader.counts([asks[n] for n in other]) if other else []
        for n, count in zip(other, exact, strict=True):
            counted[n] = count
        return counted

    # -- what is noted -----------------------------------------------------------------------------------------------

    def _page(self, entry: Page, change: Change, take: Callable[[], int]) -> Written:
        page, series = entry.page, entry.page.series
        books = self._adopted(self.books[series])
        ledger = books.ledger
        if page.answered:
            ledger = replace(ledger, answered=with_answer(ledger, page.answered, page.at))
        known = {row for row, _, _ in books.refused}
        fresh: list[Refusal] = []
        for row in (*map(_cut, page.rejected), *change.refused):
            if row not in known:
                known.add(row)
                fresh.append((row, page.at, page.source))
        ledger = replace(ledger, quarantined=self._quarantined(books, page.series, change, fresh))
        tallies, vouched = self._tallies(books, page.answered, change)
        new, revised = int(change.new.sum()), int(change.revised.sum())
        answered = ledger.answered_ranges != books.ledger.answered_ranges
        if not (new or revised or fresh or answered):
            if books.kept and (ledger.answered != books.ledger.answered or tallies != books.tallies):
                self._notes.event(series, answer_event(page.answered, page.at, vouched))
            self.books[series] = replace(self.books[series], ledger=ledger, tallies=tallies)
            return Written(None, same=change.same)
        for refusal in fresh:
            opened = page.answered.since if refusal[0].open is None else refusal[0].open
            opened = max(opened, self.sink.retention.horizon(self._now + MARGIN))  # or it would not be kept
            self._notes.note(QUARANTINE, series, opened, partial(refusal_text, refusal, series))
        kind = journal_kind(entry, new=new, revised=revised)
        told = self._notes.journal(series, page.answered, kind, take, page.source, new + revised)
        event = answer_event(page.answered, page.at, vouched)
        self._notes.event(series, replace(event, journal=told))
        self.books[series] = replace(
            self.books[series],
            ledger=ledger,
            kept=True,
            tallies=tallies,
            refused=(*books.refused, *fresh),
            revisions=(*books.revisions, *change.revisions),
        )
        return Written(told.seq, new, change.same, revised, len(fresh))

    def _tallies(
        self, books: Books, answered: TimeRange, change: Change
    ) -> tuple[tuple[Tally, ...], list[Tally]]:
        """How many rows the ledger vouches for after a page, and which of that is said anew."""
        series = books.series
        refused = np.array([row.open for row in change.refused if row.open is not None], dtype=np.int64)
        if not answered:
            return books.tallies, []
        before = np.setdiff1d(change.known, self._lost.get(series, refused), assume_unique=True)
        there = np.union1d(before, np.setdiff1d(change.rows.times, refused, assume_unique=True))
        retention = self.sink.retention
        longest = 0 if retention.keep else _TALLY_SLOTS * series.frame.nominal_ms
        parts = retention.cut(answered, self._now)
        vouched = after_answer(books.tallies, parts, before, there, longest)
        return put(books.tallies, answered, vouched), vouched

    def _quarantined(
        self, books: Books, series: SeriesId, change: Change, fresh: Iterable[Refusal]
    ) -> tuple[int, ...]:
        """Open times in quarantine that no stored candle has taken the slot of."""
        refused = {row.open for row, _, _ in fresh if row.open is not None} | set(books.ledger.quarantined)
        if not refused:
            return ()
        stored = set(self._before[series].times.tolist()) | set(change.rows.times.tolist())
        stored -= {row.open for row in change.refused if row.open is not None}
        return tuple(sorted(one for one in refused if series.frame.floor(one) not in stored))

    def _said(self, entry: Entry, take: Callable[[], int]) -> Written:
        """An ask, a fact, or the end of one."""
        assert not isinstance(entry, Page)
        series = entry.series
        books = self.books[series]
        changed, news = after(books.ledger, entry)
        if changed is None:
            return Written(None)
        self._adopted(books)
        if isinstance(entry, SeriesFact):
            span, event = entry.fact.range, fact_event(entry.fact)
        elif isinstance(entry, Ask):
            span, event = entry.range, ask_event(changed, entry.range)
        else:
            span, event = entry.range, reset_event(changed, entry.range, answers=False, facts=True)
        kind: JournalKind = "ask" if isinstance(entry, Ask) else "fact"
        told = self._notes.journal(series, span, kind, take) if news else None
        if changed.answered != books.ledger.answered or (
            isinstance(entry, Ask) and changed.facts != books.ledger.facts
        ):
            # A clock that went back takes answers with it: from now on just these hold.
            self._notes.event(
                series,
                reset_event(changed, _both(reach(books.ledger), reach(changed)), answers=True, facts=True),
            )
        self._notes.event(series, replace(event, journal=told))
        self.books[series] = replace(self.books[series], ledger=changed, kept=True)
        return Written(None if told is None else told.seq)

    def _adopted(self, books: Books) -> Books:
        """Note a series of rows that somebody else wrote as asked for, before anything else is noted of it."""
        if not books.adopted:
            return books
        self._notes.event(books.series, ask_event(books.ledger, reach(books.ledger)))
        self.books[books.series] = replace(self.books[books.series], adopted=False)
        return self.books[books.series]


def _cut(row: Rejected) -> Rejected:
    return row if len(row.raw) <= RAW_LIMIT else replace(row, raw=row.raw[:RAW_LIMIT] + "…")


def _slot(opened: int, following: Callable[[int], int]) -> TimeRange:
    return TimeRange(opened, following(opened))


def _both(one: TimeRange, other: TimeRange) -> TimeRange:
    whole = RangeSet([one, other])
    return TimeRange(whole.since, whole.until) if whole else one
