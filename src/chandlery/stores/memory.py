"""A store in memory: what every other store must behave like, written for plainness. It dies with the process."""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import polars as pl

from chandlery.candle import COLUMNS, VALUES, Rejected, SeriesId, no_candles
from chandlery.errors import SeriesLocked, StoreUnreadable
from chandlery.ledger import Ledger, State, account, with_answer
from chandlery.stores.base import (
    Ask,
    Entry,
    JournalEntry,
    Page,
    Problem,
    Quarantined,
    Revision,
    SeriesFact,
    SeriesSummary,
    Store,
    Written,
)
from chandlery.stores.rules import (
    after,
    columns_of,
    hull,
    journal_kind,
    listing_order,
    no_such_series,
    quarantined,
    without_answers,
)
from chandlery.timerange import RangeSet, TimeRange

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class _Kept:
    """All that is kept of one series; a change makes a new one, so that a reader's picture never moves."""

    ledger: Ledger
    candles: pl.DataFrame = field(default_factory=no_candles)
    revisions: tuple[Revision, ...] = ()
    quarantine: tuple[tuple[Rejected, int, str], ...] = ()  # row, at, source


class MemoryStore(Store):
    """Keeps everything in this process; `url` is "memory:"."""

    def __init__(self) -> None:
        self._kept: dict[SeriesId, _Kept] = {}
        self._journal: list[JournalEntry] = []
        self._writing = threading.RLock()
        self._locks: dict[SeriesId, threading.Lock] = {}
        self._closed = False
        self._identity = uuid.uuid4().hex
        self._marks: dict[str, int] = {}

    @property
    def url(self) -> str:
        """Always "memory:"."""
        return "memory:"

    @property
    def identity(self) -> str:
        """Made with the object."""
        return self._identity

    def mark(self, name: str) -> int:
        """The number set under that name."""
        self._open_kept()
        return self._marks.get(name, 0)

    def set_mark(self, name: str, value: int) -> None:
        """Remember a number under that name."""
        self._open_kept()
        self._marks[name] = value

    def write(self, entries: Sequence[Entry]) -> list[Written]:
        """Take entries in, all or none."""
        with self._writing:
            before = dict(self._open_kept())
            known = len(self._journal)
            try:
                return [self._take(entry) for entry in entries]
            except BaseException:
                self._kept = before
                del self._journal[known:]
                raise

    def _take(self, entry: Entry) -> Written:
        if isinstance(entry, Page):
            return self._take_page(entry)
        series = entry.series
        kept = self._kept.get(series) or _Kept(Ledger(series.frame))
        changed, news = after(kept.ledger, entry)
        if changed is None:
            return Written(None)
        self._kept[series] = replace(kept, ledger=changed)
        if not news:
            return Written(None)
        span = entry.fact.range if isinstance(entry, SeriesFact) else entry.range
        return Written(self._note(series, span, "ask" if isinstance(entry, Ask) else "fact", "", 0))

    def _take_page(self, entry: Page) -> Written:
        page, series = entry.page, entry.page.series
        columns_of(page)
        kept = self._kept.get(series) or _Kept(Ledger(series.frame))
        ledger = kept.ledger
        if page.answered:
            ledger = replace(ledger, answered=with_answer(ledger, page.answered, page.at))
        both = page.candles.join(kept.candles, on="time", how="left", suffix="_old", maintain_order="left")
        known = both.filter(pl.col("time").is_in(kept.candles["time"].implode()))
        same = pl.all_horizontal(
            *(
                pl.col(v).reinterpret(signed=True) == pl.col(f"{v}_old").reinterpret(signed=True)
                for v in VALUES
            )
        )
        changed = known.filter(~same)
        revisions = [
            Revision(
                series, time_ms, old=tuple(rest[5:]), new=tuple(rest[:5]), at=page.at, source=page.source
            )
            for time_ms, *rest in changed.with_columns(pl.col("time").to_physical()).iter_rows()
        ]
        candles = (
            pl.concat([kept.candles, page.candles]).unique("time", keep="last").sort("time").select(COLUMNS)
        )
        refused = list(kept.quarantine)
        for row in page.rejected:
            if all(row != old for old, _, _ in refused):
                refused.append((row, page.at, page.source))
        stored = set(candles["time"].to_physical())
        frame = ledger.timeframe
        ledger = replace(
            ledger,
            quarantined=tuple(
                sorted(
                    {
                        r.open
                        for r, _, _ in refused
                        if r.open is not None and frame.floor(r.open) not in stored
                    }
                )
            ),
        )
        answered = ledger.answered_ranges != kept.ledger.answered_ranges
        new, quarantined = page.candles.height - known.height, len(refused) - len(kept.quarantine)
        same_rows = known.height - len(revisions)
        changed_kept = replace(
            kept,
            ledger=ledger,
            candles=candles,
            revisions=(*kept.revisions, *revisions),
            quarantine=tuple(refused),
        )
        if not (new or revisions or quarantined or answered):
            if (
                series in self._kept
            ):  # an answer that only confirms moves its time, and is no news for the journal
                self._kept[series] = changed_kept
            return Written(None, same=same_rows)
        self._kept[series] = changed_kept
        kind = journal_kind(entry, new=new, revised=len(revisions))
        seq = self._note(series, page.answered, kind, page.source, new + len(revisions))
        return Written(seq, new, same_rows, len(revisions), quarantined)

    def _note(self, series: SeriesId, span: TimeRange, kind: str, source: str, rows: int) -> int:
        seq = len(self._journal) + 1
        now = time.time_ns() // 1_000_000
        self._journal.append(JournalEntry(seq, series, span, kind, now, source, rows))  # type: ignore[arg-type]
        return seq

    def forget(self, series: SeriesId, span: TimeRange) -> None:
        """Let go of the answers of `span`."""
        with self._writing:
            kept = self._get(series)
            ledger = without_answers(kept.ledger, RangeSet([span]))
            if ledger is not kept.ledger:
                self._kept[series] = replace(kept, ledger=ledger)
                self._note(series, span, "repair", "", 0)

    def remove(self, series: SeriesId) -> int:
        """Take a series out; its journal entries stay."""
        with self._writing:
            kept = self._get(series)
            rows = kept.candles.height
            del self._kept[series]
            self._note(series, hull(kept.ledger), "remove", "", rows)
            return rows

    @contextmanager
    def lock(self, series: SeriesId, *, wait: bool = False) -> Iterator[None]:
        """Be the one that writes this series; other users of this object are kept out."""
        with self._writing:
            self._open_kept()
            held = self._locks.setdefault(series, threading.Lock())
        if not held.acquire(blocking=wait):
            raise SeriesLocked(
                f"{series} is being written by process {os.getpid()}",
                hint="wait for it to end, or use --wait-lock",
                pid=os.getpid(),
            )
        try:
            yield
        finally:
            held.release()

    def series(self) -> list[SeriesSummary]:
        """All series kept, accounted for slot by slot."""
        kept = self._open_kept()
        order = sorted(kept, key=listing_order)
        return [_summary(series, kept[series]) for series in order]

    def ledger(self, series: SeriesId) -> Ledger:
        """The series' ledger."""
        return self._get(series).ledger

    def candles(self, series: SeriesId, span: TimeRange | None = None) -> pl.DataFrame:
        """Stored candles that open in `span`."""
        candles = self._get(series).candles
        if span is None:
            return candles
        opened = pl.col("time").to_physical()
        return candles.filter((opened >= span.since) & (opened < span.until))

    def opens(self, series: SeriesId, span: TimeRange | None = None) -> NDArray[np.int64]:
        """The open times of `candles`."""
        return self.candles(series, span)["time"].to_physical().to_numpy()

    def journal(self, after: int = 0, limit: int | None = None) -> Iterator[JournalEntry]:
        """Journal entries with a number above `after`."""
        self._open_kept()
        start = max(after, 0)
        return iter(self._journal[start : None if limit is None else start + limit])

    def revisions(self, series: SeriesId) -> list[Revision]:
        """Changed candles, oldest change first."""
        return list(self._get(series).revisions)

    def quarantine(self, series: SeriesId) -> list[Quarantined]:
        """Refused rows, oldest first."""
        kept = self._get(series)
        return quarantined(series, kept.ledger, kept.quarantine)

    def check(self, series: SeriesId) -> list[Problem]:
        """Nothing can rot here."""
        self._get(series)
        return []

    def close(self) -> None:
        """Let go of everything."""
        self._closed = True

    def _get(self, series: SeriesId) -> _Kept:
        kept = self._open_kept().get(series)
        if kept is None:
            raise no_such_series(series, self.url)
        return kept

    def _open_kept(self) -> dict[SeriesId, _Kept]:
        if self._closed:
            raise StoreUnreadable("the store memory: is closed", hint="open it again")
        return self._kept


def _summary(series: SeriesId, kept: _Kept) -> SeriesSummary:
    opens = kept.candles["time"].to_physical().to_numpy()
    counts = account(kept.ledger, opens, gaps=False).counts
    return SeriesSummary(
        series=series,
        first=int(opens[0]) if len(opens) else None,
        last=int(opens[-1]) if len(opens) else None,
        candles=len(opens),
        absent=counts[State.ABSENT],
        missing=counts[State.MISSING],
        clock=kept.ledger.clock,
    )
