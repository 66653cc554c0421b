"""Bans remembered on disk, per API host, so that neither a restart nor another process asks during one.

One JSON file per host in the state folder (CHANDLERY_STATE, else the user's). It is replaced atomically under a kernel
lock; keys that this version does not know are kept. A folder that cannot be written costs a warning, not the run, and so
does a file that is damaged, or one that names a time further away than any that an exchange is believed.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

if TYPE_CHECKING:
    from chandlery.clock import Clock

log = logging.getLogger("chandlery.sources.bans")

VERSION = 1
#: A wait is believed up to this long; Binance's bans last two minutes to three days.
LONGEST_WAIT_MS = 7 * 24 * 3_600_000


def file_name(host: str) -> str:
    """The name of a host's files in the state folder, without their ending."""
    name = quote(host, safe="")
    return (name.replace(".", "%2E") if host.startswith(".") else name)[:200]


class BanBook:
    """The ban of one host, shared by all processes of this user."""

    def __init__(self, folder: Path, host: str, clock: Clock) -> None:
        self.host = host
        self.clock = clock
        self.path = folder / "hosts" / f"{file_name(host)}.json"
        self._path = str(self.path)
        self._stamp: tuple[int, int] | None = None
        self._until = 0
        self._warned = False
        self._said = False

    def until(self) -> int:
        """Epoch ms (local clock) before which the host may not be asked; 0 for no ban. Costs one stat."""
        if self._until and self._until > self.clock.now_ms() + LONGEST_WAIT_MS:
            self._until = 0  # the clock was wrong when it was noted
        try:
            info = os.stat(self._path)  # noqa: PTH116 - asked before each request
        except OSError:
            return self._until
        stamp = (info.st_mtime_ns, info.st_ino)
        if stamp != self._stamp:
            self._stamp = stamp
            self._until = max(self._until, self._ban_end(self._read()))
        return self._until

    def note(self, until: int, reason: str, now: int) -> None:
        """Remember a ban; an earlier end than the one known changes nothing."""
        self._until = max(self._until, until)

        def change(state: MutableMapping[str, Any]) -> bool:
            if self._ban_end(state) >= until:
                return False
            state["ban"] = {"until": until, "since": now, "reason": reason}
            return True

        self._update(change)

    def _update(self, change: Callable[[MutableMapping[str, Any]], bool]) -> None:
        """Change the file if `change` says so; a folder that cannot be written costs one warning."""
        try:
            with self._locked():
                state = self._read()
                if change(state):
                    state.update(version=VERSION, host=self.host)
                    self._write(state)
        except OSError as error:
            if not self._warned:
                self._warned = True
                log.warning("the ban of %s cannot be remembered in %s: %s", self.host, self.path, error)

    def _read(self) -> MutableMapping[str, Any]:
        try:
            state = json.loads(self.path.read_bytes())
        except FileNotFoundError:
            return {}
        except OSError as error:
            self._say(f"it cannot be read: {error.strerror}")
            return {}
        except (ValueError, RecursionError):
            state = None
        if isinstance(state, dict):
            return state
        self._say("the file is damaged")
        return {}

    def _ban_end(self, state: Mapping[str, Any]) -> int:
        """When the ban in the file ends, 0 for none: neither for what is no time nor for what no exchange says."""
        ban = state.get("ban")
        if ban is None:
            return 0
        until = ban.get("until") if isinstance(ban, dict) else None
        if not isinstance(until, int) or isinstance(until, bool):
            self._say("the file is damaged")
            return 0
        if until > self.clock.now_ms() + LONGEST_WAIT_MS:
            # Noted while the clock was wrong, or not by us: iso() has no words for the latest of such times.
            self._say("it would last for more than seven days from now")
            return 0
        return until

    def _say(self, why: str) -> None:
        if not self._said:
            self._said = True
            log.warning("the ban of %s in %s is left aside: %s", self.host, self.path, why)

    def _write(self, state: MutableMapping[str, Any]) -> None:
        handle, name = tempfile.mkstemp(dir=self.path.parent, prefix=".new-")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(state, file)
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(self.path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise

    @contextmanager
    def _locked(self) -> Iterator[None]:
        import fcntl

        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.with_suffix(".lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield  # closing the file frees the lock
