"""The embedded store: a folder with an SQLite catalogue and Parquet files, shared by any number of processes.

The catalogue holds ledger, journal and newly arrived candles; candles of full partitions lie in plain Parquet files
under `exchange=…/kind=…/symbol=…/timeframe=…/`. docs/stores.md describes the folder.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from chandlery.candle import Rejected, SeriesId
from chandlery.errors import SeriesLocked
from chandlery.failpoints import failpoint
from chandlery.ledger import Ledger
from chandlery.stores import locks
from chandlery.stores.base import (
    Entry,
    JournalEntry,
    Page,
    Problem,
    Quarantined,
    Revision,
    SeriesSummary,
    Store,
    Written,
)
from chandlery.stores.embedded_catalog import LOCKS, Catalogue, inspect_folder
from chandlery.stores.embedded_read import (
    Decoded,
    check_series,
    load_frame,
    load_times,
    picture,
    read_steadily,
)
from chandlery.stores.embedded_repair import forget
from chandlery.stores.embedded_rows import SeriesRow, delete_series, find_series, summaries
from chandlery.stores.embedded_schema import has_marks
from chandlery.stores.embedded_seal import empty_trash, give_back_space, is_complete, seal_partition
from chandlery.stores.embedded_write import Transaction
from chandlery.stores.rules import hull, no_such_series
from chandlery.timerange import TimeRange

if TYPE_CHECKING:
    import apsw
    import numpy as np
    import polars as pl
    from numpy.typing import NDArray

_JOURNAL = (
    "SELECT j.seq, s.exchange, s.symbol, s.timeframe, s.kind, j.since, j.until, j.kind, j.committed_at, j.source, j.rows"
    " FROM journal j JOIN series s ON s.id = j.series WHERE j.seq > ? ORDER BY j.seq LIMIT ?"
)
_BATCH = 1000  # journal entries read in one transaction

# Threads of this process that write one store take turns, whichever object they use.
_turns: dict[str, threading.RLock] = {}
_turns_guard = threading.Lock()


class EmbeddedStore(Store):
    """A store in a folder. Opening it writes nothing; the first lock or entry makes the folder.

    Raises StoreUnreadable if the folder is no place for a store, NoSuchStore if it is not there and `create` is False.
    """

    seals = True

    def __init__(self, folder: str | Path, *, create: bool = True) -> None:
        path = Path(folder).expanduser().absolute()
        inspect_folder(path, create=create)
        self._catalogue = Catalogue(path)
        with _turns_guard:
            self._turn = _turns.setdefault(str(path.resolve()), threading.RLock())
        self._known: dict[SeriesId, SeriesRow] = {}
        #: Series whose partitions `seal` should look at; None = all, because others may have left some.
        self._ripe: set[SeriesId] | None = None
        self._trash_seen = False
        self._data_version = -1
        self._decoded = Decoded()
        if self._catalogue.path.exists():
            self._catalogue.exists()  # raises now, not later, if it cannot be read

    @property
    def url(self) -> str:
        """The absolute path of the folder."""
        return str(self._catalogue.folder)

    @property
    def folder(self) -> Path:
        """The folder, absolute."""
        return self._catalogue.folder

    @property
    def identity(self) -> str:
        """32 hexadecimal digits, made with the catalogue, which is made here if there is none yet."""
        query = "SELECT value FROM about WHERE name = 'identity'"
        if self._catalogue.exists():
            with self._catalogue.reading() as db:
                if has_marks(db):
                    return str(db.execute(query).get)
        with self._turn:
            return str(self._catalogue.writer().execute(query).get)

    def mark(self, name: str) -> int:
        """The number set under that name."""
        if not self._catalogue.exists():
            return 0
        with self._catalogue.reading() as db:
            found = has_marks(db) and db.execute("SELECT value FROM marks WHERE name = ?", (name,)).get
        return int(found or 0)

    def set_mark(self, name: str, value: int) -> None:
        """Remember a number under that name."""
        with self._turn, self._catalogue.transaction() as db:
            db.execute("INSERT OR REPLACE INTO marks (name, value) VALUES (?, ?)", (name, value))

    # -- write side -------------------------------------------------------------------------------------------------

    def write(self, entries: Sequence[Entry]) -> list[Written]:
        """Take entries in, in one commit; takes the locks of their series where this process does not hold them."""
        if not entries:
            return []
        series = {entry.page.series if isinstance(entry, Page) else entry.series for entry in entries}
        with self._turn, self._joined(series):
            if not self._trash_seen:
                empty_trash(self._catalogue)
                self._trash_seen = True
            try:
                with self._catalogue.transaction() as db:
                    failpoint("page.begin")
                    # The number moves with every commit of another connection.
                    version = db.execute("PRAGMA data_version").get
                    taking = Transaction(
                        db, self.folder, self._known, self._decoded, alone=version == self._data_version
                    )
                    self._data_version = version
                    written = [taking.take(entry) for entry in entries]
                    taking.write_rows()
                    failpoint("page.staged")
                    taking.write_ledger()
                    failpoint("page.commit")
            except BaseException:
                self._known.clear()
                raise
            failpoint("page.committed")
            if self._ripe is not None:
                self._ripe |= taking.touched
            return written

    def forget(self, series: SeriesId, span: TimeRange) -> None:
        """Let go of the answers of `span`; files of the series that are damaged are set aside, their answers too."""
        if not self._catalogue.exists():
            raise no_such_series(series, self.url)
        with self._turn, self._joined([series]):
            self._known.pop(series, None)
            with self._catalogue.transaction() as db:
                row = find_series(db, series)
                if row is None:
                    raise no_such_series(series, self.url)
                forget(db, self.folder, row, span)

    def remove(self, series: SeriesId) -> int:
        """Take a series out, files and all; its journal entries stay, and one says that it was removed."""
        if not self._catalogue.exists():
            raise no_such_series(series, self.url)
        with self._turn, self._joined([series]):
            self._known.pop(series, None)
            with self._catalogue.transaction() as db:
                row = find_series(db, series)
                if row is None:
                    raise no_such_series(series, self.url)
                span = hull(row.ledger)
                delete_series(db, row.id)
                db.execute(
                    "INSERT INTO journal (series, since, until, kind, committed_at, source, rows)"
                    " VALUES (?, ?, ?, 'remove', ?, '', ?)",
                    (row.id, span.since, span.until, _now(), row.candles),
                )
            empty_trash(self._catalogue)
            return row.candles

    @contextmanager
    def lock(self, series: SeriesId, *, wait: bool = False) -> Iterator[None]:
        """Be the one process that writes this series."""
        self._catalogue.make_folder()
        with ExitStack() as stack:
            with self._catalogue.errors():
                stack.enter_context(locks.take(self.folder / LOCKS, series, wait=wait))
            yield

    @contextmanager
    def _joined(self, series: Sequence[SeriesId] | set[SeriesId]) -> Iterator[None]:
        self._catalogue.make_folder()
        with ExitStack() as stack:
            with self._catalogue.errors():
                for one in sorted(series):
                    stack.enter_context(locks.join(self.folder / LOCKS, one))
            yield

    def seal(self, series: SeriesId | None = None, *, everything: bool = False) -> int:
        """Write staged candles into their partitions: those that are history, or all of them.

        A series that another process writes is left to it; if `everything` was asked for, the others are sealed and
        then SeriesLocked is raised.
        """
        if not everything and series is None and self._ripe is not None and not self._ripe:
            return 0
        if not self._catalogue.exists():
            return 0
        with self._turn:
            wanted = self._to_seal(series, everything=everything)
            sealed, refused = 0, None
            for one in wanted:
                try:
                    with self._joined([one]):
                        sealed += self._seal_series(one, everything=everything)
                except SeriesLocked as error:
                    refused = error
            if series is None:
                self._ripe = set()
            elif self._ripe is not None:
                self._ripe.discard(series)
            if sealed:
                give_back_space(self._catalogue)
            if refused is not None and everything:
                raise refused
            return sealed

    def _to_seal(self, series: SeriesId | None, *, everything: bool) -> list[SeriesId]:
        if series is not None:
            return [series]
        if not everything and self._ripe is not None:
            return sorted(self._ripe)
        query = "SELECT exchange, symbol, timeframe, kind FROM series WHERE id IN (SELECT series FROM staged) ORDER BY 1, 2, 3, 4"
        with self._catalogue.reading() as db:
            return [SeriesId(*names) for names in db.execute(query)]

    def _seal_series(self, series: SeriesId, *, everything: bool) -> int:
        self._known.pop(series, None)
        db = self._catalogue.writer()
        with self._catalogue.errors():
            row = find_series(db, series)
            if row is None:
                return 0
            parts = [
                p
                for (p,) in db.execute(
                    "SELECT DISTINCT part FROM staged WHERE series = ? ORDER BY 1", (row.id,)
                )
            ]
        ready = [p for p in parts if everything or is_complete(row.ledger, row.parts, p)]
        return sum(seal_partition(self._catalogue, row, part) for part in ready)

    # -- read side --------------------------------------------------------------------------------------------------

    def series(self) -> list[SeriesSummary]:
        """All series kept."""
        if not self._catalogue.exists():
            return []
        with self._catalogue.reading() as db:
            return summaries(db)

    def ledger(self, series: SeriesId) -> Ledger:
        """The series' ledger."""
        with self._reading(series) as (_, row):
            return row.ledger

    def candles(self, series: SeriesId, span: TimeRange | None = None) -> pl.DataFrame:
        """Stored candles that open in `span`; only the partitions that it touches are read."""
        return read_steadily(self._catalogue, series, span, load_frame)

    def opens(self, series: SeriesId, span: TimeRange | None = None) -> NDArray[np.int64]:
        """The open times of `candles`."""
        return read_steadily(self._catalogue, series, span, load_times)

    def journal(self, after: int = 0, limit: int | None = None) -> Iterator[JournalEntry]:
        """Journal entries with a number above `after`, read a thousand at a time."""
        left = limit if limit is not None else 1 << 62
        while left > 0 and self._catalogue.exists():
            with self._catalogue.reading() as db:
                rows = list(db.execute(_JOURNAL, (after, min(left, _BATCH))))
            for seq, exchange, symbol, timeframe, kind, since, until, *rest in rows:
                series = SeriesId(exchange, symbol, timeframe, kind)
                yield JournalEntry(seq, series, TimeRange(since, until), *rest)
            if len(rows) < _BATCH:
                return
            after, left = rows[-1][0], left - len(rows)

    def revisions(self, series: SeriesId) -> list[Revision]:
        """Changed candles, oldest change first."""
        import numpy as np

        query = "SELECT open, old, new, at, source FROM revisions WHERE series = ? ORDER BY id"
        with self._reading(series) as (db, row):
            return [
                Revision(
                    series, opened, tuple(np.frombuffer(old, "<f8").tolist()),
                    tuple(np.frombuffer(new, "<f8").tolist()), at, source,
                )
                for opened, old, new, at, source in db.execute(query, (row.id,))
            ]  # fmt: skip

    def quarantine(self, series: SeriesId) -> list[Quarantined]:
        """Refused rows, oldest first."""
        query = "SELECT open, raw, reason, at, source, resolved FROM quarantine WHERE series = ? ORDER BY id"
        with self._reading(series) as (db, row):
            return [
                Quarantined(series, Rejected(opened, raw, reason), at, source, resolved=bool(resolved))
                for opened, raw, reason, at, source, resolved in db.execute(query, (row.id,))
            ]

    def check(self, series: SeriesId) -> list[Problem]:
        """Read every file and staged block of the series and compare digests, numbers of rows, order and grid."""
        with self._reading(series) as (db, row):
            first = check_series(self.folder, picture(db, row, None))
        if not first:
            return first
        # A partition may have been sealed anew between the two reads: what is wrong stays wrong.
        with self._reading(series) as (db, row):
            return check_series(self.folder, picture(db, row, None))

    def still_there(self) -> None:
        """Raise StoreUnreadable if the catalogue that this object has written is no longer at its path."""
        self._catalogue.still_there()

    def close(self) -> None:
        """Let go of files and connections."""
        with self._turn:
            self._known.clear()
            self._catalogue.close()

    @contextmanager
    def _reading(self, series: SeriesId) -> Iterator[tuple[apsw.Connection, SeriesRow]]:
        if not self._catalogue.exists():
            raise no_such_series(series, self.url)
        with self._catalogue.reading() as db:
            row = find_series(db, series)
            if row is None:
                raise no_such_series(series, self.url)
            yield db, row


def _now() -> int:
    import time

    return time.time_ns() // 1_000_000
