"""Taking entries in: each becomes changes to a series' row, ledger and staged blocks, written together at the end."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from chandlery.candle import Rejected, SeriesId
from chandlery.ledger import Ledger, settled_until, with_answer
from chandlery.stores.base import Ask, Entry, Page, Revision, SeriesFact, Written
from chandlery.stores.embedded_blob import Block, empty, overlay, pack, unpack
from chandlery.stores.embedded_read import Decoded, Stale, corrupt, load_block, picture
from chandlery.stores.embedded_rows import (
    SeriesRow,
    add_series,
    find_series,
    set_loose,
    staged,
    update_ledgers,
    update_series,
)
from chandlery.stores.rules import absent_and_missing, after, columns_of, journal_kind, within
from chandlery.timerange import RangeSet, TimeRange

if TYPE_CHECKING:
    import apsw
    from numpy.typing import NDArray

#: A staged block of fewer candles is small, and so many small ones of a partition are joined.
SMALL, MANY = 64, 256


@dataclass(slots=True)
class _Fresh:
    """A page compared with what is stored: rows to stage (new and revised), and counts."""

    stage: Block
    new: int
    same: int
    revisions: list[Revision]
    new_times: NDArray[np.int64]
    stored: frozenset[int]  # slots of refused rows that hold a candle


class Transaction:
    """One commit in the making. `known` are the series as this object's last commit left them.

    `alone` says that nobody else has written the store since.
    """

    def __init__(
        self,
        db: apsw.Connection,
        folder: Path,
        known: dict[SeriesId, SeriesRow],
        decoded: Decoded,
        *,
        alone: bool,
    ) -> None:
        self._db = db
        self._folder = folder
        self._known = known
        self._alone = alone
        self._decoded = decoded
        self._before: dict[SeriesId, Ledger] = {}
        self._staged: list[tuple[object, ...]] = []
        self._journal: list[tuple[object, ...]] = []
        self._checked: set[SeriesId] = set()
        self._seq: int = db.execute("SELECT coalesce(max(seq), 0) FROM journal").get
        self._id: int = db.execute("SELECT coalesce(max(id), 0) FROM staged").get
        self._now = time.time_ns() // 1_000_000
        #: Series and partitions that candles were staged in, or that an answer may have completed.
        self.touched: set[SeriesId] = set()

    def take(self, entry: Entry) -> Written:
        """Take one entry in."""
        if isinstance(entry, Page):
            return self._take_page(entry)
        series = entry.series
        row = self._row(series)
        ledger = row.ledger if row else Ledger(series.frame)
        changed, news = after(ledger, entry)
        if changed is None:
            return Written(None)
        row = self._change(series, row, changed)
        if not news:  # only confirmed: its time moves
            return Written(None)
        if changed.answered is not ledger.answered:  # let go of, because the clock had been ahead
            set_loose(self._db, row, row.loose | (ledger.answered_ranges - changed.answered_ranges))
        fresh = changed.asked - ledger.asked
        known = fresh & (changed.answered_ranges | row.loose)
        if known:
            row.counted += len(self._on_grid(row, known))
        self._account(row)
        self.touched.add(series)
        span = entry.fact.range if isinstance(entry, SeriesFact) else entry.range
        return Written(self._note(row, span, "ask" if isinstance(entry, Ask) else "fact", "", 0))

    def write_rows(self) -> None:
        """Send the staged blocks to the catalogue."""
        if self._staged:
            self._db.executemany(
                "INSERT INTO staged (id, series, part, first, last, rows, step, data, crc)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                self._staged,
            )
            self._staged.clear()

    def write_ledger(self) -> None:
        """Send everything else: ledgers, summaries and the journal."""
        changed = [(self._known[series], before) for series, before in self._before.items()]
        for row, _ in changed:
            for part, count in row.small.items():
                if count >= MANY:
                    self._join_small(row, part)
        update_ledgers(self._db, ((row.id, before, row.ledger) for row, before in changed))
        update_series(self._db, (row for row, _ in changed))
        if self._journal:
            self._db.executemany(
                "INSERT INTO journal (seq, series, since, until, kind, committed_at, source, rows)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                self._journal,
            )

    # -- pages --------------------------------------------------------------------------------------------------------

    def _take_page(self, entry: Page) -> Written:
        page, series = entry.page, entry.page.series
        block = Block(*columns_of(page))
        if not page.answered and not page.rejected:
            return Written(None)
        row = self._row(series)
        before = row.ledger if row else Ledger(series.frame)
        rejected = self._new_rejected(row, page.rejected) if page.rejected else []
        answered = with_answer(before, page.answered, page.at) if page.answered else before.answered
        overlaps = _overlaps(before, page.answered)
        if not overlaps and row and row.loose:
            overlaps = bool(row.loose & RangeSet([page.answered]))
        if row and (rejected or (overlaps and len(block.times))):
            fresh = self._compare(row, block, page.at, page.source, rejected)
        else:
            slots = {before.timeframe.floor(r.open) for r in rejected if r.open is not None}
            there = frozenset(slots & set(block.times.tolist()) if slots else ())
            fresh = _Fresh(block, len(block.times), 0, [], block.times, there)
        grown = not overlaps or RangeSet([page.answered]) - before.answered_ranges
        news = bool(fresh.new or fresh.revisions or rejected or (grown and page.answered))
        if not news:
            if row and answered != before.answered:  # only confirmed: its time moves, the journal has no news
                self._change(series, row, replace(before, answered=answered))
            return Written(None, same=fresh.same)
        row = self._change(series, row, replace(before, answered=answered))
        if rejected or before.quarantined:
            self._quarantine(row, rejected, fresh, page.at, page.source)
        self._stage(row, fresh)
        if row.loose:
            set_loose(self._db, row, row.loose - RangeSet([page.answered]))
        self._count(row, before, page.answered, fresh, first=not overlaps)
        self.touched.add(series)
        kind = journal_kind(entry, new=fresh.new, revised=len(fresh.revisions))
        seq = self._note(row, page.answered, kind, page.source, fresh.new + len(fresh.revisions))
        return Written(seq, fresh.new, fresh.same, len(fresh.revisions), len(rejected))

    def _compare(
        self, row: SeriesRow, block: Block, at: int, source: str, rejected: list[Rejected]
    ) -> _Fresh:
        """A page against the stored candles of its span."""
        times = block.times
        slots = {row.ledger.timeframe.floor(r.open) for r in rejected if r.open is not None}
        edges = [*slots, *(int(t) for t in times[[0, -1]])] if len(times) else [*slots]
        old = self._stored(row, TimeRange(min(edges), max(edges) + 1)) if edges else empty()
        place = np.searchsorted(old.times, times)
        place[place == len(old.times)] = 0
        there = old.times[place] == times if len(old.times) else np.zeros(len(times), bool)
        mine = block.values[:, there].view(np.int64)
        theirs = old.values[:, place[there]].view(np.int64)
        differs = (mine != theirs).any(axis=0)
        revised = np.flatnonzero(there)[differs]
        revisions = [
            Revision(
                row.series, int(times[i]), tuple(old.values[:, place[i]].tolist()), tuple(block.values[:, i].tolist()),
                at, source,
            )
            for i in revised
        ]  # fmt: skip
        if revisions:
            self._db.executemany(
                "INSERT INTO revisions (series, open, old, new, at, source) VALUES (?, ?, ?, ?, ?, ?)",
                [
                    (
                        row.id,
                        int(times[i]),
                        old.values[:, place[i]].tobytes(),
                        block.values[:, i].tobytes(),
                        at,
                        source,
                    )
                    for i in revised
                ],
            )
        stays = ~there
        new_times = times[stays]
        stays[revised] = True
        stage = (
            Block(times[stays], np.ascontiguousarray(block.values[:, stays])) if not stays.all() else block
        )
        stored = slots & ({*old.times.tolist(), *new_times.tolist()})
        same = int(there.sum()) - len(revisions)
        return _Fresh(stage, len(new_times), same, revisions, new_times, frozenset(stored))

    def _stored(self, row: SeriesRow, span: TimeRange) -> Block:
        self.write_rows()
        try:
            return load_block(self._folder, picture(self._db, row, span), self._decoded)
        except Stale as stale:
            raise corrupt(self._folder, row.series, stale) from None

    def _stage(self, row: SeriesRow, fresh: _Fresh) -> None:
        for part, block in row.parts.split(fresh.stage):
            self._id += 1
            staged_block = pack(block, row.staged_end)
            row.staged_end = staged_block.end
            self._staged.append((self._id, row.id, part, *staged_block))
            if len(block.times) < SMALL:
                row.small[part] = row.small.get(part, 0) + 1

    def _join_small(self, row: SeriesRow, part: int) -> None:
        """Make one block of the small ones of a partition, so that no read has to gather thousands."""
        found = staged(self._db, row.id, (part, part))
        # Of two blocks the later one wins, so everything from the first small one on is joined, in order.
        start = next((i for i, s in enumerate(found) if s.staged.rows < SMALL), len(found))
        blocks = [unpack(s.staged) for s in found[start:]]
        whole = [block for block in blocks if block is not None]
        if whole and len(whole) == len(blocks):  # a damaged one stays as it is, for `check` to find
            self._db.executemany("DELETE FROM staged WHERE id = ?", [(s.id,) for s in found[start:]])
            self._id += 1
            self._staged.append((self._id, row.id, part, *pack(overlay(whole))))
            self.write_rows()
        row.small[part] = 0

    # -- what a page does to the ledger -------------------------------------------------------------------------------

    def _new_rejected(self, row: SeriesRow | None, rejected: object) -> list[Rejected]:
        """The refused rows that are not in quarantine yet."""
        fresh: list[Rejected] = []
        for refused in rejected:  # type: ignore[attr-defined]
            known = (
                row is not None
                and self._db.execute(
                    "SELECT 1 FROM quarantine WHERE series = ? AND open IS ? AND raw = ? AND reason = ?",
                    (row.id, refused.open, refused.raw, refused.reason),
                ).get
            )
            if not known and refused not in fresh:
                fresh.append(refused)
        return fresh

    def _quarantine(
        self, row: SeriesRow, rejected: list[Rejected], fresh: _Fresh, at: int, source: str
    ) -> None:
        floor = row.ledger.timeframe.floor
        waiting = set(row.ledger.quarantined)
        come = set(fresh.new_times.tolist())
        solved = {opened for opened in waiting if floor(opened) in come}
        self._db.executemany(
            "UPDATE quarantine SET resolved = 1 WHERE series = ? AND open = ?", [(row.id, o) for o in solved]
        )
        waiting -= solved
        values = []
        for refused in rejected:
            resolved = refused.open is not None and floor(refused.open) in fresh.stored
            if refused.open is not None and not resolved:
                waiting.add(refused.open)
            values.append((row.id, refused.open, refused.raw, refused.reason, at, source, resolved))
        self._db.executemany(
            "INSERT INTO quarantine (series, open, raw, reason, at, source, resolved) VALUES (?, ?, ?, ?, ?, ?, ?)",
            values,
        )
        row.ledger = replace(row.ledger, quarantined=tuple(sorted(waiting)))

    def _count(
        self, row: SeriesRow, before: Ledger, answered: TimeRange, fresh: _Fresh, *, first: bool
    ) -> None:
        """Bring the series' summary up to date; `first` says that nothing of the range was answered before."""
        times, frame = fresh.new_times, before.timeframe
        if len(times):
            oldest, newest = int(times[0]), int(times[-1])
            row.first = oldest if row.first is None else min(row.first, oldest)
            row.last = newest if row.last is None else max(row.last, newest)
            row.candles += len(times)
        on_grid = times if bool(frame.aligned(times).all()) else times[frame.aligned(times)]
        asked = any(r.since <= answered.since and answered.until <= r.until for r in before.asked)
        if (
            first
            and asked
            and not (before.facts or before.quarantined or row.ledger.quarantined or row.loose)
        ):
            # The usual case, without the algebra: slots that were missing or pending are now stored or absent.
            settled = settled_until(frame, before.clock, before.settle)
            row.counted += len(on_grid)
            row.absent += frame.count(answered.since, answered.until) - len(on_grid)
            row.missing -= frame.count(answered.since, min(answered.until, settled))
            return
        row.counted += within(on_grid, (before.asked & RangeSet([answered])).ranges)
        self._account(row)

    def _account(self, row: SeriesRow) -> None:
        loose = self._on_grid(row, row.loose & row.ledger.asked) if row.loose else None
        row.absent, row.missing = absent_and_missing(row.ledger, row.counted, loose)

    def _on_grid(self, row: SeriesRow, ranges: RangeSet) -> NDArray[np.int64]:
        """Open times of the stored candles in the ranges, without those that no slot has."""
        if not ranges:
            return np.empty(0, np.int64)
        times = self._stored(row, TimeRange(ranges.since, ranges.until)).times
        times = times[row.ledger.timeframe.aligned(times)]
        return np.concatenate([times[slice(*np.searchsorted(times, (r.since, r.until)))] for r in ranges])

    # -- rows ---------------------------------------------------------------------------------------------------------

    def _row(self, series: SeriesId) -> SeriesRow | None:
        """The series as it is now; what this process knows of it counts if no other has written it since."""
        known = self._known.get(series)
        if known is not None and not self._alone and series not in self._checked:
            version = self._db.execute("SELECT version FROM series WHERE id = ? AND kept", (known.id,)).get
            if version != known.version:
                del self._known[series]
                known = None
        if known is None:
            known = find_series(self._db, series)
            if known is not None:
                self._known[series] = known
        self._checked.add(series)
        return known

    def _change(self, series: SeriesId, row: SeriesRow | None, ledger: Ledger) -> SeriesRow:
        if row is None:
            row = self._known[series] = add_series(self._db, series)
        self._before.setdefault(series, row.ledger)
        row.ledger = ledger
        return row

    def _note(self, row: SeriesRow, span: TimeRange, kind: str, source: str, rows: int) -> int:
        self._seq += 1
        self._journal.append((self._seq, row.id, span.since, span.until, kind, self._now, source, rows))
        return self._seq


def _overlaps(ledger: Ledger, span: TimeRange) -> bool:
    """Whether something of `span` was answered before: only then can candles be stored there."""
    answered = ledger.answered
    low, high = 0, len(answered)
    while low < high:
        middle = (low + high) // 2
        if answered[middle].range.until <= span.since:
            low = middle + 1
        else:
            high = middle
    return low < len(answered) and answered[low].range.since < span.until
