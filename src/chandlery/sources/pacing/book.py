"""What is used of a host's budgets, in one small file that all chandlery processes of the host share.

A file of tallies (see `tally`), read and written whole under a kernel lock, which ends with its process. Written in one
piece each, and with a checksum: what is torn, foreign or of another version is begun anew. It is not mapped into memory,
so that a file that somebody cuts is an error rather than the end of the process.

Times in it are of the clock that runs since the host was started; after a restart of the host, they are moved by what the
wall clock says has passed. A folder that cannot be written costs a warning: budgets then are those of this process alone.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from chandlery.clock import SystemClock
from chandlery.sources.bans import file_name
from chandlery.sources.pacing.tally import BOOT, BYTES, KEY, SKEW, WRITTEN, Tally

if TYPE_CHECKING:
    from chandlery.clock import Clock

log = logging.getLogger("chandlery.sources.pacing")

#: Tallies in one file at most; the one that was not used for longest makes room.
_MOST = 32
#: The lock is held for microseconds. A process that was stopped while it holds it must not stop the others' loops.
_LOCK_TRIES, _LOCK_PAUSE = 500, 0.0002
#: A time so much after now is nonsense; less is another process's clock read a moment later.
_AHEAD_MS = 1_000.0


def number_of(text: str) -> float:
    """A whole number that stands for `text`, exact as a double."""
    return float(int.from_bytes(hashlib.blake2b(text.encode(), digest_size=6).digest(), "big"))


class BudgetBook:
    """The tallies of one host.

    Use `tally` and `keep` only within `held`, which gives False where the lock cannot be had; then neither may be called.
    """

    def __init__(self, folder: Path, host: str, clock: Clock) -> None:
        self.path = folder / "hosts" / f"{file_name(host)}.budget"
        self.host = host
        self.clock = clock
        self._real = isinstance(clock, SystemClock)
        self._boot = number_of(_boot_id()) if self._real else 0.0
        self._file: int | None = None
        self._process = 0
        self._alone: dict[float, Tally] | None = None  # instead of the file, where there can be none
        self._places: dict[float, int] = {}
        self._warned = False

    def now(self) -> float:
        """Milliseconds of the clock that the tallies are kept by."""
        if self._real and hasattr(time, "CLOCK_BOOTTIME"):
            return time.clock_gettime(time.CLOCK_BOOTTIME) * 1000
        return self.clock.monotonic() * 1000

    @contextmanager
    def held(self) -> Iterator[bool]:
        """The block has the file to itself, where it is given True."""
        file = self._open()
        if file is None:
            yield True
            return
        import fcntl

        for _ in range(_LOCK_TRIES):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(_LOCK_PAUSE)
            except OSError as error:  # a file system without locks
                self._give_up(error)
                break
            else:
                break
        else:
            self._warn("it is locked by a process that does not go on")
            yield False
            return
        try:
            yield True
        finally:
            if self._file == file:
                fcntl.flock(file, fcntl.LOCK_UN)

    def tally(self, key: float, now: float) -> Tally:
        """The tally of that key, a new one where there is none."""
        if self._alone is not None:
            return self._alone.setdefault(key, Tally(key))
        found = Tally.read(self._read(self._places.get(key, _MOST)), key)
        if found is None:
            place = self._places[key] = self._place(key)
            found = Tally.read(self._read(place), key)
        if found is not None and found.cells[BOOT] != self._boot:
            # Written before the host was started again: what passed since is known by the wall clock only.
            found.moved(found.cells[SKEW] - self._skew(now), now)
        elif found is None or found.cells[WRITTEN] > now + _AHEAD_MS:
            found = Tally(key)
            self.keep(found, now)  # so that its place is taken
        return found

    def keep(self, tally: Tally, now: float) -> None:
        """Write a tally down."""
        cells = tally.cells
        if self._alone is not None:
            self._alone[cells[KEY]] = tally
            return
        cells[BOOT], cells[WRITTEN], cells[SKEW] = self._boot, now, self._skew(now)
        file = self._file
        if file is None:
            return
        try:
            os.pwrite(file, tally.bytes(), self._places[cells[KEY]] * BYTES)
        except OSError as error:
            self._give_up(error)
            self.keep(tally, now)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _skew(self, now: float) -> float:
        """The wall clock less the host's own."""
        return self.clock.now_ms() - now

    def _open(self) -> int | None:
        """The open file, None where there can be none. One that was removed is made anew."""
        if self._file is not None:
            # A lock is shared with a process that was forked off, so each opens the file for itself.
            if os.fstat(self._file).st_nlink and self._process == os.getpid():
                return self._file
            self.close()
        if self._alone is not None:
            return None
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            self._process = os.getpid()
        except OSError as error:
            self._give_up(error)
        return self._file

    def _give_up(self, error: OSError) -> None:
        self.close()
        self._alone = {}
        self._warn(f"it is not shared with other processes: {error}")

    def _warn(self, why: str) -> None:
        if not self._warned:
            self._warned = True
            log.warning("the request budget of %s in %s: %s", self.host, self.path, why)

    def _read(self, place: int) -> bytes:
        try:
            return os.pread(self._file, BYTES, place * BYTES) if self._file is not None else b""
        except OSError:
            return b""

    def _place(self, key: float) -> int:
        """Where the tally of that key stands, or may."""
        free: int | None = None
        used: list[tuple[float, int]] = []
        for place in range(_MOST):
            there = Tally.read(self._read(place))
            if there is None:
                free = place if free is None else free
            elif there.cells[KEY] == key:
                return place
            else:
                used.append((there.cells[WRITTEN], place))
        return min(used)[1] if free is None else free


def _boot_id() -> str:
    """What tells one start of this host from the next, as far as the system says it."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return "unknown"
