"""The catalogue of an embedded store: its schema, its connections, and SQLite's errors in our words."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import apsw

from chandlery.errors import DataPipelineError, NoSuchStore, StoreCorrupt, StoreFull, StoreUnreadable
from chandlery.stores.embedded_files import make_store_folder
from chandlery.stores.embedded_schema import OLDEST_VERSION, SCHEMA_VERSION, make_tables, migrate

FILE_NAME = "catalogue.sqlite"
LOCKS = "locks"
APPLICATION_ID = 0x43484E44  # "CHND"
_BUSY_MS = 30_000
# Before 3.51.3 two connections that check-point at once could lose a commit (the WAL-reset bug).
_OLDEST_SQLITE = (3, 51, 3)
# What may lie in a folder that becomes a store: what a run leaves that was killed while it made one.
_OURS = (FILE_NAME, FILE_NAME + "-wal", FILE_NAME + "-shm", FILE_NAME + "-journal", LOCKS)


def inspect_folder(folder: Path, *, create: bool) -> None:
    """Raise what is wrong with `folder` as a place for a store; writes nothing."""
    if tuple(int(n) for n in apsw.sqlite_lib_version().split(".")) < _OLDEST_SQLITE:
        raise StoreUnreadable(
            f"SQLite {apsw.sqlite_lib_version()} can lose commits", hint="install apsw 3.54 or newer"
        )
    try:
        names = [entry.name for entry in folder.iterdir()]
    except FileNotFoundError:
        if create:
            return
        raise NoSuchStore(
            f"no store: there is nothing at {folder}",
            hint="name another --store, or fetch something into this one",
        ) from None
    except NotADirectoryError:
        raise StoreUnreadable(
            f"not a store: {folder} is a file", hint="a store is a folder; name another with --store"
        ) from None
    except OSError as error:
        raise translated(error, folder) from error
    if FILE_NAME in names:
        return
    foreign = sorted(name for name in names if name not in _OURS)
    if foreign:
        raise StoreUnreadable(
            f"not a store: {folder} holds other files, such as {foreign[0]!r}",
            hint="a store is made in a new or an empty folder; name another with --store",
        )
    if not create:
        raise NoSuchStore(
            f"no store: {folder} is empty", hint="name another --store, or fetch something into this one"
        )


class Catalogue:
    """The connections to one store's catalogue: one that writes, and as many that read as are in use at once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / FILE_NAME
        self._pid = os.getpid()
        self._writer: apsw.Connection | None = None
        self._readers: list[apsw.Connection] = []
        self._guard = threading.Lock()
        self._closed = False
        self._filled = False
        self._opened: tuple[int, int] | None = None  # device and inode of the catalogue that is being written

    # -- writing ----------------------------------------------------------------------------------------------------

    def make_folder(self) -> None:
        """Make the store's folder and its locks, for this user alone."""
        self._usable()
        self.still_there()  # or a store that was moved away would be begun anew
        with self.errors():
            if not (self.folder / LOCKS).is_dir():
                make_store_folder(self.folder, LOCKS)

    def writer(self) -> apsw.Connection:
        """The connection that writes; makes the catalogue if there is none. Callers take turns."""
        self._usable()
        if self._writer is None:
            self.make_folder()
            with self.errors():
                self._writer = self._open_writer()
                found = os.stat(self.path)  # noqa: PTH116
                self._opened = found.st_dev, found.st_ino
        return self._writer

    def still_there(self) -> None:
        """Raise StoreUnreadable if the catalogue that is being written is no longer the one at its path."""
        if self._opened is None:
            return
        try:
            found = os.stat(self.path)  # noqa: PTH116 - in every commit
            there = found.st_dev, found.st_ino
        except FileNotFoundError:
            there = None
        except OSError as error:
            raise translated(error, self.folder) from error
        if there != self._opened:
            raise StoreUnreadable(
                f"the store {self.folder} was moved or deleted while it was being written",
                hint="put it back, or name where it is now with --store; what it held when it went is there",
            )

    def _open_writer(self) -> apsw.Connection:
        flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
        connection = apsw.Connection(str(self.path), flags=flags)
        try:
            connection.setbusytimeout(_BUSY_MS)
            version = _version(connection, self.folder)
            if version == 0:
                self._make_schema(connection)
            elif version < SCHEMA_VERSION:
                migrate(connection)
            # synchronous=FULL: a commit is on the disk when it returns; on macOS only with fullfsync.
            for pragma in (
                "synchronous=FULL",
                "fullfsync=ON",
                "checkpoint_fullfsync=ON",
                "journal_size_limit=8388608",
                "cache_size=-8000",
            ):
                connection.execute(f"PRAGMA {pragma}").get  # noqa: B018
        except BaseException as error:
            _note_cause(error, connection)
            connection.close()
            raise
        return connection

    @staticmethod
    def _make_schema(connection: apsw.Connection) -> None:
        # A staged page of candles takes 20 to 40 kB: of pages of 4 kB twice as many would be checked, written and copied.
        connection.execute("PRAGMA page_size=8192").get  # noqa: B018
        connection.execute("PRAGMA auto_vacuum=INCREMENTAL").get  # noqa: B018
        deadline = time.monotonic() + _BUSY_MS / 1000
        while connection.execute("PRAGMA journal_mode=WAL").get != "wal":
            # Two processes that make one store meet here, where SQLite does not wait by itself.
            if time.monotonic() > deadline:
                raise apsw.BusyError("another process holds the catalogue")
            time.sleep(0.01)
        make_tables(connection, APPLICATION_ID)

    @contextmanager
    def transaction(self) -> Iterator[apsw.Connection]:
        """One writing transaction, committed at the end; on an error nothing of it stays."""
        connection = self.writer()
        with self.errors():
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                self.still_there()
                connection.execute("COMMIT")
                self.still_there()
            except BaseException as error:
                _note_cause(error, connection)
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    # -- reading ----------------------------------------------------------------------------------------------------

    def exists(self) -> bool:
        """Whether there is a catalogue to read."""
        self._usable()
        if not self._filled and os.path.lexists(self.path):
            # A process that was killed while it made the store leaves a catalogue without tables.
            with self.reading() as connection:
                self._filled = _version(connection, self.folder) > 0
        return self._filled

    @contextmanager
    def reading(self) -> Iterator[apsw.Connection]:
        """A reading transaction: one picture of the catalogue. The catalogue must exist."""
        self._usable()
        with self.errors():
            with self._guard:
                connection = self._readers.pop() if self._readers else None
            reusable = True
            if connection is None:
                connection, reusable = self._open_reader()
            try:
                connection.execute("BEGIN")
                yield connection
            except BaseException as error:
                _note_cause(error, connection)
                reusable = False
                raise
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                if reusable and not self._closed:
                    with self._guard:
                        self._readers.append(connection)
                else:
                    connection.close()

    def _open_reader(self) -> tuple[apsw.Connection, bool]:
        """A reading connection, and whether it may be kept: one on a frozen picture may not."""
        try:
            return self._checked(apsw.Connection(str(self.path), flags=apsw.SQLITE_OPEN_READONLY)), True
        except (apsw.CantOpenError, apsw.ReadOnlyError, apsw.IOError):
            if not os.access(self.path, os.R_OK):
                raise
            if os.access(self.folder, os.W_OK):
                if not self._roll_back():
                    raise
                return self._checked(apsw.Connection(str(self.path), flags=apsw.SQLITE_OPEN_READONLY)), True
        # Without the right to make the shared-memory file SQLite cannot read a catalogue in WAL mode as usual.
        wal = Path(f"{self.path}-wal")
        if not wal.exists() or not wal.stat().st_size:
            return self._checked(_frozen(self.path)), False
        return self._read_copy(wal), False

    def _roll_back(self) -> bool:
        """Undo a making of the catalogue that broke off and left its journal; a connection that only reads cannot."""
        if not Path(f"{self.path}-journal").exists():
            return False
        connection = apsw.Connection(str(self.path), flags=apsw.SQLITE_OPEN_READWRITE)
        try:
            self._checked(connection)
        finally:
            connection.close()
        return True

    def _read_copy(self, wal: Path) -> apsw.Connection:
        """The catalogue and its log, copied into memory's reach: a folder that is gone once the connection is."""
        for _ in range(20):
            with tempfile.TemporaryDirectory(prefix="chandlery-") as place:
                copy = Path(place) / FILE_NAME
                before = [_stamp(path) for path in (self.path, wal)]
                shutil.copyfile(self.path, copy)
                shutil.copyfile(wal, f"{copy}-wal")
                if before != [_stamp(path) for path in (self.path, wal)]:
                    continue  # a process with more rights wrote meanwhile
                memory, opened = apsw.Connection(":memory:"), apsw.Connection(str(copy))
                try:
                    with memory.backup("main", opened, "main") as backup:
                        backup.step()
                finally:
                    opened.close()
                return self._checked(memory)
        raise StoreUnreadable(
            f"{self.folder} cannot be read: it is being written all the time and this user has no right to take part",
            hint="give this user the right to write the folder, or try when nothing is written",
        )

    def _checked(self, connection: apsw.Connection) -> apsw.Connection:
        try:
            connection.setbusytimeout(_BUSY_MS)
            _version(connection, self.folder)
        except BaseException as error:
            _note_cause(error, connection)
            connection.close()
            raise
        return connection

    # -- both -------------------------------------------------------------------------------------------------------

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn errors of SQLite and of the file system into ours."""
        try:
            yield
        except (apsw.Error, OSError) as error:
            if self._writer is not None and not hasattr(error, "errno"):
                _note_cause(error, self._writer)
            raise translated(error, self.folder) from error

    def close(self) -> None:
        """Close every connection that is not in use; those in use close when they are given back."""
        with self._guard:
            self._closed = True
            idle, self._readers = self._readers, []
        for connection in idle:
            connection.close()
        if self._writer is not None:
            with self.errors():
                self._writer.close()
            self._writer = None

    def _usable(self) -> None:
        if self._closed:
            raise StoreUnreadable(f"the store {self.folder} is closed", hint="open it again")
        if self._pid != os.getpid():
            raise StoreUnreadable(
                f"the store {self.folder} was opened by process {self._pid}, of which this is a fork",
                hint="open the store again in each process",
            )


def _version(connection: apsw.Connection, folder: Path) -> int:
    """The catalogue's schema version, 0 if it is empty; raises if it is not ours to read."""
    # Tables first: who makes the store commits them together with its id, perhaps between these two reads.
    tables = connection.execute("SELECT count(*) FROM sqlite_schema").get
    application = connection.execute("PRAGMA application_id").get
    version = int(connection.execute("PRAGMA user_version").get)
    if application != APPLICATION_ID and tables:
        raise StoreUnreadable(
            f"not a store: {folder / FILE_NAME} is another program's database", hint="name another --store"
        )
    if 0 < version < OLDEST_VERSION:
        raise StoreUnreadable(
            f"the store {folder} was made by an unreleased chandlery (schema {version}, this one reads {SCHEMA_VERSION})",
            hint="fetch into a new store; the Parquet files of the old one can be read without it",
        )
    if version > SCHEMA_VERSION:
        raise StoreUnreadable(
            f"the store {folder} was made by a newer chandlery (schema {version}, this one reads {SCHEMA_VERSION})",
            hint="install that version or a newer one: pip install -U chandlery",
        )
    return version


def _frozen(path: Path) -> apsw.Connection:
    flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
    return apsw.Connection(f"file:{quote(str(path))}?immutable=1", flags=flags)


def _stamp(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_mtime_ns, found.st_size


def _note_cause(error: BaseException, connection: apsw.Connection) -> None:
    """Keep the system's error number beside SQLite's error, as OSError has it, while the connection still knows it."""
    if isinstance(error, apsw.Error):
        error.errno = connection.system_errno  # type: ignore[attr-defined]


def translated(error: apsw.Error | OSError, folder: Path) -> DataPipelineError:
    """An error of SQLite or of the file system, about the store in `folder`, as one of ours."""
    number = getattr(error, "errno", None) or 0
    full = isinstance(error, apsw.FullError) or (
        isinstance(error, OSError | apsw.IOError) and number in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
    )
    if full:
        return StoreFull(
            f"no space left for the store {folder}; what was stored before is unharmed",
            hint="make space and run the same again",
        )
    if isinstance(error, apsw.NotADBError):
        return StoreUnreadable(
            f"not a store: {folder / FILE_NAME} is not an SQLite database", hint="name another --store"
        )
    if isinstance(error, apsw.CorruptError):
        return StoreUnreadable(
            f"the catalogue {folder / FILE_NAME} is damaged: {error}",
            hint="put it back from a backup, or fetch into a new store; the Parquet files can be read without it",
        )
    if isinstance(error, apsw.BusyError | apsw.LockedError):
        return StoreUnreadable(
            f"the store {folder} was held by another process for {_BUSY_MS // 1000} s", hint="try again"
        )
    denied = isinstance(
        error, apsw.ReadOnlyError | apsw.CantOpenError | apsw.PermissionsError | apsw.AuthError
    )
    if denied or number in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return StoreUnreadable(
            f"no right to use the store {folder}: {error}",
            hint="check who owns the folder and what they may do",
        )
    if isinstance(error, apsw.IOError) or number == errno.EIO:
        return StoreCorrupt(
            f"the disk failed under the store {folder}: {error}",
            hint="check the disk, then run `chandlery verify`",
        )
    return StoreUnreadable(
        f"the store {folder} cannot be used: {error}", hint="check the folder and its disk"
    )
