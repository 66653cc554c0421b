"""Reading and writing the catalogue's rows: every SQL statement about a series, its ledger and its candles."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from chandlery.candle import SeriesId
from chandlery.errors import StoreCorrupt, UsageError
from chandlery.ledger import Answered, Fact, Ledger, State
from chandlery.stores.base import SeriesSummary
from chandlery.stores.embedded_blob import Staged
from chandlery.stores.embedded_partitions import Partitioning, folder_of
from chandlery.timerange import RangeSet, TimeRange

if TYPE_CHECKING:
    import apsw

T = TypeVar("T")

_FIND = "SELECT * FROM series WHERE exchange = ? AND symbol = ? AND timeframe = ? AND kind = ?"
_TABLES = ("asked", "answered", "loose", "facts", "quarantine", "revisions", "partitions", "staged")


@dataclass(slots=True)
class SeriesRow:
    """A series as the catalogue has it. `counted` are the candles on slots that were asked for."""

    id: int
    series: SeriesId
    path: str
    version: int
    candles: int
    counted: int
    first: int | None
    last: int | None
    absent: int
    missing: int
    ledger: Ledger
    parts: Partitioning
    loose: RangeSet = field(
        default_factory=RangeSet
    )  # where answers were let go of and candles may lie all the same
    small: dict[int, int] = field(default_factory=dict)  # staged rows of few candles, by partition
    staged_end: bytes = b""  # of the block that this process staged last: the next one is mostly alike


class PartitionRow(NamedTuple):
    """A partition's file: its name below the store, the digest it has and the one that it is about to get."""

    part: int
    path: str
    sha256: str | None
    rows: int
    first: int | None
    last: int | None
    intent_sha256: str | None
    intent_rows: int | None


class StagedRow(NamedTuple):
    """A staged block with its number (later ones win) and its partition."""

    id: int
    part: int
    staged: Staged


def find_series(db: apsw.Connection, series: SeriesId) -> SeriesRow | None:
    """The series with its ledger, None if it is not kept."""
    row = db.execute(_FIND, (series.exchange, series.symbol, series.timeframe, series.kind)).get
    return _series_row(db, series, row) if row is not None and row[7] else None


def _series_row(db: apsw.Connection, series: SeriesId, row: Sequence[object]) -> SeriesRow:
    (
        number,
        *_,
        path,
        _length,
        _kept,
        version,
        clock,
        settle,
        candles,
        counted,
        first,
        last,
        absent,
        missing,
    ) = row
    ledger = read_ledger(db, number, series, clock, settle)  # type: ignore[arg-type]
    counts = db.execute(
        "SELECT part, count(*) FROM staged WHERE series = ? AND rows < 64 GROUP BY part", (number,)
    )
    found = SeriesRow(  # the columns' types are the schema's
        number, series, path, version, candles, counted, first, last, absent, missing, ledger,  # type: ignore[arg-type]
        Partitioning.of(series.frame),
    )  # fmt: skip
    found.small.update(counts)
    loose = db.execute("SELECT since, until FROM loose WHERE series = ?", (number,))
    found.loose = RangeSet(TimeRange(since, until) for since, until in loose)
    return found


def read_ledger(db: apsw.Connection, number: int, series: SeriesId, clock: int, settle: int) -> Ledger:
    """The ledger of the series with that number."""
    try:
        asked = db.execute("SELECT since, until FROM asked WHERE series = ? ORDER BY since", (number,))
        answered = db.execute(
            "SELECT since, until, at FROM answered WHERE series = ? ORDER BY since", (number,)
        )
        facts = db.execute(
            "SELECT since, until, state, reason, at FROM facts WHERE series = ? ORDER BY since, until, state",
            (number,),
        )
        refused = db.execute(
            "SELECT DISTINCT open FROM quarantine WHERE series = ? AND open IS NOT NULL AND NOT resolved ORDER BY open",
            (number,),
        )
        return Ledger(
            timeframe=series.frame,
            asked=RangeSet(TimeRange(since, until) for since, until in asked),
            answered=tuple(Answered(TimeRange(since, until), at) for since, until, at in answered),
            facts=tuple(
                Fact(TimeRange(since, until), State(state), reason, at)
                for since, until, state, reason, at in facts
            ),
            quarantined=tuple(opened for (opened,) in refused),
            clock=clock,
            settle=settle,
        )
    except ValueError as error:
        raise StoreCorrupt(
            f"{series}: its ledger in the catalogue is damaged: {error}",
            hint="take the series out with `chandlery remove` and fetch it again",
        ) from error


def add_series(db: apsw.Connection, series: SeriesId) -> SeriesRow:
    """Begin to keep a series; UsageError if its files would lie where another's lie."""
    path = folder_of(series)
    rival = db.execute("SELECT exchange, symbol, timeframe, kind FROM series WHERE path = ?", (path,)).get
    names = (series.exchange, series.symbol, series.timeframe, series.kind)
    if rival is not None and tuple(rival) != names:
        raise UsageError(
            f"{series} cannot be kept beside {SeriesId(*rival)}: both would lie in {path}",
            hint="keep one of them in a store of its own (--store)",
        )
    db.execute(
        "INSERT INTO series (exchange, symbol, timeframe, kind, path, length, kept, version, clock, settle, candles,"
        " counted, absent, missing) VALUES (?, ?, ?, ?, ?, ?, 1, 1, 0, 0, 0, 0, 0, 0)"
        " ON CONFLICT (exchange, symbol, timeframe, kind) DO UPDATE SET kept = 1, version = version + 1",
        (*names, path, series.frame.nominal_ms),
    )
    row = db.execute(_FIND, names).get
    return _series_row(db, series, row)


def update_series(db: apsw.Connection, rows: Iterable[SeriesRow]) -> None:
    """Write the summaries back, each with its next version."""
    values = []
    for row in rows:
        row.version += 1
        values.append(
            (row.version, row.ledger.clock, row.ledger.settle, row.candles, row.counted, row.first, row.last,
             row.absent, row.missing, row.id)
        )  # fmt: skip
    db.executemany(
        "UPDATE series SET version = ?, clock = ?, settle = ?, candles = ?, counted = ?, first = ?, last = ?,"
        " absent = ?, missing = ? WHERE id = ?",
        values,
    )


def update_ledgers(db: apsw.Connection, changes: Iterable[tuple[int, Ledger, Ledger]]) -> None:
    """Write what differs between the ledgers (series number, before, after); quarantine is written on its own."""
    gone: dict[str, list[tuple[int, int]]] = {"asked": [], "answered": []}
    come: dict[str, list[tuple[int | None, ...]]] = {"asked": [], "answered": []}
    for number, before, after in changes:
        if before.asked is not after.asked:
            old, new = _difference(before.asked.ranges, after.asked.ranges)
            kept = {r.since for r in new}
            gone["asked"] += [(number, r.since) for r in old if r.since not in kept]
            come["asked"] += [(number, r.since, r.until) for r in new]
        if before.answered is not after.answered:
            was, now = _difference(before.answered, after.answered)
            kept = {a.range.since for a in now}
            gone["answered"] += [(number, a.range.since) for a in was if a.range.since not in kept]
            come["answered"] += [(number, a.range.since, a.range.until, a.at) for a in now]
        if before.facts is not after.facts:
            db.execute("DELETE FROM facts WHERE series = ?", (number,))
            db.executemany(
                "INSERT INTO facts (series, state, since, until, reason, at) VALUES (?, ?, ?, ?, ?, ?)",
                [(number, f.state.value, f.range.since, f.range.until, f.reason, f.at) for f in after.facts],
            )
    for table, marks in (("asked", "?, ?, ?"), ("answered", "?, ?, ?, ?")):
        if gone[table]:
            db.executemany(f"DELETE FROM {table} WHERE series = ? AND since = ?", gone[table])  # noqa: S608
        if come[table]:
            db.executemany(f"INSERT OR REPLACE INTO {table} VALUES ({marks})", come[table])  # noqa: S608


def _difference(old: Sequence[T], new: Sequence[T]) -> tuple[Sequence[T], Sequence[T]]:
    """The middles of two sequences between what they have in common at the beginning and at the end."""
    low, high = 0, min(len(old), len(new))
    while low < high and (old[low] is new[low] or old[low] == new[low]):
        low += 1
    end = 0
    while end < high - low and (old[-1 - end] is new[-1 - end] or old[-1 - end] == new[-1 - end]):
        end += 1
    return old[low : len(old) - end], new[low : len(new) - end]


def set_loose(db: apsw.Connection, row: SeriesRow, loose: RangeSet) -> None:
    """Write down where candles may lie that no answer covers."""
    if loose != row.loose:
        row.loose = loose
        db.execute("DELETE FROM loose WHERE series = ?", (row.id,))
        db.executemany("INSERT INTO loose VALUES (?, ?, ?)", [(row.id, r.since, r.until) for r in loose])


def delete_series(db: apsw.Connection, number: int) -> list[str]:
    """Take all rows of a series out; returns the paths of the files that are now nobody's, which go to the trash."""
    paths = [path for (path,) in db.execute("SELECT path FROM partitions WHERE series = ?", (number,))]
    for table in _TABLES:
        db.execute(f"DELETE FROM {table} WHERE series = ?", (number,))  # noqa: S608
    db.execute(
        "UPDATE series SET kept = 0, version = version + 1, clock = 0, settle = 0, candles = 0, counted = 0,"
        " first = NULL, last = NULL, absent = 0, missing = 0 WHERE id = ?",
        (number,),
    )
    db.executemany("INSERT OR IGNORE INTO trash (path) VALUES (?)", [(path,) for path in paths])
    return paths


def partitions(db: apsw.Connection, number: int, span: tuple[int, int] | None) -> list[PartitionRow]:
    """The partitions with numbers in `span` (inclusive at both ends), ascending."""
    low, high = span or (-(1 << 62), 1 << 62)
    rows = db.execute(
        "SELECT part, path, sha256, rows, first, last, intent_sha256, intent_rows FROM partitions"
        " WHERE series = ? AND part BETWEEN ? AND ? ORDER BY part",
        (number, low, high),
    )
    return [PartitionRow(*row) for row in rows]


def staged(
    db: apsw.Connection, number: int, parts: tuple[int, int] | None, span: TimeRange | None = None
) -> list[StagedRow]:
    """Staged blocks of the partitions in `parts` (inclusive) that touch `span`, oldest first."""
    low, high = parts or (-(1 << 62), 1 << 62)
    since, until = (span.since, span.until) if span else (-(1 << 62), 1 << 62)
    rows = db.execute(
        "SELECT id, part, first, last, rows, step, data, crc FROM staged"
        " WHERE series = ? AND part BETWEEN ? AND ? AND first < ? AND last >= ? ORDER BY id",
        (number, low, high, until, since),
    )
    return [StagedRow(number, part, Staged(*rest)) for number, part, *rest in rows]


def summaries(db: apsw.Connection) -> list[SeriesSummary]:
    """All series kept, in order."""
    rows = db.execute(
        "SELECT exchange, symbol, timeframe, kind, first, last, candles, absent, missing, clock FROM series WHERE kept"
        " ORDER BY exchange, symbol, length, timeframe, kind"
    )
    return [
        SeriesSummary(SeriesId(exchange, symbol, timeframe, kind), *rest)
        for exchange, symbol, timeframe, kind, *rest in rows
    ]
