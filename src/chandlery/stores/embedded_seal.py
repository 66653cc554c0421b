"""Sealing: staged candles become a partition's Parquet file, in steps of which each may be the last one before a crash.

The new file is written beside the old one and made durable; the catalogue notes which digest is coming; the file takes
the partition's name; the catalogue takes the digest and drops the staged blocks that went in. A reader accepts a file
that has either digest and lays the staged blocks over it, so between any two steps it sees the same candles.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from chandlery.errors import StoreUnreadable
from chandlery.failpoints import failpoint
from chandlery.ledger import Ledger
from chandlery.stores.embedded_blob import Block, to_parquet
from chandlery.stores.embedded_files import sync_folder, write_durably
from chandlery.stores.embedded_partitions import Partitioning, file_metadata
from chandlery.stores.embedded_read import Picture, Stale, corrupt, load_block
from chandlery.stores.embedded_rows import SeriesRow, partitions, staged
from chandlery.timerange import RangeSet

if TYPE_CHECKING:
    import apsw

    from chandlery.stores.embedded_catalog import Catalogue

_SPARE = 2 << 20  # bytes of the catalogue that may stay empty after a seal


def is_complete(ledger: Ledger, parts: Partitioning, part: int) -> bool:
    """Whether a partition is history: its end is answered, and so is everything of it that was asked for."""
    span = parts.range(part)
    if span is None:
        return False
    answered = ledger.answered_ranges
    if span.until - 1 not in answered:
        return False
    explained = answered | RangeSet(fact.range for fact in ledger.facts)
    return not (RangeSet([span]) & ledger.asked) - explained


def seal_partition(catalogue: Catalogue, row: SeriesRow, part: int) -> bool:
    """Seal what is staged of one partition; False if nothing is. The caller holds the series' lock."""
    folder, db = catalogue.folder, catalogue.writer()
    with catalogue.errors():
        known = partitions(db, row.id, (part, part))
        waiting = staged(db, row.id, (part, part))
        if not waiting:
            return False
        try:
            block = load_block(folder, Picture(row, None, known, waiting))
        except Stale as stale:
            raise corrupt(folder, row.series, stale) from None
        data = to_parquet(block, file_metadata(row.series))
        digest = hashlib.sha256(data).hexdigest()
        path = f"{row.path}/{row.parts.file_name(part)}"
        # What is in the catalogue as sealed lies in folders whose names were made durable.
        place = _make_folders(folder, path, durable=_has_files(db, row.id))
        temporary = place / f".{Path(path).name}.tmp"
        write_durably(temporary, data)
    failpoint("seal.written")
    with catalogue.transaction():
        db.execute(
            "INSERT INTO partitions (series, part, path, rows, intent_sha256, intent_rows) VALUES (?, ?, ?, 0, ?, ?)"
            " ON CONFLICT (series, part) DO UPDATE SET intent_sha256 = ?4, intent_rows = ?5",
            (row.id, part, path, digest, len(block.times)),
        )
    failpoint("seal.intent")
    catalogue.still_there()
    with catalogue.errors():
        os.replace(temporary, folder / path)  # noqa: PTH105
        failpoint("seal.renamed")
        sync_folder(place)
    with catalogue.transaction():
        _commit(catalogue, row, part, digest, block, waiting[-1].id)
        failpoint("seal.commit")
    failpoint("seal.committed")
    return True


def _commit(catalogue: Catalogue, row: SeriesRow, part: int, digest: str, block: Block, newest: int) -> None:
    db = catalogue.writer()
    db.execute(
        "UPDATE partitions SET sha256 = ?, rows = ?, first = ?, last = ?, intent_sha256 = NULL, intent_rows = NULL"
        " WHERE series = ? AND part = ?",
        (digest, len(block.times), int(block.times[0]), int(block.times[-1]), row.id, part),
    )
    db.execute("DELETE FROM staged WHERE series = ? AND part = ? AND id <= ?", (row.id, part, newest))
    db.execute("UPDATE series SET version = version + 1 WHERE id = ?", (row.id,))


def give_back_space(catalogue: Catalogue) -> None:
    """Shrink the catalogue by the pages that sealed candles left empty, where they are most of it.

    Each page that is in use may have to be moved for it, and while more arrives, what is empty is about to be filled.
    """
    db = catalogue.writer()
    spare, whole, size = (
        db.execute(f"PRAGMA {name}").get for name in ("freelist_count", "page_count", "page_size")
    )
    if spare * size > _SPARE and spare * 2 > whole:
        with catalogue.transaction():
            for _ in db.execute(f"PRAGMA incremental_vacuum({spare})"):
                pass


def empty_trash(catalogue: Catalogue) -> None:
    """Delete the files of series that were taken out, this time or by a process that died over it."""
    db = catalogue.writer()
    with catalogue.errors():
        if db.execute("SELECT 1 FROM trash LIMIT 1").get is None:
            return
    with catalogue.transaction():
        for (path,) in list(db.execute("SELECT path FROM trash")):
            # The writing transaction keeps out a sealer that would give the name a new file.
            if db.execute("SELECT 1 FROM partitions WHERE path = ?", (path,)).get is None:
                place = path.rpartition("/")[0]
                back = db.execute("SELECT 1 FROM series WHERE path = ? AND kept", (place,)).get
                _delete(catalogue.folder, path, folders=back is None)
        db.execute("DELETE FROM trash")


def _delete(folder: Path, path: str, *, folders: bool) -> None:
    """Delete a file and, unless its series came back and may be writing there, the folders that it leaves empty."""
    file = folder / path
    if not file.parent.is_dir():
        return
    file.unlink(missing_ok=True)
    sync_folder(file.parent)  # before the catalogue forgets it: a file that came back would be nobody's
    for place in file.parents:
        if place == folder or not folders:
            return
        try:
            _remove_temporaries(place)
            place.rmdir()
        except OSError:
            return  # not empty, or gone


def _has_files(db: apsw.Connection, number: int) -> bool:
    query = "SELECT 1 FROM partitions WHERE series = ? AND sha256 IS NOT NULL LIMIT 1"
    return db.execute(query, (number,)).get is not None


def _make_folders(folder: Path, path: str, *, durable: bool) -> Path:
    """Make the folders of `path` below the store, and make sure that no link leads out of it.

    Unless they are known to be durable, their names are synced even where they are there already: they may be what a
    process left that was killed in between, or what another one is making just now.
    """
    place = folder
    for name in path.split("/")[:-1]:
        parent, place = place, place / name
        if not durable or not place.is_dir():
            place.mkdir(mode=0o700, exist_ok=True)
            sync_folder(parent)
        if place.is_symlink():
            raise StoreUnreadable(
                f"{place} is a link out of the store", hint="put a real folder in its place"
            )
    _remove_temporaries(place)
    return place


def _remove_temporaries(place: Path) -> None:
    """Remove what a sealer left that died; the series' lock says that none is at work."""
    for left in place.glob(".*.tmp"):
        left.unlink(missing_ok=True)
