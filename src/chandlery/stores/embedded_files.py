"""Files and folders of an embedded store, made so that a power cut leaves them: a name lasts once its folder is synced."""

from __future__ import annotations

import fcntl
import os
import sys
from contextlib import suppress
from pathlib import Path


def sync(descriptor: int) -> None:
    """Return once what was written to an open file, or the names in an open folder, would survive a power cut."""
    if sys.platform == "darwin":  # where fsync stops at the drive's cache
        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
    else:
        os.fsync(descriptor)


def sync_folder(place: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sync(descriptor)
    finally:
        os.close(descriptor)


def make_store_folder(folder: Path, inside: str) -> None:
    """Make the store's folder and the folder `inside` it, for this user alone, with everything above them; durably.

    Folders that are there already may have been made a moment ago, by a process that was killed before it synced them
    or that is about to. So all names on the way are synced; the folder inside comes last and says that they were.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for place in reversed(folder.parents):
        with suppress(PermissionError):  # what is above the folders of this user was not made by this user
            sync_folder(place)
    (folder / inside).mkdir(mode=0o700, exist_ok=True)
    sync_folder(folder)


def write_durably(file: Path, data: bytes) -> None:
    """Make a new file with these bytes, durable but for its name; on an error nothing of it stays."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            sync(stream.fileno())
    except BaseException:
        file.unlink(missing_ok=True)
        raise
