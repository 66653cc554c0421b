"""Reading candles back: sealed files checked by digest, staged blocks laid over them, one picture of one moment."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
import polars as pl

from chandlery.candle import SeriesId, no_candles
from chandlery.errors import StoreCorrupt
from chandlery.stores.base import Problem
from chandlery.stores.embedded_blob import (
    Block,
    Staged,
    from_frame,
    from_parquet,
    overlay,
    overlay_times,
    to_frame,
    unpack,
    unpack_times,
)
from chandlery.stores.embedded_rows import PartitionRow, SeriesRow, StagedRow, find_series, partitions, staged
from chandlery.stores.rules import no_such_series
from chandlery.timerange import TimeRange

if TYPE_CHECKING:
    import apsw
    from numpy.typing import NDArray

    from chandlery.stores.embedded_catalog import Catalogue

_DAMAGED = "`chandlery verify --repair` fetches what it held again; or put the file back from a backup"
_UNREADABLE = "unreadable: "
# What this process lacks says nothing about a file.
_PASSING = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
T = TypeVar("T")


class Stale(Exception):
    """A file is not what the catalogue said; the catalogue may have moved on."""

    def __init__(self, partition: PartitionRow, found: str) -> None:
        super().__init__(partition.path)
        self.partition = partition
        self.found = found


class Picture(NamedTuple):
    """What the catalogue said of a span of a series at one moment."""

    row: SeriesRow
    span: TimeRange | None
    partitions: list[PartitionRow]
    staged: list[StagedRow]


def picture(db: apsw.Connection, row: SeriesRow, span: TimeRange | None) -> Picture:
    """Take the picture; `db` should be in a transaction."""
    parts = None
    if span is not None and row.first is not None and row.last is not None:
        span = TimeRange(
            max(span.since, row.first), max(min(span.until, row.last + 1), row.first, span.since)
        )
        if not span:
            return Picture(row, span, [], [])
        parts = row.parts.start(span.since), row.parts.start(span.until - 1)
    return Picture(row, span, partitions(db, row.id, parts), staged(db, row.id, parts, span))


def load_frame(folder: Path, seen: Picture) -> pl.DataFrame:
    """The candles of a picture, as a frame."""
    pieces: list[pl.DataFrame] = []
    over = _by_part(seen.staged)
    for part in sorted(over.keys() | {p.part for p in seen.partitions}):
        files = [p for p in seen.partitions if p.part == part]
        sealed = [file for p in files if (file := read_partition(folder, p)) is not None]
        if part in over:
            blocks = [from_frame(file) for file in sealed]
            pieces.append(to_frame(overlay(blocks + [_block(seen.row.series, s) for s in over[part]])))
        else:
            pieces += sealed
    if not pieces:
        return no_candles()
    frame = pl.concat(pieces, rechunk=True) if len(pieces) > 1 else pieces[0]
    if seen.span is None:
        return frame
    times = frame["time"].to_physical()
    low, high = (int(times.search_sorted(edge)) for edge in (seen.span.since, seen.span.until))
    return frame[low:high] if high - low < frame.height else frame


def load_block(folder: Path, seen: Picture, decoded: Decoded | None = None) -> Block:
    """The candles of a picture, as arrays."""
    files = [read_partition(folder, p, decoded=decoded) for p in seen.partitions]
    sealed = [from_frame(file) for file in files if file is not None]
    whole = overlay(sealed + [_block(seen.row.series, s.staged) for s in seen.staged])
    return whole if seen.span is None else whole.between(seen.span.since, seen.span.until)


def load_times(folder: Path, seen: Picture) -> NDArray[np.int64]:
    """The open times of a picture."""
    parts: list[NDArray[np.int64]] = []
    for p in seen.partitions:
        file = read_partition(folder, p, times_only=True)
        if file is not None:
            parts.append(file["time"].to_physical().to_numpy())
    for row in seen.staged:
        if unpack(row.staged) is None:
            raise _damaged_block(seen.row.series, row.staged)
        parts.append(unpack_times(row.staged))
    times = overlay_times(parts)
    if seen.span is not None:
        times = times[np.searchsorted(times, seen.span.since) : np.searchsorted(times, seen.span.until)]
    return times


class Decoded:
    """The newest few files that were decoded, by digest: pages that overlap sealed candles mostly overlap the same file."""

    def __init__(self, most: int = 2) -> None:
        self._most = most
        self._frames: dict[str, pl.DataFrame] = {}

    def get(self, digest: str, data: bytes) -> pl.DataFrame:
        """The candles of the file with these bytes."""
        frame = self._frames.pop(digest, None)
        if frame is None:
            frame = from_parquet(data)
        self._frames[digest] = frame
        if len(self._frames) > self._most:
            del self._frames[next(iter(self._frames))]
        return frame


def read_partition(
    folder: Path, partition: PartitionRow, *, times_only: bool = False, decoded: Decoded | None = None
) -> pl.DataFrame | None:
    """A partition's file, None if none was sealed yet; raises Stale if it is not one that the catalogue knows."""
    try:
        data = _read_bytes(folder, partition)
    except Stale:
        if partition.sha256 is None:
            return None
        raise
    found = "missing" if data is None else hashlib.sha256(data).hexdigest()
    if data is None and partition.sha256 is None:
        return None
    if data is None or found not in (partition.sha256, partition.intent_sha256):
        # Before its first seal a partition has no file of ours; what lies there was left by something else.
        if partition.sha256 is None:
            return None
        raise Stale(partition, found)
    if decoded is not None:
        return decoded.get(found, data)
    return from_parquet(data, times_only=times_only)


def _read_bytes(folder: Path, partition: PartitionRow) -> bytes | None:
    """The bytes of a partition's file, None if it is not there; raises Stale if it cannot be read."""
    flags = (
        os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    )  # a pipe in its place must not be waited for
    try:
        descriptor = os.open(folder / partition.path, flags)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise Stale(partition, f"{_UNREADABLE}not a plain file")
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                return file.read()
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno in _PASSING:
            raise
        raise Stale(partition, f"{_UNREADABLE}{error.strerror}") from error


def _by_part(rows: Sequence[StagedRow]) -> dict[int, list[Staged]]:
    by_part: dict[int, list[Staged]] = {}
    for row in rows:
        by_part.setdefault(row.part, []).append(row.staged)
    return by_part


def _block(series: SeriesId, staged_block: Staged) -> Block:
    block = unpack(staged_block)
    if block is None:
        raise _damaged_block(series, staged_block)
    return block


def _damaged_block(series: SeriesId, staged_block: Staged) -> StoreCorrupt:
    return StoreCorrupt(
        f"{series}: {staged_block.rows} staged candles from {staged_block.first} on are not what was written",
        hint=_DAMAGED,
    )


def corrupt(folder: Path, series: SeriesId, stale: Stale) -> StoreCorrupt:
    """The error for a file that stays wrong."""
    what = "is not the file that was sealed"
    if stale.found == "missing" or stale.found.startswith(_UNREADABLE):
        what = f"is {stale.found}"
    return StoreCorrupt(f"{series}: {folder / stale.partition.path} {what}", hint=_DAMAGED)


def read_steadily(
    catalogue: Catalogue,
    series: SeriesId,
    span: TimeRange | None,
    load: Callable[[Path, Picture], T],
) -> T:
    """Take a picture and load it; again where a file was replaced in between, until it is plain that one is damaged."""
    before: PartitionRow | None = None
    while True:
        if not catalogue.exists():
            raise no_such_series(series, str(catalogue.folder))
        with catalogue.reading() as db:
            row = find_series(db, series)
            if row is None:
                raise no_such_series(series, str(catalogue.folder))
            seen = picture(db, row, span)
        try:
            with catalogue.errors():
                return load(catalogue.folder, seen)
        except Stale as stale:
            if stale.partition == before:
                raise corrupt(catalogue.folder, series, stale) from None
            before = stale.partition


def check_series(folder: Path, seen: Picture) -> list[Problem]:
    """Read all of a series and compare it with what the catalogue says."""
    series, problems = seen.row.series, []
    frame = series.frame
    times: list[NDArray[np.int64]] = []
    for p in seen.partitions:
        span = TimeRange(p.first, frame.next(p.last)) if p.first is not None and p.last is not None else None
        try:
            file = read_partition(folder, p, times_only=True)
        except Stale as stale:
            raise_later = corrupt(folder, series, stale)
            problems.append(
                Problem("lost", _whole_of(seen.row, p), p.rows, raise_later.message, raise_later.hint)
            )
            continue
        if file is None:
            continue
        opened = file["time"].to_physical().to_numpy()
        if len(opened) not in (p.rows, p.intent_rows):
            text = f"{folder / p.path} holds {len(opened)} candles, not {p.rows}"
            problems.append(Problem("lost", span, max(0, p.rows - len(opened)), text, _DAMAGED))
        if not (opened[1:] > opened[:-1]).all():
            twice = len(opened) - len(np.unique(opened))
            text = f"{folder / p.path}: open times do not ascend"
            problems.append(Problem("duplicate", span, twice, text, _DAMAGED))
        times.append(opened)
    for row in seen.staged:
        if unpack(row.staged) is None:
            span = TimeRange(row.staged.first, frame.next(row.staged.last))
            text = _damaged_block(series, row.staged).message
            problems.append(Problem("lost", span, row.staged.rows, text, _DAMAGED))
        else:
            times.append(unpack_times(row.staged))
    if not problems:
        problems = _check_whole(seen, np.unique(np.concatenate(times)) if times else np.empty(0, np.int64))
    return problems


def _whole_of(row: SeriesRow, partition: PartitionRow) -> TimeRange | None:
    """Where candles of a partition may lie: without its file the staged ones cannot be read either."""
    if row.first is None or row.last is None:
        return None
    whole = TimeRange(row.first, row.series.frame.next(row.last))
    return whole.intersect(row.parts.range(partition.part) or whole)


def _check_whole(seen: Picture, opened: NDArray[np.int64]) -> list[Problem]:
    row, frame, problems = seen.row, seen.row.series.frame, []
    whole = TimeRange(int(opened[0]), frame.next(int(opened[-1]))) if len(opened) else None
    found = (len(opened), int(opened[0]) if len(opened) else None, int(opened[-1]) if len(opened) else None)
    if found != (row.candles, row.first, row.last):
        text = f"{row.series}: {found[0]} candles are there, the catalogue says {row.candles}"
        problems.append(Problem("ledger", whole, abs(row.candles - found[0]), text, _DAMAGED))
    off = int((~frame.aligned(opened)).sum())
    if off:
        text = f"{row.series}: {off} candles do not open on the grid of {row.series.timeframe}"
        problems.append(
            Problem(
                "ledger", whole, off, text, "take the series out with `chandlery remove` and fetch it again"
            )
        )
    return problems
