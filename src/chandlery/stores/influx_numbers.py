"""The numbers of an InfluxDB store's journal: one after the other for all processes of a host, true to the server.

The server cannot count for us, so the latest number stands in a file of this host under a kernel lock. The server is
asked for it when a process takes its first one, and whenever it is not known what became of the last ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import itertools
import os
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from chandlery.candle import SeriesId
from chandlery.errors import SeriesLocked, StoreUnreadable
from chandlery.stores.influx_events import LEDGER
from chandlery.stores.influx_lines import tags_of
from chandlery.stores.locks import take

if TYPE_CHECKING:
    from chandlery.stores.influx_read import Reader


class Numbers:
    """Takes numbers in one store, in a folder of its own."""

    def __init__(self, folder: Path, reader: Reader) -> None:
        self._folder = folder
        self._reader = reader
        self._turn = asyncio.Lock()  # between threads of this process, which share one loop
        self._asked = False

    @property
    def writer(self) -> str:
        """The name of this host and user among those that write into the store, made once."""
        path = self.folder() / "writer"
        try:
            if not path.exists():
                with contextlib.suppress(FileExistsError), path.open("x", encoding="ascii") as file:
                    file.write(secrets.token_hex(4))
            return path.read_text("ascii") or "unnamed"
        except OSError as error:
            raise self._unusable(error) from None

    @contextmanager
    def locked(self, series: SeriesId, *, wait: bool) -> Iterator[None]:
        """Be the one process of this host that writes what the series' tags name; raises SeriesLocked."""
        tags = tags_of(series)
        named = replace(series, symbol=tags.symbol)
        with ExitStack() as held:
            try:
                held.enter_context(take(self.folder(), named, wait=wait))
            except SeriesLocked as error:
                message = error.message.replace(str(named), str(series))
                raise SeriesLocked(message, hint=error.hint, pid=error.pid) from None
            except OSError as error:
                raise self._unusable(error) from None
            yield

    @asynccontextmanager
    async def taking(self) -> AsyncIterator[Callable[[], int]]:
        """Within it the journal's numbers are ours. What was taken counts once it is left without an error."""
        async with self._turn:
            path = self.folder() / "journal"
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except OSError as error:
                raise self._unusable(error) from None
            try:
                await asyncio.to_thread(fcntl.flock, descriptor, fcntl.LOCK_EX)
                counter = itertools.count(await self._latest(descriptor) + 1)
                os.ftruncate(descriptor, 0)  # until it is known what became of ours
                yield lambda: next(counter)
                os.pwrite(descriptor, f"{next(counter) - 1}\n".encode(), 0)
            finally:
                os.close(descriptor)

    async def _latest(self, descriptor: int) -> int:
        text = os.pread(descriptor, 40, 0).decode("ascii", "replace").strip()
        if self._asked and text.isdecimal():
            return int(text)
        latest = await self._reader.largest(LEDGER, "seq")
        self._asked = True
        return latest or 0

    def folder(self) -> Path:
        """The folder, made if it is not there; raises StoreUnreadable."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise self._unusable(error) from None
        return self._folder

    def _unusable(self, error: OSError) -> StoreUnreadable:
        return StoreUnreadable(
            f"{error.filename or self._folder}: {error.strerror}",
            hint="locks and numbers of the bucket are kept there; CHANDLERY_STATE names another folder",
        )
