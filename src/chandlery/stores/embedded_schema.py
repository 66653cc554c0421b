"""The tables of an embedded store's catalogue. A change here is a new SCHEMA_VERSION."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import apsw

#: 1 was of no release: facts had no time; 2 had neither identity nor marks; in 3 all staged columns were doubles.
SCHEMA_VERSION = 4
#: The oldest version that is read as it is; the first writer brings it up to SCHEMA_VERSION.
OLDEST_VERSION = 2

_SINCE_3 = """CREATE TABLE about (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
INSERT INTO about VALUES ('identity', lower(hex(randomblob(16))));
CREATE TABLE marks (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
"""

#: What each older version lacks. 4 has the tables of 3: the staged blocks of 3 are read as they are, but a chandlery
#: that knows only 3 would call those of 4 damaged, and so must not open them.
MIGRATIONS = {2: _SINCE_3, 3: ""}

SCHEMA = (
    """
CREATE TABLE series (
    id INTEGER PRIMARY KEY, exchange TEXT NOT NULL, symbol TEXT NOT NULL, timeframe TEXT NOT NULL, kind TEXT NOT NULL,
    path TEXT NOT NULL UNIQUE COLLATE NOCASE, length INTEGER NOT NULL, kept INTEGER NOT NULL, version INTEGER NOT NULL,
    clock INTEGER NOT NULL, settle INTEGER NOT NULL, candles INTEGER NOT NULL, counted INTEGER NOT NULL,
    first INTEGER, last INTEGER, absent INTEGER NOT NULL, missing INTEGER NOT NULL,
    UNIQUE (exchange, symbol, timeframe, kind));
CREATE TABLE asked (
    series INTEGER NOT NULL, since INTEGER NOT NULL, until INTEGER NOT NULL,
    PRIMARY KEY (series, since)) WITHOUT ROWID;
CREATE TABLE answered (
    series INTEGER NOT NULL, since INTEGER NOT NULL, until INTEGER NOT NULL, at INTEGER,
    PRIMARY KEY (series, since)) WITHOUT ROWID;
CREATE TABLE loose (
    series INTEGER NOT NULL, since INTEGER NOT NULL, until INTEGER NOT NULL,
    PRIMARY KEY (series, since)) WITHOUT ROWID;
CREATE TABLE facts (
    series INTEGER NOT NULL, state TEXT NOT NULL, since INTEGER NOT NULL, until INTEGER NOT NULL, reason TEXT NOT NULL,
    at INTEGER, PRIMARY KEY (series, state, since)) WITHOUT ROWID;
CREATE TABLE quarantine (
    id INTEGER PRIMARY KEY, series INTEGER NOT NULL, open INTEGER, raw TEXT NOT NULL, reason TEXT NOT NULL,
    at INTEGER NOT NULL, source TEXT NOT NULL, resolved INTEGER NOT NULL);
CREATE INDEX quarantine_open ON quarantine (series, open);
CREATE TABLE revisions (
    id INTEGER PRIMARY KEY, series INTEGER NOT NULL, open INTEGER NOT NULL, old BLOB NOT NULL, new BLOB NOT NULL,
    at INTEGER NOT NULL, source TEXT NOT NULL);
CREATE INDEX revisions_series ON revisions (series);
CREATE TABLE journal (
    seq INTEGER PRIMARY KEY, series INTEGER NOT NULL, since INTEGER NOT NULL, until INTEGER NOT NULL,
    kind TEXT NOT NULL, committed_at INTEGER NOT NULL, source TEXT NOT NULL, rows INTEGER NOT NULL);
CREATE TABLE partitions (
    series INTEGER NOT NULL, part INTEGER NOT NULL, path TEXT NOT NULL, sha256 TEXT, rows INTEGER NOT NULL,
    first INTEGER, last INTEGER, intent_sha256 TEXT, intent_rows INTEGER,
    PRIMARY KEY (series, part)) WITHOUT ROWID;
CREATE TABLE staged (
    id INTEGER PRIMARY KEY, series INTEGER NOT NULL, part INTEGER NOT NULL, first INTEGER NOT NULL,
    last INTEGER NOT NULL, rows INTEGER NOT NULL, step INTEGER, data BLOB NOT NULL, crc INTEGER NOT NULL);
CREATE INDEX staged_part ON staged (series, part);
CREATE TABLE trash (path TEXT PRIMARY KEY) WITHOUT ROWID;
"""
    + _SINCE_3
)


def make_tables(connection: apsw.Connection, application: int) -> None:
    """Fill an empty catalogue, unless another process was quicker."""
    with _one_change(connection):
        if connection.execute("PRAGMA user_version").get == 0:
            for statement in SCHEMA.split(";\n"):
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id={application}")
            connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")


def has_marks(connection: apsw.Connection) -> bool:
    """Whether the catalogue has an identity and marks: one that was only read since an older chandlery has none."""
    return int(connection.execute("PRAGMA user_version").get) > 2


def migrate(connection: apsw.Connection) -> None:
    """Add what an older catalogue lacks, in one commit: a reader finds the old one or the new one."""
    with _one_change(connection):
        version = int(connection.execute("PRAGMA user_version").get)
        for older in range(version, SCHEMA_VERSION):  # empty where another process was quicker
            for statement in MIGRATIONS[older].split(";\n"):
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")


@contextmanager
def _one_change(connection: apsw.Connection) -> Iterator[None]:
    """Everything inside is done in one writing transaction, or nothing of it."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
