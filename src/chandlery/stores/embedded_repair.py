"""Letting go of what is damaged, so that it is asked for again."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from chandlery.stores.embedded_blob import unpack
from chandlery.stores.embedded_files import sync_folder
from chandlery.stores.embedded_read import Stale, load_times, picture, read_partition
from chandlery.stores.embedded_rows import (
    SeriesRow,
    partitions,
    set_loose,
    staged,
    update_ledgers,
    update_series,
)
from chandlery.stores.rules import absent_and_missing, within, without_answers
from chandlery.timerange import RangeSet, TimeRange

if TYPE_CHECKING:
    import apsw


def forget(db: apsw.Connection, folder: Path, row: SeriesRow, span: TimeRange) -> None:
    """Let go of the answers of `span` and of everything of the series that cannot be read, and count what is left.

    All damage of the series goes, not only that of `span`, because what is left could not be counted otherwise.
    `db` is in a writing transaction, and the caller holds the series' lock.
    """
    lost = _set_aside(db, folder, row) | _drop_blocks(db, row)
    gone = RangeSet([span]) | lost
    before, ledger = row.ledger, without_answers(row.ledger, gone)
    if ledger is before and not lost:
        return
    row.ledger = ledger
    set_loose(db, row, row.loose | (before.answered_ranges & gone))
    times = load_times(folder, picture(db, row, None))
    row.candles = len(times)
    row.first, row.last = (int(times[0]), int(times[-1])) if len(times) else (None, None)
    on_grid = times[ledger.timeframe.aligned(times)]
    row.counted = within(on_grid, ledger.asked.ranges)
    loose = row.loose & ledger.asked
    held = [on_grid[slice(*np.searchsorted(on_grid, (r.since, r.until)))] for r in loose]
    row.absent, row.missing = absent_and_missing(ledger, row.counted, np.concatenate([on_grid[:0], *held]))
    update_ledgers(db, [(row.id, before, ledger)])
    update_series(db, [row])
    whole = TimeRange(gone.since, gone.until) if gone else span
    db.execute(
        "INSERT INTO journal (series, since, until, kind, committed_at, source, rows) VALUES (?, ?, ?, 'repair', ?, '', 0)",
        (row.id, whole.since, whole.until, time.time_ns() // 1_000_000),
    )


def _set_aside(db: apsw.Connection, folder: Path, row: SeriesRow) -> RangeSet:
    """Rename damaged files, so that no glob finds them, and take them out of the catalogue; returns what they held."""
    lost: list[TimeRange] = []
    for partition in partitions(db, row.id, None):
        try:
            read_partition(folder, partition, times_only=True)
        except Stale as stale:
            # Renamed before the commit: after a crash in between the file is missing, which is damage too.
            if stale.found != "missing":
                _rename(folder / partition.path)
            db.execute("DELETE FROM partitions WHERE series = ? AND part = ?", (row.id, partition.part))
            if partition.first is not None and partition.last is not None:
                lost.append(TimeRange(partition.first, row.ledger.timeframe.next(partition.last)))
    return RangeSet(lost)


def _drop_blocks(db: apsw.Connection, row: SeriesRow) -> RangeSet:
    lost: list[TimeRange] = []
    for block in staged(db, row.id, None):
        if unpack(block.staged) is None:
            db.execute("DELETE FROM staged WHERE id = ?", (block.id,))
            lost.append(TimeRange(block.staged.first, row.ledger.timeframe.next(block.staged.last)))
    return RangeSet(lost)


def _rename(file: Path) -> None:
    number = 0
    while os.path.lexists(aside := file.with_name(f"{file.name}.damaged{number or ''}")):
        number += 1
    os.replace(file, aside)  # noqa: PTH105
    sync_folder(file.parent)
