"""Bans and budgets remembered on disk, per API host, so that a restart or another process neither asks during a ban nor
spends a budget twice.

One JSON file per host in the state folder (CHANDLERY_STATE, else the user's). It is replaced atomically under a kernel
lock; keys that this version does not know are kept. A folder that cannot be written costs a warning, not the run.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

log = logging.getLogger("chandlery.sources.bans")

VERSION = 1


class BanBook:
    """The ban and the budget of one host, shared by all processes of this user."""

    def __init__(self, folder: Path, host: str) -> None:
        name = quote(host, safe="").replace(".", "%2E") if host.startswith(".") else quote(host, safe="")
        self.host = host
        self.path = folder / "hosts" / f"{name[:200]}.json"
        self._stamp: tuple[int, int] | None = None
        self._until = 0
        self._warned = False

    def until(self) -> int:
        """Epoch ms (local clock) before which the host may not be asked; 0 for no ban. Costs one stat."""
        try:
            info = self.path.stat()
        except OSError:
            return self._until
        stamp = (info.st_mtime_ns, info.st_ino)
        if stamp != self._stamp:
            self._stamp = stamp
            self._until = max(self._until, _ban_end(self._read()))
        return self._until

    def note(self, until: int, reason: str, now: int) -> None:
        """Remember a ban; an earlier end than the one known changes nothing."""
        self._until = max(self._until, until)

        def change(state: MutableMapping[str, Any]) -> bool:
            if _ban_end(state) >= until:
                return False
            state["ban"] = {"until": until, "since": now, "reason": reason}
            return True

        self._update(change, "the ban", durable=True)

    def budget(self) -> Mapping[str, Any]:
        """The windows as they were written last, by name; whoever reads them checks each."""
        found = self._read().get("budget")
        return found if isinstance(found, dict) else {}

    def keep_budget(self, windows: Mapping[str, Any], now: int) -> None:
        """Remember what is used of the windows at `now`: of two processes the one that heard the exchange last counts."""

        def change(state: MutableMapping[str, Any]) -> bool:
            old = state.get("budget")
            state["budget"] = windows
            return old != windows

        # A budget that is lost with the power costs nothing; a ban beside it must not be lost.
        self._update(change, "the budget", durable=self._until > now)

    def _update(
        self, change: Callable[[MutableMapping[str, Any]], bool], what: str, *, durable: bool
    ) -> None:
        """Change the file if `change` says so; a folder that cannot be written costs one warning."""
        try:
            with self._locked():
                state = self._read()
                if change(state):
                    state.update(version=VERSION, host=self.host)
                    self._write(state, durable=durable)
        except OSError as error:
            if not self._warned:
                self._warned = True
                log.warning("%s of %s cannot be remembered in %s: %s", what, self.host, self.path, error)

    def _read(self) -> MutableMapping[str, Any]:
        try:
            state = json.loads(self.path.read_bytes())
        except (OSError, ValueError):
            return {}
        return state if isinstance(state, dict) else {}

    def _write(self, state: MutableMapping[str, Any], *, durable: bool) -> None:
        handle, name = tempfile.mkstemp(dir=self.path.parent, prefix=".new-")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(state, file)
                if durable:
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


def _ban_end(state: MutableMapping[str, Any]) -> int:
    ban = state.get("ban")
    until = ban.get("until") if isinstance(ban, dict) else None
    return until if isinstance(until, int) else 0
