r"""Candles into files: CSV, JSON lines and Parquet, whole or not at all, in memory that does not grow with the history.

CSV and JSON lines carry `timestamp` (the open time in epoch milliseconds) and the five values as the shortest digits
that read back to the same double; Parquet carries the columns of a frame. Rows ascend by time. Several series follow
each other in the order given, with `exchange`, `symbol`, `timeframe` in front of each row (and `kind` after them as soon
as one of them is not `trade`). Control characters in a name are written out in CSV (`\n`), for readers of CSV lose lines
over them.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, BinaryIO, Literal, cast, get_args

import polars as pl

from chandlery.candle import SCHEMA, VALUES, SeriesId, no_candles
from chandlery.errors import DatabaseError, DataPipelineError, StoreFull, UsageError
from chandlery.ledger import Ledger, aligned
from chandlery.redact import visible
from chandlery.stores.base import pieces
from chandlery.timerange import RangeSet

if TYPE_CHECKING:
    from chandlery.stores.base import Store
    from chandlery.when import Moment

Format = Literal["csv", "parquet", "jsonl"]
FORMATS: tuple[Format, ...] = get_args(Format)
_ENDINGS: dict[str, Format] = {
    ".csv": "csv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
}

#: Slots read at once: about two years of 5m. Enough for Parquet row groups of a good size, 10 MB as a frame.
SLOTS_AT_ONCE = 200_000

#: How spreadsheets know a formula. A text cell that begins so gets an apostrophe in front, which they do not show.
_FORMULA = ("=", "+", "-", "@")
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def format_of(path: Path | None, asked: str | None) -> Format:
    """The format of an export: `asked`, else what the file's ending says, else csv.

    Raises UsageError for a format that does not exist, an ending that says nothing, and where the two contradict.
    """
    said = _ENDINGS.get(path.suffix.lower()) if path is not None else None
    if asked is None:
        if said is None and path is not None and path.suffix:
            raise UsageError(
                f"no format goes by the ending of {path.name!r}",
                hint=f"--format {' | '.join(FORMATS)} names one",
            )
        return said or "csv"
    if asked not in FORMATS:
        raise UsageError(f"no such format: {asked!r}", hint=f"--format {' | '.join(FORMATS)}")
    if said not in (None, asked):
        raise UsageError(
            f"--format {asked} contradicts the file's ending: {path}",
            hint="leave --format out, or choose another ending",
        )
    return asked


def export_series(
    store: Store,
    series: Sequence[SeriesId],
    out: BinaryIO,
    fmt: Format = "csv",
    *,
    since: Moment | None = None,
    until: Moment | None = None,
) -> int:
    """Write the candles of `series` that open in [since, until) to a binary stream; returns how many.

    Each stretch is read as it is at that moment; what comes into the store after the beginning may be left out.
    Raises NoSuchSeries, StoreCorrupt, UsageError for bounds, StoreFull and DatabaseError where `out` cannot take more.
    """
    with _write_errors_named("the export"):
        return _export(_Frames(store, series, fmt, since, until), out)


def _export(frames: _Frames, out: BinaryIO) -> int:
    if frames.fmt == "parquet":
        _write_parquet(frames, out)
    else:
        if frames.fmt == "csv":
            out.write((",".join(frames.schema.names()) + "\n").encode())
        for frame in frames:
            if frames.fmt == "csv":
                frame.write_csv(out, include_header=False)
            else:
                frame.write_ndjson(out)
    out.flush()
    return frames.rows


def export_file(
    store: Store,
    series: Sequence[SeriesId],
    path: str | os.PathLike[str],
    fmt: Format | None = None,
    *,
    since: Moment | None = None,
    until: Moment | None = None,
) -> int:
    """`export_series` into a file that is there whole or not at all; an existing one is replaced at the end.

    Raises what it raises, and UsageError where the file cannot be begun.
    """
    target = Path(path)
    chosen = fmt or format_of(target, None)
    frames = _Frames(store, series, chosen, since, until)
    with whole_file(target) as out:
        return _export(frames, out)


def digest(store: Store, *series: SeriesId) -> str:
    """SHA-256, in hex, of the CSV export of these series (all that are kept, in the store's order, if none is named).

    It is what `sha256sum` says of the file that `chandlery export` writes for them.
    """
    wanted = series or tuple(s.series for s in store.series())
    sink = _Hash()
    export_series(store, wanted, cast("BinaryIO", sink), "csv")
    return sink.hash.hexdigest()


class _Hash:
    """As much of a binary stream as writing into a digest takes."""

    def __init__(self) -> None:
        self.hash = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.hash.update(data)
        return len(data)

    def flush(self) -> None:
        return


class _Frames:
    """The rows of an export, frame by frame, and how many went by. Checks series and bounds when made."""

    def __init__(
        self,
        store: Store,
        series: Sequence[SeriesId],
        fmt: Format,
        since: Moment | None,
        until: Moment | None,
    ) -> None:
        self.store = store
        self.fmt = fmt
        self.names = _names_for(series)
        self.rows = 0
        self.parts = [(s, _kept(store.ledger(s)) & RangeSet([store.span(s, since, until)])) for s in series]
        self.schema = self._shaped(SeriesId("", "", "1m"), no_candles()).schema

    def __iter__(self) -> Iterator[pl.DataFrame]:
        for series, kept in self.parts:
            frame = series.frame
            for whole in kept:
                for piece in pieces(frame, aligned(frame, whole), SLOTS_AT_ONCE):
                    candles = self.store.candles(series, piece)
                    self.rows += candles.height
                    if candles.height:
                        yield self._shaped(series, candles)

    def _shaped(self, series: SeriesId, candles: pl.DataFrame) -> pl.DataFrame:
        labels = [_label(series, name, self.fmt) for name in self.names]
        if self.fmt == "parquet":
            return candles.select(*labels, *SCHEMA.names())
        return candles.select(*labels, pl.col("time").dt.epoch("ms").alias("timestamp"), *VALUES)


def _kept(ledger: Ledger) -> RangeSet:
    """Where candles may lie: what is being asked again may hold some too."""
    return ledger.answered_ranges | ledger.asked


def _names_for(series: Sequence[SeriesId]) -> tuple[str, ...]:
    """The leading columns that tell these series apart."""
    if len(series) < 2:
        return ()
    kind = ("kind",) if any(s.kind != "trade" for s in series) else ()
    return ("exchange", "symbol", "timeframe", *kind)


def _label(series: SeriesId, name: str, fmt: Format) -> pl.Expr:
    value = getattr(series, name)
    if fmt == "csv":
        value = visible(value)
        value = f"'{value}" if value.startswith(_FORMULA) else value
    return pl.lit(value, pl.String).alias(name)


def _write_parquet(frames: _Frames, out: BinaryIO) -> None:
    """Stream the frames into one Parquet file: polars asks for them one after the other and keeps their order."""
    from polars.io.plugins import register_io_source

    def scan(*_narrowing: object) -> Iterator[pl.DataFrame]:
        # A sink asks for every column of every row, so there is nothing to narrow.
        yield from frames

    rows = register_io_source(scan, schema=frames.schema, validate_schema=True)
    rows.sink_parquet(cast("IO[bytes]", out), compression="zstd", maintain_order=True)


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write that appears under its name only when the block ends well, on disk for good; else nothing is left.

    A link is followed; a device or pipe is written directly. Raises UsageError where the file cannot be begun, StoreFull
    and DatabaseError where it cannot be finished.
    """
    target = Path(os.path.realpath(path))
    mode = _mode_of(target, path)
    if mode is not None and not stat.S_ISREG(mode):
        with _write_errors_named(str(path)), target.open("wb") as out:
            yield out
        return
    partial = target.with_name(f".{target.name[:100]}.{secrets.token_hex(6)}.part")
    try:
        descriptor = os.open(
            partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o666
        )
    except OSError as error:
        raise _cannot_begin(path, error) from error
    try:
        with _write_errors_named(str(path)):
            with os.fdopen(descriptor, "wb") as out:
                if mode is not None:
                    os.fchmod(out.fileno(), stat.S_IMODE(mode))
                yield out
                out.flush()
                os.fsync(out.fileno())
            partial.replace(target)
            _sync_folder(target.parent)
    except BaseException:
        with suppress(OSError):
            partial.unlink()
        raise


def _mode_of(target: Path, named: Path) -> int | None:
    """The mode of what is there, None if nothing is. Raises UsageError for a folder and for a folder that is missing."""
    if not target.parent.is_dir():
        raise UsageError(f"no such folder: {named.parent}", hint=f"make it first: mkdir -p '{named.parent}'")
    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _cannot_begin(named, error) from error
    if stat.S_ISDIR(mode):
        raise UsageError(f"a folder, not a file: {named}", hint="name a file in it")
    return mode


def _cannot_begin(path: Path, error: OSError) -> DataPipelineError:
    if error.errno in _FULL:
        return _full(str(path))
    return UsageError(
        f"cannot write {path}: {error.strerror}", hint="choose another folder, or change its rights"
    )


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _write_errors_named(what: str) -> Iterator[None]:
    """Turn what a full disk says, through Python or through polars, into errors of ours that name the file."""
    try:
        yield
    except (OSError, pl.exceptions.ComputeError) as error:
        code = _os_error(error)
        if code == errno.EPIPE:
            # Not the disk: whoever read our output stopped reading. Without its number, for which click exits with 1.
            raise BrokenPipeError(os.strerror(code)) from error
        if code in _FULL:
            raise _full(what) from error
        raise DatabaseError(f"cannot write {what}: {error}", hint="look at the disk") from error


def _os_error(error: Exception) -> int | None:
    """The system's number of an error; polars has it in the text only."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    told = re.search(r"\(os error (\d+)\)", str(error))
    return int(told[1]) if told else None


def _full(what: str) -> StoreFull:
    return StoreFull(f"no space left for {what}", hint="free some space; what was there before is untouched")
