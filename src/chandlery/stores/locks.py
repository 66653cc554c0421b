"""The right to write a series: a kernel lock on a file, which dies with its process, and a register of what this one holds."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from chandlery.candle import SeriesId
from chandlery.errors import SeriesLocked
from chandlery.stores.embedded_partitions import lock_name

_WAIT = 0.05  # seconds between two tries of a waiting process


class _Held:
    """A lock that this process holds: the open file, and how many uses there are of it."""

    def __init__(self, descriptor: int, pid: int) -> None:
        self.descriptor = descriptor
        self.pid = pid  # a forked child inherits the register, not the right
        self.uses = 0
        self.taken = False  # by `take`, which only one may do at a time; `join` goes beside it


_register: dict[str, _Held] = {}
_guard = threading.RLock()


@contextmanager
def take(folder: Path, series: SeriesId, *, wait: bool) -> Iterator[None]:
    """Hold the series' lock below `folder`, which exists; a second taker in this process is refused like any other."""
    path = f"{folder}/{lock_name(series)}"
    while not _acquire(path, alone=True):
        if not wait:
            raise _locked(path, series)
        time.sleep(_WAIT)
    try:
        yield
    finally:
        _release(path, alone=True)


@contextmanager
def join(folder: Path, series: SeriesId) -> Iterator[None]:
    """Hold the series' lock, or share it where this process holds it already."""
    path = f"{folder}/{lock_name(series)}"
    if not _acquire(path, alone=False):
        raise _locked(path, series)
    try:
        yield
    finally:
        _release(path, alone=False)


def _acquire(path: str, *, alone: bool) -> bool:
    with _guard:
        held = _register.get(path)
        if held is not None and held.pid == os.getpid():
            if alone:
                if held.taken:
                    return False
                held.taken = True
            held.uses += 1
            return True
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        except BlockingIOError:
            os.close(descriptor)
            return False
        except BaseException:
            os.close(descriptor)
            raise
        held = _Held(descriptor, os.getpid())
        held.uses, held.taken = 1, alone
        _register[path] = held
        return True


def _release(path: str, *, alone: bool) -> None:
    with _guard:
        held = _register[path]
        held.uses -= 1
        if alone:
            held.taken = False
        if not held.uses:
            del _register[path]
            os.close(held.descriptor)


def _locked(path: str, series: SeriesId) -> SeriesLocked:
    try:
        pid = int(Path(path).read_text("ascii") or 0)
    except (OSError, ValueError):
        pid = 0
    who = f"process {pid}" if pid else "another process"
    return SeriesLocked(
        f"{series} is being written by {who}", hint="wait for it to end, or use --wait-lock", pid=pid
    )
