"""The InfluxDB 2 store: candles in one measurement of one bucket, everything else in measurements of our own beside it.

Rows are written, counted back, and only then said to be answered; what is stored is always counted from rows. Writers
of one series are kept apart on each host by kernel locks in the user's state folder; keep one host to a series.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from chandlery.candle import SeriesId, no_candles
from chandlery.errors import StoreUnreadable
from chandlery.ledger import Ledger, State, account
from chandlery.state import state_folder
from chandlery.stores.base import (
    Entry,
    JournalEntry,
    JournalKind,
    Page,
    Problem,
    Quarantined,
    Revision,
    SeriesSummary,
    Store,
    Written,
)
from chandlery.stores.influx_admin import Bucket
from chandlery.stores.influx_books import check_apart, read_all, read_books, read_journal, without_lost
from chandlery.stores.influx_check import preflight, raise_failure
from chandlery.stores.influx_delete import check_deletable, delete_rows
from chandlery.stores.influx_events import MARGIN, MARKS, Books, Event, Retention, reach, reset_event
from chandlery.stores.influx_foreign import foreign_rows
from chandlery.stores.influx_http import InfluxHttp, failed
from chandlery.stores.influx_lines import Lines, SeriesTags, key_of_point, named, tags_of, text_line
from chandlery.stores.influx_long import LongCandles
from chandlery.stores.influx_notes import Notebook, Sink
from chandlery.stores.influx_numbers import Numbers
from chandlery.stores.influx_read import EVER, Found, Reader
from chandlery.stores.influx_send import Sender
from chandlery.stores.influx_tally import Tally, lost_rows, outside, put
from chandlery.stores.influx_write import Commit
from chandlery.stores.rules import (
    columns_of,
    hull,
    listing_order,
    no_such_series,
    quarantined,
    without_answers,
)
from chandlery.timerange import RangeSet, TimeRange

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import polars as pl
    from numpy.typing import NDArray

    from chandlery.stores.influx_place import InfluxPlace


class InfluxStore(Store):
    """One bucket of an InfluxDB 2. `folder` is where locks and numbers of this host are kept (None: the state folder).

    Opening asks the server whether it is there and may be read; whether it may be written is asked before the first
    write. Raises NoSuchStore, StoreUnreadable or DatabaseError where it cannot be used, with the mend.
    """

    atomic = False
    remote = True

    def __init__(self, place: InfluxPlace, *, folder: Path | None = None) -> None:
        self.place = place
        self._http = InfluxHttp(place)
        self._reader = Reader(self._http)
        self._books: dict[SeriesId, Books] = {}  # of the series whose locks this object holds
        self._held: set[SeriesId] = set()
        self._doubted: set[SeriesId] = set()  # of which the last write failed
        self._turns: dict[SeriesTags, threading.RLock] = {}
        self._guard = threading.Lock()
        self._checked_for_writing = False
        try:
            found = self._http.run(preflight(self._http, write=False))
            # A field of another type somewhere keeps nobody from reading what is stored; writing asks for it again.
            raise_failure([one for one in found if one.name != "fields"])
            self._bucket: Bucket = self._http.run(self._described())
        except BaseException:
            self._http.close()
            raise
        self._retention = Retention(self._bucket.retention * 1000, self._bucket.shard * 1000)
        # By the bucket's own id: a server has several addresses, and its buckets one set of locks and numbers.
        self._numbers = Numbers((folder or state_folder()) / "influxdb" / self._bucket.id, self._reader)
        self._long = LongCandles(self, self._http, self._reader, self._numbers)

    async def _described(self) -> Bucket:
        place = self.place
        answer = await self._http.ask(
            "GET", "/api/v2/buckets", params={"org": place.org, "name": place.bucket}
        )
        found = answer.json().get("buckets") if answer.status == 200 else None
        if not found:
            raise failed(place, answer)
        return Bucket.of(found[0])

    @property
    def url(self) -> str:
        """`influxdb://HOST:PORT/ORG/BUCKET`."""
        return self.place.url

    @property
    def identity(self) -> str:
        """The bucket's own id: it dies with the bucket."""
        return self._bucket.id

    def mark(self, name: str) -> int:
        """The number last set under that name."""
        newest = self._http.run(self._reader.newest(MARKS, {"name": name}, "value"))
        return 0 if newest is None else newest[1]

    def set_mark(self, name: str, value: int) -> None:
        """Remember a number under a name; a bucket that forgets remembers it as long as a candle."""
        self._check_for_writing()
        newest = self._http.run(self._reader.newest(MARKS, {"name": name}, "value"))
        stamp = max(time.time_ns(), 0 if newest is None else newest[0] + 1)
        line = text_line(key_of_point(MARKS, {"name": name}), {"value": value}, stamp)
        if self._http.run(Sender(self._http).send([Lines.of([line])], precision="ns")):
            raise StoreUnreadable(
                f"{self.url} refuses a mark", hint="does another program write into chandlery_marks?"
            )

    # -- write side --------------------------------------------------------------------------------------------------

    def write(self, entries: Sequence[Entry]) -> list[Written]:
        """Take entries in: rows, their count, the ledger. An error leaves at most rows that nothing is said about."""
        self._http.check_open()
        for entry in entries:
            if isinstance(entry, Page):
                columns_of(entry.page)
        named = [entry.page.series if isinstance(entry, Page) else entry.series for entry in entries]
        if not named:
            return []
        check_apart(named)
        with self._in_turn(named):
            self._check_for_writing()
            written = self._commit(entries, named)
        for series, one in zip(named, written, strict=True):
            if one.seq is not None:
                self._long.touched(series)
        return written

    def _commit(self, entries: Sequence[Entry], named: Sequence[SeriesId]) -> list[Written]:
        doubted = self._doubted.intersection(named)
        try:
            commit = Commit(self._sink(), self._http.run(self._books_of(named)), doubted)
            written = self._http.run(commit.run(entries))
        except BaseException:
            self._doubted.update(named)
            for series in named:  # nobody knows what of it was noted
                self._books.pop(series, None)
            raise
        self._doubted.difference_update(named)
        self._keep(commit.books)
        return written

    async def _books_of(self, named: Sequence[SeriesId]) -> dict[SeriesId, Books]:
        found = {series: self._books[series] for series in named if series in self._books}
        asked = [series for series in dict.fromkeys(named) if series not in found]
        read = await asyncio.gather(*(self._read_books(series) for series in asked))
        return found | dict(zip(asked, read, strict=True))

    async def _read_books(self, series: SeriesId) -> Books:
        books = await read_books(self._reader, series, self._oldest)
        return await without_lost(self._reader, books, self._horizon)

    @property
    def _horizon(self) -> int:
        return self._retention.horizon(time.time_ns() // 1_000_000)

    @property
    def _oldest(self) -> int:
        """The first open time that the bucket will still have when what is asked for now has come."""
        return self._retention.horizon(time.time_ns() // 1_000_000 + MARGIN)

    def _keep(self, books: dict[SeriesId, Books]) -> None:
        """Remember the books of series that nobody else may write now."""
        self._books.update((series, one) for series, one in books.items() if series in self._held)

    def _sink(self) -> Sink:
        return Sink(
            self._reader, Sender(self._http), self._retention, self._numbers.writer, self._numbers.taking
        )

    def _check_for_writing(self) -> None:
        if not self._checked_for_writing:
            raise_failure(self._http.run(preflight(self._http, write=True)), opened=True)
            self._checked_for_writing = True

    def seal(self, series: SeriesId | None = None, *, everything: bool = False) -> int:
        """Make long candles anew where their minutes changed, in a bucket that has any (see `influx_long`).

        Returns how many were written; there is nothing else to seal.
        """
        self._http.check_open()
        return self._long.catch_up(always=everything)

    def forget(self, series: SeriesId, span: TimeRange) -> None:
        """Let go of the answers of `span`; what rows there are is counted anew."""
        with self._in_turn([series]):
            books = self._kept(series)
            ledger = without_answers(books.ledger, RangeSet([span]))
            if ledger is not books.ledger:
                left = outside(books.tallies, span)
                counts = self._http.run(self._reader.counts([(tags_of(series), part) for part in left]))
                vouched = [Tally(p.since, p.until, rows) for p, rows in zip(left, counts, strict=True)]
                event = reset_event(ledger, span, answers=True, facts=False)
                event = replace(event, details={**event.details, "tally": vouched})
                changed = replace(
                    books, ledger=ledger, tallies=put(books.tallies, span, vouched), adopted=False
                )
                self._alone(changed, event, span, "repair", 0)

    def remove(self, series: SeriesId) -> int:
        """Take a series out: first its ledger, then its rows, so that nothing is ever taken for absent."""
        with self._in_turn([series]):
            self._check_for_writing()
            books = self._kept(series)
            tags = tags_of(series)
            self._http.run(check_deletable(self._http, tags.measurement, named(tags), EVER))
            rows = self._http.run(self._reader.counts([(tags, EVER)]))[0]
            event = Event("remove", reach(books.ledger), {})
            empty = Books(series, Ledger(series.frame), number=books.number)
            self._alone(empty, event, hull(books.ledger), "remove", rows)
            self._books.pop(series, None)
            self._http.run(delete_rows(self._http, tags.measurement, named(tags), EVER))
            return rows

    def _alone(self, books: Books, event: Event, span: TimeRange, kind: JournalKind, rows: int) -> None:
        """Write one event, and keep the books that it leads to."""
        self._check_for_writing()
        series = books.series
        notes = Notebook(self._sink(), {series: books}, time.time_ns() // 1_000_000)

        async def send() -> None:
            async with self._numbers.taking() as take:
                told = notes.journal(series, span, kind, take, rows=rows)
                notes.event(series, replace(event, journal=told))
                await notes.send()

        self._http.run(send())
        self._keep(notes.books)

    @contextmanager
    def lock(self, series: SeriesId, *, wait: bool = False) -> Iterator[None]:
        """Be the one process of this host that writes the series."""
        self._http.check_open()
        with self._numbers.locked(series, wait=wait):
            self._books.pop(series, None)  # another may have written it
            self._held.add(series)
            try:
                yield
            finally:
                self._held.discard(series)
                self._books.pop(series, None)

    @contextmanager
    def _in_turn(self, named: Sequence[SeriesId]) -> Iterator[None]:
        """One thread after another for each series: a reader never sees half a commit of this object."""
        with ExitStack() as stack:
            for tags in sorted({tags_of(series) for series in named}):
                stack.enter_context(self._turn(tags))
            yield

    def _turn(self, tags: SeriesTags) -> AbstractContextManager[Any]:
        with self._guard:
            return self._turns.setdefault(tags, threading.RLock())

    # -- read side ---------------------------------------------------------------------------------------------------

    def series(self) -> list[SeriesSummary]:
        """All series kept; rows are counted by the server, and read where counting them cannot tell."""
        kept, rows = self._http.run(read_all(self._reader, self._oldest))
        order = sorted(kept, key=lambda books: listing_order(books.series))
        return [self._summary(books, rows.get(tags_of(books.series))) for books in order]

    def _summary(self, books: Books, found: Found | None) -> SeriesSummary:
        if found is None or found.rows < books.total:
            books = self._http.run(without_lost(self._reader, books, self._horizon))
        counts = self._counts(books, found)
        return SeriesSummary(
            series=books.series,
            first=None if found is None else found.first,
            last=None if found is None else found.last,
            candles=0 if found is None else found.rows,
            absent=counts[State.ABSENT],
            missing=counts[State.MISSING],
            clock=books.ledger.clock,
        )

    def _counts(self, books: Books, found: Found | None) -> dict[State, int]:
        import numpy as np

        ledger, nothing = books.ledger, np.empty(0, dtype=np.int64)
        empty = account(ledger, nothing, gaps=False)
        if found is None:
            return empty.counts
        spans = [
            part
            for part in ledger.answered_ranges & ledger.asked
            if found.first in part and found.last in part
        ]
        if spans and not ledger.quarantined and found.rows == books.total:
            # All rows lie where one answer covers them: each takes the place of an absent slot.
            return {**empty.counts, State.ABSENT: empty.counts[State.ABSENT] - found.rows}
        opens = self._http.run(self._reader.opens(tags_of(books.series), [EVER]))
        return account(ledger, opens, gaps=False).counts

    def ledger(self, series: SeriesId) -> Ledger:
        """The series' ledger."""
        return self._kept(series).ledger

    def candles(self, series: SeriesId, span: TimeRange | None = None) -> pl.DataFrame:
        """Stored candles that open in `span`."""
        with self._turn(tags_of(series)):
            found = self._http.run(self._reader.candles(tags_of(series), [EVER if span is None else span]))
        if not found.height:
            self._kept(series)
            return no_candles()
        return found

    def opens(self, series: SeriesId, span: TimeRange | None = None) -> NDArray[np.int64]:
        """The open times of `candles`."""
        with self._turn(tags_of(series)):
            found = self._http.run(self._reader.opens(tags_of(series), [EVER if span is None else span]))
        if not len(found):
            self._kept(series)
        return found

    def journal(self, after: int = 0, limit: int | None = None) -> Iterator[JournalEntry]:
        """Journal entries with a number above `after`."""
        entries = self._http.run(read_journal(self._reader, max(after, 0)))
        return iter(entries if limit is None else entries[:limit])

    def revisions(self, series: SeriesId) -> list[Revision]:
        """Changed candles, oldest change first."""
        return list(self._kept(series).revisions)

    def quarantine(self, series: SeriesId) -> list[Quarantined]:
        """Refused rows, oldest first."""
        books = self._kept(series)
        return quarantined(series, books.ledger, books.refused)

    def check(self, series: SeriesId) -> list[Problem]:
        """Count the rows of each range against what was written, and look for candles that are not whole."""
        self._kept(series)
        tags = tags_of(series)
        books = self._http.run(read_books(self._reader, series, self._oldest))
        problems = foreign_rows(series, books.ledger.asked, self._http.run(self._reader.faulty(tags, [EVER])))
        horizon = self._horizon
        vouched = [one for one in books.tallies if one.since >= horizon]
        opens = self._http.run(self._reader.opens(tags, [EVER]))
        return problems + lost_rows(series, vouched, opens)

    def still_there(self) -> None:
        """Raise StoreUnreadable if the bucket was deleted meanwhile, or another one has its name now."""
        if self._http.run(self._described()).id != self._bucket.id:
            raise StoreUnreadable(
                f"{self.url} is another bucket now: the one that was written to was deleted",
                hint="run again: what is missing there is fetched anew",
            )

    def close(self) -> None:
        """Let go of connections."""
        self._http.close()

    def _kept(self, series: SeriesId) -> Books:
        """The books of a series that is kept; raises NoSuchSeries."""
        self._http.check_open()
        books = self._books.get(series)
        if books is None:
            with self._turn(tags_of(series)):
                books = self._http.run(self._read_books(series))
        if not books.kept:
            raise no_such_series(series, self.url)
        return books
